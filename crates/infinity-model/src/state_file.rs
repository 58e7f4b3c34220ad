//! A state as a file: one safetensors file, exact, that knows which model it belongs to.
//!
//! ```text
//! position                        [B] u64, tokens that every row has read
//! layers.0.memory                 [B, H, S, K, V]
//! layers.0.tails.0 … .2           [B, channels, kernel − 1]
//! layers.0.keys, layers.0.values  [B, T, G, ·], for a full layer: what is filled of its cache
//! layers.0.start                  [B] u64, how many of the first of these are none of a row's
//! logits                          [1, vocab_size] after the last token, where a text goes on
//! ```
//!
//! A file in fewer bits has, instead of the memory,
//!
//! ```text
//! layers.0.codes                  [B, bytes] u8, as `compression` makes them
//! layers.0.scales                 [B, H, S, ·] f16
//! ```
//!
//! of version 2, and one with a start that is not 0 has version 3. The header's metadata hold the format's `version`, the number of `layers`, the fingerprint of the
//! `model`, and a `checksum` of everything else. Files of training checkpoints from before version 1
//! have `layers` alone.

use crate::compression::{Compressed, Width, compress, decompress};
use crate::config::ModelConfig;
use crate::error::{StateError, StateProblem};
use crate::lora::{Factors, factors};
use crate::parameters::{ADAPTER, in_files};
use crate::state::{KvCache, LayerState, ModelState, Stateful};
use burn::module::{ModuleVisitor, Param};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use infinity_files::Fingerprint;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

const VERSION: &str = "1";
/// The version of files in fewer bits.
const COMPRESSED: &str = "2";
/// The version of files with rows that began later than others: who does not know it would show a row another's
/// keys.
const STARTED: &str = "3";
/// Name of the header's entry with the [`Packing`] of a compressed file.
const PACKING: &str = "compression";
/// More layers than a configuration may have; a damaged number of them must not be believed.
const MAX_LAYERS: usize = 1 << 16;

const LOGITS: &str = "logits";

pub(crate) type Metadata = BTreeMap<String, String>;

impl ModelState {
    /// Writes the state to `path`, for `model` to go on from. The file is there whole or not at all.
    ///
    /// ```
    /// use infinity_model::burn::tensor::{Device, Int, Tensor};
    /// use infinity_model::{ModelConfig, ModelState};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("state.safetensors");
    /// let model = ModelConfig::new(11).with_hidden_size(16).init(&Device::flex());
    /// let (_, state) = model.forward(Tensor::<2, Int>::from_ints([[3, 1, 4]], &model.device()), None);
    /// state.save(&path, &model)?;
    /// let state = ModelState::load(&path, &model)?;
    /// assert_eq!(state.position, [3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If it has numbers of another format than f32, or if the file cannot be written.
    pub fn save(&self, path: &Path, model: &impl Stateful) -> Result<(), StateError> {
        let identity = fingerprint(model);
        let made = self.to_bytes_with(Some(&identity), &Extra::default(), None);
        write(path, made).map(drop)
    }

    /// Reads a state of `model` onto its device.
    ///
    /// # Errors
    /// [`StateError`]: the file cannot be read, is cut or changed, belongs to another model, or
    /// holds numbers that are not finite.
    pub fn load(path: &Path, model: &impl Stateful) -> Result<Self, StateError> {
        read(path, |bytes| {
            Ok(Self::from_bytes_of(bytes, model, &fingerprint(model))?.0)
        })
    }

    /// The state of `model`, of this fingerprint, and what goes on from it.
    pub(crate) fn from_bytes_of(
        bytes: &[u8],
        model: &impl Stateful,
        fingerprint: &str,
    ) -> Result<(Self, Extra), StateProblem> {
        let device = model.devices().swap_remove(0).inner();
        let read = Saved::read(bytes, &device)?;
        read.check(model, fingerprint)?;
        Ok((read.state, read.extra))
    }

    /// The bytes of a state file, for the model of that [`fingerprint`] or for one that is known
    /// otherwise.
    ///
    /// # Errors
    /// If the state has numbers of another format than f32.
    pub fn to_bytes(&self, model: Option<&str>) -> Result<Vec<u8>, StateProblem> {
        Ok(self.to_bytes_with(model, &Extra::default(), None)?.0)
    }

    /// [`to_bytes`](Self::to_bytes) with what goes on from the state; and the bytes of all memories:
    /// exact, and as they are kept.
    pub(crate) fn to_bytes_with(
        &self,
        model: Option<&str>,
        extra: &Extra,
        width: Option<Width>,
    ) -> Result<(Vec<u8>, [usize; 2]), StateProblem> {
        let mut tensors = BTreeMap::from([("position".to_owned(), counts(&self.position))]);
        let (mut memories, mut packing, mut started) = ([0, 0], None::<Packing>, false);
        if !extra.logits.is_empty() {
            let logits = TensorData::new(extra.logits.clone(), [1, extra.logits.len()]);
            tensors.insert(LOGITS.to_owned(), logits);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let at = |name: &str| format!("layers.{i}.{name}");
            let mut add = |name: &str, data: TensorData| match data.dtype() {
                DType::F32 => {
                    tensors.insert(at(name), data);
                    Ok(())
                }
                other => Err(no_f32(&at(name), other)),
            };
            match layer {
                LayerState::Infinity { memory, tails } => {
                    for (j, tail) in tails.iter().enumerate() {
                        add(&format!("tails.{j}"), tail.to_data())?;
                    }
                    let [b, h, s, k, v] = memory.dims();
                    let exact = 4 * b * h * s * k * v;
                    memories[0] += exact;
                    let Some(width) = width else {
                        memories[1] += exact;
                        add("memory", memory.to_data())?;
                        continue;
                    };
                    let small = compress(memory, width);
                    if !small.norm.iter().all(|norm| norm.is_finite()) {
                        return Err(not_finite(&at("memory")));
                    }
                    memories[1] += small.bytes();
                    let packing = packing.get_or_insert(Packing {
                        bits: width,
                        head: [k, v],
                        relative_error: 0.0,
                    });
                    packing.relative_error = packing.relative_error.max(small.relative_error());
                    let (codes, each) = (small.codes.len() / b, small.scales.len() / (b * h * s));
                    tensors.insert(at("codes"), TensorData::new(small.codes, [b, codes]));
                    tensors.insert(at("scales"), TensorData::new(small.scales, [b, h, s, each]));
                }
                LayerState::Softmax { cache } => {
                    let cache = cache.clone().trimmed();
                    if let Some([keys, values]) = cache.filled() {
                        add("keys", keys.to_data())?;
                        add("values", values.to_data())?;
                    }
                    if cache.starts().iter().any(|start| *start > 0) {
                        started = true;
                        let starts: Vec<u64> = cache.starts().iter().map(|at| *at as u64).collect();
                        tensors.insert(at("start"), counts(&starts));
                    }
                }
            }
        }
        let damaged = |error: SafeTensorError| StateProblem::NotAState(error.to_string());
        let views = tensors.iter().map(|(name, data)| {
            let dtype = match data.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::U64 => Dtype::U64,
                DType::U8 => Dtype::U8,
                other => unreachable!("{name} was added as {other:?}"),
            };
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
            Ok((name.clone(), view.map_err(damaged)?))
        });
        let views: BTreeMap<String, TensorView<'_>> = views.collect::<Result<_, _>>()?;
        let version = match width {
            _ if started => STARTED,
            Some(_) => COMPRESSED,
            None => VERSION,
        };
        let mut metadata = Metadata::from([
            ("version".to_owned(), version.to_owned()),
            ("layers".to_owned(), self.layers.len().to_string()),
        ]);
        if let Some(packing) = packing {
            let text = serde_json::to_string(&packing).unwrap_or_default();
            metadata.insert(PACKING.to_owned(), text);
        }
        metadata.extend(extra.notes.clone());
        metadata.extend(model.map(|model| ("model".to_owned(), model.to_owned())));
        let sum = checksum(&metadata, &views);
        metadata.insert("checksum".to_owned(), sum);
        let header: HashMap<String, String> = metadata.into_iter().collect();
        let bytes = safetensors::serialize(views, Some(header)).map_err(damaged)?;
        Ok((bytes, memories))
    }

    /// The state in the bytes of a state file, on `device`, whatever model it belongs to and however
    /// large its numbers are.
    ///
    /// # Errors
    /// If the bytes are no whole and unchanged state.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<Self, StateProblem> {
        Ok(Saved::read(bytes, device)?.state)
    }
}

/// What the header of a state file says beside its tensors: the format, the model, the text's last
/// tokens.
///
/// # Errors
/// If the bytes are no state file.
pub fn notes(bytes: &[u8]) -> Result<Vec<(String, String)>, StateProblem> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
    Ok(noted(&header).into_iter().collect())
}

fn noted(header: &safetensors::tensor::Metadata) -> Metadata {
    let notes = header.metadata().clone().unwrap_or_default();
    notes.into_iter().collect()
}

/// The entry `key` of a file's header, if it is there. It says `what`.
pub(crate) fn note<T: DeserializeOwned>(
    notes: &Metadata,
    key: &str,
    what: &str,
) -> Result<Option<T>, StateProblem> {
    let entry = serde_json::from_str(notes.get(key).map_or("null", String::as_str));
    entry.map_err(|_| StateProblem::NotAState(format!("{what} cannot be read")))
}

/// A number for every row.
fn counts(rows: &[u64]) -> TensorData {
    TensorData::new(rows.to_vec(), [rows.len()])
}

/// What was made for the file at `path` goes there: its bytes, and those of the memory in it.
pub(crate) fn write(
    path: &Path,
    made: Result<(Vec<u8>, [usize; 2]), StateProblem>,
) -> Result<SavedSize, StateError> {
    let written = made.and_then(|(bytes, memory)| {
        infinity_files::write(path, &bytes).map_err(StateProblem::Write)?;
        Ok(SavedSize {
            memory,
            file: [bytes.len() + memory[0] - memory[1], bytes.len()],
        })
    });
    written.map_err(StateError::at(path))
}

/// What `of` makes of the bytes of a file.
pub(crate) fn read<T>(
    path: &Path,
    of: impl FnOnce(&[u8]) -> Result<T, StateProblem>,
) -> Result<T, StateError> {
    let bytes = fs::read(path).map_err(StateProblem::Read);
    bytes
        .and_then(|bytes| of(&bytes))
        .map_err(StateError::at(path))
}

/// What identifies `model`: a hash of its weights and of those settings that decide what it computes.
/// Dropout, starting values and special tokens are none of them, nor are device and precision: weights that are
/// kept in bf16 count as their values in f32, and one with an adapter as the sum of both, whether or not that is made.
pub fn fingerprint(model: &impl Stateful) -> String {
    hash_of(model, |x| x)
}

/// The [`fingerprint`] of `model` with every weight rounded to bf16: the same whether or not it keeps matrices so.
pub fn fingerprint_in_bf16(model: &impl Stateful) -> String {
    hash_of(model, |x| bf16::from_f32(x).to_f32())
}

fn hash_of(model: &impl Stateful, counts_as: fn(f32) -> f32) -> String {
    struct Weights(
        Vec<String>,
        Fingerprint,
        fn(f32) -> f32,
        BTreeMap<String, Factors>,
    );
    impl Weights {
        fn numbers<E: Copy>(&mut self, numbers: &[E], wide: impl Fn(E) -> f32) {
            const AT_ONCE: usize = 1 << 16;
            self.1.update(&(4 * numbers.len() as u64).to_le_bytes());
            for some in numbers.chunks(AT_ONCE) {
                let some = some.iter().map(|x| (self.2)(wide(*x)).to_le_bytes());
                self.1.update(&some.collect::<Vec<_>>().concat());
            }
        }
    }
    impl ModuleVisitor for Weights {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.0.join(".");
            if !self.3.is_empty() && self.0.iter().any(|part| part == ADAPTER) {
                return;
            }
            let value = param.val().inner();
            let value = match self.3.get(&in_files(&path)) {
                Some(factors) => factors.added(value),
                None => value,
            };
            self.1.field(path);
            let data = value.into_data();
            match (data.as_slice::<f32>(), data.as_slice::<bf16>()) {
                (Ok(numbers), _) => self.numbers(numbers, |x| x),
                (_, Ok(numbers)) => self.numbers(numbers, bf16::to_f32),
                _ => self.numbers(&data.iter::<f32>().collect::<Vec<_>>(), |x| x),
            }
        }
    }
    let mut hash = Fingerprint::default();
    for (key, value) in computing_settings(model.config()) {
        hash.field(key).field(value);
    }
    let mut weights = Weights(Vec::new(), hash, counts_as, factors(model));
    model.visit(&mut weights);
    weights.1.hex()
}

/// The keys that decide what a model computes and are not at their first values, which never change.
/// How the memory is compressed is none of them: a state may be read on with or without.
fn computing_settings(config: &ModelConfig) -> Vec<(String, String)> {
    let default = ModelConfig::first();
    let computing = ModelConfig {
        hidden_dropout_prob: default.hidden_dropout_prob,
        attention_probs_dropout_prob: default.attention_probs_dropout_prob,
        max_position_embeddings: default.max_position_embeddings,
        max_half_life: None,
        memory_compression: default.memory_compression,
        memory_compression_frequency: default.memory_compression_frequency,
        memory_compression_ratio: default.memory_compression_ratio,
        gate_init_bias: default.gate_init_bias,
        initializer_range: default.initializer_range,
        bos_token_id: None,
        eos_token_id: None,
        pad_token_id: None,
        ..config.resolved()
    };
    let [all, default] = [computing, default].map(|config| config.to_object());
    let mut changed = Vec::from_iter(all);
    changed.retain(|(key, value)| default[key] != *value);
    let changed = changed.into_iter();
    changed
        .map(|(key, value)| (key, value.to_string()))
        .collect()
}

/// A hash of all metadata and tensors but itself, in the order of their names.
fn checksum(metadata: &Metadata, tensors: &BTreeMap<String, TensorView<'_>>) -> String {
    let mut hash = Fingerprint::default();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "checksum") {
        hash.field(key).field(value);
    }
    for (name, view) in tensors {
        let kind = format!("{:?} {:?}", view.dtype(), view.shape());
        hash.field(name).field(kind).field(view.data());
    }
    hash.hex()
}

/// Bytes of a saved state: exact, and as it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedSize {
    /// The memory's tensors.
    pub memory: [usize; 2],
    /// The whole file.
    pub file: [usize; 2],
}

/// How the memories of a file in fewer bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Packing {
    bits: Width,
    /// `[K, V]`; the codes alone do not say it.
    head: [usize; 2],
    /// The largest error of a layer's memory as a part of it.
    relative_error: f64,
}

/// What a text goes on with from its state, and which text that is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Logits after the last token; empty where they are not kept.
    pub(crate) logits: Vec<f32>,
    /// Further entries of the header.
    pub(crate) notes: Metadata,
}

/// A state file that is whole and unchanged.
struct Saved {
    state: ModelState,
    extra: Extra,
    /// The first tensor that holds a number that is not finite.
    not_finite: Option<String>,
}

impl Saved {
    fn read(bytes: &[u8], device: &Device) -> Result<Self, StateProblem> {
        let not_a_state = |reason: &str| StateProblem::NotAState(reason.to_owned());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
        let metadata = noted(&header);
        let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
        let tensors: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
        match metadata.get("version").map(String::as_str) {
            None if metadata.contains_key("checksum") => {
                return Err(not_a_state("no version in its header"));
            }
            None => {}
            Some(VERSION | COMPRESSED | STARTED)
                if metadata.get("checksum") == Some(&checksum(&metadata, &tensors)) => {}
            Some(VERSION | COMPRESSED | STARTED) => return Err(StateProblem::Changed),
            Some(other) => {
                let read = format!("this program reads versions {VERSION} to {STARTED}");
                let unfit = format!("a state of format version {other}; {read}");
                return Err(StateProblem::Unfit(unfit));
            }
        }
        let layers = metadata.get("layers").and_then(|n| n.parse().ok());
        let layers: usize = layers
            .filter(|n| (1..=MAX_LAYERS).contains(n))
            .ok_or_else(|| not_a_state("no number of layers in its header"))?;
        let position = (tensors.get("position").and_then(whole_numbers))
            .filter(|rows| !rows.is_empty())
            .ok_or_else(|| not_a_state("no positions of rows in it"))?;
        let reader = Reader {
            tensors: &tensors,
            rows: position.len(),
            packing: note(&metadata, PACKING, "how its memory is packed")?,
            device,
        };
        let layers: Result<Vec<_>, _> = (0..layers).map(|i| reader.layer(i)).collect();
        let not_finite = tensors.iter().find(|(_, view)| {
            let numbers = view.data().chunks_exact(4);
            let mut numbers =
                numbers.map(|x| f32::from_le_bytes(x.try_into().expect("four bytes")));
            view.dtype() == Dtype::F32 && !numbers.all(f32::is_finite)
        });
        Ok(Saved {
            state: ModelState {
                layers: layers?,
                position,
            },
            not_finite: not_finite.map(|(name, _)| name.clone()),
            extra: Extra {
                logits: reader.tensor::<2>(LOGITS)?.map_or_else(Vec::new, |logits| {
                    logits.into_data().iter::<f32>().collect()
                }),
                notes: metadata,
            },
        })
    }

    /// Whether `model`, of this fingerprint, can go on from it.
    fn check(&self, model: &impl Stateful, fingerprint: &str) -> Result<(), StateProblem> {
        // Old files and checkpoints have no fingerprint.
        let found = self.extra.notes.get("model").map_or("none", String::as_str);
        if found != fingerprint {
            return Err(StateProblem::Unfit(format!(
                "the state of another model ({found}); this one is {fingerprint}: other weights or settings, with \
                 or without adapters, or weights kept in bf16 that have more bits"
            )));
        }
        let fresh = model.initial_state(self.state.batch());
        if fresh.layers.len() != self.state.layers.len() {
            let [found, expected] = [&self.state, &fresh].map(|state| state.layers.len());
            let unfit = format!("a state of {found} layers, for a model of {expected}");
            return Err(StateProblem::Unfit(unfit));
        }
        for (layer, (found, fresh)) in self.state.layers.iter().zip(&fresh.layers).enumerate() {
            let (found, expected) = (shape(found, model.config()), shape(fresh, model.config()));
            if found != expected {
                let unfit = format!("layer {layer} has {found} instead of {expected}");
                return Err(StateProblem::Unfit(unfit));
            }
        }
        match &self.not_finite {
            Some(name) => Err(not_finite(name)),
            None => Ok(()),
        }
    }
}

/// The sizes of a layer's state as text, but for the length of a cache.
fn shape(layer: &LayerState, config: &ModelConfig) -> String {
    match layer {
        LayerState::Infinity { memory, tails } => {
            let tails: Vec<_> = tails.iter().map(|tail| tail.dims()).collect();
            format!("memory {:?}, tails {tails:?}", memory.dims())
        }
        LayerState::Softmax { cache } => {
            let h = config.num_key_value_heads();
            let (h, k, v) = match cache.filled().map(|filled| filled.map(|x| x.dims())) {
                Some([[_, _, h, k], [.., v]]) => (h, k, v),
                None => (h, config.head_dim(), config.value_head_dim()),
            };
            format!("keys [.., {h}, {k}], values [.., {h}, {v}]")
        }
    }
}

/// The numbers of a row of `u64`.
fn whole_numbers(view: &TensorView<'_>) -> Option<Vec<u64>> {
    let fits = view.dtype() == Dtype::U64 && view.shape().len() == 1;
    let numbers = view.data().chunks_exact(8);
    let numbers = numbers.map(|x| u64::from_le_bytes(x.try_into().expect("eight bytes")));
    fits.then(|| numbers.collect())
}

/// A tensor holds a number that is not finite.
fn not_finite(name: &str) -> StateProblem {
    StateProblem::Unfit(format!("{name} holds a number that is not finite"))
}

/// A tensor is of another number format than f32.
fn no_f32(name: &str, format: impl Debug) -> StateProblem {
    StateProblem::Unfit(format!("{name} holds {format:?} instead of F32"))
}

/// What a file says that cannot be taken apart.
fn unreadable(error: SafeTensorError) -> StateProblem {
    match error {
        SafeTensorError::HeaderTooSmall
        | SafeTensorError::HeaderTooLarge
        | SafeTensorError::InvalidHeaderLength
        | SafeTensorError::MetadataIncompleteBuffer => StateProblem::Cut,
        other => StateProblem::NotAState(other.to_string()),
    }
}

/// The tensors of an open file, and where they go.
struct Reader<'a> {
    tensors: &'a BTreeMap<String, TensorView<'a>>,
    rows: usize,
    packing: Option<Packing>,
    device: &'a Device,
}

impl Reader<'_> {
    fn layer(&self, i: usize) -> Result<LayerState, StateProblem> {
        let memory = match self.tensor(&format!("layers.{i}.memory"))? {
            None => self.packed(i)?,
            memory => memory,
        };
        if let Some(memory) = memory {
            let mut tails = Vec::new();
            while let Some(tail) = self.tensor(&format!("layers.{i}.tails.{}", tails.len()))? {
                tails.push(tail);
            }
            return Ok(LayerState::Infinity { memory, tails });
        }
        let keys: Option<Tensor<4>> = self.tensor(&format!("layers.{i}.keys"))?;
        let values = self.tensor(&format!("layers.{i}.values"))?;
        let wrong = |what: &str| StateProblem::NotAState(format!("{what} of layer {i} do not fit"));
        let starts = match self.tensors.get(&format!("layers.{i}.start")) {
            None => vec![0; self.rows],
            Some(view) => whole_numbers(view).ok_or_else(|| wrong("the starts"))?,
        };
        let cache = match keys.zip(values) {
            None => KvCache::empty(self.rows),
            Some((keys, values)) => {
                let ([_, len, ..], starts) = (keys.dims(), starts.into_iter());
                let starts: Vec<usize> = starts.map(|start| start as usize).collect();
                if starts.len() != self.rows || starts.iter().any(|start| *start > len) {
                    return Err(wrong("the starts"));
                }
                if keys.dims()[1..3] != Tensor::<4>::dims(&values)[1..3] {
                    return Err(wrong("keys and values"));
                }
                KvCache::new(keys, values, starts)
            }
        };
        Ok(LayerState::Softmax { cache })
    }

    /// The memory that was kept in fewer bits, if it was.
    fn packed(&self, i: usize) -> Result<Option<Tensor<5>>, StateProblem> {
        let [codes, scales] =
            ["codes", "scales"].map(|name| self.tensors.get(&format!("layers.{i}.{name}")));
        let (Some(codes), Some(scales), Some(packing)) = (codes, scales, self.packing) else {
            return Ok(None);
        };
        let Packing { bits, head, .. } = packing;
        let wrong = || StateProblem::NotAState(format!("the codes of layer {i} do not fit"));
        let &[b, h, s, each] = scales.shape() else {
            return Err(wrong());
        };
        let numbers = head[0].checked_mul(head[1]).filter(|n| *n > 0);
        let numbers = numbers.ok_or_else(wrong)?;
        let states = h.checked_mul(s);
        let per_row = states.and_then(|states| states.checked_mul(bits.code_bytes(numbers)));
        let fits = codes.dtype() == Dtype::U8
            && scales.dtype() == Dtype::F16
            && b == self.rows
            && each == bits.scales(numbers)
            && per_row.is_some_and(|bytes| codes.shape() == [b, bytes]);
        if !fits {
            return Err(wrong());
        }
        let halves = scales.data().chunks_exact(2);
        let compressed = Compressed {
            shape: [b, h, s, head[0], head[1]],
            width: bits,
            codes: codes.data().to_vec(),
            scales: halves
                .map(|pair| f16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
            rounding: Vec::new(),
            norm: Vec::new(),
        };
        if !compressed.scales.iter().all(|scale| scale.is_finite()) {
            return Err(not_finite(&format!("layers.{i}.scales")));
        }
        Ok(Some(decompress(&compressed, self.device)))
    }

    /// The tensor of that name, if there is one.
    fn tensor<const D: usize>(&self, name: &str) -> Result<Option<Tensor<D>>, StateProblem> {
        let Some(found) = self.tensors.get(name) else {
            return Ok(None);
        };
        if found.dtype() != Dtype::F32 {
            return Err(no_f32(name, found.dtype()));
        }
        let shape = found.shape().to_vec();
        if shape.len() != D || shape[0] != self.rows {
            let rows = self.rows;
            let reason = format!("{name} is {shape:?}: not {D} dimensions and {rows} rows");
            return Err(StateProblem::NotAState(reason));
        }
        let data = TensorData::from_bytes_vec(found.data().to_vec(), shape, DType::F32);
        Ok(Some(Tensor::from_data(data, (self.device, DType::F32))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LayerType, Mixer};
    use crate::layer::Layer;
    use crate::mixer::InfinityMixerConfig;
    use crate::model::InfinityModel;
    use burn::tensor::{Distribution, Int};

    fn model(mixer: Mixer, seed: u64) -> InfinityModel {
        let config = ModelConfig {
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            mixer,
            ..ModelConfig::first().with_vocab_size(5)
        };
        config.init_seeded(seed, &Device::flex())
    }

    fn tokens(ids: [[i32; 3]; 2]) -> Tensor<2, Int> {
        Tensor::from_ints(ids, &Device::flex())
    }

    /// A model with a state after three tokens of two rows.
    fn used(mixer: Mixer) -> (InfinityModel, ModelState) {
        let model = model(mixer, 0);
        let (_, mut state) = model.forward(tokens([[0, 1, 2], [3, 4, 0]]), None);
        state.position = vec![3, u64::MAX - 7];
        (model, state)
    }

    impl ModelState {
        /// [`save`](Self::save) with the memory in `width` bits a number.
        fn save_compressed(
            &self,
            path: &Path,
            model: &impl Stateful,
            width: Width,
        ) -> Result<SavedSize, StateError> {
            let identity = fingerprint(model);
            let made = self.to_bytes_with(Some(&identity), &Extra::default(), Some(width));
            write(path, made)
        }
    }

    /// Every tensor with its bytes. The order of the metadata in a header is any.
    fn tensors_of(state: &ModelState) -> Vec<(String, Vec<u8>)> {
        let bytes = state.to_bytes(None).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), view.data().to_vec()));
        let sorted: BTreeMap<_, _> = tensors.collect();
        sorted.into_iter().collect()
    }

    fn refused(bytes: &[u8], model: &impl Stateful) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.state");
        fs::write(&path, bytes).unwrap();
        let error = ModelState::load(&path, model).expect_err("wrong on purpose");
        let message = error.to_string();
        assert!(message.contains("a.state: "), "{message}");
        message
    }

    #[test]
    fn a_loaded_state_goes_on_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.state");
        for mixer in [Mixer::Infinity, Mixer::Softmax] {
            let (model, state) = used(mixer);
            state.save(&path, &model).unwrap();
            // Another value of the same model: fresh, then given the same weights.
            let again = self::model(mixer, 0);
            let loaded = ModelState::load(&path, &again).unwrap();
            assert_eq!(loaded.position, state.position);
            let next = tokens([[1, 1, 2], [0, 2, 4]]);
            let (expected, after) = model.forward(next.clone(), state.clone());
            let (logits, loaded_after) = again.forward(next.clone(), loaded.clone());
            assert_eq!(logits.to_data(), expected.to_data());
            let same = |a: &ModelState, b: &ModelState| tensors_of(a) == tensors_of(b);
            assert!(same(&loaded, &state) && same(&loaded_after, &after));
            let fresh = model.initial_state(2);
            assert!(!same(&fresh, &state), "the comparison can fail");
            assert_ne!(model.forward(next, fresh).0.to_data(), expected.to_data());
            // Saved over itself, and a fresh one, whose cache is not there yet.
            model.initial_state(1).save(&path, &model).unwrap();
            assert_eq!(ModelState::load(&path, &model).unwrap().position, [0]);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    /// A hybrid with rows that began at different times, one of them anew.
    #[test]
    fn rows_that_began_later_do_so_after_loading() {
        let config = ModelConfig {
            hidden_size: 16,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            num_key_value_heads: Some(1),
            layer_types: Some(LayerType::ALL.to_vec()),
            sliding_window: Some(3),
            ..ModelConfig::first().with_vocab_size(5)
        };
        let model = config.init(&Device::flex());
        let (_, state) = model.forward(tokens([[0, 1, 2], [3, 4, 0]]), None);
        let state = state.reset_rows(&[false, true]);
        let (_, state) = model.forward(tokens([[1, 1, 2], [0, 2, 4]]), state);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.state");
        state.save(&path, &model).unwrap();
        let loaded = ModelState::load(&path, &model).unwrap();
        assert!(tensors_of(&loaded) == tensors_of(&state));
        let bytes = fs::read(&path).unwrap();
        let noted = notes(&bytes).unwrap();
        assert!(noted.contains(&("version".to_owned(), STARTED.to_owned())));
        let next = tokens([[4, 0, 2], [1, 0, 3]]);
        let (expected, _) = model.forward(next.clone(), state.clone());
        let (logits, _) = model.forward(next.clone(), loaded);
        assert_eq!(logits.to_data(), expected.to_data());
        // Who forgot the starts would show the second row the first text's keys.
        let mut open = state.clone();
        for layer in &mut open.layers {
            if let LayerState::Softmax { cache } = layer {
                let [keys, values] = cache.filled().unwrap();
                *cache = KvCache::new(keys, values, vec![0; 2]);
            }
        }
        let other = model.forward(next, open).0;
        assert_ne!(other.to_data(), expected.to_data());
        // A row alone has the file of any state, without what was never its own.
        let second = state.gather_rows(&[Some(1)]).to_bytes(None).unwrap();
        assert!(
            notes(&second)
                .unwrap()
                .contains(&("version".to_owned(), VERSION.to_owned()))
        );
        let file = SafeTensors::deserialize(&second).unwrap();
        assert_eq!(file.tensor("layers.1.keys").unwrap().shape(), [1, 3, 1, 8]);
    }

    #[test]
    fn a_mixer_alone_has_a_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.state");
        let device = Device::flex();
        let mixer = InfinityMixerConfig::new(8, 2).init(&device);
        let x = Tensor::<3>::random([2, 5, 8], Distribution::Default, &device);
        let (_, state) = mixer.forward(x.clone(), None);
        state.save(&path, &mixer).unwrap();
        let loaded = ModelState::load(&path, &mixer).unwrap();
        let (y, _) = mixer.forward(x.clone(), loaded);
        assert_eq!(y.to_data(), mixer.forward(x, state).0.to_data());
        let other = InfinityMixerConfig::new(8, 2).init(&device);
        let message = refused(&fs::read(&path).unwrap(), &other);
        assert!(message.contains("another model"), "{message}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let (model, state) = used(Mixer::Infinity);
        let name = fingerprint(&model);
        let whole = state.to_bytes(Some(&name)).unwrap();
        for length in [0, 4, 40, whole.len() / 2, whole.len() - 1] {
            let message = refused(&whole[..length], &model);
            assert!(message.contains("cut short"), "{length}: {message}");
        }
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(refused(&changed, &model).contains("changed"));
        let message = refused(&whole, &self::model(Mixer::Infinity, 1));
        assert!(message.contains("another model"), "{message}");
        let message = refused(&state.to_bytes(None).unwrap(), &model);
        assert!(message.contains("another model (none)"), "{message}");
        assert!(refused(b"not a state, just a text of some length", &model).contains("cut short"));

        let mut lost = state.clone();
        if let LayerState::Infinity { memory, .. } = &mut lost.layers[1] {
            *memory = memory.clone() * f32::NAN;
        }
        let bytes = lost.to_bytes(Some(&name)).unwrap();
        let message = refused(&bytes, &model);
        assert!(
            message.contains("layers.1.memory") && message.contains("finite"),
            "{message}"
        );
        // A checkpoint may hold such a row: it is reset where its next text begins.
        assert!(ModelState::from_bytes(&bytes, &Device::flex()).is_ok());

        let mut narrow = state.clone();
        if let LayerState::Infinity { memory, .. } = &mut narrow.layers[0] {
            *memory = memory.clone().narrow(4, 0, 3);
        }
        let message = refused(&narrow.to_bytes(Some(&name)).unwrap(), &model);
        assert!(message.contains("[2, 2, 4, 4, 3]"), "{message}");
        let mut short = state.clone();
        short.layers.pop();
        let message = refused(&short.to_bytes(Some(&name)).unwrap(), &model);
        assert!(message.contains("1 layers"), "{message}");
        let mut fewer = state;
        fewer.position.pop();
        let message = refused(&fewer.to_bytes(Some(&name)).unwrap(), &model);
        assert!(message.contains("1 rows"), "{message}");
        let missing = ModelState::load(Path::new("no/such.state"), &model).unwrap_err();
        assert!(missing.to_string().contains("cannot be read"), "{missing}");
    }

    #[test]
    fn the_fingerprint_is_that_of_what_is_computed() {
        let (model, _) = used(Mixer::Infinity);
        let name = fingerprint(&model);
        let changed = |config: ModelConfig| fingerprint(&config.init(&Device::flex()));
        let config = model.config();
        assert_eq!(changed(config.clone().with_eos_token_id(Some(1))), name);
        assert_eq!(changed(config.clone().with_hidden_dropout_prob(0.1)), name);
        assert_eq!(changed(config.resolved()), name);
        assert_eq!(changed(config.clone().with_memory_compression(true)), name);
        assert_ne!(changed(config.clone().with_rotary_fraction(1.0)), name);
        assert_ne!(fingerprint(&self::model(Mixer::Infinity, 1)), name);
        let training = config.init(&Device::flex().autodiff());
        assert_eq!(fingerprint(&training), name);
    }

    #[test]
    fn a_state_in_fewer_bits_is_smaller_and_refused_where_it_is_damaged() {
        let config = ModelConfig {
            num_attention_heads: 2,
            hidden_size: 64,
            ..ModelConfig::first().with_vocab_size(5)
        };
        let model = config.init(&Device::flex());
        let (_, state) = model.forward(tokens([[0, 1, 2], [3, 4, 0]]), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.state");
        for (width, ratio) in [(Width::Eight, 3.7), (Width::Four, 7.0)] {
            let size = state.save_compressed(&path, &model, width).unwrap();
            let [exact, kept] = size.memory;
            assert!(exact as f64 / kept as f64 >= ratio);
            let whole = fs::read(&path).unwrap();
            assert_eq!(whole.len(), size.file[1]);
            let exactly = state.to_bytes(Some(&fingerprint(&model))).unwrap().len();
            assert!(size.file[0].abs_diff(exactly) < 2000, "{size:?} {exactly}");
            let loaded = ModelState::load(&path, &model).unwrap();
            assert_eq!(loaded.position, state.position);
            assert!(tensors_of(&loaded) != tensors_of(&state), "it is rounded");
            // Kept again, it is the same.
            loaded.save_compressed(&path, &model, width).unwrap();
            let again = ModelState::load(&path, &model).unwrap();
            assert!(tensors_of(&again) == tensors_of(&loaded));
            let mut changed = whole.clone();
            *changed.last_mut().unwrap() ^= 1;
            assert!(refused(&changed, &model).contains("changed"));
            assert!(refused(&whole[..whole.len() - 9], &model).contains("cut short"));
            let other = config.init_seeded(1, &Device::flex());
            assert!(refused(&whole, &other).contains("another model"));
        }
        let mut lost = state;
        if let LayerState::Infinity { memory, .. } = &mut lost.layers[1] {
            *memory = memory.clone() * f32::INFINITY;
        }
        let error = lost
            .save_compressed(&path, &model, Width::Eight)
            .unwrap_err();
        assert!(error.to_string().contains("layers.1.memory"), "{error}");
    }

    /// Whoever makes a file with a checksum that fits can say anything about its sizes.
    #[test]
    fn packed_sizes_that_do_not_fit_are_refused() {
        let (_, state) = used(Mixer::Infinity);
        let (bytes, _) = state
            .to_bytes_with(None, &Extra::default(), Some(Width::Four))
            .unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (packing, fine) in [
            (r#"{"bits":"4","head":[4,4],"relative_error":0.1}"#, true),
            (r#"{"bits":"8","head":[4,4],"relative_error":0.1}"#, false),
            (r#"{"bits":"4","head":[4,5],"relative_error":0.1}"#, false),
            (r#"{"bits":"4","head":[0,4],"relative_error":0.1}"#, false),
            (
                r#"{"bits":"bf16","head":[4,4],"relative_error":0.1}"#,
                false,
            ),
            (
                r#"{"bits":"4","head":[4294967296,4294967296],"relative_error":0}"#,
                false,
            ),
            (r#"{"bits":"5"}"#, false),
        ] {
            let views: BTreeMap<_, _> = file.tensors().into_iter().collect();
            let mut metadata = Metadata::from([
                ("version".to_owned(), COMPRESSED.to_owned()),
                ("layers".to_owned(), "2".to_owned()),
                (PACKING.to_owned(), packing.to_owned()),
            ]);
            let sum = checksum(&metadata, &views);
            metadata.insert("checksum".to_owned(), sum);
            let header = metadata.into_iter().collect();
            let made = safetensors::serialize(views, Some(header)).unwrap();
            let read = ModelState::from_bytes(&made, &Device::flex());
            assert_eq!(read.is_ok(), fine, "{packing}");
        }
    }

    /// Before version 1 there was neither a version nor a checksum.
    #[test]
    fn the_state_of_an_old_checkpoint_is_read() {
        let (_, state) = used(Mixer::Softmax);
        let bytes = state.to_bytes(None).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let header = HashMap::from([("layers".to_owned(), "2".to_owned())]);
        let old = safetensors::serialize(file.tensors(), Some(header)).unwrap();
        let read = ModelState::from_bytes(&old, &Device::flex()).unwrap();
        assert!(tensors_of(&read) == tensors_of(&state));
    }

    #[test]
    fn damaged_bytes_are_refused_and_never_panic() {
        let (model, state) = used(Mixer::Infinity);
        let whole = state.to_bytes(Some(&fingerprint(&model))).unwrap();
        let device = Device::flex();
        let mut seed = 1u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut bytes = whole.clone();
            // Half of the changes fall into the header.
            let range = if seed >> 40 & 1 == 0 {
                600
            } else {
                whole.len()
            };
            let at = (seed >> 33) as usize % range;
            let old = bytes[at];
            bytes[at] = (seed >> 20) as u8;
            let spaces = old.is_ascii_whitespace() && bytes[at].is_ascii_whitespace();
            let read = ModelState::from_bytes(&bytes, &device);
            assert!(read.is_err() || bytes[at] == old || spaces, "byte {at}");
        }
    }
}
