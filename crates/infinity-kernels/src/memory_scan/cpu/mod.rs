//! `memory_scan` on the CPU: a native kernel, forward and backward.
//!
//! This file turns tensors into slices and splits `B × H` heads over threads; everything else
//! works on the slices of one head and knows no tensors:
//!
//! | file | |
//! |---|---|
//! | `chunk.rs` | one chunk in scratch memory, and the states between chunks |
//! | `scores.rs` | masks, their gradients, the triangular solve |
//! | `forward.rs`, `backward.rs` | over the chunks of a head; a few tokens one by one |
//!
//! One head's rows in `[B, T, H, X]`, and loops over them, are `crate::cpu::rows`.
//!
//! Values are `f32`, whatever the tensors hold. A head is never split over threads: below `B × H`
//! heads as many threads are idle. Two runs give the same bits, on any number of threads; machines
//! with other vector instructions round differently.

mod backward;
mod chunk;
mod forward;
mod layout;
mod scores;

use super::inputs::ScanTensors;
use super::reference::{Dims, Scan};
use crate::borders::{Borders, Piece};
use crate::cpu::rows::{Rows, RowsMut};
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Primitive, in_dtype, single, slice, slice_mut, tensor, writable};
use crate::operator::is_none;
use backward::{Backward, HeadGrads};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape};
use chunk::{Chunk, HeadInputs};
use forward::{Forward, Steps};
use layout::Sizes;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Up to this many tokens steps cost less than a chunk.
const STEPS_UP_TO: usize = 4;

/// Contiguous `f32` tensors and their sizes.
struct Call {
    x: ScanTensors<Flex>,
    dtype: DType,
    b: usize,
    h: usize,
    sizes: Sizes,
    borders: Borders,
}

impl Call {
    fn new(x: ScanTensors<Flex>, delta: bool, borders: &Borders) -> Self {
        let Dims { b, t, h, s, k, v } = x.dims();
        Call {
            dtype: x.q.dtype(),
            x: x.map(single),
            b,
            h,
            sizes: Sizes {
                start: 0,
                t,
                states: s,
                k,
                v,
                delta,
            },
            borders: borders.clone(),
        }
    }

    fn heads(&self) -> usize {
        self.b * self.h
    }

    /// `[T, H, width]` of a tensor with rows of `width`.
    fn rows_of(&self, width: usize) -> [usize; 3] {
        [self.sizes.t, self.h, width]
    }

    /// Rows of `width` for every head and token.
    fn unwritten(&self, width: usize) -> Box<[MaybeUninit<f32>]> {
        Box::new_uninit_slice(self.heads() * self.sizes.t * width)
    }

    /// Such rows as a tensor of the call's type.
    fn tensor(&self, rows: Box<[f32]>, width: usize) -> Primitive {
        let shape = Shape::from([self.b, self.sizes.t, self.h, width]);
        tensor(rows.into_vec(), shape, self.dtype)
    }

    fn inputs(&self, head: usize) -> HeadInputs<'_> {
        self.x.each().map(|x| {
            let rows = match *x.shape().as_slice() {
                [_, t, h, width] => [t, h, width],
                [_, h, s, k, v] => [1, h, s * k * v],
                // One that was taken, to be written over.
                _ => [0, self.h, 0],
            };
            Rows::of_head(slice(x), rows, head)
        })
    }

    /// The documents that one head reads.
    fn pieces(&self, head: usize) -> Vec<Piece> {
        self.borders.pieces(head / self.h, self.sizes.t).collect()
    }

    /// What forward saves of every head, counted in values: as much of all heads of a row.
    fn saved_lens(&self) -> Vec<usize> {
        let of_row = |row| {
            let pieces = self.borders.pieces(row, self.sizes.t);
            let len = pieces.map(|piece| self.sizes.of(&piece).saved_len()).sum();
            std::iter::repeat_n(len, self.h)
        };
        (0..self.b).flat_map(of_row).collect()
    }

    /// Values in one head's states, as tensors have them.
    fn state_len(&self) -> usize {
        self.sizes.states * self.sizes.k * self.sizes.v
    }
}

fn nothing() -> Primitive {
    tensor(Vec::new(), Shape::from([0]), DType::F32)
}

/// Outputs, the final state, and, if asked for, what backward needs besides the inputs.
pub(super) fn forward(
    x: ScanTensors<Flex>,
    delta: bool,
    borders: &Borders,
    save: bool,
) -> [Primitive; 3] {
    let call = Call::new(x, delta, borders);
    let sizes = call.sizes;
    if sizes.t == 0 {
        // No output, and the state as it came in.
        let o = call.tensor(Box::default(), sizes.v);
        return [o, in_dtype(call.x.state, call.dtype), nothing()];
    }
    if sizes.t <= STEPS_UP_TO && !save && borders.is_none() {
        return steps(call);
    }
    let saved_lens = match save {
        true => call.saved_lens(),
        false => vec![0; call.heads()],
    };
    let mut o = call.unwritten(sizes.v);
    let mut last = Box::new_uninit_slice(call.heads() * call.state_len());
    let mut kept = Box::new_uninit_slice(saved_lens.iter().sum());
    let mut rest = &mut kept[..];
    let part = |len| rest.split_off_mut(..len).expect("the sum of all");
    let saved: Vec<_> = saved_lens.into_iter().map(part).collect();
    let level = Level::detect();
    let scratch = || Forward::new(Chunk::new(level, sizes, false));
    RowsMut::split(&mut o, call.rows_of(sizes.v))
        .into_par_iter()
        .zip(last.par_chunks_exact_mut(call.state_len()))
        .zip(saved)
        .enumerate()
        .for_each_init(scratch, |scratch, (head, ((mut o, last), saved))| {
            let (x, pieces) = (call.inputs(head), call.pieces(head));
            scratch.run((x, &pieces), &mut o, last, saved);
        });
    // SAFETY: every head writes all its rows of the outputs and its whole final state, and of what is
    // saved its whole piece: a state for each group of chunks but the first, and the errors of every
    // chunk. That is what `saved_lens` counts.
    let (o, last, kept) = unsafe { (o.assume_init(), last.assume_init(), kept.assume_init()) };
    let kept_shape = Shape::from([kept.len()]);
    [
        call.tensor(o, sizes.v),
        tensor(last.into_vec(), call.x.state.shape(), call.dtype),
        tensor(kept.into_vec(), kept_shape, DType::F32),
    ]
}

/// A few tokens one by one. States are written over where nobody else has a share in them: with many rows
/// they are more than the weights, and a new place would have to be read before it is written.
fn steps(mut call: Call) -> [Primitive; 3] {
    let (sizes, len) = (call.sizes, call.state_len());
    let mut state = writable(std::mem::replace(&mut call.x.state, nothing()));
    let mut o = call.unwritten(sizes.v);
    let level = Level::detect();
    RowsMut::split(&mut o, call.rows_of(sizes.v))
        .into_par_iter()
        .zip(slice_mut(&mut state).par_chunks_exact_mut(len))
        .enumerate()
        .for_each_init(
            || Steps::new(level, sizes),
            |steps, (head, (mut o, state))| steps.run(&call.inputs(head), state, &mut o),
        );
    // SAFETY: every head writes all its rows.
    let o = unsafe { o.assume_init() };
    let o = call.tensor(o, sizes.v);
    [o, in_dtype(state, call.dtype), nothing()]
}

/// Gradients of every input, given what `forward` saved and the gradients of outputs and final state, if any.
/// In additive mode the one of `erase` is zero. Those of values and of the first state are written over
/// those of outputs and of the last state, which nobody needs any more: a seventh of the memory.
pub(super) fn backward(
    x: ScanTensors<Flex>,
    saved: Primitive,
    [d_o, d_last]: [Primitive; 2],
    delta: bool,
    borders: &Borders,
) -> ScanTensors<Flex> {
    let call = Call::new(x, delta, borders);
    let Sizes { states, k, v, .. } = call.sizes;
    let mut rest = slice(&saved);
    let part = |len| rest.split_off(..len).expect("as long as forward made it");
    let saved: Vec<&[f32]> = call.saved_lens().into_iter().map(part).collect();
    let start = |grad, like: Shape| match is_none(&grad, &like) {
        true => tensor(vec![0.0; like.num_elements()], like, DType::F32),
        false => writable(grad),
    };
    let mut d_v = start(d_o, call.x.v.shape());
    let mut d_state = start(d_last, call.x.state.shape());
    let mut grads =
        [k, k, states, states, states, states].map(|width| (width, call.unwritten(width)));
    let mut rows = grads
        .each_mut()
        .map(|(width, grad)| RowsMut::split(grad, call.rows_of(*width)).into_iter());
    let heads: Vec<HeadGrads<'_>> = RowsMut::split(slice_mut(&mut d_v), call.rows_of(v))
        .into_iter()
        .zip(slice_mut(&mut d_state).chunks_exact_mut(call.state_len()))
        .map(|(v, state)| {
            let rows = rows.each_mut().map(|rows| rows.next().expect("every head"));
            HeadGrads { rows, v, state }
        })
        .collect();
    let level = Level::detect();
    let scratch = || Backward::new(Chunk::new(level, call.sizes, true));
    heads.into_par_iter().zip(saved).enumerate().for_each_init(
        scratch,
        |scratch, (head, (mut grads, saved))| {
            let (x, pieces) = (call.inputs(head), call.pieces(head));
            scratch.run((x, &pieces), saved, &mut grads);
        },
    );
    let [q, k, log_decay, read, write, erase] = grads.map(|(width, grad)| {
        // SAFETY: `Backward::run` stores every chunk of its head, and the heads' rows are all there is.
        let grad = unsafe { grad.assume_init() };
        call.tensor(grad, width)
    });
    Scan {
        q,
        k,
        v: in_dtype(d_v, call.dtype),
        log_decay,
        read,
        write,
        erase,
        state: in_dtype(d_state, call.dtype),
    }
}
