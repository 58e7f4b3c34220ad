//! Did you mean: the known key nearest to one that nobody reads.

/// Words for the same thing in trainers people come from, and the key here.
const SYNONYMS: &[(&str, &str)] = &[
    ("lr", "optimizer.learning_rate"),
    ("max_lr", "optimizer.learning_rate"),
    ("wd", "optimizer.weight_decay"),
    ("betas", "optimizer.beta1"),
    ("muon_lr", "optimizer.muon_learning_rate"),
    ("grad_clip", "training.max_grad_norm"),
    ("clip", "training.max_grad_norm"),
    ("batch_size", "training.per_device_train_batch_size"),
    ("device_batch_size", "training.per_device_train_batch_size"),
    ("grad_accum", "training.gradient_accumulation_steps"),
    ("max_iters", "training.max_steps"),
    ("max_train_steps", "training.max_steps"),
    ("steps", "training.max_steps"),
    ("epochs", "training.num_train_epochs"),
    ("num_epochs", "training.num_train_epochs"),
    ("block_size", "data.max_seq_length"),
    ("seq_len", "data.max_seq_length"),
    ("context_length", "data.max_seq_length"),
    ("warmup", "lr_scheduler.warmup_steps"),
    ("num_warmup_steps", "lr_scheduler.warmup_steps"),
    ("lr_scheduler_type", "lr_scheduler.type"),
    ("scheduler", "lr_scheduler.type"),
    ("n_embd", "model.hidden_size"),
    ("d_model", "model.hidden_size"),
    ("dim", "model.hidden_size"),
    ("n_layer", "model.num_hidden_layers"),
    ("n_layers", "model.num_hidden_layers"),
    ("n_head", "model.num_attention_heads"),
    ("n_heads", "model.num_attention_heads"),
    ("dropout", "model.hidden_dropout_prob"),
    ("eval_steps", "eval.every"),
    ("eval_interval", "eval.every"),
    ("eval_iters", "eval.max_batches"),
    ("save_steps", "checkpoint.every"),
    ("save_total_limit", "checkpoint.keep_last"),
    ("logging_steps", "logging.every"),
    ("log_interval", "logging.every"),
    ("out_dir", "run.output_dir"),
];

/// Below this Jaro-Winkler similarity two names are different words, not one misspelt.
const ALIKE: f64 = 0.8;

/// The known key most likely meant by `key` (both dotted), if any is near.
pub(super) fn nearest(key: &str, known: &[String]) -> Option<String> {
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let same_name = known.iter().find(|k| k.rsplit('.').next() == Some(leaf));
    let synonym = || {
        let (_, target) = SYNONYMS.iter().find(|(word, _)| *word == leaf)?;
        known.iter().find(|k| k == target)
    };
    same_name
        .or_else(synonym)
        .or_else(|| most_similar(key, leaf, known))
        .cloned()
}

/// The end of a message about an unknown word: the nearest of `words`, then all of them.
pub(super) fn among(word: &str, words: &[&str]) -> String {
    let list = words.join(", ");
    let similar = |w: &&&str| strsim::jaro_winkler(word, w);
    let best = words
        .iter()
        .max_by(|a, b| similar(a).total_cmp(&similar(b)))
        .filter(|w| similar(w) >= ALIKE);
    match best {
        Some(best) => format!(" (did you mean `{best}`? there are: {list})"),
        None => format!(" (there are: {list})"),
    }
}

/// The most similar key, the same section first: a typo rarely changes the section.
fn most_similar<'a>(key: &str, leaf: &str, known: &'a [String]) -> Option<&'a String> {
    let section = key.rsplit_once('.').map(|(section, _)| section);
    let section_exists = section.is_some_and(|section| known.iter().any(|k| k == section));
    let score = |candidate: &str| match candidate.rsplit_once('.') {
        Some((s, l)) if Some(s) == section => strsim::jaro_winkler(leaf, l) + 0.05,
        Some((_, l)) if section_exists => strsim::jaro_winkler(leaf, l),
        None if section_exists => 0.0,
        _ => strsim::jaro_winkler(key, candidate),
    };
    known
        .iter()
        .map(|candidate| (score(candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= ALIKE)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        [
            "model",
            "training",
            "optimizer",
            "model.hidden_size",
            "training.max_steps",
            "training.max_grad_norm",
            "optimizer.learning_rate",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn typos_wrong_sections_and_foreign_words() {
        let nearest = |key| super::nearest(key, &known());
        assert_eq!(nearest("model.hiden_size").unwrap(), "model.hidden_size");
        assert_eq!(
            nearest("model.learning_rate").unwrap(),
            "optimizer.learning_rate"
        );
        assert_eq!(nearest("training.lr").unwrap(), "optimizer.learning_rate");
        assert_eq!(nearest("trainig").unwrap(), "training");
        assert_eq!(nearest("trainig.max_steps").unwrap(), "training.max_steps");
        assert_eq!(nearest("trainig.max_stepz").unwrap(), "training.max_steps");
        assert_eq!(nearest("model.zzz"), None);
    }

    #[test]
    fn words_are_listed() {
        let hint = among("softmaks", &["softmax", "infinity"]);
        assert_eq!(
            hint,
            " (did you mean `softmax`? there are: softmax, infinity)"
        );
        assert_eq!(among("qqq", &["a", "b"]), " (there are: a, b)");
    }
}
