//! Tensors in one buffer on CubeCL runtimes, which are parts of it, and what writes over them there.

use super::many::{Places, join};
use burn::backend::TensorMetadata;
use burn::backend::fusion::custom::TensorSpec;
use burn::tensor::{Bytes, DType, Shape};
use burn_cubecl::tensor::CubeTensor;

/// Values between which tensors begin: at 512 bytes every device can bind one alone.
const ALIGNED: usize = 512 / size_of::<f32>();

/// What [`keep`] gives.
pub(crate) fn specs(tensors: &[TensorSpec]) -> Vec<TensorSpec> {
    let lens = tensors.iter().map(|x| x.shape.num_elements());
    let all = Shape::from([Places::aligned(lens, ALIGNED).values]);
    let buffer = TensorSpec::new(all, DType::F32);
    [&[buffer], tensors].concat()
}

/// The buffer of all, and every tensor as a part of it.
pub(crate) fn keep(tensors: Vec<CubeTensor>) -> Vec<CubeTensor> {
    let shapes: Vec<Shape> = tensors.iter().map(TensorMetadata::shape).collect();
    let lens = shapes.iter().map(Shape::num_elements);
    let places = Places::aligned(lens, ALIGNED);
    let buffer = places.buffer(&tensors[0]);
    put(tensors, &buffer, &places.start);
    let parts = places.parts(&buffer, shapes);
    [vec![buffer], parts].concat()
}

/// The buffer, with tensors written over what was there.
pub(crate) fn write(lens: &[usize], from: usize, mut tensors: Vec<CubeTensor>) -> CubeTensor {
    let new = tensors.split_off(1);
    let buffer = tensors.remove(0);
    let places = Places::aligned(lens.iter().copied(), ALIGNED);
    put(new, &buffer, &places.start[from..]);
    buffer
}

/// The buffer, with numbers written over what was there.
pub(crate) fn upload(lens: &[usize], numbers: &[Vec<f32>], buffer: CubeTensor) -> CubeTensor {
    let places = Places::aligned(lens.iter().copied(), ALIGNED);
    for (i, numbers) in numbers.iter().enumerate() {
        let part = places.part(&buffer, i, [numbers.len()]);
        let bytes = Bytes::from_elems(numbers.clone());
        buffer.client.write(&part.handle, bytes);
    }
    buffer
}

/// Writes every tensor to its place in `buffer`: a matrix of one row among its columns.
fn put(tensors: Vec<CubeTensor>, buffer: &CubeTensor, start: &[usize]) {
    let parts = tensors.into_iter().zip(start).map(|(x, start)| {
        let len = x.shape().num_elements();
        (Some(x), [len, len, *start])
    });
    join(
        buffer,
        parts.collect(),
        buffer,
        buffer.shape().num_elements(),
    );
}
