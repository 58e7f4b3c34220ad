//! One head's rows of a tensor `[B, T, H, X]`: `T` rows that lie `H · X` apart.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// One head's rows, to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    /// The head's first row.
    first: *const f32,
    step: usize,
    width: usize,
    len: usize,
    owner: PhantomData<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// Rows of head `head` (of `B · H`) in a tensor `[B, T, H, width]`.
    pub(super) fn of_head(data: &'a [f32], [t, h, width]: [usize; 3], head: usize) -> Self {
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

    /// Row `t`.
    #[inline(always)]
    pub(super) fn row(&self, t: usize) -> &'a [f32] {
        assert!(t < self.len);
        // SAFETY: row `t` lies inside what was given to `of_head`, or inside a head's rows of a
        // `RowsMut`, and is borrowed for `'a`.
        unsafe { std::slice::from_raw_parts(self.first.add(t * self.step), self.width) }
    }
}

/// What a row to write consists of: values, or places that hold none yet.
pub(super) trait Place: Copy + Send {
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
pub(super) struct RowsMut<'a, P = MaybeUninit<f32>> {
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
    pub(super) fn split(data: &'a mut [P], [t, h, width]: [usize; 3]) -> Vec<Self> {
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
    pub(super) fn row(&mut self, t: usize) -> &mut [P] {
        assert!(t < self.len);
        // SAFETY: row `t` of this head lies inside the slice given to `split`, which is borrowed
        // for `'a`; rows of different heads do not overlap, and `&mut self` guards this head's.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(t * self.step), self.width) }
    }
}

impl RowsMut<'_, f32> {
    /// The rows as they are now.
    pub(super) fn as_rows(&self) -> Rows<'_> {
        Rows {
            first: self.first,
            step: self.step,
            width: self.width,
            len: self.len,
            owner: PhantomData,
        }
    }
}

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
