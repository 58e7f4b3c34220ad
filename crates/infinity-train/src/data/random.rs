//! Random numbers and orders without a generator's state: the answer depends on the question only.

/// Hash of a few numbers to 64 well-mixed bits (the finaliser of SplitMix64, chained).
pub(super) fn mix(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, part| {
        let mut z = (hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// Maps 64 random bits to `0..n` (multiply and keep the high half; the bias is below n / 2⁶⁴).
pub(super) fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

/// Random numbers, one after the other.
pub(super) struct Chance {
    key: u64,
    drawn: u64,
}

impl Chance {
    /// The numbers named by `key`.
    pub(super) fn new(key: u64) -> Self {
        Self { key, drawn: 0 }
    }

    /// The next one, below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        below(mix(&[self.key, self.drawn]), n as u64) as usize
    }

    /// One of `all`.
    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// `count` different numbers below `n`, in random order.
    pub(super) fn distinct(&mut self, count: usize, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in 0..count {
            let other = i + self.below(n - i);
            all.swap(i, other);
        }
        all.truncate(count);
        all
    }
}

/// A random order of `0..n` that can be asked for any place of it.
///
/// Four Feistel rounds permute the numbers of `2 · half_bits` bits; results outside `0..n` are
/// permuted again until they fall inside (cycle walking, fewer than four times on average).
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 4],
}

impl Permutation {
    /// The order named by `key` of `n` things.
    pub(super) fn new(n: u64, key: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        Self {
            n,
            half_bits,
            keys: [0, 1, 2, 3].map(|round| mix(&[key, round])),
        }
    }

    /// What stands at `place`, which must be below `n`.
    pub(super) fn at(&self, place: u64) -> u64 {
        debug_assert!(place < self.n, "place {place} of {}", self.n);
        let mut value = place;
        loop {
            value = self.shuffle(value);
            if value < self.n {
                return value;
            }
        }
    }

    fn shuffle(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(&[key, right]) & mask));
        }
        (left << self.half_bits) | right
    }
}
