//! A call from the host's side: its tensors made contiguous, its sizes, and its launches.

use super::super::inputs::{Kernel, ScanTensors};
use super::sizes::SizesLaunch;
use super::tile::{Plan, UNITS, native};
use super::{carry, gates, scores, step};
use crate::gpu::{cast, contiguous, cubes, element, empty};
use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// Launches a kernel of this folder, without bounds checks: its buffers, the call's sizes, what it is built for.
///
/// | kernel | why it stays within its buffers |
/// |---|---|
/// | `gates`, `finish` | a unit beyond the last does nothing; the others read or write `[B, T, H, S]` below `T` and the `C` places of theirs in every part, which the parts' lengths count |
/// | `scores`, `inside` | rows are read below `T`, `K` and `V`; there is a place for every pair of a chunk's rows, and one for every row of gates and parts |
/// | `carry`, `carry_back`, `through` | every load and store of a tile looks at the rows and columns that its block has; blocks of states and errors lie within what is saved, whose length counts them, those of results within theirs, the last parts behind those of every tile of keys |
/// | `steps` | keys are read below `K` of rows below `T`, values and states below `V` |
macro_rules! launch {
    ($call:expr, $room:ident::$kernel:ident, $count:expr, [$($buffer:expr),+] $(, $built_for:expr)+) => {
        let (count, units) = $count;
        if count > 0 {
            // SAFETY: the table above.
            unsafe {
                $room::$kernel::launch_unchecked(
                    &$call.q.client,
                    cubes(count),
                    units,
                    $($buffer.clone().into_buffer_arg(),)+
                    $call.sizes(),
                    $($built_for),+
                );
            }
        }
    };
}
pub(super) use launch;

/// Contiguous tensors and their sizes. Queries, keys and values are of one type that kernels
/// read, everything else is `f32`.
pub(super) struct Call {
    pub(super) q: CubeTensor,
    pub(super) k: CubeTensor,
    pub(super) v: CubeTensor,
    pub(super) log_decay: CubeTensor,
    pub(super) read: CubeTensor,
    pub(super) write: CubeTensor,
    pub(super) erase: CubeTensor,
    pub(super) state: CubeTensor,
    /// Types of `q`, `k` and `v` as they came in.
    pub(super) rows: [DType; 3],
    /// Types of the gates as they came in.
    pub(super) gates: [DType; 4],
    /// Type of the state as it came in, and of outputs and states that leave.
    pub(super) carried: DType,
    pub(super) b: usize,
    pub(super) t: usize,
    pub(super) h: usize,
    pub(super) s: usize,
    pub(super) width: [usize; 2],
    pub(super) kernel: Kernel,
    pub(super) delta: bool,
}

impl Call {
    pub(super) fn new(x: ScanTensors<CubeBackend>, kernel: Kernel, delta: bool) -> Self {
        let [b, t, h, k] = x.q.shape().dims();
        let [.., s, _, v] = x.state.shape().dims::<5>();
        let rows = [x.q.dtype(), x.k.dtype(), x.v.dtype()];
        let native = native(rows);
        Call {
            rows,
            gates: [&x.log_decay, &x.read, &x.write, &x.erase].map(|x| x.dtype()),
            carried: x.state.dtype(),
            q: contiguous(x.q, native),
            k: contiguous(x.k, native),
            v: contiguous(x.v, native),
            log_decay: contiguous(x.log_decay, DType::F32),
            read: contiguous(x.read, DType::F32),
            write: contiguous(x.write, DType::F32),
            erase: contiguous(x.erase, DType::F32),
            state: contiguous(x.state, DType::F32),
            b,
            t,
            h,
            s,
            width: [k, v],
            kernel,
            delta,
        }
    }

    pub(super) fn heads(&self) -> usize {
        self.b * self.h
    }

    pub(super) fn chunks(&self) -> usize {
        self.t.div_ceil(self.kernel.chunk)
    }

    pub(super) fn states_len(&self) -> usize {
        self.heads() * self.s * self.width[0] * self.width[1]
    }

    pub(super) fn outputs_len(&self) -> usize {
        self.heads() * self.t * self.width[1]
    }

    /// Tiles that cover the keys, and the values.
    pub(super) fn tiles(&self) -> [usize; 2] {
        self.width.map(|width| width.div_ceil(self.kernel.chunk))
    }

    /// Values that training saves: states at the borders, then errors.
    pub(super) fn saved_len(&self) -> usize {
        self.states_len() * (self.chunks() + 1) + self.outputs_len()
    }

    /// How tiles are multiplied.
    pub(super) fn plan(&self) -> Plan {
        self.kernel.plan(self.q.dtype)
    }

    /// What rows hold in memory and in tiles.
    pub(super) fn elements(&self) -> [ElemType; 2] {
        [self.q.dtype, self.plan().holds()].map(element)
    }

    pub(super) fn sizes(&self) -> SizesLaunch {
        let [k, v] = self.width;
        SizesLaunch::new(self.t, self.h, self.s, k, v, self.heads(), self.chunks())
    }

    /// An `f32` tensor that a kernel fills.
    pub(super) fn empty(&self, shape: impl Into<Shape>) -> CubeTensor {
        empty(&self.q, shape, DType::F32)
    }

    pub(super) fn like(&self, tensor: &CubeTensor) -> CubeTensor {
        self.empty(tensor.shape())
    }

    /// `[4, B·H, S, N·C]`.
    pub(super) fn gates(&self) -> CubeTensor {
        let units = self.heads() * self.s * self.chunks();
        let out = self.empty([4 * units * self.kernel.chunk]);
        launch!(
            self,
            gates::gates,
            per_unit(units),
            [self.log_decay, self.read, self.write, self.erase, out],
            self.kernel.chunk
        );
        out
    }

    /// `A` and `(I + L)⁻¹`, `[2, B·H, N, C, C]`, as tiles hold them.
    pub(super) fn scores(&self, gates: &CubeTensor) -> CubeTensor {
        let out = self.squares();
        let count = squares(self.heads() * self.chunks());
        launch!(
            self,
            scores::scores,
            count,
            [self.q, self.k, gates, out],
            self.delta,
            self.plan(),
            self.elements()
        );
        out
    }

    /// Outputs and final states in one vector; what training saves, if asked to.
    pub(super) fn carry(
        &self,
        gates: &CubeTensor,
        scores: &CubeTensor,
        save: bool,
    ) -> (CubeTensor, CubeTensor) {
        let both = self.empty([self.outputs_len() + self.states_len()]);
        let saved = match save {
            true => self.empty([self.saved_len()]),
            false => self.empty([self.states_len()]),
        };
        launch!(
            self,
            carry::carry,
            self.carriers(),
            [
                self.q, self.k, self.v, gates, scores, self.state, saved, both
            ],
            self.delta,
            save,
            self.plan(),
            self.elements()
        );
        (self.leaving(both), saved)
    }

    /// Outputs and final states, token by token.
    pub(super) fn steps(&self) -> CubeTensor {
        let both = self.empty([self.outputs_len() + self.states_len()]);
        let cubes_of = self.width[1].div_ceil(UNITS) * self.heads();
        let count = squares(cubes_of * usize::from(self.states_len() > 0));
        let Call {
            q,
            k,
            v,
            log_decay,
            read,
            write,
            erase,
            state,
            ..
        } = self;
        launch!(
            self,
            step::steps,
            count,
            [q, k, v, log_decay, read, write, erase, state, both],
            self.delta,
            element(q.dtype)
        );
        self.leaving(both)
    }

    /// Cubes that each carry the states of a head and a tile of values.
    pub(super) fn carriers(&self) -> Count {
        squares(self.tiles()[1] * self.heads() * usize::from(self.states_len() > 0))
    }

    /// Two `C × C` matrices a chunk and head, as tiles hold them.
    pub(super) fn squares(&self) -> CubeTensor {
        let len = 2 * self.heads() * self.chunks() * self.kernel.chunk * self.kernel.chunk;
        empty(&self.q, [len], self.plan().holds())
    }

    /// A result in the type that the state came in.
    pub(super) fn leaving(&self, x: CubeTensor) -> CubeTensor {
        cast(x, self.carried)
    }
}

/// How many cubes, and units of a cube; without any nothing is launched.
pub(super) type Count = (usize, CubeDim);

/// Units that each work alone.
pub(super) fn per_unit(units: usize) -> Count {
    let in_a_row = CubeDim::new_1d(64);
    (units.div_ceil(in_a_row.num_elems() as usize), in_a_row)
}

/// Cubes that work on tiles.
pub(super) fn squares(count: usize) -> Count {
    (count, CubeDim::new_2d(UNITS as u32, UNITS as u32))
}
