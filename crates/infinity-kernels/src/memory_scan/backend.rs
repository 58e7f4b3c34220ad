//! The extension trait that routes `memory_scan` to whatever backend a tensor lives on.
//!
//! The default body is the chunk form on the backend's own primitives, so any backend Burn has
//! can run it, lazily under fusion. `autodiff.rs` adds the backward pass. The fused form has no
//! default: it exists where a backend brings a kernel, which `Form::check` knows.

use super::chunkwise;
#[cfg(feature = "flex")]
use super::flex;
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

    /// The fused form: what [`memory_scan_chunkwise`](Self::memory_scan_chunkwise) returns, from a
    /// kernel of the backend's own.
    ///
    /// # Panics
    ///
    /// Where no such kernel exists; [`Form::check`](crate::Form::check) says so beforehand.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn memory_scan_fused(#[extension_type] x: ScanTensors<Self>, delta: bool) -> FloatTensor<Self> {
        unreachable!("{NOT_FUSED}")
    }

    /// The fused form for training: also returns the states at the chunk borders, in a layout only
    /// [`memory_scan_fused_backward`](Self::memory_scan_fused_backward) reads.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn memory_scan_fused_saving(
        #[extension_type] x: ScanTensors<Self>,
        delta: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NOT_FUSED}")
    }

    /// Gradients of all inputs, given the inputs, the states at the chunk borders and the gradient
    /// of what the fused form returned. In additive mode that of `erase` is zero.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn memory_scan_fused_backward(
        #[extension_type] x: ScanTensors<Self>,
        borders: FloatTensor<Self>,
        d_both: FloatTensor<Self>,
        delta: bool,
    ) -> ScanTensors<Self> {
        unreachable!("{NOT_FUSED}")
    }
}

/// Said where `Form::check` was not asked, or where a gradient of a gradient was.
const NOT_FUSED: &str =
    "no fused memory_scan here: Form::check must come first, and it has no second derivative";

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
impl MemoryScanBackend for burn::backend::Flex {
    fn memory_scan_fused(x: ScanTensors<Self>, delta: bool) -> FloatTensor<Self> {
        flex::forward(x, delta)
    }

    fn memory_scan_fused_saving(
        x: ScanTensors<Self>,
        delta: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        flex::forward_saving(x, delta)
    }

    fn memory_scan_fused_backward(
        x: ScanTensors<Self>,
        borders: FloatTensor<Self>,
        d_both: FloatTensor<Self>,
        delta: bool,
    ) -> ScanTensors<Self> {
        flex::backward(x, borders, d_both, delta)
    }
}

#[cfg(feature = "ndarray")]
impl MemoryScanBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl MemoryScanBackend for burn_cubecl::CubeBackend {}
