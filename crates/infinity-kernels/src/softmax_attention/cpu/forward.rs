//! Outputs of one head.

use super::block::{Head, KEYS, QUERIES, Sizes, Turned, add_product, gather_scaled};
use crate::cpu::exp::exp;
use crate::cpu::product::Left;
use crate::cpu::rows::{RowsMut, gather, scatter};
use crate::cpu::simd::{LANES, Level, dot, lanes, lanes_mut, leveled, multiply_add, padded, sum};
use std::ops::Range;

/// Scratch memory of one thread.
pub(super) struct Forward {
    level: Level,
    sizes: Sizes,
    keys: Turned,
    /// `[total, padded(V)]`.
    values: Vec<f32>,
    gathered: Vec<f32>,
    q: Vec<f32>,
    /// Scores, then weights, `[QUERIES, KEYS]`.
    scores: Vec<f32>,
    rows: Online,
}

/// Rows of outputs as far as their keys are read.
pub(crate) struct Online {
    /// The largest score of each row.
    highest: [f32; QUERIES],
    /// The sum of its weights, `Σ exp(score − highest)`.
    sums: [f32; QUERIES],
    /// `Σ exp(score − highest) · v`, rows of `wide`.
    o: Vec<f32>,
    wide: usize,
}

impl Forward {
    pub(super) fn new(level: Level, sizes: Sizes) -> Self {
        let (keys, values) = (padded(sizes.k), padded(sizes.v));
        Forward {
            level,
            sizes,
            keys: Turned::new(&sizes, sizes.k),
            values: vec![0.0; sizes.total * values],
            gathered: vec![0.0; QUERIES * keys],
            q: vec![0.0; QUERIES * keys],
            scores: vec![0.0; QUERIES * KEYS],
            rows: Online {
                highest: [0.0; QUERIES],
                sums: [0.0; QUERIES],
                o: vec![0.0; QUERIES * values],
                wide: values,
            },
        }
    }

    /// Writes the rows of `o` of one document, and the logarithm of the sum of weights of each to `sums`. `places` are those of
    /// its queries and keys.
    pub(super) fn run(
        &mut self,
        head: &Head<'_>,
        places: [Range<usize>; 2],
        o: &mut RowsMut<'_>,
        sums: &mut [f32],
    ) {
        let (level, sizes, wide) = (self.level, self.sizes.of(&places), self.rows.wide);
        let (start, head) = (places[0].start, &head.part(places));
        self.keys.load(level, &sizes, head.k);
        gather(level, head.v, 0, sizes.total, &mut self.values, wide);
        for (first, m) in sizes.query_blocks() {
            let to = [&mut self.gathered[..], &mut self.q[..]];
            gather_scaled(level, head.q, first, m, sizes.scale(), to);
            self.rows.begin();
            for (from, n) in sizes.blocks_seen(first, m) {
                self.keys
                    .scores(level, &self.q, m, [from, n], &mut self.scores);
                let seen = [sizes.seen(first), from, sizes.window];
                weigh(level, &mut self.scores, [m, n], seen, &mut self.rows);
                let left = Left::rows(&self.scores, KEYS);
                let values = &self.values[from * wide..];
                add_product(level, [m, wide, n], left, values, &mut self.rows.o);
            }
            finish(level, m, &mut self.rows);
            scatter(level, &self.rows.o, wide, m, o, start + first);
            let rows = self.rows.highest.iter().zip(&self.rows.sums);
            for (to, (highest, sum)) in sums[start + first..][..m].iter_mut().zip(rows) {
                *to = highest + sum.ln();
            }
        }
    }
}

impl Online {
    fn begin(&mut self) {
        self.highest.fill(f32::NEG_INFINITY);
        self.sums.fill(0.0);
        self.o.fill(0.0);
    }
}

leveled!(
    /// Scores of `m` rows with `n` keys to weights, zeros where a row does not see the key: of all keys, the
    /// first row sees the last `window` of the first `seen`, and each next one key more; these begin with key
    /// `from`.
    fn weigh<const FMA: bool, const ROWS: usize>(
        scores: &mut [f32],
        size: [usize; 2],
        seen: [usize; 3],
        rows: &mut Online,
    ) {
        let ([m, n], [seen, from, window]) = (size, seen);
        for (i, scores) in scores.chunks_exact_mut(KEYS).take(m).enumerate() {
            let scores = &mut scores[..padded(n)];
            let hidden = (seen + i).saturating_sub(window);
            let [hidden, seen] = [hidden, seen + i].map(|key| key.saturating_sub(from).min(n));
            scores[..hidden].fill(f32::NEG_INFINITY);
            scores[seen..].fill(f32::NEG_INFINITY);
            let (scores, _) = scores.as_chunks_mut::<LANES>();
            let mut most = [f32::NEG_INFINITY; LANES];
            for scores in scores.iter() {
                for l in 0..LANES {
                    most[l] = if scores[l] > most[l] {
                        scores[l]
                    } else {
                        most[l]
                    };
                }
            }
            let before = rows.highest[i];
            let highest = most.iter().fold(before, |a, b| if *b > a { *b } else { a });
            if highest == f32::NEG_INFINITY {
                // It sees none of them; a row without any score above that has no weights at all.
                let nothing = if seen == hidden { 0.0 } else { f32::NAN };
                scores.fill([nothing; LANES]);
                continue;
            }
            let mut sums = [0f32; LANES];
            for scores in scores.iter_mut() {
                for l in 0..LANES {
                    scores[l] = exp::<FMA>(scores[l] - highest);
                    sums[l] += scores[l];
                }
            }
            let mut total = sum(&sums);
            if highest > before {
                let kept = exp::<FMA>(before - highest);
                for o in &mut rows.o[i * rows.wide..][..rows.wide] {
                    *o *= kept;
                }
                total = multiply_add::<FMA>(rows.sums[i], kept, total);
            } else {
                total += rows.sums[i];
            }
            (rows.highest[i], rows.sums[i]) = (highest, total);
        }
    }
);

leveled!(
    /// Sums over weights to outputs.
    fn finish<const FMA: bool, const ROWS: usize>(m: usize, rows: &mut Online) {
        let sums = rows.sums.iter().take(m);
        for (o, sum) in rows.o.chunks_exact_mut(rows.wide).zip(sums) {
            let inverse = 1.0 / sum;
            for o in o {
                *o *= inverse;
            }
        }
    }
);

/// Writes the outputs of a few queries, each of which reads keys and values as they lie. `places` are those of
/// the queries and of the keys up to the last one's.
pub(super) fn step(
    level: Level,
    sizes: Sizes,
    head: &Head<'_>,
    places: [Range<usize>; 2],
    o: &mut RowsMut<'_>,
) {
    let (sizes, first) = (sizes.of(&places), places[1].start);
    let mut weights = vec![0f32; padded(sizes.total)];
    let mut sums = vec![0f32; padded(sizes.v)];
    for t in 0..sizes.t {
        let seen = first + sizes.hidden(t)..first + sizes.seen(t);
        let head = &head.part([t..t + 1, seen]);
        query(level, head, sizes.scale(), &mut weights, &mut sums);
        o.row(t).write_copy_of_slice(&sums[..sizes.v]);
    }
}

leveled!(
    /// The output of a query that sees all keys.
    fn query<const FMA: bool, const ROWS: usize>(
        head: &Head<'_>,
        scale: f32,
        weights: &mut [f32],
        o: &mut [f32],
    ) {
        let (q, n) = (head.q.row(0), head.k.len());
        let weights = &mut weights[..padded(n)];
        weights[n..].fill(f32::NEG_INFINITY);
        let mut highest = f32::NEG_INFINITY;
        for (j, weight) in weights[..n].iter_mut().enumerate() {
            *weight = scale * dot::<FMA>(q, head.k.row(j));
            highest = if *weight > highest { *weight } else { highest };
        }
        let mut sums = [0f32; LANES];
        for at in (0..weights.len()).step_by(LANES) {
            let weights = lanes_mut(weights, at);
            for l in 0..LANES {
                weights[l] = exp::<FMA>(weights[l] - highest);
                sums[l] += weights[l];
            }
        }
        let inverse = 1.0 / sum(&sums);
        o.fill(0.0);
        for (j, weight) in weights[..n].iter().enumerate() {
            let (weight, v) = (weight * inverse, head.v.row(j));
            let whole = v.len() / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let (o, v) = (lanes_mut(o, at), lanes(v, at));
                for l in 0..LANES {
                    o[l] = multiply_add::<FMA>(weight, v[l], o[l]);
                }
            }
            for (o, v) in o[whole..].iter_mut().zip(&v[whole..]) {
                *o = multiply_add::<FMA>(weight, *v, *o);
            }
        }
    }
);
