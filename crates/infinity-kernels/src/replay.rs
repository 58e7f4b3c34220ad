//! Work that a GPU is told once and asked for again in one call: decoding without the launches of every token.
//!
//! [`Recording`] wraps `burn::tensor::capture`. What is recorded reads and writes buffers where they were, so what goes
//! in and what is carried on lie in a buffer that stays, [`Kept`], and are written over there.

#[cfg(feature = "cube")]
use crate::gpu::kept;
use crate::operator::{self, Operator, Results, gpu_kernel, has_gpu_kernels};
use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Device, Graph, Tensor, capture};
use std::marker::PhantomData;

/// Tensors on their way into a [`Kept`], in their order.
#[derive(Clone, Debug, Default)]
pub struct Keeping(Vec<FloatTensor<Dispatch>>);

impl Keeping {
    /// Puts `x` behind the others.
    pub fn push<const D: usize>(&mut self, x: Tensor<D>) {
        self.0.push(x.into_dispatch());
    }

    /// Copies of all, side by side in one buffer, and the tensors that read it there. `None` without any, where the
    /// device has no kernels for it, and if a tensor is not in f32 or has no numbers.
    pub fn keep(self) -> Option<(Kept, Seen)> {
        let device = Tensor::<1>::from_dispatch(self.0.first()?.clone()).device();
        let lens: Vec<usize> = self.0.iter().map(numbers).collect();
        let single = self.0.iter().all(|x| x.dtype() == DType::F32);
        if !single || lens.contains(&0) || !has_gpu_kernels(&device) {
            return None;
        }
        let mut results = operator::run(Keep, self.0);
        let buffer = results.take();
        Some((Kept { buffer, lens }, Seen(results)))
    }
}

fn numbers(x: &FloatTensor<Dispatch>) -> usize {
    x.shape().num_elements()
}

/// What lies in a [`Kept`], to be taken in the order in which it was put there. Its numbers change with the buffer.
pub struct Seen(Results);

impl Seen {
    /// The next one, which has `D` dimensions.
    ///
    /// # Panics
    ///
    /// If all are taken, or it has other dimensions.
    pub fn take<const D: usize>(&mut self) -> Tensor<D> {
        self.0.take()
    }
}

/// A buffer of tensors that stays where it is.
#[derive(Clone, Debug)]
pub struct Kept {
    buffer: Tensor<1>,
    /// Numbers of every tensor.
    lens: Vec<usize>,
}

impl Kept {
    /// Writes the numbers of `new` over the tensors from the one at `from` on. What comes back is the buffer: a device
    /// may leave out work that nobody holds the result of.
    ///
    /// # Panics
    ///
    /// If a tensor has more or fewer numbers than the one in its place.
    pub fn write(&self, from: usize, new: Keeping) -> Tensor<1> {
        let new = new.0;
        self.check(from, new.iter().map(numbers).collect());
        let buffer = self.buffer.clone().into_dispatch();
        let write = Write {
            lens: self.lens.clone(),
            from,
        };
        operator::run(write, [vec![buffer], new].concat()).take()
    }

    /// Writes `numbers` over the first tensors, without a launch.
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    pub fn upload(&self, numbers: Vec<Vec<f32>>) -> Tensor<1> {
        self.check(0, numbers.iter().map(Vec::len).collect());
        let buffer = self.buffer.clone().into_dispatch();
        let upload = Upload {
            lens: self.lens.clone(),
            numbers,
        };
        operator::run(upload, vec![buffer]).take()
    }

    #[track_caller]
    fn check(&self, from: usize, lens: Vec<usize>) {
        let there = &self.lens[from..from + lens.len()];
        assert_eq!(there, lens, "as many numbers as are there");
    }
}

/// Side by side in a buffer: the buffer, and every tensor as a part of it.
#[derive(Clone, Debug)]
struct Keep;

/// Tensors over those of a buffer, from the one at `from` on.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cube"), allow(dead_code))]
struct Write {
    lens: Vec<usize>,
    from: usize,
}

/// Numbers over the first tensors of a buffer.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cube"), allow(dead_code))]
struct Upload {
    lens: Vec<usize>,
    numbers: Vec<Vec<f32>>,
}

impl Operator for Keep {
    const NAME: &'static str = "keep";

    gpu_kernel! { |self, specs| kept::specs(specs); |self, tensors| kept::keep(tensors) }
}

impl Operator for Write {
    const NAME: &'static str = "write";

    gpu_kernel! { |self, specs| [specs[0].clone()]; |self, tensors| [kept::write(&self.lens, self.from, tensors)] }
}

impl Operator for Upload {
    const NAME: &'static str = "upload";

    gpu_kernel! { |self, specs| [specs[0].clone()]; |self, [buffer]| [kept::upload(&self.lens, &self.numbers, buffer)] }
}

/// Work that was recorded on a GPU.
pub struct Recording<T> {
    graph: Graph<T, Box<dyn FnMut() -> T>>,
    /// What is recorded belongs to the stream of the thread that recorded it.
    here: PhantomData<*const ()>,
}

impl<T> Recording<T> {
    /// Records `work`, which runs a few times on the way: what it writes over is to be set again. `None` where the
    /// device cannot record, or not this.
    ///
    /// `work` owns every tensor that it reads and writes, or those would have to live as long; it reads nothing back,
    /// and its results are all that it writes.
    pub fn new(device: &Device, work: impl FnMut() -> T + 'static) -> Option<Self> {
        if !has_gpu_kernels(device) {
            return None;
        }
        let graph = capture(device, Box::new(work) as Box<dyn FnMut() -> T>);
        let here = PhantomData;
        graph.is_hardware().then_some(Recording { graph, here })
    }

    /// Runs the work again on what its buffers hold now; its results hold what it gives.
    pub fn replay(&mut self) -> &T {
        // SAFETY: the graph owns its work, the work owns the tensors that it uses, and the graph its results, so that
        // all buffers are there. Others that hold one of these tensors may only read it. What is recorded can leave
        // neither its thread nor, with it, the stream: writes before and reads after are in order.
        unsafe { self.graph.replay() }
    }
}
