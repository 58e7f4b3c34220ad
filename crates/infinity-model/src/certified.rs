//! A text read by a model that folds its memory, with a certificate beside every layer.

use crate::compression::{Certificate, Compression, Held, compress, decompress};
use crate::layer::{Layer, Tap};
use crate::model::InfinityModel;
use crate::state::{LayerState, ModelState};
use burn::tensor::{Int, Tensor};
use infinity_kernels::borders::Borders;

/// Reads as [`InfinityModel::forward_hidden`] does and keeps a [`Certificate`] of every layer.
#[derive(Debug)]
pub struct CertifiedReader<'a> {
    model: &'a InfinityModel,
    compression: Compression,
    layers: Vec<Certificate>,
}

impl<'a> CertifiedReader<'a> {
    /// For `model` going on from `state`; `None` if the model does not fold its memory, or computes in
    /// a half format, whose keys are not of length 1.
    pub fn new(model: &'a InfinityModel, state: &ModelState) -> Option<Self> {
        let compression = model.config().compression()?;
        if !model.formats().is_single() {
            return None;
        }
        let layers = state.layers.iter().filter_map(|layer| match layer {
            LayerState::Infinity { memory, .. } => Some(Certificate::new(memory)),
            LayerState::Softmax { .. } => None,
        });
        Some(CertifiedReader {
            model,
            compression,
            layers: layers.collect(),
        })
    }

    /// What the certificates have seen so far, layer by layer.
    pub fn held(&self) -> Vec<Held> {
        self.layers.iter().map(Certificate::held).collect()
    }

    /// As [`InfinityModel::forward_hidden`]; `state` is the one of the call before.
    ///
    /// # Panics
    /// As there, and if rows fold at different tokens.
    pub fn forward_hidden(
        &mut self,
        tokens: Tensor<2, Int>,
        state: ModelState,
    ) -> (Tensor<3>, ModelState) {
        let compression = self.compression;
        compression.between_folds(tokens, state, |piece, state| self.piece(piece, state))
    }

    /// What is read between two folds, and the fold.
    fn piece(&mut self, tokens: Tensor<2, Int>, state: ModelState) -> (Tensor<3>, ModelState) {
        let [_, t] = tokens.dims();
        let borders = Borders::default();
        let position = state.position_after(t, &borders);
        let folds = self.compression.folds(&position);
        let all = folds.iter().all(|fold| *fold);
        assert!(all || !folds.contains(&true), "rows fold at one token");
        let tap = Tap::default();
        let pass = self.model.pass(&state.position, t, &borders).with_tap(&tap);
        let mut stream = self.model.embed(tokens).into();
        let mut layers = Vec::with_capacity(state.layers.len());
        let blocks = self.model.blocks().iter().zip(state.layers);
        for ((block, before), certificate) in blocks.zip(&mut self.layers) {
            let (next, mut layer) = block.forward_in(stream, &pass, before.clone());
            stream = next;
            let (LayerState::Infinity { memory: before, .. }, LayerState::Infinity { memory, .. }) =
                (&before, &mut layer)
            else {
                unreachable!("only an infinity mixer folds");
            };
            let inputs = tap.take().expect("a memory that reads one scan a pass");
            certificate.read(&inputs, before, memory);
            if all {
                let folded = compress(memory, self.compression.width);
                certificate.fold(memory, &folded);
                *memory = decompress(&folded, &memory.device());
            }
            layers.push(layer);
        }
        let hidden = self.model.final_norm(stream.x);
        (hidden, ModelState { layers, position })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::Width;
    use crate::config::ModelConfig;
    use burn::tensor::{Device, TensorData};

    fn host<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
        tensor.to_data().iter::<f32>().collect()
    }

    fn model(compression: Option<Compression>) -> InfinityModel {
        let config = ModelConfig::first()
            .with_vocab_size(11)
            .with_hidden_size(16)
            .with_num_attention_heads(2)
            .with_num_hidden_layers(2);
        let model = config.init_seeded(5, &Device::flex());
        model.with_compression(compression).unwrap()
    }

    fn tokens(rows: usize, t: usize) -> Tensor<2, Int> {
        let ids: Vec<i32> = (0..rows * t).map(|i| (i * i % 11) as i32).collect();
        Tensor::from_data(TensorData::new(ids, [rows, t]), &Device::flex())
    }

    const EVERY: Compression = Compression {
        width: Width::Eight,
        every: 64,
    };

    #[test]
    fn a_model_folds_where_its_rows_are_and_nowhere_else() {
        let (exact, folding) = (model(None), model(Some(EVERY)));
        let text = tokens(2, 150);
        let hidden = |model: &InfinityModel, text, state| model.forward_hidden(text, state);
        let (whole, after) = hidden(&folding, text.clone(), None);
        assert_eq!(after.position, [150, 150]);
        let (same, _) = hidden(&exact, text.clone(), None);
        let part = |x: &Tensor<3>, from, len| x.clone().narrow(1, from, len).to_data();
        assert_eq!(
            part(&whole, 0, 64).num_elements(),
            part(&same, 0, 64).num_elements()
        );
        assert_ne!(part(&whole, 64, 86), part(&same, 64, 86), "a fold is seen");
        // Calls that are cut at folds give the same bits.
        let (first, state) = hidden(&folding, text.clone().narrow(1, 0, 64), None);
        let (second, state) = hidden(&folding, text.clone().narrow(1, 64, 64), Some(state));
        let (third, cut) = hidden(&folding, text.clone().narrow(1, 128, 22), Some(state));
        let pieces = Tensor::cat(vec![first, second, third], 1);
        assert_eq!(pieces.to_data(), whole.to_data());
        assert_eq!(host(memory(&cut)), host(memory(&after)));
        // A row that starts elsewhere folds elsewhere, and its neighbour does not see it.
        let (_, ahead) = hidden(
            &folding,
            text.clone().narrow(0, 0, 1).narrow(1, 0, 10),
            None,
        );
        let mixed = ModelState::cat(vec![ahead.clone(), folding.initial_state(1)]);
        let mut mixed = Some(mixed);
        let mut alone = Some(folding.initial_state(1));
        for t in 0..70 {
            let token = |row| text.clone().narrow(0, row, 1).narrow(1, t, 1).reshape([1]);
            let both = Tensor::cat(vec![token(0), token(1)], 0);
            let (logits, next) = folding.decode_step(both, mixed.take().unwrap());
            let (expected, own) = folding.decode_step(token(1), alone.take().unwrap());
            assert_eq!(
                logits.narrow(0, 1, 1).to_data(),
                expected.to_data(),
                "token {t}"
            );
            (mixed, alone) = (Some(next), Some(own));
        }
    }

    fn memory(state: &ModelState) -> &Tensor<5> {
        match &state.layers[0] {
            LayerState::Infinity { memory, .. } => memory,
            LayerState::Softmax { .. } => unreachable!(),
        }
    }

    #[test]
    fn a_certified_reader_reads_what_the_model_reads() {
        let folding = model(Some(EVERY));
        let state = folding.initial_state(1);
        let mut certified = CertifiedReader::new(&folding, &state).unwrap();
        let text = tokens(1, 300);
        let (expected, after) = folding.forward_hidden(text.clone(), None);
        let (first, state) = certified.forward_hidden(text.clone().narrow(1, 0, 128), state);
        let (second, state) = certified.forward_hidden(text.narrow(1, 128, 172), state);
        assert_eq!(
            Tensor::cat(vec![first, second], 1).to_data(),
            expected.to_data()
        );
        assert_eq!(host(memory(&state)), host(memory(&after)));
        for held in certified.held() {
            assert_eq!(held.broken, 0);
            assert!(
                held.outputs.bound() > held.outputs.measured() && held.outputs.measured() > 0.0
            );
        }
        let exact = model(None);
        assert!(CertifiedReader::new(&exact, &exact.initial_state(1)).is_none());
    }

    #[test]
    #[should_panic(expected = "has no gradient")]
    fn training_cannot_fold() {
        let config = ModelConfig::first()
            .with_vocab_size(11)
            .with_hidden_size(16)
            .with_compression(Some(EVERY));
        let device = Device::flex().autodiff();
        let tokens = Tensor::<2, Int>::from_ints([[1, 2, 3]], &device);
        config.init(&device).forward_hidden(tokens, None);
    }
}
