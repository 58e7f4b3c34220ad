//! Results that threads compute piece by piece, in memory that nobody has written before.
//!
//! Zeroing a result ahead of its kernel would be a pass over memory, by one thread. So memory stays
//! `MaybeUninit` until the thread that computes a piece fills it, and finds it in its cache. Kernels that
//! write every value once anyway take `MaybeUninit` themselves; `cargo xtask valgrind` checks that they do.

use crate::cpu::tensors::{Input, Primitive};
use rayon::prelude::*;
use std::array::from_fn;
use std::mem::{MaybeUninit, take};

/// Values a thread takes at a time where each is computed alone: enough to be worth handing over, little enough for its
/// cache.
const VALUES: usize = 16_384;

/// Vectors of `lens` values. `work(i, pieces)` computes the `i`-th piece of each, of `sizes` values (the
/// last one of what is left), which it finds filled with zeros; threads share the pieces.
pub(crate) fn in_pieces<const N: usize>(
    lens: [usize; N],
    sizes: [usize; N],
    work: impl Fn(usize, [&mut [f32]; N]) + Sync,
) -> [Vec<f32>; N] {
    // SAFETY: `zeroed` writes all of a piece.
    unsafe { in_unwritten_pieces(lens, sizes, |i, pieces| work(i, pieces.map(zeroed))) }
}

/// [`in_pieces`] for loops that write every value once, and need no zeros before.
///
/// # Safety
///
/// `work` must write all of the pieces that it gets.
pub(crate) unsafe fn in_unwritten_pieces<T: Send, const N: usize>(
    lens: [usize; N],
    sizes: [usize; N],
    work: impl Fn(usize, [&mut [MaybeUninit<T>]; N]) + Sync,
) -> [Vec<T>; N] {
    let mut values = lens.map(Box::new_uninit_slice);
    share(values.each_mut().map(|values| &mut values[..]), sizes, work);
    // SAFETY: the pieces are all of the values, and by the caller's promise all of each is written.
    values.map(|values| unsafe { values.assume_init() }.into_vec())
}

/// Results like the first of `inputs`, which are as long: `work` computes those of some values, of which it gets the inputs.
///
/// # Safety
///
/// As [`in_unwritten_pieces`].
pub(crate) unsafe fn value_by_value<const I: usize, const O: usize>(
    inputs: [Primitive; I],
    work: impl Fn([&[f32]; I], [&mut [MaybeUninit<f32>]; O]) + Sync,
) -> [Primitive; O] {
    let inputs = inputs.map(Input::new);
    let values = inputs.each_ref().map(|input| &input[..]);
    let work = |i, pieces: [&mut [MaybeUninit<f32>]; O]| {
        let at = i * VALUES..i * VALUES + pieces[0].len();
        work(values.map(|values| &values[at.clone()]), pieces);
    };
    // SAFETY: the caller's promise.
    let results = unsafe { in_unwritten_pieces([values[0].len(); O], [VALUES; O], work) };
    results.map(|values| inputs[0].like(values))
}

/// The sum of pieces of `len` values, in their order.
pub(crate) fn summed(pieces: &[f32], len: usize) -> Vec<f32> {
    let mut sums = vec![0f32; len];
    for piece in pieces.chunks_exact(len.max(1)) {
        sums.iter_mut().zip(piece).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// Hands every piece of `outs` to `work`, by all threads.
fn share<T: Send, const N: usize>(
    mut outs: [&mut [MaybeUninit<T>]; N],
    sizes: [usize; N],
    work: impl Fn(usize, [&mut [MaybeUninit<T>]; N]) + Sync,
) {
    let sizes = sizes.map(|size| size.max(1));
    let count = (0..N).map(|n| outs[n].len().div_ceil(sizes[n])).max();
    let mut piece = |n: usize| {
        let out = take(&mut outs[n]);
        let (piece, rest) = out.split_at_mut(sizes[n].min(out.len()));
        outs[n] = rest;
        piece
    };
    let pieces: Vec<[_; N]> = (0..count.unwrap_or(0))
        .map(|_| from_fn(&mut piece))
        .collect();
    pieces
        .into_par_iter()
        .enumerate()
        .for_each(|(i, pieces)| work(i, pieces));
}

/// `values`, filled with zeros.
pub(crate) fn zeroed(values: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    values.fill(MaybeUninit::new(0.0));
    // SAFETY: all of them were just written.
    unsafe { values.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_vector() {
        let [a, none, b] = in_pieces([10, 0, 4], [3, 5, 1], |i, [a, none, b]| {
            assert!(none.is_empty());
            assert!(a.iter().chain(&*b).all(|x| *x == 0.0));
            a.fill(i as f32 + 1.0);
            b.fill(-1.0);
        });
        assert_eq!(a, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0]);
        assert_eq!((none.len(), b), (0, vec![-1.0; 4]));
        let [longer, shorter] = in_pieces([7, 2], [1, 1], |_, [a, _]| a.fill(1.0));
        assert_eq!((longer, shorter), (vec![1.0; 7], vec![0.0; 2]));
    }

    /// Reads a value that nobody wrote, on purpose: `cargo xtask valgrind` must report it, or its other
    /// answers mean nothing. It is no test of its own.
    #[test]
    #[ignore = "an error on purpose, for `cargo xtask valgrind`"]
    fn a_value_left_unwritten_is_caught() {
        let mut values = Box::<[f32]>::new_uninit_slice(3);
        values[..2].write_copy_of_slice(&[1.0; 2]);
        let values = std::hint::black_box(values);
        // SAFETY: none; that is what has to be caught.
        let values = unsafe { values.assume_init() };
        let sum: f32 = values.iter().sum();
        assert!(std::hint::black_box(sum > 2.5) || sum <= 2.5 || sum.is_nan());
    }
}
