//! Log-probabilities of tokens from logits.

/// The log-probability of `id` among `logits`, and the `top` most likely tokens with theirs, the
/// likeliest first and equals by id.
pub(crate) fn logprobs(logits: &[f32], id: u32, top: usize) -> (f32, Vec<(u32, f32)>) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = logits.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    let of = |x: f32| (f64::from(x) - largest - sum.ln()) as f32;
    let mut all: Vec<u32> = (0..logits.len() as u32).collect();
    let better = |a: &u32, b: &u32| {
        let by_logit = logits[*b as usize].total_cmp(&logits[*a as usize]);
        by_logit.then(a.cmp(b))
    };
    let top = top.min(all.len());
    if top > 0 && top < all.len() {
        all.select_nth_unstable_by(top - 1, better);
    }
    all.truncate(top);
    all.sort_unstable_by(better);
    let own = logits.get(id as usize);
    let own = own.map_or(f32::NEG_INFINITY, |x| of(*x));
    let all = all.into_iter().map(|id| (id, of(logits[id as usize])));
    (own, all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_a_distribution() {
        let logits = [1.0, 3.0, 2.0, 3.0];
        let (own, top) = logprobs(&logits, 2, 3);
        assert_eq!(top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(top[2].1, own);
        let (_, all) = logprobs(&logits, 0, 100);
        let sum: f32 = all.iter().map(|(_, p)| p.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && all.len() == 4);
        assert!((all[0].1 - all[3].1 - 2.0).abs() < 1e-6);
        assert!(logprobs(&logits, 0, 0).1.is_empty());
    }
}
