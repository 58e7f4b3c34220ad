//! Sizes of a call, and where in the buffers things lie.

use super::tile::{Block, Plan};
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Sizes of a call, as every kernel gets them.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Sizes {
    pub(super) t: usize,
    pub(super) h: usize,
    pub(super) s: usize,
    pub(super) k: usize,
    pub(super) v: usize,
    /// `B · H`.
    pub(super) heads: usize,
    /// `N`.
    pub(super) chunks: usize,
}

/// The gates in the buffer that `gates.rs` fills.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Gate {
    /// `b`, the log decay summed from the chunk's start.
    Decay,
    Read,
    Write,
    Erase,
}

/// `C × C` matrices of a chunk.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Square {
    /// `A`; in the gradients `dP`.
    First,
    /// `(I + L)⁻¹`; in the gradients `dG + dGᵀ`.
    Second,
}

/// How many of `side` elements from `from` on are below `len`.
#[cube]
fn left_of(len: usize, from: usize, #[comptime] side: usize) -> usize {
    let mut left = len - from;
    if left > side {
        left = side.runtime();
    }
    left
}

#[cube]
impl Sizes {
    /// Where token `t` of a head stands in `[B, T, H]`.
    pub(super) fn token(&self, head: usize, t: usize) -> usize {
        (head / self.h * self.t + t) * self.h + head % self.h
    }

    /// Keys of tile `k_tile`, values of tile `v_tile`, of state `s` in the `[S, K, V]` at `start`.
    pub(super) fn state(
        &self,
        start: usize,
        s: usize,
        k_tile: usize,
        v_tile: usize,
        #[comptime] side: usize,
    ) -> Block {
        let start = start + s * self.k * self.v;
        Block {
            start: start + k_tile * side * self.v + v_tile * side,
            stride: self.v,
            rows: left_of(self.k, k_tile * side, side),
            cols: left_of(self.v, v_tile * side, side),
        }
    }

    /// Where the states of a slot start in `[B·H, slots, S, K, V]`.
    pub(super) fn slot(&self, head: usize, slots: usize, slot: usize) -> usize {
        (head * slots + slot) * self.s * self.k * self.v
    }
}

/// A chunk of a head, and where its parts lie in the buffers.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Chunk {
    pub(super) sizes: Sizes,
    pub(super) head: usize,
    pub(super) n: usize,
    #[cube(comptime)]
    pub(super) plan: Plan,
}

#[cube]
impl Chunk {
    pub(super) fn new(sizes: Sizes, head: usize, n: usize, #[comptime] plan: Plan) -> Chunk {
        Chunk {
            sizes,
            head,
            n,
            plan,
        }
    }

    /// Chunk `i` of all heads.
    pub(super) fn numbered(sizes: Sizes, i: usize, #[comptime] plan: Plan) -> Chunk {
        Chunk::new(sizes, i / sizes.chunks, i % sizes.chunks, plan)
    }

    /// Tiles that cover rows of `width`.
    pub(super) fn tiles(&self, width: usize) -> usize {
        let side = comptime!(self.plan.side);
        width.div_ceil(side.runtime())
    }

    /// Columns of tile `tile` in rows of `width`, `[B, T, H, width]`.
    fn rows(&self, tile: usize, width: usize) -> Block {
        let side = comptime!(self.plan.side);
        let first = self.sizes.token(self.head, self.n * side);
        Block {
            start: first * width + tile * side,
            stride: self.sizes.h * width,
            rows: left_of(self.sizes.t, self.n * side, side),
            cols: left_of(width, tile * side, side),
        }
    }

    /// A tile of queries or keys.
    pub(super) fn keys(&self, tile: usize) -> Block {
        self.rows(tile, self.sizes.k)
    }

    /// A tile of values.
    pub(super) fn values(&self, tile: usize) -> Block {
        self.rows(tile, self.sizes.v)
    }

    /// Where a matrix lies in `[2, B·H, N, C, C]`.
    pub(super) fn square(&self, #[comptime] which: Square) -> Block {
        let which = comptime!(which as usize);
        let side = comptime!(self.plan.side);
        let first = (which * self.sizes.heads + self.head) * self.sizes.chunks + self.n;
        Block {
            start: first * comptime!(side * side),
            stride: side.runtime(),
            rows: side.runtime(),
            cols: side.runtime(),
        }
    }

    /// Where a gate starts in `[4, B·H, S, N·C]`.
    pub(super) fn gate(&self, #[comptime] which: Gate, s: usize) -> usize {
        let which = comptime!(which as usize);
        let side = comptime!(self.plan.side);
        let head = which * self.sizes.heads + self.head;
        ((head * self.sizes.s + s) * self.sizes.chunks + self.n) * side
    }

    /// Where the gradient of a gate starts in `[parts, 3, B·H, S, N·C]`. There are none of the decay.
    pub(super) fn part(&self, part: usize, #[comptime] which: Gate, s: usize) -> usize {
        let which = comptime!(which as usize - 1);
        let side = comptime!(self.plan.side);
        let head = (part * 3 + which) * self.sizes.heads + self.head;
        ((head * self.sizes.s + s) * self.sizes.chunks + self.n) * side
    }

    /// Where `⟨dH, H⟩` at the chunk's end stands, behind all parts.
    pub(super) fn end(&self, k_tile: usize, s: usize) -> usize {
        let side = comptime!(self.plan.side);
        let sizes = self.sizes;
        let parts = 1 + sizes.k.div_ceil(side.runtime());
        let behind = parts * 3 * sizes.heads * sizes.s * sizes.chunks * side;
        behind + ((k_tile * sizes.heads + self.head) * sizes.s + s) * sizes.chunks + self.n
    }
}
