//! Matrix products of factors rounded to bf16, with sums in f32, for processors that multiply such pairs (AVX512-BF16:
//! `vdpbf16ps`): twice as many products a cycle as in f32.
//!
//! Values are rounded as they are packed, two that follow each other along the sum in 32 bits. Tiles of the result stay in
//! registers. A value is summed up in an order that depends on the sizes alone, so that any number of threads gives the
//! same bits. Numbers below the smallest normal one count as zero, as the instruction has it.

use crate::cpu::product::Left;
use crate::cpu::results::in_unwritten_pieces;
use crate::cpu::simd::{Level, leveled};
use burn::tensor::bf16;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Rows and columns of a tile of the result: all but a few registers.
const TILE: [usize; 2] = [12, 32];
/// Pairs along the sum until a tile goes back to memory: as many of a tile's columns fit into a first-level cache.
const DEPTH: usize = 256;
/// Most rows of a thread's piece of work.
const ROWS: usize = 96;
/// Numbers of the right factor that are packed at once, and stay in the last-level cache.
const PACKED: usize = 1 << 20;

/// A number that bf16 holds or is rounded to.
pub(crate) trait ToBf16: Copy + Sync {
    /// The 16 bits of the nearest bf16, ties to even.
    fn bits(self) -> u32;
}

impl ToBf16 for f32 {
    #[inline(always)]
    fn bits(self) -> u32 {
        let bits = self.to_bits();
        let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        match self.is_nan() {
            true => (bits >> 16) | 0x40,
            false => nearest,
        }
    }
}

impl ToBf16 for bf16 {
    #[inline(always)]
    fn bits(self) -> u32 {
        u32::from(self.to_bits())
    }
}

#[inline(always)]
fn pair<T: ToBf16>(first: T, second: T) -> u32 {
    first.bits() | (second.bits() << 16)
}

/// A factor on the left, `[rows, depth]`, in pairs of rounded values.
pub(crate) struct Rounded {
    pairs: Vec<u32>,
    rows: usize,
    depth: usize,
    /// Whether the values of a tile's rows lie together, as they do where columns were stored; else rows do.
    in_tiles: bool,
}

leveled!(
    /// Rows of `depth` values, `stride` apart, to rows of pairs.
    fn pack_rows<const FMA: bool, const N: usize, T: ToBf16>(
        x: &[T],
        stride: usize,
        depth: usize,
        to: &mut [MaybeUninit<u32>],
    ) {
        let to = to.chunks_exact_mut(depth.div_ceil(2));
        for (x, to) in x.chunks(stride).zip(to) {
            let (twos, rest) = x[..depth].as_chunks::<2>();
            for ([first, second], to) in twos.iter().zip(&mut *to) {
                to.write(pair(*first, *second));
            }
            if let ([last], Some(to)) = (rest, to.last_mut()) {
                to.write(last.bits());
            }
        }
    }
);

leveled!(
    /// `W` columns or fewer of rows of `stride`, which are `depth`, to pairs of `W` rows, filled up with zeros.
    fn pack_between_rows<const FMA: bool, const N: usize, T: ToBf16, const W: usize>(
        x: &[T],
        stride: usize,
        size: [usize; 2],
        to: &mut [MaybeUninit<u32>],
    ) {
        let [width, depth] = size;
        let (to, _) = to.as_chunks_mut::<W>();
        for (p, to) in to.iter_mut().enumerate() {
            let first = &x[2 * p * stride..][..width];
            let second = match 2 * p + 1 < depth {
                true => &x[(2 * p + 1) * stride..][..width],
                false => &[],
            };
            match (<&[T; W]>::try_from(first), <&[T; W]>::try_from(second)) {
                (Ok(first), Ok(second)) => {
                    for (to, (first, second)) in to.iter_mut().zip(first.iter().zip(second)) {
                        to.write(pair(*first, *second));
                    }
                }
                _ => {
                    for (c, to) in to.iter_mut().enumerate() {
                        let first = first.get(c).map_or(0, |x| x.bits());
                        to.write(first | (second.get(c).map_or(0, |x| x.bits()) << 16));
                    }
                }
            }
        }
    }
);

leveled!(
    /// `width` columns that are stored as rows of `stride`, each `depth` values, to pairs of a tile's columns.
    fn pack_along_rows<const FMA: bool, const N: usize, T: ToBf16>(
        x: &[T],
        stride: usize,
        size: [usize; 2],
        to: &mut [MaybeUninit<u32>],
    ) {
        const SOME: usize = 16;
        let [width, depth] = size;
        let (to, _) = to.as_chunks_mut::<{ TILE[1] }>();
        for (at, to) in to.chunks_mut(SOME).enumerate() {
            for c in 0..TILE[1] {
                let column = match c < width {
                    true => &x[c * stride..][..depth][2 * SOME * at..],
                    false => &[],
                };
                let mut some = [0; SOME];
                match column.first_chunk::<{ 2 * SOME }>() {
                    Some(column) => {
                        for (some, [first, second]) in some.iter_mut().zip(column.as_chunks().0) {
                            *some = pair(*first, *second);
                        }
                    }
                    None => {
                        for (some, two) in some.iter_mut().zip(column.chunks(2)) {
                            *some = two.iter().rev().fold(0, |bits, x| (bits << 16) | x.bits());
                        }
                    }
                }
                for (to, some) in to.iter_mut().zip(some) {
                    to[c].write(some);
                }
            }
        }
    }
);

impl Rounded {
    /// `x` `[rows, depth]`, of which rows or columns lie together.
    /// Panics if neither do, or `x` is smaller than its size says.
    pub(crate) fn new<T: ToBf16>(level: Level, [rows, depth]: [usize; 2], x: Left<'_, T>) -> Self {
        assert!(rows * depth == 0 || (rows - 1) * x.row + (depth - 1) * x.col < x.data.len());
        let pairs = depth.div_ceil(2);
        let (len, some, stride) = match x.col {
            1 => (rows * pairs, ROWS, x.row),
            _ => {
                assert_eq!(x.row, 1, "neither rows nor columns lie together");
                (rows.next_multiple_of(TILE[0]) * pairs, TILE[0], x.col)
            }
        };
        let write = |i, [to]: [&mut [MaybeUninit<u32>]; 1]| {
            let first = i * some;
            if x.col == 1 {
                return pack_rows(level, &x.data[first * stride..], stride, depth, to);
            }
            let (x, size) = (&x.data[first..], [some.min(rows - first), depth]);
            pack_between_rows::<_, { TILE[0] }>(level, x, stride, size, to);
        };
        // SAFETY: a pair is written for each of the pairs of every row, and in tiles with zeros where there are no rows.
        let [pairs] = unsafe { in_unwritten_pieces([len], [some * pairs], write) };
        Rounded {
            pairs,
            rows,
            depth,
            in_tiles: x.col != 1,
        }
    }

    /// `self · right` for `right` `[depth, n]`, of which rows or columns lie together; `rounds` has the result in bf16 too.
    /// Panics if sizes do not agree, or the level does not multiply in bf16.
    pub(crate) fn product<T: ToBf16>(
        &self,
        level: Level,
        n: usize,
        right: Left<'_, T>,
        rounds: bool,
    ) -> Vec<f32> {
        let mut out = Box::new_uninit_slice(self.rows * n);
        self.multiply(level, n, right, &mut out, [false, rounds]);
        // SAFETY: the product was written to all of it.
        unsafe { out.assume_init() }.into_vec()
    }

    /// Adds [`product`](Self::product) to `out`, or makes it of that where it is empty, and perhaps rounds the sum.
    /// Panics as there.
    pub(crate) fn add_product<T: ToBf16>(
        &self,
        level: Level,
        n: usize,
        right: Left<'_, T>,
        out: &mut Vec<f32>,
        rounds: bool,
    ) {
        if out.is_empty() {
            *out = self.product(level, n, right, rounds);
            return;
        }
        let (start, len) = (out.as_mut_ptr().cast::<MaybeUninit<f32>>(), out.len());
        // SAFETY: a number may be one that is perhaps unwritten, and `multiply` writes nothing but numbers.
        let out = unsafe { std::slice::from_raw_parts_mut(start, len) };
        self.multiply(level, n, right, out, [true, rounds]);
    }

    /// Writes the product to `out`, `[rows, n]`, or adds it to what is there: `adds` wants all of it written.
    fn multiply<T: ToBf16>(
        &self,
        level: Level,
        n: usize,
        right: Left<'_, T>,
        out: &mut [MaybeUninit<f32>],
        [adds, rounds]: [bool; 2],
    ) {
        assert!(level.multiplies_bf16() && self.depth > 0);
        assert_eq!(out.len(), self.rows * n);
        let pairs = self.depth.div_ceil(2);
        let size = TILE[1] * pairs;
        let at_once = (PACKED / self.depth).next_multiple_of(TILE[1]);
        let block = (self.rows / 8)
            .next_multiple_of(TILE[0])
            .clamp(TILE[0], ROWS);
        for start in (0..n).step_by(at_once) {
            let columns = at_once.min(n - start);
            let write = |j, [to]: [&mut [MaybeUninit<u32>]; 1]| {
                let (from, width) = (start + j * TILE[1], TILE[1].min(columns - j * TILE[1]));
                let (x, size) = (&right.data[from * right.col..], [width, self.depth]);
                match right.col {
                    1 => pack_between_rows::<_, { TILE[1] }>(level, x, right.row, size, to),
                    _ => {
                        assert_eq!(right.row, 1, "neither rows nor columns lie together");
                        pack_along_rows(level, x, right.col, size, to);
                    }
                }
            };
            let len = columns.div_ceil(TILE[1]) * size;
            // SAFETY: each tile is written, with zeros where it has no columns.
            let [packed] = unsafe { in_unwritten_pieces([len], [size], write) };
            let blocks = out.par_chunks_mut(block * n).enumerate();
            blocks.for_each(|(b, out)| {
                for first in (0..pairs).step_by(DEPTH) {
                    let last = pairs.min(first + DEPTH);
                    for (j, packed) in packed.chunks_exact(size).enumerate() {
                        let at = start + j * TILE[1];
                        let columns = TILE[1].min(start + columns - at);
                        for (i, out) in out.chunks_mut(TILE[0] * n).enumerate() {
                            let row = b * block + i * TILE[0];
                            let (start, to_row, to_pair) = match self.in_tiles {
                                true => (row * pairs + first * TILE[0], 1, TILE[0]),
                                false => (row * pairs + first, pairs, 1),
                            };
                            let tile = Tile {
                                left: &self.pairs[start..],
                                rows: TILE[0].min(self.rows - row),
                                to_row,
                                to_pair,
                                right: &packed[first * TILE[1]..last * TILE[1]],
                                pairs: last - first,
                                out: &mut out[at..],
                                stride: n,
                                columns,
                                adds: adds || first > 0,
                                rounds: rounds && last == pairs,
                            };
                            tile.multiply();
                        }
                    }
                }
            });
        }
    }
}

/// A part of the sums of a tile of the result.
struct Tile<'a> {
    /// Rows of the left factor, from the first of these pairs on.
    left: &'a [u32],
    rows: usize,
    /// From one row to the next, and from one pair to the next.
    to_row: usize,
    to_pair: usize,
    right: &'a [u32],
    pairs: usize,
    out: &'a mut [MaybeUninit<f32>],
    stride: usize,
    columns: usize,
    adds: bool,
    rounds: bool,
}

impl Tile<'_> {
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn multiply(self) {
        let last = self.rows - 1;
        assert!(last * self.to_row + (self.pairs - 1) * self.to_pair < self.left.len());
        assert!(self.right.len() == self.pairs * TILE[1] && self.columns <= TILE[1]);
        assert!(last * self.stride + self.columns <= self.out.len());
        // SAFETY: `times` has seen that the machine has the instructions, and everything that is read or written lies in
        // its slice, as was just seen.
        unsafe {
            match self.to_pair {
                1 => x86::tile::<1>(self),
                _ => x86::tile::<{ TILE[0] }>(self),
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn multiply(self) {
        unreachable!("no level of this architecture multiplies in bf16");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{TILE, Tile};
    use crate::cpu::simd::LANES;
    use std::arch::x86_64::*;
    use std::array::from_fn;
    use std::mem::transmute;

    const VECTORS: usize = TILE[1] / LANES;

    /// # Safety
    ///
    /// The slices must hold what the tile says, from one pair of a row to the next it must be `PAIR`, and the machine must
    /// have the instructions.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512bf16")]
    pub(super) unsafe fn tile<const PAIR: usize>(tile: Tile<'_>) {
        let rows = tile.rows;
        // Rows that are not there read the last one again, and their sums go nowhere.
        let place = |r: usize| r.min(rows - 1);
        // SAFETY: the first pairs of the rows that there are lie in the slice.
        let left: [*const u32; TILE[0]] =
            from_fn(|r| unsafe { tile.left.as_ptr().add(place(r) * tile.to_row) });
        let out = tile.out.as_mut_ptr().cast::<f32>();
        let masks: [__mmask16; VECTORS] = from_fn(|v| {
            let here = tile.columns.saturating_sub(v * LANES).min(LANES);
            ((1u32 << here) - 1) as __mmask16
        });
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE[0]];
        if tile.adds {
            for (r, sums) in sums.iter_mut().enumerate().take(rows) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the masked columns of a row that is there lie in the result, and were written.
                    *sum = unsafe {
                        let from = out.wrapping_add(r * tile.stride + v * LANES);
                        _mm512_maskz_loadu_ps(masks[v], from)
                    };
                }
            }
        }
        let mut right = tile.right.as_ptr();
        for p in 0..tile.pairs {
            // SAFETY: a pair of each of a tile's columns lies there, and of each row.
            unsafe {
                let columns: [__m512i; VECTORS] =
                    from_fn(|v| _mm512_loadu_si512(right.add(v * LANES).cast()));
                for r in 0..TILE[0] {
                    let row = _mm512_set1_epi32((*left[r].add(p * PAIR)).cast_signed());
                    let row: __m512bh = transmute(row);
                    for v in 0..VECTORS {
                        let column: __m512bh = transmute(columns[v]);
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], row, column);
                    }
                }
                right = right.add(TILE[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate().take(rows) {
            for (v, sum) in sums.iter().enumerate() {
                let mut sum = *sum;
                if tile.rounds {
                    // SAFETY: both are 16 numbers of 16 bits.
                    let short: __m256i = unsafe { transmute(_mm512_cvtneps_pbh(sum)) };
                    sum =
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(short)));
                }
                // SAFETY: the masked columns of a row that is there lie in the result.
                unsafe {
                    let to = out.wrapping_add(r * tile.stride + v * LANES);
                    _mm512_mask_storeu_ps(to, masks[v], sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    /// A level that multiplies in bf16, if the machine has one.
    fn native() -> Option<Level> {
        Level::available()
            .into_iter()
            .find(|level| level.multiplies_bf16())
    }

    fn random(seed: u64, len: usize) -> Vec<f32> {
        let values = Random(seed).values(len, -1.0, 1.0);
        values.into_iter().map(|x| x as f32).collect()
    }

    fn at<T: ToBf16>(x: Left<'_, T>, i: usize, j: usize) -> f64 {
        f64::from(f32::from_bits(x.data[i * x.row + j * x.col].bits() << 16))
    }

    /// On any machine: pairs lie row by row, or in tiles where columns were stored.
    #[test]
    fn factors_are_packed_where_a_tile_looks_for_them() {
        for [rows, depth, apart] in [[1, 1, 0], [13, 5, 0], [200, 9, 3], [97, 4, 1], [24, 31, 0]] {
            let values = random(1, (rows + apart) * (depth + apart));
            let pairs = depth.div_ceil(2);
            for in_tiles in [false, true] {
                let left = match in_tiles {
                    false => Left::rows(&values, depth + apart),
                    true => Left::transposed(&values, rows + apart),
                };
                let of = |i: usize, j: usize| match j < depth {
                    true => values[i * left.row + j * left.col].bits(),
                    false => 0,
                };
                for level in Level::available() {
                    let factor = Rounded::new(level, [rows, depth], left);
                    for (i, p) in (0..rows).flat_map(|i| (0..pairs).map(move |p| (i, p))) {
                        let tile = i / TILE[0] * TILE[0];
                        let place = match factor.in_tiles {
                            true => tile * pairs + p * TILE[0] + i - tile,
                            false => i * pairs + p,
                        };
                        let want = of(i, 2 * p) | (of(i, 2 * p + 1) << 16);
                        assert_eq!(factor.pairs[place], want, "{rows} {depth} [{i}, {p}]");
                    }
                }
            }
        }
    }

    const SIZES: [[usize; 3]; 7] = [
        [1, 1, 1],
        [13, 33, 5],
        [12, 32, 512],
        [25, 65, 515],
        [200, 66, 130],
        [96, 31, 1_100],
        [40, 1_500, 900],
    ];

    /// Factors stored both ways, sizes that fill no tile, sums of more than one part.
    #[test]
    fn products_are_those_of_the_rounded_factors() {
        let Some(level) = native() else { return };
        for [m, n, k] in SIZES {
            let (left, right) = (random(1, m * k), random(2, k * n));
            let halves: Vec<bf16> = right.iter().map(|x| bf16::from_f32(*x)).collect();
            for stored in 0..4 {
                let left = match stored & 1 {
                    0 => Left::rows(&left, k),
                    _ => Left::transposed(&left, m),
                };
                let (right, halves) = match stored & 2 {
                    0 => (Left::rows(&right, n), Left::rows(&halves, n)),
                    _ => (Left::transposed(&right, k), Left::transposed(&halves, k)),
                };
                let factor = Rounded::new(level, [m, k], left);
                let got = factor.product(level, n, right, false);
                assert_eq!(
                    factor.product(level, n, halves, false),
                    got,
                    "of stored halves"
                );
                let rounded = factor.product(level, n, right, true);
                let mut twice = Vec::new();
                for _ in 0..2 {
                    factor.add_product(level, n, right, &mut twice, false);
                }
                let mut far = 0f64;
                for (place, got) in got.iter().enumerate() {
                    let (i, j) = (place / n, place % n);
                    let terms = (0..k).map(|p| at(left, i, p) * at(right, p, j));
                    let want: f64 = terms.sum();
                    let error = (f64::from(*got) - want).abs();
                    assert!(error < 1e-4, "[{m}, {n}, {k}] {stored} [{i}, {j}]: {error}");
                    let error = (f64::from(twice[place]) - 2.0 * want).abs();
                    assert!(error < 2e-4, "twice [{i}, {j}]: {error}");
                    assert_eq!(rounded[place].to_bits() >> 16, got.bits());
                    assert_eq!(rounded[place].to_bits() << 16, 0);
                    let exact: f64 = (0..k)
                        .map(|p| {
                            let left = left.data[i * left.row + p * left.col];
                            f64::from(left) * f64::from(right.data[p * right.row + j * right.col])
                        })
                        .sum();
                    far = far.max((exact - want).abs());
                }
                assert!(
                    k == 1 || far > 1e-4,
                    "[{m}, {n}, {k}]: factors that are not rounded are seen"
                );
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let Some(level) = native() else { return };
        for [m, n, k] in SIZES {
            let (left, right) = (random(3, m * k), random(4, k * n));
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let run = || {
                    let factor = Rounded::new(level, [m, k], Left::rows(&left, k));
                    factor.product(level, n, Left::rows(&right, n), true)
                };
                pool.expect("threads").install(run)
            };
            let one = with(1);
            assert!([2, 3, 5].iter().all(|n| with(*n) == one), "[{m}, {n}, {k}]");
        }
    }

    #[test]
    fn numbers_round_to_the_nearest_and_none_stays_none() {
        for x in [
            0.0,
            1.0,
            1.0 + 1.0 / 256.0,
            1.003_906_4,
            -3.7,
            3.4e38,
            f32::MIN_POSITIVE,
        ] {
            assert_eq!(x.bits(), u32::from(bf16::from_f32(x).to_bits()), "{x}");
        }
        assert!(f32::from_bits(f32::from_bits(0x7f80_0001).bits() << 16).is_nan());
    }
}
