//! Sizes of a call, and where in the buffers things lie.

use super::tile::Block;
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
pub(super) fn left_of(len: usize, from: usize, #[comptime] side: usize) -> usize {
    let mut left = len - from;
    if left > side {
        left = side.runtime();
    }
    left
}

#[cube]
impl Sizes {
    /// Rows of chunk `n`, columns of tile `tile`, in a head's part of `[B, T, H, width]`.
    pub(super) fn rows(
        &self,
        head: usize,
        n: usize,
        tile: usize,
        width: usize,
        #[comptime] side: usize,
    ) -> Block {
        let batch = head / self.h;
        let first = (batch * self.t + n * side) * self.h + head % self.h;
        Block {
            start: first * width + tile * side,
            stride: self.h * width,
            rows: left_of(self.t, n * side, side),
            cols: left_of(width, tile * side, side),
        }
    }

    /// Keys of tile `k_tile`, values of tile `v_tile`, of the state `[K, V]` at `start`.
    pub(super) fn state(
        &self,
        start: usize,
        k_tile: usize,
        v_tile: usize,
        #[comptime] side: usize,
    ) -> Block {
        Block {
            start: start + k_tile * side * self.v + v_tile * side,
            stride: self.v,
            rows: left_of(self.k, k_tile * side, side),
            cols: left_of(self.v, v_tile * side, side),
        }
    }

    /// Where state `s` lies in `[B·H, slots, S, K, V]`.
    pub(super) fn slot(&self, head: usize, slots: usize, slot: usize, s: usize) -> usize {
        ((head * slots + slot) * self.s + s) * self.k * self.v
    }

    /// Where a matrix of chunk `n` lies in `[2, B·H, N, C, C]`.
    pub(super) fn square(
        &self,
        #[comptime] which: Square,
        head: usize,
        n: usize,
        #[comptime] side: usize,
    ) -> Block {
        let which = comptime!(which as usize);
        Block {
            start: ((which * self.heads + head) * self.chunks + n) * comptime!(side * side),
            stride: side.runtime(),
            rows: side.runtime(),
            cols: side.runtime(),
        }
    }

    /// Where a gate of chunk `n` starts in `[4, B·H, S, N·C]`.
    pub(super) fn gate(
        &self,
        #[comptime] which: Gate,
        head: usize,
        s: usize,
        n: usize,
        #[comptime] side: usize,
    ) -> usize {
        let which = comptime!(which as usize);
        (((which * self.heads + head) * self.s + s) * self.chunks + n) * side
    }

    /// Where the gradient of a gate of chunk `n` starts in `[parts, 3, B·H, S, N·C]`. There are
    /// none of the decay.
    pub(super) fn part(
        &self,
        part: usize,
        #[comptime] which: Gate,
        head: usize,
        s: usize,
        n: usize,
        #[comptime] side: usize,
    ) -> usize {
        let which = comptime!(which as usize - 1);
        ((((part * 3 + which) * self.heads + head) * self.s + s) * self.chunks + n) * side
    }

    /// Where `⟨dH, H⟩` at the end of chunk `n` stands, behind all parts.
    pub(super) fn end(
        &self,
        k_tile: usize,
        head: usize,
        s: usize,
        n: usize,
        #[comptime] side: usize,
    ) -> usize {
        let parts = 1 + self.k.div_ceil(side.runtime());
        let behind = parts * 3 * self.heads * self.s * self.chunks * side;
        behind + ((k_tile * self.heads + head) * self.s + s) * self.chunks + n
    }

    /// Values in `[B, T, H, V]`.
    pub(super) fn outputs(&self) -> usize {
        self.heads * self.t * self.v
    }
}
