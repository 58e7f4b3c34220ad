//! A call from the host's side: its tensors made contiguous, its sizes, and its launches.

use super::super::inputs::{Plan, ScanTensors};
use super::super::reference::{Dims, Scan};
use super::sizes::SizesLaunch;
use super::tile::{UNITS, native};
use super::{carry, carry_back, gates, inside, scores, step, through};
use crate::gpu::{cast, contiguous, cubes, element, empty, zeros};
use crate::operator::is_none;
use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// Up to this many tokens steps cost less than a chunk.
const STEPS_UP_TO: usize = 4;

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
                    &$call.x.q.client,
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

/// Contiguous tensors and their sizes. Queries, keys and values are of one type that kernels
/// read, everything else is `f32`.
pub(in super::super) struct Call {
    x: ScanTensors<CubeBackend>,
    /// Types as they came in. Outputs and states leave in the state's.
    types: Scan<DType>,
    dims: Dims,
    plan: Plan,
}

impl<T> Scan<T> {
    fn zip<U>(self, other: Scan<U>) -> Scan<(T, U)> {
        let mut other = other.into_array().into_iter();
        self.map(|x| (x, other.next().expect("as many")))
    }
}

impl Call {
    pub(in super::super) fn new(x: ScanTensors<CubeBackend>, plan: Plan) -> Self {
        let types = x.each().map(|x| x.dtype());
        let native = native([types.q, types.k, types.v]);
        let held = Scan {
            q: native,
            k: native,
            v: native,
            ..Scan::from_array([DType::F32; 8])
        };
        Call {
            dims: x.dims(),
            x: x.zip(held).map(|(x, dtype)| contiguous(x, dtype)),
            types,
            plan: plan.for_rows(native),
        }
    }

    fn heads(&self) -> usize {
        self.dims.b * self.dims.h
    }

    fn chunks(&self) -> usize {
        self.dims.t.div_ceil(self.plan.side)
    }

    /// Chunks of all heads and states.
    fn places(&self) -> usize {
        self.heads() * self.dims.s * self.chunks()
    }

    fn states_len(&self) -> usize {
        self.heads() * self.dims.head_state()
    }

    /// Tiles that cover rows of `width`.
    fn tiles(&self, width: usize) -> usize {
        width.div_ceil(self.plan.side)
    }

    /// What rows hold in memory and in tiles.
    fn elements(&self) -> [ElemType; 2] {
        [self.x.q.dtype, self.plan.holds()].map(element)
    }

    fn sizes(&self) -> SizesLaunch {
        let Dims { t, h, s, k, v, .. } = self.dims;
        SizesLaunch::new(t, h, s, k, v, self.heads(), self.chunks())
    }

    /// An `f32` tensor that a kernel fills.
    fn empty(&self, len: usize) -> CubeTensor {
        empty(&self.x.q, [len], DType::F32)
    }

    /// Places for outputs and final states, as kernels write them.
    fn results(&self) -> [CubeTensor; 2] {
        [&self.x.v, &self.x.state].map(|like| empty(like, like.shape(), DType::F32))
    }

    /// Outputs and final states; if asked for, what training saves.
    pub(in super::super) fn forward(self, save: bool) -> [Vec<CubeTensor>; 2] {
        if !save && (1..=STEPS_UP_TO).contains(&self.dims.t) {
            return [self.steps(), Vec::new()];
        }
        let x = &self.x;
        // `[4, B·H, S, N·C]`.
        let gates = self.empty(4 * self.places() * self.plan.side);
        launch!(
            self,
            gates::gates,
            per_unit(self.places()),
            [x.log_decay, x.read, x.write, x.erase, gates],
            self.plan
        );
        // `A` and `(I + L)⁻¹`, `[2, B·H, N, C, C]`.
        let scores = self.squares();
        launch!(
            self,
            scores::scores,
            on_tiles(self.heads() * self.chunks()),
            [x.q, x.k, gates, scores],
            self.plan,
            self.elements()
        );
        // States at the borders, then errors.
        let [o, state] = self.results();
        let saved = self.empty(match save {
            true => self.states_len() * (self.chunks() + 1) + o.shape().num_elements(),
            false => self.states_len(),
        });
        launch!(
            self,
            carry::carry,
            self.carriers(),
            [x.q, x.k, x.v, gates, scores, x.state, saved, o, state],
            save,
            self.plan,
            self.elements()
        );
        let saved = vec![saved, gates, scores];
        let results = [o, state].map(|x| cast(x, self.types.state));
        [results.into(), if save { saved } else { Vec::new() }]
    }

    /// Outputs and final states, token by token.
    fn steps(&self) -> Vec<CubeTensor> {
        let x = &self.x;
        let [o, state] = self.results();
        let cubes_of = self.dims.v.div_ceil(UNITS) * self.heads();
        launch!(
            self,
            step::steps,
            on_tiles(cubes_of * usize::from(self.states_len() > 0)),
            [
                x.q,
                x.k,
                x.v,
                x.log_decay,
                x.read,
                x.write,
                x.erase,
                x.state,
                o,
                state
            ],
            self.plan.delta,
            element(x.q.dtype)
        );
        [o, state].map(|x| cast(x, self.types.state)).into()
    }

    /// Cubes that each carry the states of a head and a tile of values.
    fn carriers(&self) -> Count {
        let cubes = self.tiles(self.dims.v) * self.heads();
        on_tiles(cubes * usize::from(self.states_len() > 0))
    }

    /// Two `C × C` matrices a chunk and head, as tiles hold them.
    fn squares(&self) -> CubeTensor {
        let len = 2 * self.heads() * self.chunks() * self.plan.side * self.plan.side;
        empty(&self.x.q, [len], self.plan.holds())
    }

    /// Gradients of every input, from what training saved and the gradients of outputs and final
    /// states, if any. In additive mode the one of `erase` is zero.
    pub(in super::super) fn backward(
        self,
        [saved, gates, scores]: [CubeTensor; 3],
        [d_o, d_final]: [CubeTensor; 2],
    ) -> ScanTensors<CubeBackend> {
        let x = &self.x;
        let like = |x: &CubeTensor| empty(x, x.shape(), x.dtype);
        let or_zeros = |grad, of: &CubeTensor| match is_none(&grad, &of.shape()) {
            true => zeros(of),
            false => contiguous(grad, DType::F32),
        };
        let (d_o, d_final) = (or_zeros(d_o, &x.v), or_zeros(d_final, &x.state));
        // The states carried back: gradients of values and initial states, and of the states at every border.
        let d_v = empty(&x.v, x.v.shape(), self.plan.holds());
        let d_state = like(&x.state);
        let d_borders = self.empty(self.states_len() * (self.chunks() + 1));
        launch!(
            self,
            carry_back::carry_back,
            self.carriers(),
            [
                x.q, x.k, gates, scores, d_o, d_final, d_borders, d_v, d_state
            ],
            self.plan,
            self.elements()
        );
        drop([scores, d_final]);
        // `dP` and `dG + dGᵀ`, `[2, B·H, N, C, C]`, and the first of `parts`.
        let k_tiles = self.tiles(self.dims.k);
        let of_gates = 3 * (1 + k_tiles) * self.places() * self.plan.side;
        let parts = self.empty(of_gates + k_tiles * self.places());
        let d_scores = self.squares();
        launch!(
            self,
            inside::inside,
            on_tiles(self.heads() * self.chunks()),
            [x.q, x.k, gates, saved, d_o, d_v, d_scores, parts],
            self.plan,
            self.elements()
        );
        // Gradients of queries and keys, and the other `parts`.
        let [d_q, d_k] = [&x.q, &x.k].map(like);
        launch!(
            self,
            through::through,
            on_tiles(k_tiles * self.chunks() * self.heads()),
            [
                x.q, x.k, gates, saved, d_o, d_v, d_borders, d_scores, d_q, d_k, parts
            ],
            self.plan,
            self.elements()
        );
        drop([saved, d_o, d_borders, d_scores]);
        let of_gates = [&x.log_decay, &x.read, &x.write, &x.erase];
        let [log_decay, read, write, erase] = of_gates.map(like);
        launch!(
            self,
            gates::finish,
            per_unit(self.places()),
            [gates, parts, log_decay, read, write, erase],
            k_tiles,
            self.plan
        );
        let grads = Scan {
            q: d_q,
            k: d_k,
            v: d_v,
            log_decay,
            read,
            write,
            erase,
            state: d_state,
        };
        let grads = grads.zip(self.types);
        grads.map(|(grad, dtype)| cast(grad, dtype))
    }
}

/// How many cubes, and units of a cube; without any nothing is launched.
type Count = (usize, CubeDim);

/// Units that each work alone.
fn per_unit(units: usize) -> Count {
    let in_a_row = CubeDim::new_1d(64);
    (units.div_ceil(in_a_row.num_elems() as usize), in_a_row)
}

/// Cubes that work on tiles.
fn on_tiles(count: usize) -> Count {
    (count, CubeDim::new_2d(UNITS as u32, UNITS as u32))
}
