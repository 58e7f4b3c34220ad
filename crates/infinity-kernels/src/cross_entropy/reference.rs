//! The loss in scalar `f64`.

/// Losses and the gradient of their sum times `scale`, for logits `[targets, width]`; negative targets do not count.
pub fn cross_entropy(
    logits: &[f64],
    targets: &[i32],
    width: usize,
    scale: f64,
) -> (Vec<f64>, Vec<f64>) {
    let (mut losses, mut grads) = (Vec::new(), Vec::new());
    for (row, target) in logits.chunks_exact(width).zip(targets) {
        let Ok(target) = usize::try_from(*target) else {
            losses.push(0.0);
            grads.extend(row.iter().map(|_| 0.0));
            continue;
        };
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
        losses.push(sum.ln() - (row[target] - most));
        let hit = |v| if v == target { 1.0 } else { 0.0 };
        let off = |(v, x): (usize, &f64)| ((x - most).exp() / sum - hit(v)) * scale;
        grads.extend(row.iter().enumerate().map(off));
    }
    (losses, grads)
}
