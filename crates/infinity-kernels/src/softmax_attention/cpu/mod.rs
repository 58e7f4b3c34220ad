//! Softmax attention on the CPU: blocks of queries meet blocks of keys, and the sums of a row are kept up
//! with its largest score (online softmax; Dao et al. 2022, arXiv:2205.14135).
//!
//! This file turns tensors into slices and splits `B × H` heads over threads; `forward.rs` and
//! `backward.rs` work on the slices of one head. Memory is linear in the number of keys: a head's keys
//! and values, packed, and a block of scores.
//!
//! A head is one thread's, and the blocks depend on its sizes alone: the same bits on any number of threads
//! and in any batch.

mod backward;
mod block;
mod forward;

use super::view::View;
use crate::cpu::rows::{Rows, RowsMut};
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Input, Primitive, tensor};
use backward::{Backward, HeadGrads};
use block::{Head, Sizes};
use burn::tensor::{DType, Shape};
use forward::{Forward, step};
use rayon::prelude::*;
use std::ops::Range;

/// Up to so many queries that save nothing meet the keys one by one, which are then read as they lie.
const STEPS_UP_TO: usize = 4;

/// Contiguous `f32` tensors and their sizes.
struct Call {
    q: Input,
    k: Input,
    v: Input,
    b: usize,
    h: usize,
    /// Heads of keys and values.
    groups: usize,
    /// Rows that the tensors of keys and values have, filled or not.
    room: usize,
    sizes: Sizes,
    view: View,
}

impl Call {
    fn new([q, k, v]: [Primitive; 3], view: &View) -> Self {
        let [q, k, v] = [q, k, v].map(Input::new);
        let [b, t, h, key_dim] = q.dims();
        let [_, room, groups, value_dim] = v.dims();
        Call {
            q,
            k,
            v,
            b,
            h,
            groups,
            room,
            sizes: Sizes {
                t,
                total: view.filled.unwrap_or(room),
                window: view.window.unwrap_or(usize::MAX),
                k: key_dim,
                v: value_dim,
            },
            view: view.clone(),
        }
    }

    fn heads(&self) -> usize {
        self.b * self.h
    }

    /// `[rows, H, width]` of a tensor with so many rows.
    fn rows_of(&self, rows: usize, width: usize) -> [usize; 3] {
        [rows, self.h, width]
    }

    fn head(&self, head: usize) -> Head<'_> {
        let Sizes { t, k, v, .. } = self.sizes;
        let shared = head / self.h * self.groups + head % self.h / (self.h / self.groups);
        let rows = |x, width| Rows::of_head(x, [self.room, self.groups, width], shared);
        Head {
            q: Rows::of_head(&self.q, self.rows_of(t, k), head),
            k: rows(&self.k, k),
            v: rows(&self.v, v),
        }
    }

    /// The documents that a head reads: the places of their queries, and of the keys that these see.
    fn pieces(&self, head: usize) -> Vec<[Range<usize>; 2]> {
        let (Sizes { t, total, .. }, row) = (self.sizes, head / self.h);
        let pieces = self.view.borders.pieces(row, t).map(|piece| {
            let Range { start, end } = piece.tokens.clone();
            let from = match piece.fresh {
                true => total - t + start,
                false => self.view.start(row),
            };
            [piece.tokens, from..total - t + end]
        });
        pieces.collect()
    }

    /// What the heads that share keys give to each `[B, rows, H, width]`, in sum.
    fn shared(&self, each: Vec<f32>, rows: usize, width: usize) -> Primitive {
        let shape = [self.b, rows, self.groups, width];
        if self.groups == self.h {
            return self.q.result(each, shape);
        }
        let mut sums = vec![0f32; each.len() / self.h * self.groups];
        let heads = each.chunks_exact(self.h / self.groups * width);
        for (sum, heads) in sums.chunks_exact_mut(width).zip(heads) {
            for head in heads.chunks_exact(width) {
                sum.iter_mut().zip(head).for_each(|(sum, x)| *sum += x);
            }
        }
        self.q.result(sums, shape)
    }

    fn result(&self, values: Vec<f32>, rows: usize, width: usize) -> Primitive {
        self.q.result(values, [self.b, rows, self.h, width])
    }
}

/// Outputs `[B, T, H, V]`, and the logarithms of the sums of their weights `[B · H · T]`: perhaps zeros without `save`.
pub(super) fn forward(inputs: [Primitive; 3], view: &View, save: bool) -> (Primitive, Primitive) {
    let call = Call::new(inputs, view);
    let Sizes { t, v, .. } = call.sizes;
    let mut o = Box::new_uninit_slice(call.heads() * t * v);
    let mut sums = vec![0f32; call.heads() * t];
    let level = Level::detect();
    let heads = RowsMut::split(&mut o, call.rows_of(t, v)).into_par_iter();
    let heads = heads.zip(sums.par_chunks_mut(t.max(1))).enumerate();
    if t <= STEPS_UP_TO && !save && view.borders.is_none() {
        heads.for_each(|(head, (mut o, _))| {
            for places in call.pieces(head) {
                step(level, call.sizes, &call.head(head), places, &mut o);
            }
        });
    } else {
        let scratch = || Forward::new(level, call.sizes);
        heads.for_each_init(scratch, |scratch, (head, (mut o, sums))| {
            for places in call.pieces(head) {
                scratch.run(&call.head(head), places, &mut o, sums);
            }
        });
    }
    // SAFETY: every head writes all its rows.
    let o = unsafe { o.assume_init() }.into_vec();
    let len = Shape::from([sums.len()]);
    (call.result(o, t, v), tensor(sums, len, DType::F32))
}

/// Gradients of queries, keys and values, given what [`forward`] gave and the gradient of its outputs.
pub(super) fn backward(
    inputs: [Primitive; 3],
    view: &View,
    [o, sums]: [Primitive; 2],
    d_o: Primitive,
) -> [Primitive; 3] {
    let call = Call::new(inputs, view);
    let Sizes { t, total, k, v, .. } = call.sizes;
    assert_eq!(total, call.room, "what learns has no room");
    let [o, sums, d_o] = [o, sums, d_o].map(Input::new);
    if t == 0 {
        let zeros = |rows, width| vec![0f32; call.heads() * rows * width];
        let [d_k, d_v] = [k, v].map(|width| call.shared(zeros(total, width), total, width));
        return [call.result(Vec::new(), 0, k), d_k, d_v];
    }
    let sizes = [(t, k), (total, k), (total, v)];
    let room = |(rows, width)| Box::new_uninit_slice(call.heads() * rows * width);
    let [mut d_q, mut d_k, mut d_v] = sizes.map(room);
    let heads = RowsMut::split(&mut d_q, call.rows_of(t, k)).into_par_iter();
    let heads = heads.zip(RowsMut::split(&mut d_k, call.rows_of(total, k)));
    let heads = heads.zip(RowsMut::split(&mut d_v, call.rows_of(total, v)));
    let level = Level::detect();
    heads.enumerate().for_each_init(
        || Backward::new(level, call.sizes),
        |scratch, (head, ((q, k), v))| {
            let mut grads = HeadGrads { q, k, v };
            let rows = |x| Rows::of_head(x, call.rows_of(t, call.sizes.v), head);
            let sums = &sums[head * t..][..t];
            let outputs = [rows(&o), rows(&d_o)];
            let pieces = call.pieces(head);
            // A cache that none of the documents sees.
            grads.unseen(0..pieces[0][1].start);
            for places in pieces {
                scratch.run(&call.head(head), places, outputs, sums, &mut grads);
            }
        },
    );
    // SAFETY: every head writes all its rows of each.
    let [d_q, d_k, d_v] = [d_q, d_k, d_v].map(|d| unsafe { d.assume_init() }.into_vec());
    [
        call.result(d_q, t, k),
        call.shared(d_k, total, k),
        call.shared(d_v, total, v),
    ]
}
