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
mod scores;

use super::inputs::ScanTensors;
use crate::borders::{Borders, Piece};
use crate::cpu::rows::{Place, Rows, RowsMut};
use crate::cpu::simd::Level;
use crate::cpu::tensors::{Primitive, in_dtype, single, slice, slice_mut, tensor, writable};
use backward::{Backward, HeadGrads};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape};
use chunk::{Chunk, HeadInputs, Sizes};
use forward::{Forward, Steps};
use rayon::prelude::*;

use std::mem::MaybeUninit;

/// Positions in a chunk. Work inside a chunk grows with it, and with one state that is most of the
/// work. Of 16, 32 and 64 on an AVX-512 machine 32 is the fastest, with one state and with four.
const CHUNK: usize = 32;
/// Chunks from one saved state to the next. Between them backward writes again, which with saved
/// errors costs a tenth of its work; sixteen instead of four take 11 MB in 71 from a call of 8,192
/// tokens with S 4, K = V = 64, and one to two parts in a hundred of speed.
const GROUP: usize = 16;
/// Up to this many tokens steps cost less than a chunk.
const STEPS_UP_TO: usize = 4;

/// Contiguous `f32` tensors and their sizes.
struct Call {
    q: Primitive,
    k: Primitive,
    v: Primitive,
    log_decay: Primitive,
    read: Primitive,
    write: Primitive,
    erase: Primitive,
    state: Primitive,
    dtype: DType,
    b: usize,
    h: usize,
    sizes: Sizes,
    borders: Borders,
}

impl Call {
    fn new(x: ScanTensors<Flex>, delta: bool, borders: &Borders) -> Self {
        let [b, t, h, k] = x.q.shape().dims();
        let [.., states, _, v] = x.state.shape().dims::<5>();
        Call {
            dtype: x.q.dtype(),
            q: single(x.q),
            k: single(x.k),
            v: single(x.v),
            log_decay: single(x.log_decay),
            read: single(x.read),
            write: single(x.write),
            erase: single(x.erase),
            state: single(x.state),
            b,
            h,
            sizes: Sizes {
                t,
                states,
                k,
                v,
                chunk: CHUNK.min(t.max(1)),
                group: GROUP,
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

    fn inputs(&self, head: usize) -> HeadInputs<'_> {
        let Sizes { states, k, v, .. } = self.sizes;
        let rows = |x, width| Rows::of_head(slice(x), self.rows_of(width), head);
        HeadInputs {
            q: rows(&self.q, k),
            k: rows(&self.k, k),
            v: rows(&self.v, v),
            log_decay: rows(&self.log_decay, states),
            read: rows(&self.read, states),
            write: rows(&self.write, states),
            erase: rows(&self.erase, states),
        }
    }

    /// One head's states that come in, `[S, K, V]`.
    fn state_of(&self, head: usize) -> &[f32] {
        &slice(&self.state)[head * self.state_len()..][..self.state_len()]
    }

    /// The documents that one head reads.
    fn pieces(&self, head: usize) -> Vec<Piece> {
        self.borders.pieces(head / self.h, self.sizes.t).collect()
    }

    /// What forward saves of every head, counted in values.
    fn saved_lens(&self) -> Vec<usize> {
        let of_row = |row| {
            let pieces = self.borders.pieces(row, self.sizes.t);
            pieces.map(|piece| self.sizes.of(&piece).saved_len()).sum()
        };
        let rows: Vec<usize> = (0..self.b).map(of_row).collect();
        rows.into_iter()
            .flat_map(|len| std::iter::repeat_n(len, self.h))
            .collect()
    }

    /// Values in one head's states, as tensors have them.
    fn state_len(&self) -> usize {
        self.sizes.states * self.sizes.k * self.sizes.v
    }
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
    let results = |o, last, kept: Vec<f32>| {
        let outputs = Shape::from([call.b, sizes.t, call.h, sizes.v]);
        let kept_shape = Shape::from([kept.len()]);
        [
            tensor(o, outputs, call.dtype),
            tensor(last, call.state.shape(), call.dtype),
            tensor(kept, kept_shape, DType::F32),
        ]
    };
    if sizes.t == 0 {
        // No output, and the state as it came in.
        return results(Vec::new(), slice(&call.state).to_vec(), Vec::new());
    }
    if sizes.t <= STEPS_UP_TO && !save && borders.is_none() {
        return steps(call);
    }
    let saved = match save {
        true => call.saved_lens(),
        false => vec![0; call.heads()],
    };
    let mut o = Box::new_uninit_slice(call.heads() * sizes.t * sizes.v);
    let mut last = Box::new_uninit_slice(call.heads() * call.state_len());
    let mut kept = Box::new_uninit_slice(saved.iter().sum());
    let level = Level::detect();
    let heads = RowsMut::split(&mut o, call.rows_of(sizes.v))
        .into_par_iter()
        .zip(last.par_chunks_exact_mut(call.state_len()))
        .enumerate();
    let scratch = || Forward::new(Chunk::new(level, sizes, false));
    let kept_of_heads = parts_of(&mut kept, &saved);
    heads
        .zip(kept_of_heads)
        .for_each_init(scratch, |scratch, ((head, (mut o, last)), saved)| {
            let (x, pieces) = (call.inputs(head), call.pieces(head));
            scratch.run((&x, &pieces), call.state_of(head), &mut o, last, saved);
        });
    // SAFETY: every head writes all its rows of the outputs and its whole final state, and of what is
    // saved its whole piece: a state for each group of chunks but the first, and the errors of every
    // chunk. That is what `saved_len` counts.
    let (o, last, kept) = unsafe { (o.assume_init(), last.assume_init(), kept.assume_init()) };
    results(o.into_vec(), last.into_vec(), kept.into_vec())
}

/// A few tokens one by one. States are written over where nobody else has a share in them: with many rows
/// they are more than the weights, and a new place would have to be read before it is written.
fn steps(mut call: Call) -> [Primitive; 3] {
    let (sizes, len) = (call.sizes, call.state_len());
    let nothing = || tensor(Vec::new(), Shape::from([0]), DType::F32);
    let mut state = writable(std::mem::replace(&mut call.state, nothing()));
    let mut o = Box::new_uninit_slice(call.heads() * sizes.t * sizes.v);
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
    let o = unsafe { o.assume_init() }.into_vec();
    let outputs = Shape::from([call.b, sizes.t, call.h, sizes.v]);
    let o = tensor(o, outputs, call.dtype);
    [o, in_dtype(state, call.dtype), nothing()]
}

/// `values` in parts of `lens`, one a head.
fn parts_of<'a, T>(mut values: &'a mut [T], lens: &[usize]) -> Vec<&'a mut [T]> {
    let mut part = |len: &usize| {
        let (part, rest) = std::mem::take(&mut values).split_at_mut(*len);
        values = rest;
        part
    };
    lens.iter().map(&mut part).collect()
}

/// Gradients of every input, given what `forward` saved and the gradients of outputs and final state.
/// In additive mode the one of `erase` is zero.
pub(super) fn backward(
    x: ScanTensors<Flex>,
    saved: Primitive,
    [d_o, d_last]: [Primitive; 2],
    delta: bool,
    borders: &Borders,
) -> ScanTensors<Flex> {
    let call = Call::new(x, delta, borders);
    let sizes = call.sizes;
    let mut rest = slice(&saved);
    let part = |len: usize| rest.split_off(..len).expect("as long as forward made it");
    let saved: Vec<&[f32]> = call.saved_lens().into_iter().map(part).collect();
    let mut grads = Gradients::from_incoming(&call, [d_o, d_last]);
    let level = Level::detect();
    let scratch = || Backward::new(Chunk::new(level, sizes, true));
    grads
        .heads(&call)
        .into_par_iter()
        .enumerate()
        .for_each_init(scratch, |scratch, (head, mut grads)| {
            let (x, pieces) = (call.inputs(head), call.pieces(head));
            let kept = [call.state_of(head), saved[head]];
            scratch.run((&x, &pieces), kept, &mut grads);
        });
    // SAFETY: `Backward::run` stores every chunk of its head.
    unsafe { grads.into_tensors(&call) }
}

/// Gradients of whole tensors. Those of values and of the first state are written over those of
/// outputs and of the last state, which nobody needs any more: a seventh of the memory.
struct Gradients {
    q: Unwritten,
    k: Unwritten,
    v: Primitive,
    log_decay: Unwritten,
    read: Unwritten,
    write: Unwritten,
    erase: Unwritten,
    state: Primitive,
}

type Unwritten = Box<[MaybeUninit<f32>]>;

impl Gradients {
    fn from_incoming(call: &Call, [d_o, d_last]: [Primitive; 2]) -> Self {
        let rows = |width| Box::new_uninit_slice(call.heads() * call.sizes.t * width);
        let Sizes { states, k, .. } = call.sizes;
        Gradients {
            q: rows(k),
            k: rows(k),
            v: writable(d_o),
            log_decay: rows(states),
            read: rows(states),
            write: rows(states),
            erase: rows(states),
            state: writable(d_last),
        }
    }

    fn heads(&mut self, call: &Call) -> Vec<HeadGrads<'_>> {
        let Sizes { states, k, v, .. } = call.sizes;
        fn split<P: Place>(x: &mut [P], rows: [usize; 3]) -> impl Iterator<Item = RowsMut<'_, P>> {
            RowsMut::split(x, rows).into_iter()
        }
        let (keys, gates) = (call.rows_of(k), call.rows_of(states));
        let mut q = split(&mut self.q, keys);
        let mut key = split(&mut self.k, keys);
        let mut value = split(slice_mut(&mut self.v), call.rows_of(v));
        let mut log_decay = split(&mut self.log_decay, gates);
        let mut read = split(&mut self.read, gates);
        let mut write = split(&mut self.write, gates);
        let mut erase = split(&mut self.erase, gates);
        let states = slice_mut(&mut self.state).chunks_exact_mut(call.state_len());
        let head = |state| {
            Some(HeadGrads {
                q: q.next()?,
                k: key.next()?,
                v: value.next()?,
                log_decay: log_decay.next()?,
                read: read.next()?,
                write: write.next()?,
                erase: erase.next()?,
                state,
            })
        };
        states.map_while(head).collect()
    }

    /// # Safety
    ///
    /// Every row of [`Gradients::heads`] must be written.
    unsafe fn into_tensors(self, call: &Call) -> ScanTensors<Flex> {
        let tensor = |values: Unwritten, like: &Primitive| {
            // SAFETY: the heads' rows are all there is, and the caller's promise.
            let values = unsafe { values.assume_init() };
            tensor(values.into_vec(), like.shape(), call.dtype)
        };
        ScanTensors {
            q: tensor(self.q, &call.q),
            k: tensor(self.k, &call.k),
            v: in_dtype(self.v, call.dtype),
            log_decay: tensor(self.log_decay, &call.log_decay),
            read: tensor(self.read, &call.read),
            write: tensor(self.write, &call.write),
            erase: tensor(self.erase, &call.erase),
            state: in_dtype(self.state, call.dtype),
        }
    }
}
