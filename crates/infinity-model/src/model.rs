//! The language model: embedding, blocks, norm, logits; state in, state out.

use crate::adapter::Lora;
use crate::block::{Block, norm};
use crate::compression::Compression;
use crate::config::ModelConfig;
use crate::error::ConfigError;
use crate::init::Init;
use crate::layer::{Layer, Pass};
use crate::precision::{Formats, Precision, PrecisionError};
use crate::state::{LayerState, ModelState, Stateful};
use burn::module::Module;
use burn::nn::{Dropout, Embedding, Linear, RmsNorm};
use burn::tensor::{Device, Int, Tensor, assert_shape};
use infinity_kernels::FormError;
use infinity_kernels::borders::Borders;
use infinity_kernels::embedding::embedding;
use infinity_kernels::{Form, in_pool};
use std::collections::BTreeMap;

/// Tokens read at once by [`InfinityModel::prefill`]: enough for whole matrix products, few enough
/// that a prompt of any length is read in constant memory.
const PREFILL_TOKENS: usize = 512;

/// A decoder-only language model with linear time and constant state.
///
/// Made by [`ModelConfig::init`] or [`from_pretrained`](crate::from_pretrained). Its state is a
/// value that goes into every call and comes out of it; the model itself never changes.
#[derive(Module, Debug)]
pub struct InfinityModel {
    model: Decoder,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    form: Option<Form>,
    #[module(skip)]
    precision: Precision,
    #[module(skip)]
    pub(crate) lora: Option<Lora>,
    /// What its adapters count, by the names of their weights.
    #[module(skip)]
    pub(crate) scales: BTreeMap<String, f64>,
}

/// Everything below the logits.
#[derive(Module, Debug)]
struct Decoder {
    embed_tokens: Embedding,
    dropout: Dropout,
    layers: Vec<Block>,
    norm: RmsNorm,
}

impl ModelConfig {
    /// A model with fresh parameters on `device`, drawn from seed 0. For training, `device` has
    /// autodiff.
    pub fn init(&self, device: &Device) -> InfinityModel {
        self.init_seeded(0, device)
    }

    /// A model with fresh parameters drawn from `seed`: the same ones on every backend.
    pub fn init_seeded(&self, seed: u64, device: &Device) -> InfinityModel {
        self.build(Init::new(seed, self.initializer_range, device))
    }

    /// A model whose parameters hold no values yet, for one who gives every one of them.
    pub(crate) fn unfilled(&self, device: &Device) -> InfinityModel {
        self.build(Init::unfilled(device))
    }

    fn build(&self, mut init: Init) -> InfinityModel {
        let (vocab_size, width) = (self.vocab_size, self.hidden_size);
        let model = Decoder {
            embed_tokens: Embedding {
                weight: init.weights([vocab_size, width]),
            },
            dropout: init.dropout(self.hidden_dropout_prob),
            layers: (0..self.num_hidden_layers)
                .map(|layer| {
                    init.layer = layer;
                    Block::new(self, &mut init)
                })
                .collect(),
            norm: init.norm(width, self.layer_norm_eps),
        };
        let lm_head = (!self.tie_word_embeddings).then(|| init.linear(width, vocab_size));
        InfinityModel {
            model,
            lm_head,
            config: self.clone(),
            form: None,
            precision: Precision::F32,
            lora: None,
            scales: BTreeMap::new(),
        }
    }
}

impl InfinityModel {
    /// The configuration it was made from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The same model with every call in one form of `memory_scan`, for tests and benches. Left
    /// alone, it takes the fastest that its device has.
    ///
    /// # Errors
    /// If the form does not exist on the model's device.
    pub fn with_form(mut self, form: Form) -> Result<Self, FormError> {
        form.check(&self.device())?;
        self.form = Some(form);
        Ok(self)
    }

    /// The same model computing in `precision`, with its parameters in the format that this takes.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn with_precision(mut self, precision: Precision) -> Result<Self, PrecisionError> {
        let device = self.device();
        let formats = Formats::new(precision, &device);
        formats.check(&device)?;
        self = formats.parameters(self);
        self.precision = precision;
        Ok(self)
    }

    /// The same model with its memory compressed while it reads, for inference, or exact.
    ///
    /// # Errors
    /// If its memory cannot be compressed so; the message names the key.
    pub fn with_compression(
        mut self,
        compression: Option<Compression>,
    ) -> Result<Self, ConfigError> {
        self.config = self.config.with_compression(compression);
        self.config.validate()?;
        Ok(self)
    }

    /// The same model that drops out in training as `config` says.
    pub fn dropping_out(mut self, config: &ModelConfig) -> Self {
        let hidden = config.hidden_dropout_prob;
        let attention = config.attention_probs_dropout_prob;
        self.config.hidden_dropout_prob = hidden;
        self.config.attention_probs_dropout_prob = attention;
        self.model.dropout.prob = hidden;
        for block in &mut self.model.layers {
            block.drop_out(hidden, attention);
        }
        self
    }

    /// What it computes in on its device.
    pub fn formats(&self) -> Formats {
        Formats::new(self.precision, &self.device())
    }

    /// The device of its parameters.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.val().device()
    }

    /// The state of `batch` rows that have read nothing.
    pub fn initial_state(&self, batch: usize) -> ModelState {
        Stateful::initial_state(self, batch)
    }

    /// Logits `[B, T, vocab_size]` after each of `tokens` `[B, T]`, and the state after the last.
    /// Without a state, the tokens are the first.
    ///
    /// ```
    /// use infinity_model::ModelConfig;
    /// use infinity_model::burn::tensor::{Device, Int, Tensor};
    ///
    /// let device = Device::flex();
    /// let model = ModelConfig::new(11).with_hidden_size(16).with_num_hidden_layers(2).init(&device);
    /// let tokens = Tensor::<2, Int>::from_ints([[3, 1, 4], [1, 5, 9]], &device);
    /// let (logits, state) = model.forward(tokens.clone(), None);
    /// assert_eq!((logits.dims(), &state.position[..]), ([2, 3, 11], &[3, 3][..]));
    /// let (_, state) = model.forward(tokens, state);
    /// assert_eq!(state.position, [6, 6]);
    /// ```
    ///
    /// # Panics
    /// If `state` has another number of rows than `tokens`.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        state: impl Into<Option<ModelState>>,
    ) -> (Tensor<3>, ModelState) {
        let (hidden, state) = self.forward_hidden(tokens, state);
        (self.logits(hidden), state)
    }

    /// What the logits are made of: the normed output of the last block, `[B, T, D]`.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_hidden(
        &self,
        tokens: Tensor<2, Int>,
        state: impl Into<Option<ModelState>>,
    ) -> (Tensor<3>, ModelState) {
        self.forward_packed(tokens, state, &Borders::default(), &mut |_| ())
    }

    /// [`forward_hidden`](Self::forward_hidden) over rows of several documents, one behind the other:
    /// each gets what it would get alone, `state` reaches the first of a row and the next state is left by the
    /// last. A softmax layer's cache keeps zeros where documents were. Calls `before` with 0 before the
    /// embedding and with `i + 1` before block `i`: the place to seed what drops out there.
    ///
    /// ```
    /// # use infinity_model::ModelConfig;
    /// # use infinity_model::burn::tensor::{Device, Int, Tensor};
    /// # use infinity_model::Borders;
    /// # let device = Device::flex();
    /// # let model = ModelConfig::new(11).with_hidden_size(16).init(&device);
    /// let tokens = Tensor::<2, Int>::from_ints([[3, 1, 4, 1, 5]], &device);
    /// let (_, state) = model.forward_packed(tokens, None, &Borders::new(vec![vec![3]]), &mut |_| ());
    /// assert_eq!(state.position, [2]);
    /// ```
    ///
    /// # Panics
    /// As [`forward`](Self::forward), if `borders` are of other sizes, and with a compressed memory.
    pub fn forward_packed(
        &self,
        tokens: Tensor<2, Int>,
        state: impl Into<Option<ModelState>>,
        borders: &Borders,
        before: &mut dyn FnMut(usize),
    ) -> (Tensor<3>, ModelState) {
        let [b, _] = tokens.dims();
        let state = state.into().unwrap_or_else(|| self.initial_state(b));
        assert_eq!(b, state.batch(), "one row of state for each row of tokens");
        let Some(compression) = self.config.compression() else {
            return self.piece(tokens, state, borders, before);
        };
        assert!(
            borders.is_none(),
            "`memory_compression` folds whole rows, which are one document each"
        );
        assert!(
            !self.device().is_autodiff(),
            "`memory_compression` rounds the memory, which has no gradient: call `valid` first"
        );
        compression.between_folds(tokens, state, |piece, state| {
            let (hidden, next) = self.piece(piece, state, borders, before);
            (hidden, compression.fold(next))
        })
    }

    /// Reads what is read in one pass.
    fn piece(
        &self,
        tokens: Tensor<2, Int>,
        state: ModelState,
        borders: &Borders,
        before: &mut dyn FnMut(usize),
    ) -> (Tensor<3>, ModelState) {
        let [_, t] = tokens.dims();
        let pass = self.pass(&state.position, t, borders);
        let position = state.position_after(t, borders);
        let (hidden, layers) = self.through(tokens, &pass, state.layers, before);
        (hidden, ModelState { layers, position })
    }

    /// What the blocks make of `tokens`, normed, and their states after it. Calls `before` with 0 before the embedding
    /// and with `i + 1` before block `i`.
    pub(crate) fn through(
        &self,
        tokens: Tensor<2, Int>,
        pass: &Pass,
        layers: Vec<LayerState>,
        before: &mut dyn FnMut(usize),
    ) -> (Tensor<3>, Vec<LayerState>) {
        before(0);
        let mut stream = self.embed(tokens).into();
        let mut after = Vec::with_capacity(layers.len());
        for (i, (block, layer)) in self.blocks().iter().zip(layers).enumerate() {
            before(i + 1);
            let (next, layer) = block.forward_in(stream, pass, layer);
            stream = next;
            after.push(layer);
        }
        (self.final_norm(stream.x), after)
    }

    /// What the blocks share that read `t` tokens from `position` on, where documents have these `borders`.
    pub fn pass(&self, position: &[u64], t: usize, borders: &Borders) -> Pass {
        let device = self.device().inner();
        let pass = Pass::new(&self.config, position, t, borders, &device);
        Pass {
            form: self.form.unwrap_or(pass.form),
            formats: self.formats(),
            ..pass
        }
    }

    /// What the first block reads, `[B, T, D]`: `tokens` `[B, T]` embedded.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let embedded = embedding(self.model.embed_tokens.weight.val(), tokens);
        self.model.dropout.forward(self.formats().stream(embedded))
    }

    /// The blocks, from the input on.
    pub fn blocks(&self) -> &[Block] {
        &self.model.layers
    }

    /// What the logits are made of, from what the last block returns; both `[B, T, D]`.
    pub fn final_norm(&self, x: Tensor<3>) -> Tensor<3> {
        norm(&self.model.norm, x)
    }

    /// Logits `[B, T, vocab_size]` of `hidden` `[B, T, D]`, in f32 whatever the precision.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let formats = self.formats();
        let mut logits = formats.multiply(hidden, vec![self.output_weight()]);
        formats.single(logits.pop().expect("one matrix, one product"))
    }

    /// The output projection `[D, vocab_size]`; tied, it is the transposed embedding.
    pub fn output_weight(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(lm_head) => lm_head.weight.val(),
            None => self.model.embed_tokens.weight.val().transpose(),
        }
    }

    /// Whether the output projection learns.
    pub fn output_learns(&self) -> bool {
        match &self.lm_head {
            Some(lm_head) => lm_head.weight.is_require_grad(),
            None => self.model.embed_tokens.weight.is_require_grad(),
        }
    }

    /// Reads `tokens` `[B, T]` in pieces and returns the last logits `[B, vocab_size]`.
    ///
    /// Memory does not depend on `T`.
    ///
    /// # Panics
    /// If there are no tokens, or as [`forward`](Self::forward).
    pub fn prefill(&self, tokens: Tensor<2, Int>, state: ModelState) -> (Tensor<2>, ModelState) {
        let [b, t] = tokens.dims();
        assert!(t > 0, "a prompt of at least one token");
        let (mut state, mut last) = (state, None);
        in_pool(&self.device(), || {
            for piece in tokens.split(PREFILL_TOKENS, 1) {
                let [_, len] = piece.dims();
                let (hidden, next) = self.forward_hidden(piece, state);
                state = next;
                last = Some(hidden.narrow(1, len - 1, 1));
            }
            let logits = self.logits(last.expect("at least one piece"));
            (logits.reshape([b, self.config.vocab_size]), state)
        })
    }

    /// Reads one token a row `[B]` and returns the logits after it `[B, vocab_size]`.
    ///
    /// ```
    /// # use infinity_model::ModelConfig;
    /// # use infinity_model::burn::tensor::{Device, Int, Tensor};
    /// # let device = Device::flex();
    /// # let model = ModelConfig::new(11).with_hidden_size(16).init(&device);
    /// let mut state = model.initial_state(1);
    /// let mut token = Tensor::<1, Int>::from_ints([3], &device);
    /// for _ in 0..5 {
    ///     let (logits, next) = model.decode_step(token, state);
    ///     (token, state) = (logits.argmax(1).reshape([1]), next);
    /// }
    /// assert_eq!(state.position, [5]);
    /// ```
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn decode_step(
        &self,
        tokens: Tensor<1, Int>,
        state: ModelState,
    ) -> (Tensor<2>, ModelState) {
        let [b] = tokens.dims();
        assert_shape!(tokens, [b]);
        let tokens = tokens.reshape([b, 1]);
        let (logits, state) = in_pool(&self.device(), || self.forward(tokens, state));
        (logits.reshape([b, self.config.vocab_size]), state)
    }
}

impl Stateful for InfinityModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn num_layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn adapter_scales(&self) -> &BTreeMap<String, f64> {
        &self.scales
    }
}
