//! Which vector instructions the kernel may use, found once at run time.
//!
//! The loops are plain Rust over arrays of [`LANES`] values. Each is compiled once per level, with
//! that level's instructions switched on, and the compiler turns the arrays into registers.

use std::env;
use std::sync::LazyLock;

/// Values side by side in the innermost loops: one AVX-512 register, two of AVX2, four of NEON.
pub(crate) const LANES: usize = 16;

/// `LANES` values.
pub(crate) type Lanes = [f32; LANES];

/// `x` rounded up to whole lanes.
pub(crate) const fn padded(x: usize) -> usize {
    x.div_ceil(LANES) * LANES
}

/// Instructions of this machine. Only [`Level::available`] makes one, and only for instructions that it
/// found: that is what the `unsafe` calls in [`leveled`] rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What every machine of this architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The environment variable that holds kernels to a lower level than the machine's best: `avx512`, `avx2`
/// or `baseline`, what every machine of the architecture has. For tests and for valgrind.
const LEVEL: &str = "INFINITY_SIMD";

impl Level {
    /// The best level of this machine that [`LEVEL`] allows, found once.
    /// Panics if the variable holds something else.
    pub(crate) fn detect() -> Level {
        static DETECTED: LazyLock<Level> =
            LazyLock::new(|| match Level::at_most(env::var(LEVEL).ok().as_deref()) {
                Ok(level) => level,
                Err(error) => panic!("{error}"),
            });
        *DETECTED
    }

    /// The best level of this machine up to the one called `limit`.
    fn at_most(limit: Option<&str>) -> Result<Level, String> {
        let names = ["baseline", "avx2", "avx512"];
        let limit = limit.unwrap_or("avx512");
        let Some(at) = names.iter().position(|name| *name == limit) else {
            return Err(format!("{LEVEL}={limit}: not one of {}", names.join(", ")));
        };
        let levels = Level::available();
        Ok(levels[at.min(levels.len() - 1)])
    }

    /// Every level of this machine, the best one last.
    pub(crate) fn available() -> Vec<Level> {
        let mut levels = vec![Level(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            levels.push(Level(Kind::Avx2));
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                levels.push(Level(Kind::Avx512));
            }
        }
        levels
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// Whether there are instructions that multiply pairs of bf16: AVX512-BF16.
    pub(crate) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.0 == Kind::Avx512 {
            return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        }
        false
    }
}

/// Whether the portable level has a fused multiply-add; where it has none, `mul_add` is a call.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// `a · b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The lanes of `x` from `at` on.
#[inline(always)]
pub(crate) fn lanes(x: &[f32], at: usize) -> &Lanes {
    x[at..at + LANES]
        .try_into()
        .expect("a slice of that length")
}

/// The lanes of `x` from `at` on, to write.
#[inline(always)]
pub(crate) fn lanes_mut(x: &mut [f32], at: usize) -> &mut Lanes {
    (&mut x[at..at + LANES])
        .try_into()
        .expect("a slice of that length")
}

/// Asks for the cache line of `x` at `at`, which may lie beyond the end: a hint.
#[inline(always)]
pub(crate) fn prefetch<T>(x: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = x.as_ptr().wrapping_add(at).cast::<i8>();
        // SAFETY: every machine of this architecture has the instruction, and it reads no value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, at);
}

/// The sum of all lanes, pairwise.
#[inline(always)]
pub(crate) fn sum(x: &Lanes) -> f32 {
    let mut x = *x;
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            x[l] += x[l + half];
        }
        half /= 2;
    }
    x[0]
}

/// `Σ a · b` over whole slices of the same length.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            sums[l] = multiply_add::<FMA>(a[l], b[l], sums[l]);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sum(&sums) + rest.sum::<f32>()
}

/// Defines `name(level, args)`: the body compiled for every level, the level's one called. It is a function of two
/// constants: whether `mul_add` is one instruction, and how many rows of lanes the registers hold as accumulators: at most
/// eight.
macro_rules! leveled {
    ($(#[$meta:meta])* fn $name:ident<
        const $fma:ident: bool, const $rows:ident: usize$(, $g:ident: $bound:ident)?$(, const $n:ident: usize)?
    >($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$($g: $bound,)? $(const $n: usize)?>(
            level: $crate::cpu::simd::Level,
            $($arg: $type),*
        ) $(-> $result)? {
            use $crate::cpu::simd::{Kind, PORTABLE_FMA};
            #[inline(always)]
            fn body<const $fma: bool, const $rows: usize$(, $g: $bound)?$(, const $n: usize)?>(
                $($arg: $type),*
            ) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($g: $bound,)? $(const $n: usize)?>($($arg: $type),*) $(-> $result)? {
                body::<true, 6 $(, $g)? $(, $n)?>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
            fn avx512<$($g: $bound,)? $(const $n: usize)?>($($arg: $type),*) $(-> $result)? {
                body::<true, 8 $(, $g)? $(, $n)?>($($arg),*)
            }
            match level.kind() {
                Kind::Portable => body::<PORTABLE_FMA, 4 $(, $g)? $(, $n)?>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level of this kind exists only where these instructions were detected.
                Kind::Avx2 => unsafe { avx2::<$($g,)? $($n)?>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Kind::Avx512 => unsafe { avx512::<$($g,)? $($n)?>($($arg),*) },
            }
        }
    };
}
pub(crate) use leveled;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_can_be_held_down() {
        let levels = Level::available();
        assert_eq!(Level::at_most(None), Ok(levels[levels.len() - 1]));
        assert_eq!(Level::at_most(Some("baseline")), Ok(levels[0]));
        let avx2 = levels[1.min(levels.len() - 1)];
        assert_eq!(Level::at_most(Some("avx2")), Ok(avx2));
        let error = Level::at_most(Some("sse")).unwrap_err();
        assert_eq!(
            error,
            "INFINITY_SIMD=sse: not one of baseline, avx2, avx512"
        );
    }
}
