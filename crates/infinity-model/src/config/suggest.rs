//! "Did you mean …": the nearest of a list of known words.

/// `; did you mean "…"?`, or nothing when no known word is near.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map_or(String::new(), |near| format!("; did you mean \"{near}\"?"))
}

/// The words in quotes, separated by commas.
pub(crate) fn quoted_list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The known word that looks most like `word`, if it looks like it at all.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|&candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_and_nothing_far() {
        let known = ["hidden_size", "num_hidden_layers", "vocab_size"];
        assert_eq!(
            did_you_mean("hiden_size", &known),
            "; did you mean \"hidden_size\"?"
        );
        assert_eq!(
            did_you_mean("num_layers", &known),
            "; did you mean \"num_hidden_layers\"?"
        );
        assert_eq!(did_you_mean("zzz", &known), "");
    }
}
