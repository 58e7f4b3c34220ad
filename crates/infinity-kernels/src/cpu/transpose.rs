//! The transpose of a small matrix, block by block in registers.
//!
//! Written as loops over arrays, like everything else here, it becomes scalar moves: a twentieth of
//! the kernel's time. So the exchange inside a block names its instructions where they are known.

use crate::cpu::simd::{Kind, LANES, Level};

/// Rows and columns of a block.
const SIDE: usize = 8;

type Block = [[f32; SIDE]; SIDE];

/// `to[j, i] = from[i, j]` for `size` rows and columns of `from`; rows of `to` are filled up with
/// zeros to whole lanes.
pub(crate) fn transpose(
    level: Level,
    size: [usize; 2],
    from: &[f32],
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    match level.kind() {
        Kind::Portable => blocks(size, from, from_stride, to, to_stride, turn),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level of these kinds exists only where AVX2 was detected.
        Kind::Avx2 | Kind::Avx512 => unsafe {
            avx2::transpose(size, from, from_stride, to, to_stride);
        },
    }
}

/// All blocks of a matrix, each turned by `turn`.
#[inline(always)]
fn blocks(
    [rows, columns]: [usize; 2],
    from: &[f32],
    from_stride: usize,
    to: &mut [f32],
    to_stride: usize,
    turn: impl Fn(&Block) -> Block,
) {
    for i in (0..rows.next_multiple_of(LANES)).step_by(SIDE) {
        let height = SIDE.min(rows.saturating_sub(i));
        for j in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - j);
            let mut block = [[0.0; SIDE]; SIDE];
            if width == SIDE && height == SIDE {
                for (l, row) in block.iter_mut().enumerate() {
                    let at = (i + l) * from_stride + j;
                    row.copy_from_slice(&from[at..at + SIDE]);
                }
            } else {
                for (l, row) in block.iter_mut().enumerate().take(height) {
                    let at = (i + l) * from_stride + j;
                    row[..width].copy_from_slice(&from[at..at + width]);
                }
            }
            let turned = turn(&block);
            for (l, row) in turned.iter().enumerate().take(width) {
                let at = (j + l) * to_stride + i;
                to[at..at + SIDE].copy_from_slice(row);
            }
        }
    }
}

/// The transpose of a block on any machine.
fn turn(block: &Block) -> Block {
    std::array::from_fn(|j| std::array::from_fn(|i| block[i][j]))
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Block, SIDE, blocks};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub(crate) fn transpose(
        size: [usize; 2],
        from: &[f32],
        from_stride: usize,
        to: &mut [f32],
        to_stride: usize,
    ) {
        blocks(size, from, from_stride, to, to_stride, |block| turn(block));
    }

    /// The transpose of a block: pairs of rows, then of pairs, then of halves are interleaved.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn turn(block: &Block) -> Block {
        // SAFETY: a row is eight values.
        let rows = block.map(|row| unsafe { _mm256_loadu_ps(row.as_ptr()) });
        let mut pairs = rows;
        let mut fours = rows;
        let mut turned = [[0.0; SIDE]; SIDE];
        for i in 0..SIDE / 2 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for half in [0, 4] {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| pairs[half + i]);
            fours[half] = _mm256_shuffle_ps::<0x44>(a, c);
            fours[half + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            fours[half + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            fours[half + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..SIDE / 2 {
            let upper = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let lower = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            // SAFETY: a row is eight values.
            unsafe {
                _mm256_storeu_ps(turned[i].as_mut_ptr(), upper);
                _mm256_storeu_ps(turned[i + 4].as_mut_ptr(), lower);
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::padded;

    #[test]
    fn transposes_of_any_size() {
        for (rows, columns) in [(1, 1), (16, 16), (33, 17), (5, 40), (64, 48)] {
            let from: Vec<f32> = (0..rows * columns).map(|x| x as f32 + 1.0).collect();
            let wide = padded(rows);
            for level in Level::available() {
                let mut to = vec![-1f32; columns * wide];
                transpose(level, [rows, columns], &from, columns, &mut to, wide);
                for (j, i) in (0..columns).flat_map(|j| (0..wide).map(move |i| (j, i))) {
                    let want = if i < rows { from[i * columns + j] } else { 0.0 };
                    assert_eq!(to[j * wide + i], want, "{level:?} [{j}, {i}]");
                }
            }
        }
    }
}
