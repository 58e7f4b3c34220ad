//! What a model remembers between calls: a plain value whose size does not depend on time.

use crate::config::{LayerType, ModelConfig, QkNorm};
pub use crate::kv_cache::KvCache;
use crate::kv_cache::tensor_bytes;
use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use infinity_kernels::borders::Borders;
use std::collections::BTreeMap;

/// A model, or a layer alone, with a [`ModelState`].
pub trait Stateful: Module {
    /// The configuration of its layers.
    fn config(&self) -> &ModelConfig;

    /// How many layers have a state.
    fn num_layers(&self) -> usize {
        1
    }

    /// What the adapters beside its weights count, by the names of those weights.
    fn adapter_scales(&self) -> &BTreeMap<String, f64> {
        const { &BTreeMap::new() }
    }

    /// The state of `batch` rows that have read nothing, on the device of the parameters.
    fn initial_state(&self, batch: usize) -> ModelState {
        let device = self.devices().swap_remove(0).inner();
        ModelState::initial(self.config(), self.num_layers(), batch, &device)
    }
}

/// The state of every layer and the position of every row; of a mixer or block alone, it has one
/// layer.
///
/// It goes into every forward and comes out again. It can be cloned, detached, moved, reset by
/// row, [saved](Self::save); dropping it forgets.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// One entry a layer, from the input on.
    pub layers: Vec<LayerState>,
    /// Tokens every row has read.
    pub position: Vec<u64>,
}

/// The state of one layer.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // One a layer, and tensors are handles.
pub enum LayerState {
    /// The memory and the convolutions' tails: constant size.
    Infinity {
        /// Memory `[B, H, S, K, V]`, in f32. With denominators `V` is one longer.
        memory: Tensor<5>,
        /// The last inputs of the convolutions on q, k and v, `[B, channels, kernel − 1]` each;
        /// empty without convolutions.
        tails: Vec<Tensor<3>>,
    },
    /// Keys and values of every token so far, or of a window: a cache.
    Softmax {
        /// It grows with the text, unless there is a window.
        cache: KvCache,
    },
}

impl LayerState {
    /// The state of `batch` rows before the first token, of a layer of this type.
    fn initial(config: &ModelConfig, kind: LayerType, batch: usize, device: &Device) -> Self {
        if kind != LayerType::Linear {
            let cache = KvCache::empty(batch);
            return LayerState::Softmax { cache };
        }
        let (heads, s) = (config.linear_heads(), config.num_states());
        let (keys, values) = (heads.key_width(), heads.value_width());
        let carried = match config.qk_norm {
            QkNorm::L2 => heads.value_dim,
            QkNorm::Denominator => heads.value_dim + 1,
        };
        let tails = match config.conv_kernel_size {
            0 => Vec::new(),
            kernel => [keys, keys, values]
                .map(|channels| Tensor::zeros([batch, channels, kernel - 1], device))
                .to_vec(),
        };
        LayerState::Infinity {
            memory: Tensor::zeros([batch, heads.values, s, heads.key_dim, carried], device),
            tails,
        }
    }

    fn change(self, change: &mut Change<'_>) -> Self {
        match self {
            LayerState::Infinity { memory, tails } => LayerState::Infinity {
                memory: change.tensor(memory),
                tails: tails.into_iter().map(|tail| change.tensor(tail)).collect(),
            },
            LayerState::Softmax { cache } => LayerState::Softmax {
                cache: change.cache(cache),
            },
        }
    }

    /// As [`ModelState::detach`].
    pub fn detach(self) -> Self {
        self.change(&mut Change::Detach)
    }

    /// As [`ModelState::compact`].
    pub fn compact(self) -> Self {
        self.change(&mut Change::Compact)
    }

    /// The rows of all, one after the other.
    fn cat(layers: Vec<Self>) -> Self {
        let (mut memories, mut all_tails, mut caches) = (Vec::new(), Vec::new(), Vec::new());
        let n = layers.len();
        for layer in layers {
            match layer {
                LayerState::Infinity { memory, tails } => {
                    memories.push(memory);
                    all_tails.push(tails);
                }
                LayerState::Softmax { cache } => caches.push(cache),
            }
        }
        assert!(
            memories.len() == n || caches.len() == n,
            "states of one kind of layers"
        );
        if !caches.is_empty() {
            let cache = KvCache::cat(caches);
            return LayerState::Softmax { cache };
        }
        LayerState::Infinity {
            memory: Tensor::cat(memories, 0),
            tails: transposed(all_tails)
                .map(|tails| Tensor::cat(tails, 0))
                .collect(),
        }
    }

    /// As [`ModelState::inner_product`]; caches are as long.
    fn inner_product(&self, other: &Self) -> Option<Tensor<1>> {
        match (self, other) {
            (
                LayerState::Infinity { memory, tails },
                LayerState::Infinity {
                    memory: other,
                    tails: others,
                },
            ) => {
                let tails = tails.iter().zip(others).map(product);
                Some(tails.fold(product((memory, other)), Tensor::add))
            }
            (LayerState::Softmax { cache }, LayerState::Softmax { cache: other }) => {
                assert_eq!(cache.len(), other.len(), "caches of one length");
                let (own, others) = (cache.filled()?, other.filled()?);
                own.iter().zip(&others).map(product).reduce(Tensor::add)
            }
            _ => panic!("states of different kinds of layers"),
        }
    }
}

fn product<const D: usize>((a, b): (&Tensor<D>, &Tensor<D>)) -> Tensor<1> {
    (a.clone() * b.clone()).sum()
}

/// The first of all rows, the second of all, and so on; rows are equally long, and there are some.
fn transposed<T>(rows: Vec<Vec<T>>) -> impl Iterator<Item = Vec<T>> {
    let mut rows: Vec<_> = rows.into_iter().map(Vec::into_iter).collect();
    assert!(!rows.is_empty(), "no rows");
    std::iter::from_fn(move || rows.iter_mut().map(Iterator::next).collect())
}

/// One operation for tensors of every rank.
enum Change<'a> {
    /// Below autodiff: a carried state is a constant of the next call, not a graph.
    Detach,
    Track,
    TakeGradients(&'a mut Gradients),
    Compact,
    ToDevice(&'a Device),
    /// Rows taken from others, or zeros. A product with zero would keep NaN.
    Gather(&'a [Option<usize>]),
}

impl Change<'_> {
    fn tensor<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        match self {
            Change::Detach => tensor.inner(),
            Change::Track => Tensor::from_inner(tensor.inner()).require_grad(),
            Change::TakeGradients(gradients) => {
                let gradient = tensor.grad_remove(gradients);
                gradient.unwrap_or_else(|| tensor.inner().zeros_like())
            }
            Change::Compact => {
                // An operation with a second owner cannot write in place: its result is a new buffer.
                let _owner = tensor.clone();
                tensor * 1.0
            }
            Change::ToDevice(device) => tensor.to_device(device),
            Change::Gather(from) => {
                let parts = from.iter().map(|from| match from {
                    Some(row) => tensor.clone().narrow(0, *row, 1),
                    None => tensor.clone().narrow(0, 0, 1).zeros_like(),
                });
                Tensor::cat(parts.collect(), 0)
            }
        }
    }

    fn cache(&mut self, cache: KvCache) -> KvCache {
        match self {
            Change::Compact => cache.trimmed().map(|tensor| self.tensor(tensor)),
            &mut Change::Gather(from) => cache.gather(from, |tensor| self.tensor(tensor)),
            _ => cache.map(|tensor| self.tensor(tensor)),
        }
    }
}

impl ModelState {
    /// The state of `batch` rows before the first token, for `layers` layers of `config`.
    pub(crate) fn initial(
        config: &ModelConfig,
        layers: usize,
        batch: usize,
        device: &Device,
    ) -> Self {
        let layer = |i| LayerState::initial(config, config.layer_type(i), batch, device);
        ModelState {
            layers: (0..layers).map(layer).collect(),
            position: vec![0; batch],
        }
    }

    fn change(self, mut change: Change<'_>) -> Self {
        let layers = self.layers.into_iter();
        ModelState {
            layers: layers.map(|layer| layer.change(&mut change)).collect(),
            position: self.position,
        }
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.position.len()
    }

    /// The same values outside any autodiff graph: a border of truncated backpropagation.
    pub fn detach(self) -> Self {
        self.change(Change::Detach)
    }

    /// The same values as leaves of a new autodiff graph, whose gradients
    /// [`take_gradients`](Self::take_gradients) returns after a backward pass.
    pub fn track(self) -> Self {
        self.change(Change::Track)
    }

    /// The gradients of a state that [`track`](Self::track) made, outside any graph; zero where
    /// nothing depends on a value. Its positions are the state's.
    pub fn take_gradients(&self, gradients: &mut Gradients) -> Self {
        self.clone().change(Change::TakeGradients(gradients))
    }

    /// The sum over all numbers of the products with `other`'s, `[1]`: a scalar whose gradient is
    /// `other`. `None` if there are no numbers, as in a baseline that has read nothing.
    pub fn inner_product(&self, other: &Self) -> Option<Tensor<1>> {
        let pairs = self.layers.iter().zip(&other.layers);
        let products = pairs.filter_map(|(layer, other)| layer.inner_product(other));
        products.reduce(Tensor::add)
    }

    /// The same values in memory of their own.
    ///
    /// On some devices what comes out of a forward pass are windows onto the activations it ends,
    /// which live as long as the state does. This is for a state that is kept.
    pub fn compact(self) -> Self {
        self.change(Change::Compact)
    }

    /// The positions of all rows after `t` more tokens, counted from the beginning of the last document of each.
    pub fn position_after(&self, t: usize, borders: &Borders) -> Vec<u64> {
        let rows = self.position.iter().enumerate();
        rows.map(|(row, start)| borders.position(row, *start, t))
            .collect()
    }

    /// The same values on another device.
    pub fn to_device(self, device: &Device) -> Self {
        self.change(Change::ToDevice(device))
    }

    /// Forgets the rows that are marked; they start again at position 0.
    ///
    /// The cache of a full layer is as long in one row as in another; a row that was forgotten looks at none of
    /// what was there.
    ///
    /// # Panics
    /// If `rows` has another length than the batch.
    pub fn reset_rows(self, rows: &[bool]) -> Self {
        assert_eq!(rows.len(), self.batch(), "one mark a row");
        let from = rows.iter().enumerate();
        let from = from.map(|(row, reset)| (!reset).then_some(row));
        self.gather_rows(&from.collect::<Vec<_>>())
    }

    /// Other rows in the place of these: row `i` of the result is row `from[i]` of this state, its
    /// position included, or has read nothing where that is `None`.
    ///
    /// # Panics
    /// If a row does not exist, or without any row.
    pub fn gather_rows(self, from: &[Option<usize>]) -> Self {
        let in_place = (0..self.batch()).map(Some);
        if in_place.eq(from.iter().copied()) {
            return self;
        }
        let mut state = self.change(Change::Gather(from));
        let position = from.iter();
        let position = position.map(|row| row.map_or(0, |row| state.position[row]));
        state.position = position.collect();
        state
    }

    /// The rows of all parts, one part after the other, as one state. The parts are on one device.
    ///
    /// # Panics
    /// Without any part, or if they are not states of one model.
    pub fn cat(parts: Vec<Self>) -> Self {
        let depth = parts.first().expect("at least one part").layers.len();
        let same = parts.iter().all(|part| part.layers.len() == depth);
        assert!(same, "states of one model");
        let position = parts
            .iter()
            .flat_map(|part| part.position.clone())
            .collect();
        let layers = parts.into_iter().map(|part| part.layers).collect();
        ModelState {
            layers: transposed(layers).map(LayerState::cat).collect(),
            position,
        }
    }

    /// The state for a call that may fail. Caches that grow are lent: a call that is their only owner fills them
    /// in place, while from a clone it would copy all of them. Until the state that the call gives is put in
    /// the place of this one, or [`take_back`](Self::take_back) is called, they are missing here.
    pub(crate) fn lend(&mut self, config: &ModelConfig) -> Self {
        let lent = self.clone();
        for cache in self.growing(config) {
            *cache = KvCache::empty(lent.batch());
        }
        lent
    }

    /// The caches that were lent, out of the state that the call gave after `t` tokens.
    pub(crate) fn take_back(&mut self, mut after: Self, t: usize, config: &ModelConfig) {
        for (cache, after) in self.growing(config).zip(after.growing(config)) {
            *cache = after.clone().without_last(t);
        }
    }

    /// The caches that grow.
    fn growing(&mut self, config: &ModelConfig) -> impl Iterator<Item = &mut KvCache> {
        let layers = self.layers.iter_mut().enumerate();
        layers.filter_map(move |(i, layer)| match layer {
            LayerState::Softmax { cache } if config.layer_type(i) == LayerType::Full => Some(cache),
            _ => None,
        })
    }

    /// Bytes of all tensors, at their present precision, with the room that caches have.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().map(|layer| match layer {
            LayerState::Infinity { memory, tails } => {
                tensor_bytes(memory) + tails.iter().map(tensor_bytes).sum::<usize>()
            }
            LayerState::Softmax { cache } => cache.bytes(),
        });
        layers.sum::<usize>() + size_of_val(self.position.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Int;

    /// A call that fails leaves what was there before it, cache by cache.
    #[test]
    fn what_was_lent_comes_back() {
        let config = ModelConfig {
            hidden_size: 8,
            num_hidden_layers: 3,
            num_attention_heads: 2,
            layer_types: Some(LayerType::ALL.to_vec()),
            sliding_window: Some(2),
            ..ModelConfig::first().with_vocab_size(5)
        };
        let model = config.init(&Device::flex());
        let read = |ids: &[i32], state: Option<ModelState>| {
            let ids = Tensor::<1, Int>::from_ints(ids, &Device::flex()).unsqueeze();
            model.forward(ids, state).1
        };
        let bytes = |state: &ModelState| {
            let state = state.clone().to_bytes(None).unwrap();
            let file = safetensors::SafeTensors::deserialize(&state).unwrap();
            let tensors = file.tensors().into_iter();
            let data = tensors.map(|(name, x)| (name, x.data().to_vec()));
            data.collect::<std::collections::BTreeMap<_, _>>()
        };
        let mut state = read(&[1, 2, 3], None);
        for more in [&[4][..], &[0, 1, 2]] {
            let before = bytes(&state);
            let lent = state.lend(&config);
            assert_ne!(bytes(&state), before, "the cache that grows is away");
            let after = read(more, Some(lent));
            state.take_back(after, more.len(), &config);
            assert_eq!(bytes(&state), before);
            let lent = state.lend(&config);
            state = read(more, Some(lent));
        }
        let fresh = read(&[1, 2, 3, 4, 0, 1, 2], None);
        assert_eq!(state.compact().bytes(), fresh.compact().bytes());
    }
}
