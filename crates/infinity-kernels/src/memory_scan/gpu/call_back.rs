//! The launches of backward.

use super::super::inputs::ScanTensors;
use super::call::{Call, launch, per_unit, squares};
use super::{carry_back, finish, inside, through};
use crate::gpu::{cast, contiguous, cubes, empty};
use burn::backend::TensorMetadata;
use burn::tensor::DType;
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
        let [d_v, d_state, d_borders] = self.carry_back(&gates, scores, &d_both);
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
    ) -> [CubeTensor; 3] {
        let d_v = empty(&self.v, self.v.shape(), self.plan().holds());
        let d_state = self.like(&self.state);
        let d_borders = self.empty([self.states_len() * (self.chunks() + 1)]);
        launch!(
            self,
            carry_back::carry_back,
            self.carriers(),
            [
                self.q, self.k, gates, scores, d_both, d_borders, d_v, d_state
            ],
            self.delta,
            self.plan(),
            self.elements()
        );
        [d_v, d_state, d_borders]
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
        let out = self.squares();
        let count = squares(self.heads() * self.chunks());
        launch!(
            self,
            inside::inside,
            count,
            [self.q, self.k, gates, saved, d_both, d_v, out, parts],
            self.delta,
            self.plan(),
            self.elements()
        );
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
        let [d_q, d_k] = [&self.q, &self.k].map(|x| empty(x, x.shape(), x.dtype));
        let count = squares(self.tiles()[0] * self.chunks() * self.heads());
        launch!(
            self,
            through::through,
            count,
            [
                self.q, self.k, gates, saved, d_both, d_v, d_borders, d_scores, d_q, d_k, parts
            ],
            self.delta,
            self.plan(),
            self.elements()
        );
        [d_q, d_k]
    }

    /// Gradients of decay, read, write and erase.
    fn finish(&self, gates: CubeTensor, parts: CubeTensor) -> [CubeTensor; 4] {
        let inputs = [&self.log_decay, &self.read, &self.write, &self.erase];
        let grads = inputs.map(|tensor| self.like(tensor));
        let [log_decay, read, write, erase] = &grads;
        let count = per_unit(self.heads() * self.s * self.chunks());
        launch!(
            self,
            finish::finish,
            count,
            [gates, parts, log_decay, read, write, erase],
            self.tiles()[0],
            self.delta,
            self.kernel.chunk
        );
        grads
    }
}
