//! One chunk of one head in scratch memory: what forward and backward both compute.
//!
//! Names follow `README.md`. Rows of keys and values are filled up to whole lanes with zeros,
//! positions behind the end of a ragged chunk are left out (as rows) or zero (as columns).

use super::masks::{self, Extent, Gates, Scores};
use super::rows::Rows;
use super::rowwise::gather;
use super::solve::System;
use crate::cpu::product::{Keep, Left, Part, Product, Right, multiply};
use crate::cpu::simd::{Level, padded};
use crate::cpu::transpose::transpose;

/// Sizes of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) t: usize,
    pub(super) states: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    /// Positions in a full chunk.
    pub(super) chunk: usize,
    /// Chunks from one saved state to the next.
    pub(super) group: usize,
    pub(super) delta: bool,
}

impl Sizes {
    pub(super) fn chunks(&self) -> usize {
        self.t.div_ceil(self.chunk)
    }

    /// Groups of chunks, each with one saved state.
    pub(super) fn groups(&self) -> usize {
        self.chunks().div_ceil(self.group)
    }

    /// The chunks of one group.
    pub(super) fn chunks_of(&self, group: usize) -> std::ops::Range<usize> {
        group * self.group..self.chunks().min((group + 1) * self.group)
    }

    /// Values in all states of a head, rows of whole lanes.
    pub(super) fn state_len(&self) -> usize {
        self.states * self.k * padded(self.v)
    }

    /// One state inside all states of a head.
    pub(super) fn state(&self, s: usize) -> std::ops::Range<usize> {
        let len = self.k * padded(self.v);
        s * len..(s + 1) * len
    }
}

/// What one head reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadInputs<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) log_decay: Rows<'a>,
    pub(super) read: Rows<'a>,
    pub(super) write: Rows<'a>,
    pub(super) erase: Rows<'a>,
}

/// Gates times decays, laid out like the gates.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    /// `e^b`.
    pub(super) from_start: Vec<f32>,
    /// `e^(b_C − b)`.
    pub(super) to_end: Vec<f32>,
    /// `r e^b`.
    pub(super) reads: Vec<f32>,
    /// `u e^(b_C − b)`.
    pub(super) writes: Vec<f32>,
    /// `−p e^b`.
    pub(super) recalls: Vec<f32>,
    /// `e^(b_C)` of every state.
    pub(super) whole: Vec<f32>,
}

/// A chunk in scratch memory, made once for a thread and filled again and again.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub(super) level: Level,
    pub(super) sizes: Sizes,
    /// Positions of the chunk that is loaded.
    pub(super) c: usize,
    /// From one row `[C]` to the next.
    pub(super) stride: usize,
    /// From one row `[K]` to the next.
    pub(super) k_wide: usize,
    /// From one row `[V]` to the next.
    pub(super) v_wide: usize,
    /// `[C, K]`.
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    /// `[K, C]`.
    pub(super) k_columns: Vec<f32>,
    /// Values, and after [`Chunk::correct`] prediction errors `Dm` `[C, V]`.
    pub(super) errors: Vec<f32>,
    pub(super) gates: Gates,
    pub(super) weights: Weights,
    pub(super) scores: Scores,
}

impl Chunk {
    /// Scratch for one thread; `backward` asks for the masks too.
    pub(super) fn new(level: Level, sizes: Sizes, backward: bool) -> Self {
        let c = sizes.chunk.min(sizes.t);
        let (stride, k_wide, v_wide) = (padded(c), padded(sizes.k), padded(sizes.v));
        let zeros = |len: usize| vec![0f32; len];
        let gate = || zeros(sizes.states * stride);
        let square = |wanted: bool| zeros(if wanted { c * stride } else { 0 });
        Chunk {
            level,
            sizes,
            c: 0,
            stride,
            k_wide,
            v_wide,
            q: zeros(c * k_wide),
            k: zeros(c * k_wide),
            k_columns: zeros(sizes.k * stride),
            errors: zeros(c * v_wide),
            gates: Gates {
                decay: gate(),
                read: gate(),
                write: gate(),
                erase: gate(),
            },
            weights: Weights {
                from_start: gate(),
                to_end: gate(),
                reads: gate(),
                writes: gate(),
                recalls: gate(),
                whole: zeros(sizes.states),
            },
            scores: Scores {
                products: square(true),
                attention: square(true),
                keys: square(sizes.delta),
                minus_l: square(sizes.delta),
                read_mask: square(backward),
                erase_mask: square(backward && sizes.delta),
                within: zeros(if backward {
                    sizes.states * stride * stride
                } else {
                    0
                }),
            },
        }
    }

    /// Extent of the masks.
    pub(super) fn extent(&self) -> Extent {
        let Sizes { states, delta, .. } = self.sizes;
        Extent {
            c: self.c,
            stride: self.stride,
            states,
            delta,
        }
    }

    /// Gates of state `s`, of every position.
    pub(super) fn of_state(&self, s: usize) -> std::ops::Range<usize> {
        s * self.stride..(s + 1) * self.stride
    }

    /// Keys, queries, gates, decays and score matrices of chunk `n`.
    pub(super) fn load(&mut self, x: &HeadInputs<'_>, n: usize, save: bool) {
        self.load_keys(x, n);
        let from = n * self.sizes.chunk;
        gather(self.level, x.q, from, self.c, &mut self.q, self.k_wide);
        let size = [self.c, self.sizes.k];
        transpose(
            self.level,
            size,
            &self.k,
            self.k_wide,
            &mut self.k_columns,
            self.stride,
        );
        self.score(save);
    }

    /// What a write of chunk `n` needs besides the errors: keys, gates and decays.
    pub(super) fn load_keys(&mut self, x: &HeadInputs<'_>, n: usize) {
        let from = n * self.sizes.chunk;
        self.c = self.sizes.chunk.min(self.sizes.t - from);
        gather(self.level, x.k, from, self.c, &mut self.k, self.k_wide);
        self.load_gates(x, from);
        self.weigh();
    }

    /// Values of chunk `n`, whose size is loaded, where the errors will be.
    pub(super) fn load_values(&mut self, x: &HeadInputs<'_>, n: usize) {
        let from = n * self.sizes.chunk;
        gather(self.level, x.v, from, self.c, &mut self.errors, self.v_wide);
    }

    /// Gates `[C, S]` → `[S, C]`, log decays summed up.
    fn load_gates(&mut self, x: &HeadInputs<'_>, from: usize) {
        let Gates {
            decay,
            read,
            write,
            erase,
        } = &mut self.gates;
        for gate in [&mut *decay, &mut *read, &mut *write, &mut *erase] {
            gate.fill(0.0);
        }
        for s in 0..self.sizes.states {
            let mut sum = 0.0;
            for i in 0..self.c {
                let (at, t) = (s * self.stride + i, from + i);
                sum += x.log_decay.row(t)[s];
                decay[at] = sum;
                read[at] = x.read.row(t)[s];
                write[at] = x.write.row(t)[s];
                if self.sizes.delta {
                    erase[at] = x.erase.row(t)[s];
                }
            }
        }
    }

    fn weigh(&mut self) {
        let Gates {
            decay,
            read,
            write,
            erase,
        } = &self.gates;
        let weights = &mut self.weights;
        weights.from_start.fill(0.0);
        weights.to_end.fill(0.0);
        for s in 0..self.sizes.states {
            let range = s * self.stride..s * self.stride + self.c;
            let last = decay[range.end - 1];
            for i in range {
                weights.from_start[i] = decay[i];
                weights.to_end[i] = last - decay[i];
            }
        }
        masks::exponentials(self.level, &mut weights.from_start);
        masks::exponentials(self.level, &mut weights.to_end);
        for i in 0..decay.len() {
            weights.reads[i] = read[i] * weights.from_start[i];
            weights.writes[i] = write[i] * weights.to_end[i];
            weights.recalls[i] = -erase[i] * weights.from_start[i];
        }
        for s in 0..self.sizes.states {
            weights.whole[s] = weights.from_start[s * self.stride + self.c - 1];
        }
    }

    /// `P`, `K Kᵀ` and what the masks make of them.
    fn score(&mut self, save: bool) {
        let product = |rows| Product {
            size: [self.c, padded(self.c), self.sizes.k],
            left: Left::rows(rows, self.k_wide),
            right: Right::rows(&self.k_columns, self.stride),
            part: Part::OutLower,
            keep: Keep::Nothing,
            scale: None,
        };
        multiply(
            self.level,
            &product(&self.q),
            &mut self.scores.products,
            self.stride,
        );
        if self.sizes.delta {
            multiply(
                self.level,
                &product(&self.k),
                &mut self.scores.keys,
                self.stride,
            );
        }
        masks::build(
            self.level,
            self.extent(),
            &self.gates,
            &mut self.scores,
            save,
        );
    }

    /// The triangular system of the loaded chunk.
    pub(super) fn system(&self) -> System<'_> {
        let Chunk {
            c, stride, v_wide, ..
        } = *self;
        System {
            minus_l: &self.scores.minus_l,
            stride,
            c,
            width: v_wide,
        }
    }
}
