//! The extension trait that routes `memory_scan` to whatever backend a tensor lives on.
//!
//! The default body is the chunk form on the backend's own primitives, so any backend Burn has
//! can run it, lazily under fusion. `autodiff.rs` adds the backward pass. The fused form has no
//! default: it exists where a backend brings a kernel, which `Form::check` knows.

use super::chunkwise;
#[cfg(feature = "flex")]
use super::cpu;
#[cfg(feature = "cube")]
use super::gpu;
use crate::parts::{Parts, packed};
#[cfg(feature = "cube")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{Backend, ExtensionType, backend_extension, tensor::FloatTensor};
#[cfg(feature = "cube")]
use burn::tensor::{DType, Shape};

/// The operator's tensors below autodiff; shapes as in [`MemoryScanInputs`](super::MemoryScanInputs).
///
/// `erase` is present in additive mode too, and then not read: an operation's inputs have to be
/// tensors.
#[derive(ExtensionType, Clone, Debug)]
#[extension_type(fusion: cfg(feature = "cube"))]
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
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub trait MemoryScanBackend: Backend {
    /// The chunk form with `chunk` positions a chunk. Returns outputs and final state in one
    /// vector, because a node of the autodiff graph has one output; `parts` knows where they lie in
    /// it, and with autodiff collects their gradients.
    #[fusion(default)]
    #[allow(unused_variables)]
    fn memory_scan_chunkwise(
        #[extension_type] x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
        parts: Parts,
    ) -> FloatTensor<Self> {
        let (o, state, _) = chunkwise::forward::<Self>(x, chunk, delta);
        packed::<Self>([o, state])
    }

    /// The fused form: what [`memory_scan_chunkwise`](Self::memory_scan_chunkwise) returns, from a
    /// kernel of the backend's own. `chunk` is what the device asked for, see
    /// [`Form::check`](crate::Form::check); Flex cuts as it likes.
    ///
    /// # Panics
    ///
    /// Where no such kernel exists; [`Form::check`](crate::Form::check) says so beforehand.
    #[fusion(meta = |x, _, _, _| both_spec(x))]
    #[allow(unused_variables)]
    fn memory_scan_fused(
        #[extension_type] x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
        parts: Parts,
    ) -> FloatTensor<Self> {
        unreachable!("{NOT_FUSED}")
    }

    /// The fused form for training: also returns what
    /// [`memory_scan_fused_backward`](Self::memory_scan_fused_backward) computes the rest from, in
    /// a layout that only it reads: the states at the chunk borders, and what else a kernel keeps.
    #[fusion(meta = |x, chunk, _| (both_spec(x), saved_spec(x, *chunk)))]
    #[allow(unused_variables)]
    fn memory_scan_fused_saving(
        #[extension_type] x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("{NOT_FUSED}")
    }

    /// Gradients of all inputs, given the inputs, what was saved and the gradients of outputs and
    /// final state. In additive mode that of `erase` is zero.
    #[fusion(meta = |x, _, _, _, _, _| x.clone())]
    #[allow(unused_variables)]
    fn memory_scan_fused_backward(
        #[extension_type] x: ScanTensors<Self>,
        saved: FloatTensor<Self>,
        d_o: FloatTensor<Self>,
        d_state: FloatTensor<Self>,
        chunk: usize,
        delta: bool,
    ) -> ScanTensors<Self> {
        unreachable!("{NOT_FUSED}")
    }
}

/// Said where `Form::check` was not asked, or where a gradient of a gradient was.
const NOT_FUSED: &str =
    "no fused memory_scan here: Form::check must come first, and it has no second derivative";

/// Outputs and final state in one vector, in the type of the state.
#[cfg(feature = "cube")]
fn both_spec(x: &ScanTensorsMetadata) -> TensorSpec {
    let len = x.v.shape.num_elements() + x.state.shape.num_elements();
    TensorSpec::new(Shape::from([len]), x.state.dtype)
}

/// What the kernel of `gpu/` saves.
#[cfg(feature = "cube")]
fn saved_spec(x: &ScanTensorsMetadata, chunk: usize) -> TensorSpec {
    let chunks = x.q.shape[1].div_ceil(chunk);
    let len = x.v.shape.num_elements() + x.state.shape.num_elements() * (chunks + 1);
    TensorSpec::new(Shape::from([len]), DType::F32)
}

#[cfg(feature = "flex")]
impl MemoryScanBackend for burn::backend::Flex {
    fn memory_scan_fused(
        x: ScanTensors<Self>,
        _chunk: usize,
        delta: bool,
        _parts: Parts,
    ) -> FloatTensor<Self> {
        cpu::forward(x, delta)
    }

    fn memory_scan_fused_saving(
        x: ScanTensors<Self>,
        _chunk: usize,
        delta: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cpu::forward_saving(x, delta)
    }

    fn memory_scan_fused_backward(
        x: ScanTensors<Self>,
        saved: FloatTensor<Self>,
        d_o: FloatTensor<Self>,
        d_state: FloatTensor<Self>,
        _chunk: usize,
        delta: bool,
    ) -> ScanTensors<Self> {
        cpu::backward(x, saved, [d_o, d_state], delta)
    }
}

#[cfg(feature = "ndarray")]
impl MemoryScanBackend for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl MemoryScanBackend for burn_cubecl::CubeBackend {
    fn memory_scan_fused(
        x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
        _parts: Parts,
    ) -> FloatTensor<Self> {
        gpu::forward(x, chunk, delta)
    }

    fn memory_scan_fused_saving(
        x: ScanTensors<Self>,
        chunk: usize,
        delta: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        gpu::forward_saving(x, chunk, delta)
    }

    fn memory_scan_fused_backward(
        x: ScanTensors<Self>,
        saved: FloatTensor<Self>,
        d_o: FloatTensor<Self>,
        d_state: FloatTensor<Self>,
        chunk: usize,
        delta: bool,
    ) -> ScanTensors<Self> {
        let d_both = packed::<Self>([d_o, d_state]);
        gpu::backward(x, saved, d_both, chunk, delta)
    }
}
