//! Did you mean: the known word nearest to one that nobody knows.

/// Below this Jaro-Winkler similarity two words are different, not one misspelt.
pub const ALIKE: f64 = 0.8;

/// Similarity of two words by Jaro and Winkler, from 0 to 1.
pub fn similarity(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

/// The known word most similar to `word`, if any is similar; of equals the last.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (similarity(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_nearest_and_nothing_far() {
        let nearest =
            |word| super::nearest(word, ["hidden_size", "num_hidden_layers", "vocab_size"]);
        assert_eq!(nearest("hiden_size"), Some("hidden_size"));
        assert_eq!(nearest("num_layers"), Some("num_hidden_layers"));
        assert_eq!(nearest("zzz"), None);
    }
}
