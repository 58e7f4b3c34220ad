//! Lookup and gradient in scalar `f64`.

/// The rows of `weight`, of `width` numbers each, that `ids` name.
pub fn forward(weight: &[f64], width: usize, ids: &[usize]) -> Vec<f64> {
    let row = |id: &usize| &weight[id * width..(id + 1) * width];
    ids.iter().flat_map(row).copied().collect()
}

/// The gradient of a weight of `rows` rows, given that of the rows that were looked up.
pub fn backward(rows: usize, width: usize, ids: &[usize], d_y: &[f64]) -> Vec<f64> {
    let mut d_weight = vec![0.0; rows * width];
    for (id, d_y) in ids.iter().zip(d_y.chunks(width)) {
        let row = &mut d_weight[id * width..(id + 1) * width];
        row.iter_mut().zip(d_y).for_each(|(sum, d)| *sum += d);
    }
    d_weight
}
