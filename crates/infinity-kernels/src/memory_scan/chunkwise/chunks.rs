//! Cutting time into chunks, chunk-major: `[B, T, H, X]` ↔ `[N·B·H, C, X]`.
//!
//! Chunk-major, because the loop over chunks then takes contiguous slices. The last chunk is
//! filled up with zeros: a position with `k = v = 0`, `g = 0` and `u = 0` leaves every state as it
//! is, so ragged lengths need no mask.

use super::array::Array;
use burn::backend::Backend;

/// How `T` positions of `B × H` heads are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunking {
    pub(crate) b: usize,
    pub(crate) t: usize,
    pub(crate) h: usize,
    /// Chunks.
    pub(crate) n: usize,
    /// Positions in a chunk.
    pub(crate) c: usize,
}

impl Chunking {
    pub(crate) fn new(b: usize, t: usize, h: usize, c: usize) -> Self {
        let c = c.clamp(1, t.max(1));
        Chunking {
            b,
            t,
            h,
            n: t.div_ceil(c),
            c,
        }
    }

    /// `[B, T, H, X]` → `[B, N, C, H, X]`, zeros behind the end.
    fn padded<B: Backend>(&self, x: Array<B>) -> Array<B> {
        let [b, t, h, width] = x.dims();
        let missing = self.n * self.c - t;
        let x = match missing {
            0 => x,
            _ => {
                let zeros = Array::zeros(&[b, missing, h, width], &x);
                Array::cat(vec![x, zeros], 1)
            }
        };
        x.reshape(&[b, self.n, self.c, h, width])
    }

    /// `[B, T, H, X]` → `[N·B·H, C, X]`.
    pub(crate) fn split<B: Backend>(&self, x: Array<B>) -> Array<B> {
        let [.., width] = x.dims::<4>();
        self.padded(x)
            .permute(&[1, 0, 3, 2, 4])
            .reshape(&[self.n * self.b * self.h, self.c, width])
    }

    /// `[N·B·H, C, X]` → `[B, T, H, X]`: the way back, padding dropped.
    pub(crate) fn join<B: Backend>(&self, x: Array<B>) -> Array<B> {
        let [.., width] = x.dims::<3>();
        let x = x
            .reshape(&[self.n, self.b, self.h, self.c, width])
            .permute(&[1, 0, 3, 2, 4]);
        let x = x.reshape(&[self.b, self.n * self.c, self.h, width]);
        if self.n * self.c == self.t {
            x
        } else {
            x.narrow(1, 0, self.t)
        }
    }

    /// Heads in one chunk, `B · H`.
    pub(crate) fn heads(&self) -> usize {
        self.b * self.h
    }

    /// Chunk `i` of a chunk-major tensor, `[B·H, C, X]`.
    pub(crate) fn at<B: Backend>(&self, x: &Array<B>, i: usize) -> Array<B> {
        x.clone().narrow(0, i * self.heads(), self.heads())
    }
}
