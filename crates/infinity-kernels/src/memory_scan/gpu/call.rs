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
        if units > 0 {
            // SAFETY: a unit beyond the last does nothing; the others read `[B, T, H, S]` below `T` and write
            // the `C` places of theirs in each of the four parts.
            unsafe {
                gates::gates::launch_unchecked(
                    &self.q.client,
                    per_unit(units),
                    CubeDim::new_1d(UNITS_IN_A_ROW),
                    self.log_decay.clone().into_buffer_arg(),
                    self.read.clone().into_buffer_arg(),
                    self.write.clone().into_buffer_arg(),
                    self.erase.clone().into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    self.sizes(),
                    self.kernel.chunk,
                );
            }
        }
        out
    }

    /// `A` and `(I + L)⁻¹`, `[2, B·H, N, C, C]`, as tiles hold them.
    pub(super) fn scores(&self, gates: &CubeTensor) -> CubeTensor {
        let squares = self.heads() * self.chunks();
        let len = 2 * squares * self.kernel.chunk * self.kernel.chunk;
        let out = empty(&self.q, [len], self.plan().holds());
        if squares > 0 {
            // SAFETY: rows of `q` and `k` are read below `T` and `K`; gates have a place for every row of a chunk,
            // and `out` one for every pair of them.
            unsafe {
                scores::scores::launch_unchecked(
                    &self.q.client,
                    cubes(squares),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    gates.clone().into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    self.plan(),
                    self.elements(),
                );
            }
        }
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
        if self.states_len() > 0 {
            // SAFETY: every load and store of a tile looks at the rows and columns that its block has; blocks of
            // states and errors lie within `saved`, whose length counts them, and those of results within `both`.
            unsafe {
                carry::carry::launch_unchecked(
                    &self.q.client,
                    cubes(self.tiles()[1] * self.heads()),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    self.v.clone().into_buffer_arg(),
                    gates.clone().into_buffer_arg(),
                    scores.clone().into_buffer_arg(),
                    self.state.clone().into_buffer_arg(),
                    saved.clone().into_buffer_arg(),
                    both.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    save,
                    self.plan(),
                    self.elements(),
                );
            }
        }
        (self.leaving(both), saved)
    }

    /// Outputs and final states, token by token.
    pub(super) fn steps(&self) -> CubeTensor {
        let both = self.empty([self.outputs_len() + self.states_len()]);
        if self.states_len() > 0 {
            // SAFETY: keys are read below `K` of rows below `T`, values and states below `V`.
            unsafe {
                step::steps::launch_unchecked(
                    &self.q.client,
                    cubes(self.width[1].div_ceil(UNITS) * self.heads()),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    self.v.clone().into_buffer_arg(),
                    self.log_decay.clone().into_buffer_arg(),
                    self.read.clone().into_buffer_arg(),
                    self.write.clone().into_buffer_arg(),
                    self.erase.clone().into_buffer_arg(),
                    self.state.clone().into_buffer_arg(),
                    both.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    element(self.q.dtype),
                );
            }
        }
        self.leaving(both)
    }

    /// A result in the type that the state came in.
    pub(super) fn leaving(&self, x: CubeTensor) -> CubeTensor {
        cast(x, self.carried)
    }
}

/// Units of a cube where each works alone.
pub(super) const UNITS_IN_A_ROW: u32 = 64;

pub(super) fn per_unit(units: usize) -> CubeCount {
    cubes(units.div_ceil(UNITS_IN_A_ROW as usize))
}

pub(super) fn square_of_units() -> CubeDim {
    CubeDim::new_2d(UNITS as u32, UNITS as u32)
}
