//! The extension trait that routes `memory_scan` to whatever backend a tensor lives on.
//!
//! The default body is the chunk form on the backend's own primitives, so any backend Burn has
//! can run it, lazily under fusion. `autodiff.rs` adds the backward pass.

use super::chunkwise;
use burn::backend::{
    Backend, ExtensionType, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Shape;

/// The operator's tensors below autodiff; shapes as in [`MemoryScanInputs`](super::MemoryScanInputs).
///
/// `erase` is present in additive mode too, and then not read: an operation's inputs have to be
/// tensors.
#[derive(ExtensionType, Clone, Debug)]
#[allow(missing_docs)]
pub struct ScanTensors<B: Backend> {
    pub q: FloatTensor<B>,
    pub k: FloatTensor<B>,
    pub v: FloatTensor<B>,
    pub log_decay: FloatTensor<B>,
    pub read: FloatTensor<B>,
    pub write: FloatTensor<B>,
    pub erase: FloatTensor<B>,
    pub state: FloatTensor<B>,
}

/// Backends that can run `memory_scan`.
#[allow(deprecated)] // NdArray stays supported for those who have it.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait MemoryScanBackend: Backend {
    /// The chunk form with `chunk` positions a chunk. Returns outputs and final state in one
    /// vector (`packed`), because a node of the autodiff graph has one output.
    #[fusion(default)]
    fn memory_scan_chunkwise(
        #[extension_type] x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
    ) -> FloatTensor<Self> {
        let (o, state, _) = chunkwise::forward::<Self>(x, chunk, delta);
        packed::<Self>(o, state)
    }
}

/// `o` and `state`, flat, one behind the other.
pub(super) fn packed<B: Backend>(o: FloatTensor<B>, state: FloatTensor<B>) -> FloatTensor<B> {
    let flat = |x: FloatTensor<B>| {
        let len = x.shape().num_elements();
        B::float_reshape(x, Shape::from(vec![len]))
    };
    B::float_cat(vec![flat(o), flat(state)], 0)
}

/// The way back from [`packed`].
pub(super) fn unpacked<B: Backend>(
    both: FloatTensor<B>,
    o: Shape,
    state: Shape,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (at, end) = (o.num_elements(), o.num_elements() + state.num_elements());
    let first = B::float_slice(both.clone(), &[(0..at).into()]);
    let second = B::float_slice(both, &[(at..end).into()]);
    (B::float_reshape(first, o), B::float_reshape(second, state))
}

#[cfg(feature = "flex")]
impl MemoryScanBackend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
#[allow(deprecated)] // As above.
impl MemoryScanBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl MemoryScanBackend for burn_cubecl::CubeBackend {}
