//! Gradients of one head. Weights are computed again from the sums that forward saved.
//!
//! ```text
//! P  = exp(q kᵀ / √K − sums)        dP = do vᵀ        dS = P ⊙ (dP − Σ do ⊙ o)
//! dv = Pᵀ do        dq = dS k / √K        dk = dSᵀ q / √K
//! ```

use super::block::{Head, KEYS, QUERIES, Sizes, Turned, add_product, gather_scaled};
use crate::cpu::exp::exp;
use crate::cpu::product::Left;
use crate::cpu::rows::{Rows, RowsMut, dot, gather, scale_rows, scatter};
use crate::cpu::simd::{LANES, Level, leveled, padded};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Gradients of one head's rows.
pub(super) struct HeadGrads<'a> {
    pub(super) q: RowsMut<'a>,
    pub(super) k: RowsMut<'a>,
    pub(super) v: RowsMut<'a>,
}

impl HeadGrads<'_> {
    /// Zeros for keys and values that nothing sees.
    pub(super) fn unseen(&mut self, keys: Range<usize>) {
        for t in keys {
            self.k.row(t).fill(MaybeUninit::new(0.0));
            self.v.row(t).fill(MaybeUninit::new(0.0));
        }
    }
}

/// Scratch memory of one thread; rows are whole lanes.
pub(super) struct Backward {
    level: Level,
    sizes: Sizes,
    keys: Turned,
    values: Turned,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
    gathered: Vec<f32>,
    q: Vec<f32>,
    d_q: Vec<f32>,
    o: Vec<f32>,
    d_o: Vec<f32>,
    /// Scores, then weights, `[QUERIES, KEYS]`.
    weights: Vec<f32>,
    /// Gradients of the weights, then of the scores.
    d_scores: Vec<f32>,
}

impl Backward {
    pub(super) fn new(level: Level, sizes: Sizes) -> Self {
        let (keys, values) = (padded(sizes.k), padded(sizes.v));
        let zeros = |len| vec![0f32; len];
        Backward {
            level,
            sizes,
            keys: Turned::new(&sizes, sizes.k),
            values: Turned::new(&sizes, sizes.v),
            d_k: zeros(sizes.total * keys),
            d_v: zeros(sizes.total * values),
            gathered: zeros(QUERIES * keys),
            q: zeros(QUERIES * keys),
            d_q: zeros(QUERIES * keys),
            o: zeros(QUERIES * values),
            d_o: zeros(QUERIES * values),
            weights: zeros(QUERIES * KEYS),
            d_scores: zeros(QUERIES * KEYS),
        }
    }

    /// Writes all gradients of one document. `places` are those of its queries and keys.
    pub(super) fn run(
        &mut self,
        head: &Head<'_>,
        places: [Range<usize>; 2],
        outputs: [Rows<'_>; 2],
        sums: &[f32],
        grads: &mut HeadGrads<'_>,
    ) {
        let (level, sizes) = (self.level, self.sizes.of(&places));
        let [start, first_key] = places.each_ref().map(|place| place.start);
        let [o, d_o] = outputs.map(|rows| rows.part(places[0].clone()));
        let (sums, head) = (&sums[places[0].clone()], &head.part(places));
        let (keys, values) = (padded(sizes.k), padded(sizes.v));
        self.keys.load(level, &sizes, head.k);
        self.values.load(level, &sizes, head.v);
        self.d_k[..sizes.total * keys].fill(0.0);
        self.d_v[..sizes.total * values].fill(0.0);
        for (first, m) in sizes.query_blocks() {
            let to = [&mut self.gathered[..], &mut self.q[..]];
            gather_scaled(level, head.q, first, m, sizes.scale(), to);
            gather(level, o, first, m, &mut self.o, values);
            gather(level, d_o, first, m, &mut self.d_o, values);
            let mut shared = [[0f32; 2]; QUERIES];
            for (i, shared) in shared.iter_mut().enumerate().take(m) {
                let row = i * values..(i + 1) * values;
                let through = dot(level, &self.o[row.clone()], &self.d_o[row]);
                *shared = [sums[first + i], through];
            }
            self.d_q.fill(0.0);
            for (from, n) in sizes.blocks_seen(first, m) {
                self.keys
                    .scores(level, &self.q, m, [from, n], &mut self.weights);
                self.values
                    .scores(level, &self.d_o, m, [from, n], &mut self.d_scores);
                let seen = [sizes.seen(first), from, sizes.window];
                let block = [&mut self.weights[..], &mut self.d_scores[..]];
                through_softmax(level, [m, n], seen, &shared, block);
                let left = Left::transposed(&self.weights, KEYS);
                let d_v = &mut self.d_v[from * values..];
                add_product(level, [n, values, m], left, &self.d_o, d_v);
                let left = Left::transposed(&self.d_scores, KEYS);
                let d_k = &mut self.d_k[from * keys..];
                add_product(level, [n, keys, m], left, &self.q, d_k);
                let left = Left::rows(&self.d_scores, KEYS);
                let k = &self.keys.rows[from * keys..];
                add_product(level, [m, keys, n], left, k, &mut self.d_q);
            }
            let factors = [sizes.scale(); QUERIES];
            scale_rows(level, &factors[..m], &self.d_q, &mut self.gathered, keys);
            scatter(level, &self.gathered, keys, m, &mut grads.q, start + first);
        }
        scatter(level, &self.d_k, keys, sizes.total, &mut grads.k, first_key);
        scatter(
            level,
            &self.d_v,
            values,
            sizes.total,
            &mut grads.v,
            first_key,
        );
    }
}

leveled!(
    /// Scores of `m` rows with `n` keys to weights, and gradients of the weights to those of the scores:
    /// zeros where a row does not see the key. Of all keys, the first row sees the last `window` of the first
    /// `seen`, and each next one key more; these begin with key `from`. Of every row the sum of weights, as a
    /// logarithm, and `Σ do ⊙ o`.
    fn through_softmax<const FMA: bool, const ROWS: usize>(
        size: [usize; 2],
        seen: [usize; 3],
        rows: &[[f32; 2]; QUERIES],
        block: [&mut [f32]; 2],
    ) {
        let ([m, n], [seen, from, window], [weights, d_scores]) = (size, seen, block);
        let block = weights
            .chunks_exact_mut(KEYS)
            .zip(d_scores.chunks_exact_mut(KEYS));
        for (i, ((weights, d_scores), [sums, through])) in block.zip(rows).take(m).enumerate() {
            let (weights, d_scores) = (&mut weights[..padded(n)], &mut d_scores[..padded(n)]);
            let hidden = (seen + i).saturating_sub(window);
            let [hidden, seen] = [hidden, seen + i].map(|key| key.saturating_sub(from).min(n));
            for unseen in [0..hidden, seen..weights.len()] {
                weights[unseen.clone()].fill(f32::NEG_INFINITY);
                d_scores[unseen].fill(0.0);
            }
            let (weights, _) = weights.as_chunks_mut::<LANES>();
            let (d_scores, _) = d_scores.as_chunks_mut::<LANES>();
            for (weights, d_scores) in weights.iter_mut().zip(d_scores) {
                for l in 0..LANES {
                    weights[l] = exp::<FMA>(weights[l] - sums);
                    d_scores[l] = weights[l] * (d_scores[l] - through);
                }
            }
        }
    }
);
