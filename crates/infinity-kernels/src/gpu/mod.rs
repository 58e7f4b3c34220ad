//! What the kernels of all operators share on CubeCL runtimes: tensors made ready, counts of cubes, sums.
//!
//! Kernels take contiguous buffers and compute in `f32`. Sums run in a fixed order and nothing is added
//! atomically: two runs on one device give the same bits.

pub(crate) mod kept;
#[cfg(feature = "testing")]
pub mod launches;
pub(crate) mod many;
pub(crate) mod sums;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod tests;

use burn::backend::{DispatchDevice, TensorMetadata, ops::FloatTensorOps};
use burn::tensor::{DType, Device, FloatDType, Shape};
use burn_cubecl::cubecl::{client::Client, ir::FloatKind, prelude::*};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};

/// Units of a cube.
pub(crate) const UNITS: usize = 256;
/// Cubes along one axis that every runtime takes.
const CUBES_IN_A_ROW: usize = 65_535;
/// Buffers of the kernel that has most, and one for the numbers of a call.
const BUFFERS: u32 = 11;

/// The client of a CubeCL device.
pub(crate) fn client(device: &Device) -> Option<Client> {
    match device.clone().without_autodiff().as_dispatch() {
        DispatchDevice::Cube(device) => Some(device.client()),
        #[allow(unreachable_patterns, reason = "a build without the processor")]
        _ => None,
    }
}

/// Whether `device` is of a CubeCL runtime and can run the kernels.
pub(crate) fn has_kernels(device: &Device) -> bool {
    let Some(client) = client(device) else {
        return false;
    };
    let hardware = &client.properties().hardware;
    hardware.max_units_per_cube >= UNITS as u32
        && hardware.max_cube_dim.0 >= UNITS as u32
        && hardware.max_bindings >= BUFFERS
}

/// The type that kernels read and write for tensors of `dtype`: half formats as they are, else `f32`.
pub(crate) fn row_type(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => dtype,
        _ => DType::F32,
    }
}

/// `dtype` as kernels name it.
pub(crate) fn element(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => FloatKind::F32,
    })
}

/// `x` in `dtype`.
pub(crate) fn cast(x: CubeTensor, dtype: DType) -> CubeTensor {
    match x.dtype == dtype {
        true => x,
        false => CubeBackend::float_cast(x, FloatDType::from(dtype)),
    }
}

/// `x` in `dtype`, its values in the order of its dims.
pub(crate) fn contiguous(x: CubeTensor, dtype: DType) -> CubeTensor {
    into_contiguous(cast(x, dtype))
}

/// All of `inputs` as kernels read them that take nothing but `f32`.
pub(crate) fn single(inputs: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let inputs = inputs.into_iter();
    inputs.map(|x| contiguous(x, DType::F32)).collect()
}

/// As many zeros in `f32`.
pub(crate) fn zeros(like: &CubeTensor) -> CubeTensor {
    CubeBackend::float_zeros(like.shape(), &like.device, DType::F32.into())
}

/// `x` for a kernel that reads it; something else where `x` holds nothing, which cannot be bound.
pub(crate) fn bound(x: &CubeTensor, else_this: &CubeTensor) -> BufferArg {
    let there = x.shape().num_elements() > 0;
    let x = if there { x } else { else_this };
    x.clone().into_buffer_arg()
}

/// A tensor on the device of `of` that a kernel fills.
/// Panics if it has more values than kernels count to.
pub(crate) fn empty(of: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let shape = shape.into();
    let len = shape.num_elements();
    assert!(
        u32::try_from(len).is_ok(),
        "a buffer of {len} values, kernels count to 2³²: fewer tokens in one call"
    );
    let client = of.client.clone();
    // Buffers of nothing cannot be bound.
    let handle = client.empty(len.max(1) * dtype.size());
    CubeTensor::new_contiguous(client, of.device.clone(), shape, handle, dtype)
}

/// At least `n` cubes, numbered by `CUBE_POS`.
pub(crate) fn cubes(n: usize) -> CubeCount {
    let x = n.min(CUBES_IN_A_ROW);
    CubeCount::Static(x as u32, n.div_ceil(x.max(1)) as u32, 1)
}

/// Cubes for `n` units that work alone, numbered by `ABSOLUTE_POS`.
pub(crate) fn cubes_of_units(n: usize) -> CubeCount {
    cubes(n.div_ceil(UNITS))
}

/// The units of a cube, in one row.
pub(crate) fn units() -> CubeDim {
    CubeDim::new_1d(UNITS as u32)
}
