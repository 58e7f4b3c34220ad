//! The matrices of a module in one go.
//!
//! Burn's optimizer walks through a module parameter by parameter, and a matrix of a small model is too
//! small to be shared by threads. Here the walk only begins the step of a matrix, leaves an empty one in its
//! place, and goes on; afterwards all are orthogonalised side by side and put where they belong. The
//! numbers are those of one step after the other. A device whose kernels share no threads would gain
//! nothing and hold all updates at a time: there every step is whole.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use infinity_kernels::newton_schulz::newton_schulz;
use infinity_kernels::{each_in_pool, has_pool};
use std::cell::RefCell;
use std::vec::IntoIter;

thread_local! {
    /// What the walk of this thread has begun, in its order; `None` outside of [`together`].
    static BEGUN: RefCell<Option<Vec<Begun>>> = const { RefCell::new(None) };
}

/// What stands for a matrix: one without rows and columns.
const STAND_IN: [usize; 2] = [0, 0];

/// A step of a matrix that lacks its orthogonal update.
pub(super) struct Begun {
    /// Without autodiff.
    pub(super) weights: Tensor<2>,
    /// Part of the weights that is lost.
    pub(super) decay: f64,
    /// Momentum, to be orthogonalised.
    pub(super) update: Tensor<2>,
    /// Factor of the orthogonal update.
    pub(super) rate: f64,
}

impl Begun {
    /// The matrix after its step, or where [`together`] runs, what stands for it until that ends.
    pub(super) fn go_on(self) -> Tensor<2> {
        let device = self.weights.device();
        if !has_pool(&device) || BEGUN.with_borrow(Option::is_none) {
            return self.end();
        }
        BEGUN.with_borrow_mut(|begun| begun.as_mut().map(|begun| begun.push(self)));
        Tensor::empty(STAND_IN, &device)
    }

    fn end(self) -> Tensor<2> {
        let weights = match self.decay {
            0.0 => self.weights,
            decay => self.weights * (1.0 - decay),
        };
        weights - newton_schulz(self.update) * self.rate
    }
}

/// `walk`, the step of an optimizer through a module, with all matrices that [`Muon`](super::Muon) has
/// orthogonalised at a time.
pub(crate) fn together<M: Module>(walk: impl FnOnce() -> M) -> M {
    let outer = Outer(BEGUN.replace(Some(Vec::new())));
    let module = walk();
    let begun = BEGUN.take().expect("no walk ends another's");
    drop(outer);
    let Some(first) = begun.first() else {
        return module;
    };
    let device = first.weights.device();
    let mut ended = each_in_pool(&device, begun, Begun::end).into_iter();
    let module = module.map(&mut Ended(&mut ended));
    assert!(ended.next().is_none(), "every matrix has its place");
    module
}

/// What was begun before on this thread; there again afterwards, even if the walk panics.
struct Outer(Option<Vec<Begun>>);

impl Drop for Outer {
    fn drop(&mut self) {
        BEGUN.set(self.0.take());
    }
}

/// Puts matrices into their places, in order, with the autodiff of what stood there. (Burn's marks for
/// its own collective hooks, which nothing here uses, are not kept.)
struct Ended<'a>(&'a mut IntoIter<Tensor<2>>);

impl ModuleMapper for Ended<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.val().dims()[..] != STAND_IN {
            return param;
        }
        let (id, stand_in, mapper) = param.consume();
        let matrix = self.0.next().expect("a matrix for every place");
        let mut matrix = Tensor::from_inner(of_rank::<D>(matrix).cast(stand_in.dtype()));
        if let Some(strategy) = stand_in.gradient_checkpointing_strategy() {
            matrix = matrix.with_gradient_checkpointing_strategy(strategy);
        }
        if stand_in.is_require_grad() {
            matrix = matrix.require_grad();
        }
        Param::from_mapped_value(id, matrix, mapper)
    }
}

/// A matrix where the rank is a constant, which is 2.
pub(super) fn of_rank<const D: usize>(matrix: Tensor<2>) -> Tensor<D> {
    let mut dims = [0; D];
    dims.copy_from_slice(&matrix.dims());
    matrix.reshape(dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_single::InSingle;
    use crate::muon::Muon;
    use burn::optim::{GradientsParams, ModuleOptimizer};
    use burn::tensor::{DType, Device};
    use infinity_kernels::testing::{Random, tensor, values};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const WIDE: [usize; 2] = [8, 24];
    const TALL: [usize; 2] = [24, 8];
    const RATE: f64 = 0.02;

    #[derive(Module, Debug)]
    struct Matrices {
        wide: Param<Tensor<2>>,
        tall: Param<Tensor<2>>,
        /// Gets no gradient.
        fixed: Param<Tensor<2>>,
    }

    fn matrix(seed: u64, dims: [usize; 2], dtype: DType, device: &Device) -> Tensor<2> {
        let values = Random(seed).values(dims[0] * dims[1], -1.0, 1.0);
        tensor(&values, dims, dtype, device)
    }

    fn matrices(dtype: DType) -> Matrices {
        let param = |seed, dims| {
            let matrix = matrix(
                seed,
                dims,
                dtype,
                &Device::flex().autodiff().gradient_checkpointing(),
            );
            Param::from_tensor(matrix)
        };
        Matrices {
            wide: param(1, WIDE),
            tall: param(2, TALL),
            fixed: param(3, WIDE),
        }
    }

    fn grads(of: &Matrices, step: u64) -> GradientsParams {
        let dtype = of.wide.val().dtype();
        let mut grads = GradientsParams::new();
        let matrix = |seed, dims| matrix(seed, dims, dtype, &Device::flex());
        grads.register(of.wide.id, matrix(10 * step, WIDE));
        grads.register(of.tall.id, matrix(10 * step + 1, TALL));
        grads
    }

    fn optimizer() -> ModuleOptimizer {
        ModuleOptimizer::from(InSingle(Muon::new(0.95, 0.1)))
    }

    fn all(module: &Matrices) -> [Vec<f64>; 3] {
        [&module.wide, &module.tall, &module.fixed].map(|matrix| values(matrix.val()))
    }

    #[test]
    fn all_together_are_one_after_the_other() {
        for dtype in [DType::F32, DType::BF16] {
            let before = matrices(dtype);
            let (mut ours, mut burns) = (before.clone(), before.clone());
            let (mut our_optimizer, mut burns_optimizer) = (optimizer(), optimizer());
            for step in 1..4 {
                let given = grads(&ours, step);
                ours = together(|| our_optimizer.step(RATE, ours, given));
                let given = grads(&burns, step);
                burns = burns_optimizer.step(RATE, burns, given);
            }
            assert_eq!(all(&ours), all(&burns), "{dtype:?}");
            let [wide, tall, fixed] = all(&ours);
            let was = all(&before);
            assert_ne!([&wide, &tall], [&was[0], &was[1]]);
            assert_eq!(fixed, was[2]);
            assert!(ours.wide.is_require_grad() && ours.tall.is_require_grad());
            let strategy =
                |matrix: &Param<Tensor<2>>| matrix.val().gradient_checkpointing_strategy();
            assert!(strategy(&before.wide).is_some());
            assert_eq!(strategy(&ours.wide), strategy(&before.wide));
            assert_eq!(ours.wide.val().dtype(), dtype);
        }
    }

    #[test]
    fn a_walk_that_panics_leaves_nothing_behind() {
        let module = matrices(DType::F32);
        let given = grads(&module, 1);
        let walk = || -> Matrices {
            optimizer().step(RATE, module.clone(), given);
            panic!("half way")
        };
        assert!(catch_unwind(AssertUnwindSafe(|| together(walk))).is_err());
        let given = grads(&module, 1);
        let after = optimizer().step(RATE, module, given);
        assert_eq!(after.wide.val().dims(), WIDE);
    }
}
