//! One head's rows of a tensor `[B, T, H, X]`, `T` rows that lie `H · X` apart, and the loops over rows in
//! scratch memory: copying, scaling, sums over keys.

use crate::cpu::simd::{LANES, lanes, lanes_mut, leveled, multiply_add, sum};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// One head's rows, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The head's first row.
    first: *const f32,
    step: usize,
    width: usize,
    len: usize,
    owner: PhantomData<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// Rows of head `head` (of `B · H`) in a tensor `[B, T, H, width]`.
    pub(crate) fn of_head(data: &'a [f32], [t, h, width]: [usize; 3], head: usize) -> Self {
        let (first, step) = ((head / h * t * h + head % h) * width, h * width);
        if let Some(last) = t.checked_sub(1) {
            assert!(first + last * step + width <= data.len());
        }
        Rows {
            first: data[first.min(data.len())..].as_ptr(),
            step,
            width,
            len: t,
            owner: PhantomData,
        }
    }

    /// How many rows there are.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The rows of `range`, counted from its start.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        Rows {
            // Where the part is empty, perhaps beyond what there is.
            first: self.first.wrapping_add(range.start * self.step),
            len: range.len(),
            ..*self
        }
    }

    /// Row `t`.
    #[inline(always)]
    pub(crate) fn row(&self, t: usize) -> &'a [f32] {
        assert!(t < self.len);
        // SAFETY: row `t` lies inside what was given to `of_head`, or inside a head's rows of a
        // `RowsMut`, and is borrowed for `'a`.
        unsafe { std::slice::from_raw_parts(self.first.add(t * self.step), self.width) }
    }
}

/// What a row to write consists of: values, or places that hold none yet.
pub(crate) trait Place: Copy + Send {
    /// A place that holds `x`.
    fn of(x: f32) -> Self;
}

impl Place for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
}

impl Place for MaybeUninit<f32> {
    #[inline(always)]
    fn of(x: f32) -> Self {
        MaybeUninit::new(x)
    }
}

/// One head's rows, to write.
#[derive(Debug)]
pub(crate) struct RowsMut<'a, P = MaybeUninit<f32>> {
    /// The head's first row.
    first: *mut P,
    step: usize,
    width: usize,
    len: usize,
    owner: PhantomData<&'a mut [P]>,
}

// SAFETY: a `RowsMut` is the only way to its rows while it lives (see `split`), like `&mut [P]`.
unsafe impl<P: Send> Send for RowsMut<'_, P> {}

impl<'a, P: Place> RowsMut<'a, P> {
    /// The rows of every head of a tensor `[B, T, H, width]`, in the order of `B · H`.
    pub(crate) fn split(data: &'a mut [P], [t, h, width]: [usize; 3]) -> Vec<Self> {
        let row_of_batch = t * h * width;
        let batches = data.len().checked_div(row_of_batch).unwrap_or(0);
        assert_eq!(
            data.len(),
            batches * row_of_batch,
            "not a whole number of batch rows"
        );
        let start = data.as_mut_ptr();
        let head = |i: usize| RowsMut {
            // SAFETY: `i < batches * h`, so the first row starts inside `data`.
            first: unsafe { start.add((i / h * t * h + i % h) * width) },
            step: h * width,
            width,
            len: t,
            owner: PhantomData,
        };
        (0..batches * h).map(head).collect()
    }

    /// Row `t`.
    #[inline(always)]
    pub(crate) fn row(&mut self, t: usize) -> &mut [P] {
        assert!(t < self.len);
        // SAFETY: row `t` of this head lies inside the slice given to `split`, which is borrowed
        // for `'a`; rows of different heads do not overlap, and `&mut self` guards this head's.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(t * self.step), self.width) }
    }
}

impl RowsMut<'_, f32> {
    /// The rows as they are now.
    pub(crate) fn as_rows(&self) -> Rows<'_> {
        Rows {
            first: self.first,
            step: self.step,
            width: self.width,
            len: self.len,
            owner: PhantomData,
        }
    }
}

leveled!(
    /// Rows `from..from + c` of a head into scratch rows of `wide` (whole lanes), filled up with
    /// zeros: what a row that was not finite left in a tail would otherwise reach the next head.
    fn gather<const FMA: bool, const ROWS: usize>(
        x: Rows<'_>,
        from: usize,
        c: usize,
        to: &mut [f32],
        wide: usize,
    ) {
        for (i, to) in to.chunks_exact_mut(wide).take(c).enumerate() {
            let row = x.row(from + i);
            // Whole lanes inline: a call of memcpy for every short row costs more than the copy.
            let (row_lanes, row_rest) = row.as_chunks::<LANES>();
            let (to_lanes, to_rest) = to.split_at_mut(row_lanes.len() * LANES);
            let (to_lanes, _) = to_lanes.as_chunks_mut::<LANES>();
            for (to, row) in to_lanes.iter_mut().zip(row_lanes) {
                *to = *row;
            }
            if let Some(to) = to_rest.first_chunk_mut::<LANES>() {
                for (l, to) in to.iter_mut().enumerate() {
                    *to = row_rest.get(l).copied().unwrap_or(0.0);
                }
            }
        }
    }
);

leveled!(
    /// The way back: scratch rows of `wide` to rows `from..from + c` of a head.
    fn scatter<const FMA: bool, const ROWS: usize, P: Place>(
        x: &[f32],
        wide: usize,
        c: usize,
        to: &mut RowsMut<'_, P>,
        from: usize,
    ) {
        for (i, x) in x.chunks_exact(wide).take(c).enumerate() {
            let (to_lanes, to_rest) = to.row(from + i).as_chunks_mut::<LANES>();
            let (x_lanes, x_rest) = x.as_chunks::<LANES>();
            for (to, x) in to_lanes.iter_mut().zip(x_lanes) {
                for l in 0..LANES {
                    to[l] = P::of(x[l]);
                }
            }
            if !to_rest.is_empty() {
                let rest = x_lanes[to_lanes.len()];
                for (to, x) in to_rest.iter_mut().zip(rest) {
                    *to = P::of(x);
                }
            }
            debug_assert!(x_rest.is_empty());
        }
    }
);

leveled!(
    /// `to = diag(factors) · from`, rows of `width` (whole lanes), as many as there are factors.
    fn scale_rows<const FMA: bool, const ROWS: usize>(
        factors: &[f32],
        from: &[f32],
        to: &mut [f32],
        width: usize,
    ) {
        let rows = from.chunks_exact(width).zip(to.chunks_exact_mut(width));
        for (factor, (from, to)) in factors.iter().zip(rows) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = factor * from;
            }
        }
    }
);

/// A sum over the keys of a chunk for every position, and rows that are added to others: matrices
/// `[K, C]` with rows of `stride`.
pub(crate) struct Columns<'a> {
    /// Positions, whole lanes.
    pub(crate) width: usize,
    pub(crate) stride: usize,
    /// Queries or keys.
    pub(crate) left: &'a [f32],
    /// What one state contributes to their gradient, not weighted yet.
    pub(crate) right: &'a [f32],
    /// One weight for each position.
    pub(crate) factors: &'a [f32],
}

leveled!(
    /// `sums[j] = Σ_k left[k, j] · right[k, j]` and `out[k, j] += factors[j] · right[k, j]`.
    fn dot_columns<const FMA: bool, const ROWS: usize>(
        x: &Columns<'_>,
        out: &mut [f32],
        sums: &mut [f32],
    ) {
        for j in (0..x.width).step_by(LANES) {
            let factor = *lanes(x.factors, j);
            let mut sum = [0f32; LANES];
            for at in (j..x.left.len()).step_by(x.stride) {
                let (left, right, out) =
                    (lanes(x.left, at), lanes(x.right, at), lanes_mut(out, at));
                for l in 0..LANES {
                    sum[l] = multiply_add::<FMA>(left[l], right[l], sum[l]);
                    out[l] = multiply_add::<FMA>(factor[l], right[l], out[l]);
                }
            }
            *lanes_mut(sums, j) = sum;
        }
    }
);

leveled!(
    /// `Σ x · y`, over whole lanes.
    fn dot<const FMA: bool, const ROWS: usize>(x: &[f32], y: &[f32]) -> f32 {
        let mut sums = [[0f32; LANES]; 4];
        for (at, i) in (0..x.len()).step_by(LANES).zip((0..4).cycle()) {
            let (x, y) = (lanes(x, at), lanes(y, at));
            for l in 0..LANES {
                sums[i][l] = multiply_add::<FMA>(x[l], y[l], sums[i][l]);
            }
        }
        sum(&sums[0]) + sum(&sums[1]) + (sum(&sums[2]) + sum(&sums[3]))
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_cover_a_tensor_once() {
        let (b, t, h, width) = (2, 3, 4, 5);
        let mut data = vec![0f32; b * t * h * width];
        for (i, mut rows) in RowsMut::split(&mut data, [t, h, width])
            .into_iter()
            .enumerate()
        {
            for row in 0..t {
                rows.row(row)
                    .iter_mut()
                    .for_each(|x| *x += (i * t + row + 1) as f32);
            }
        }
        for head in 0..b * h {
            let rows = Rows::of_head(&data, [t, h, width], head);
            for row in 0..t {
                assert_eq!(rows.row(row), [(head * t + row + 1) as f32; 5]);
            }
        }
    }
}
