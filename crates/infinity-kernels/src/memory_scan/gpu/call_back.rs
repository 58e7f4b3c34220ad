//! The launches of backward.

use super::super::inputs::ScanTensors;
use super::call::{Call, UNITS_IN_A_ROW, per_unit, square_of_units};
use super::{carry_back, finish, inside, through};
use crate::gpu::{cast, contiguous, cubes, empty};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

impl Call {
    /// Gradients of every input, from what training saved and the gradient of outputs and final
    /// states.
    pub(super) fn backward(
        self,
        [saved, gates, scores]: [CubeTensor; 3],
        d_both: CubeTensor,
    ) -> ScanTensors<CubeBackend> {
        let d_both = contiguous(d_both, DType::F32);
        let (d_v, d_state, d_borders) = self.carry_back(&gates, scores, &d_both);
        let [k_tiles, _] = self.tiles();
        let places = self.heads() * self.s * self.chunks();
        let parts = self.empty([3 * (1 + k_tiles) * places * self.kernel.chunk + k_tiles * places]);
        let d_scores = self.inside(&gates, &saved, &d_both, &d_v, &parts);
        let [d_q, d_k] = self.through(&gates, saved, d_both, &d_v, d_borders, d_scores, &parts);
        let [log_decay, read, write, erase] = self.finish(gates, parts);
        let [of_q, of_k, of_v] = self.rows;
        let [of_decay, of_read, of_write, of_erase] = self.gates;
        ScanTensors {
            q: cast(d_q, of_q),
            k: cast(d_k, of_k),
            v: cast(d_v, of_v),
            log_decay: cast(log_decay, of_decay),
            read: cast(read, of_read),
            write: cast(write, of_write),
            erase: cast(erase, of_erase),
            state: self.leaving(d_state),
        }
    }

    /// Gradients of values and initial states, and of the states at every border.
    fn carry_back(
        &self,
        gates: &CubeTensor,
        scores: CubeTensor,
        d_both: &CubeTensor,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let d_v = empty(&self.v, self.v.shape(), self.plan().holds());
        let d_state = self.like(&self.state);
        let d_borders = self.empty([self.states_len() * (self.chunks() + 1)]);
        if self.states_len() > 0 {
            // SAFETY: as for `carry`; `d_borders` has as many states as training saved.
            unsafe {
                carry_back::carry_back::launch_unchecked(
                    &self.q.client,
                    cubes(self.tiles()[1] * self.heads()),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    gates.clone().into_buffer_arg(),
                    scores.into_buffer_arg(),
                    d_both.clone().into_buffer_arg(),
                    d_borders.clone().into_buffer_arg(),
                    d_v.clone().into_buffer_arg(),
                    d_state.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    self.plan(),
                    self.elements(),
                );
            }
        }
        (d_v, d_state, d_borders)
    }

    /// `dP` and `dG + dGᵀ`, `[2, B·H, N, C, C]`, and the first of `parts`.
    fn inside(
        &self,
        gates: &CubeTensor,
        saved: &CubeTensor,
        d_both: &CubeTensor,
        d_v: &CubeTensor,
        parts: &CubeTensor,
    ) -> CubeTensor {
        let squares = self.heads() * self.chunks();
        let len = 2 * squares * self.kernel.chunk * self.kernel.chunk;
        let out = empty(&self.q, [len], self.plan().holds());
        if squares > 0 {
            // SAFETY: rows are read below `T`, `K` and `V`; `out` has a place for every pair of a chunk's rows,
            // `parts` one for every row.
            unsafe {
                inside::inside::launch_unchecked(
                    &self.q.client,
                    cubes(squares),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    gates.clone().into_buffer_arg(),
                    saved.clone().into_buffer_arg(),
                    d_both.clone().into_buffer_arg(),
                    d_v.clone().into_buffer_arg(),
                    out.clone().into_buffer_arg(),
                    parts.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    self.plan(),
                    self.elements(),
                );
            }
        }
        out
    }

    /// Gradients of queries and keys, and the other `parts`.
    #[allow(clippy::too_many_arguments, reason = "the kernel's buffers")]
    fn through(
        &self,
        gates: &CubeTensor,
        saved: CubeTensor,
        d_both: CubeTensor,
        d_v: &CubeTensor,
        d_borders: CubeTensor,
        d_scores: CubeTensor,
        parts: &CubeTensor,
    ) -> [CubeTensor; 2] {
        let like = |x: &CubeTensor| empty(x, x.shape(), x.dtype);
        let [d_q, d_k] = [&self.q, &self.k].map(like);
        let count = self.tiles()[0] * self.chunks() * self.heads();
        if count > 0 {
            // SAFETY: as for `carry_back`; the last of `parts` lie behind those of every tile of keys.
            unsafe {
                through::through::launch_unchecked(
                    &self.q.client,
                    cubes(count),
                    square_of_units(),
                    self.q.clone().into_buffer_arg(),
                    self.k.clone().into_buffer_arg(),
                    gates.clone().into_buffer_arg(),
                    saved.into_buffer_arg(),
                    d_both.into_buffer_arg(),
                    d_v.clone().into_buffer_arg(),
                    d_borders.into_buffer_arg(),
                    d_scores.into_buffer_arg(),
                    d_q.clone().into_buffer_arg(),
                    d_k.clone().into_buffer_arg(),
                    parts.clone().into_buffer_arg(),
                    self.sizes(),
                    self.delta,
                    self.plan(),
                    self.elements(),
                );
            }
        }
        [d_q, d_k]
    }

    /// Gradients of decay, read, write and erase.
    fn finish(&self, gates: CubeTensor, parts: CubeTensor) -> [CubeTensor; 4] {
        let inputs = [&self.log_decay, &self.read, &self.write, &self.erase];
        let grads = inputs.map(|tensor| self.like(tensor));
        let units = self.heads() * self.s * self.chunks();
        if units > 0 {
            let [log_decay, read, write, erase] = grads.clone();
            // SAFETY: as for `gates`, and reads what `inside` and `through` wrote.
            unsafe {
                finish::finish::launch_unchecked(
                    &self.q.client,
                    per_unit(units),
                    CubeDim::new_1d(UNITS_IN_A_ROW),
                    gates.into_buffer_arg(),
                    parts.into_buffer_arg(),
                    log_decay.into_buffer_arg(),
                    read.into_buffer_arg(),
                    write.into_buffer_arg(),
                    erase.into_buffer_arg(),
                    self.sizes(),
                    self.tiles()[0],
                    self.delta,
                    self.kernel.chunk,
                );
            }
        }
        grads
    }
}
