//! The way from files to tokens as a whole: splits, cache, and what is refused.

use super::*;
use infinity_model::tokenizer::Tokenizer;
use std::fs;
use std::path::PathBuf;

/// A directory with a corpus, and the configuration that reads it.
struct Corpus {
    dir: tempfile::TempDir,
    data: DataConfig,
    tokenizer: TokenizerConfig,
}

impl Corpus {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let data = DataConfig {
            train_file: dir.path().join(files[0].0),
            max_seq_length: 8,
            cache_dir: dir.path().join("cache"),
            ..DataConfig::default()
        };
        Self {
            dir,
            data,
            tokenizer: TokenizerConfig::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn prepare(&self) -> Result<(PreparedData, Vec<DataEvent>), DataError> {
        let mut events = Vec::new();
        let prepared = prepare(&self.data, &self.tokenizer, &mut |event| events.push(event))?;
        Ok((prepared, events))
    }

    fn ready(&self) -> PreparedData {
        self.prepare().unwrap().0
    }

    fn refusal(&self) -> String {
        self.prepare().unwrap_err().to_string()
    }
}

fn text(store: &TokenStore, tokenizer: &Tokenizer) -> String {
    let ids: Vec<u32> = store
        .tokens(0..store.len())
        .unwrap()
        .into_iter()
        .map(|id| id as u32)
        .collect();
    tokenizer.decode(&ids).unwrap()
}

fn rebuilt(events: &[DataEvent]) -> Option<String> {
    events.iter().find_map(|event| match event {
        DataEvent::Rebuilding { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

fn was_written(events: &[DataEvent]) -> bool {
    events
        .iter()
        .any(|event| matches!(event, DataEvent::Scanned { .. }))
}

fn verse(lines: usize) -> String {
    (0..lines)
        .map(|i| format!("Vers {i}: so wie's heißt, 水 und Brot.\n"))
        .collect()
}

#[test]
fn the_split_is_exactly_the_first_nine_tenths_of_the_characters() {
    for lines in [10, 11, 97] {
        let whole = verse(lines);
        let chars: Vec<char> = whole.chars().collect();
        let cut = (0.9 * chars.len() as f64) as usize;
        for kind in [TokenizerKind::Byte, TokenizerKind::Char] {
            let mut corpus = Corpus::new(&[("a.txt", &whole)]);
            corpus.tokenizer.kind = kind;
            for fraction in [None, Some(0.1)] {
                corpus.data.val_fraction = fraction;
                let data = corpus.ready();
                assert_eq!(
                    text(&data.train, &data.tokenizer),
                    chars[..cut].iter().collect::<String>()
                );
                assert_eq!(
                    text(&data.valid, &data.tokenizer),
                    chars[cut..].iter().collect::<String>()
                );
                assert_eq!(
                    data.train.text_chars() + data.valid.text_chars(),
                    chars.len() as u64
                );
                assert_eq!(
                    data.train.text_bytes() + data.valid.text_bytes(),
                    whole.len() as u64
                );
            }
        }
    }
}

#[test]
fn every_validation_character_is_a_target_once() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(50))]);
    corpus.tokenizer.kind = TokenizerKind::Char;
    let data = corpus.ready();
    for (rows, carry) in [(1, true), (5, false), (7, true)] {
        let source = EvalSource::new(data.valid.clone(), rows, 8, carry).unwrap();
        let valid: usize = source.iter().map(|batch| batch.unwrap().valid).sum();
        assert_eq!(valid as u64, data.valid.text_chars() - 1);
        assert_eq!(source.target_bytes(), data.valid.target_bytes() as f64);
    }
}

#[test]
fn the_vocabulary_of_characters_is_that_of_both_splits() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(9)), ("b.txt", "only here: ¿?! and Z")]);
    corpus.tokenizer.kind = TokenizerKind::Char;
    corpus.data.validation_file = corpus.path("b.txt");
    let data = corpus.ready();
    assert_eq!(text(&data.valid, &data.tokenizer), "only here: ¿?! and Z");
    assert_eq!(text(&data.train, &data.tokenizer), verse(9));
}

#[test]
fn documents_of_lines_are_split_by_characters_and_separated() {
    let lines: String = (0..40)
        .map(|i| format!("{{\"text\": \"document {i}\"}}\n"))
        .collect();
    let mut corpus = Corpus::new(&[("a.jsonl", &lines)]);
    corpus.data.val_fraction = Some(0.25);
    let data = corpus.ready();
    let eos = data.tokenizer.eos_id().unwrap() as i32;
    let separators = |store: &TokenStore| {
        store
            .tokens(0..store.len())
            .unwrap()
            .iter()
            .filter(|id| **id == eos)
            .count() as u64
    };
    for store in [&data.train, &data.valid] {
        assert_eq!(separators(store), store.documents() - 1);
        let ends = &store.borders().unwrap()[1..];
        for end in &ends[..ends.len() - 1] {
            assert_eq!(store.tokens(end - 1..*end).unwrap(), [eos]);
        }
    }
    assert_eq!(data.meta.source.documents, 40);
    let share =
        data.valid.text_chars() as f64 / (data.train.text_chars() + data.valid.text_chars()) as f64;
    assert!((share - 0.25).abs() < 0.01, "{share}");
    corpus.data.append_eos = true;
    assert_eq!(
        separators(&corpus.ready().valid),
        corpus.ready().valid.documents()
    );
}

#[test]
fn what_is_cached_is_used_until_text_or_tokenizer_change() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(30)), ("b.txt", &verse(5))]);
    corpus.data.validation_file = corpus.path("b.txt");
    let (_, events) = corpus.prepare().unwrap();
    assert!(was_written(&events) && rebuilt(&events).is_none());
    let (_, events) = corpus.prepare().unwrap();
    assert!(!was_written(&events), "{events:?}");

    // The same text, written again, is the same text.
    fs::write(corpus.path("a.txt"), verse(30)).unwrap();
    assert!(!was_written(&corpus.prepare().unwrap().1));

    fs::write(corpus.path("a.txt"), verse(31)).unwrap();
    let (data, events) = corpus.prepare().unwrap();
    assert!(rebuilt(&events).unwrap().contains("training text changed"));
    assert_eq!(text(&data.train, &data.tokenizer), verse(31));

    fs::write(corpus.path("b.txt"), verse(6)).unwrap();
    let (data, events) = corpus.prepare().unwrap();
    assert!(
        rebuilt(&events)
            .unwrap()
            .contains("validation text changed")
    );
    assert_eq!(text(&data.valid, &data.tokenizer), verse(6));

    let json = corpus.path("tokenizer.json");
    Tokenizer::bytes().save(&json).unwrap();
    corpus.tokenizer.path = json.clone();
    corpus.prepare().unwrap();
    assert!(!was_written(&corpus.prepare().unwrap().1));
    Tokenizer::chars(verse(31).chars()).save(&json).unwrap();
    let (data, events) = corpus.prepare().unwrap();
    assert!(rebuilt(&events).unwrap().contains("tokenizer changed"));
    assert_eq!(text(&data.train, &data.tokenizer), verse(31));

    let leftovers: Vec<PathBuf> = fs::read_dir(&corpus.data.cache_dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn damaged_token_files_are_named() {
    let corpus = Corpus::new(&[("a.txt", &verse(30))]);
    let directory = corpus.ready().directory;
    for name in [
        "train.bin",
        "val.bin",
        "train.documents.bin",
        "tokenizer.json",
        "meta.json",
    ] {
        let path = directory.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, &good[..good.len() - 2]).unwrap();
        let message = corpus.refusal();
        assert!(message.contains(name), "{name}: {message}");
        fs::write(&path, &good).unwrap();
        assert!(corpus.prepare().is_ok());
    }
    let mut changed = fs::read(directory.join("train.bin")).unwrap();
    changed[100] ^= 1;
    fs::write(directory.join("train.bin"), changed).unwrap();
    assert!(corpus.refusal().contains("checksum"));
}

#[test]
fn a_prepared_directory_is_used_as_it_is() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(200))]);
    corpus.tokenizer.train_bpe = 300;
    let output = corpus.path("prepared");
    let texts = [corpus.data.train_file.clone()];
    let tokenize = || {
        tokenize_to(
            &texts,
            &corpus.data,
            &corpus.tokenizer,
            &output,
            &mut |_| {},
        )
    };
    let written = tokenize().unwrap();
    assert_eq!(written.tokenizer.vocab_size(), 300);
    let message = tokenize().unwrap_err();
    assert!(message.to_string().contains("already exists"), "{message}");
    assert!(is_prepared(&output) && !is_prepared(corpus.dir.path()));

    corpus.data.train_file = output.clone();
    corpus.tokenizer = TokenizerConfig::default();
    let data = corpus.ready();
    assert_eq!(data.directory, output);
    assert_eq!(
        text(&data.train, &data.tokenizer) + &text(&data.valid, &data.tokenizer),
        verse(200)
    );
    assert!(!corpus.data.cache_dir.exists());

    corpus.tokenizer.kind = TokenizerKind::Char;
    assert!(
        corpus.refusal().contains("another tokenizer (bpe)"),
        "{}",
        corpus.refusal()
    );
    corpus.tokenizer = TokenizerConfig {
        path: output.join("tokenizer.json"),
        ..TokenizerConfig::default()
    };
    assert!(corpus.prepare().is_ok());
    Tokenizer::bytes().save(corpus.path("bytes.json")).unwrap();
    corpus.tokenizer.path = corpus.path("bytes.json");
    assert!(corpus.refusal().contains("another tokenizer"));
    corpus.data.validation_file = corpus.path("a.txt");
    assert!(corpus.refusal().contains("data.validation_file"));
}

#[test]
fn learning_a_bpe_does_not_see_the_validation_text() {
    let common = verse(300);
    let unseen = "qqxxqqxxzzqqxx ".repeat(30);
    let mut corpus = Corpus::new(&[("a.txt", &(common.clone() + &unseen))]);
    corpus.tokenizer.train_bpe = 400;
    let held_out = unseen.len() as f64 + 1.5;
    corpus.data.val_fraction = Some(held_out / (common.chars().count() + unseen.len()) as f64);
    let tokenizer = corpus.ready().tokenizer;
    let merged = |text: &str| tokenizer.encode(text).unwrap().len() < text.len();
    assert!(merged("Brot"));
    assert!(!merged("qqxxqqxxzz"));
}

#[test]
fn splits_shorter_than_a_window_are_refused_with_both_numbers() {
    let mut corpus = Corpus::new(&[("a.txt", "twenty characters ok")]);
    let message = corpus.refusal();
    assert!(
        message.contains("validation split has 2 tokens") && message.contains("needs 9"),
        "{message}"
    );
    corpus.data.val_fraction = Some(0.0);
    assert!(corpus.ready().valid.is_empty());
    corpus.data.max_seq_length = 20;
    assert!(
        corpus.refusal().contains("training split has 20 tokens"),
        "{}",
        corpus.refusal()
    );
}

#[test]
fn several_documents_need_a_separator() {
    let mut corpus = Corpus::new(&[(
        "a.jsonl",
        "{\"text\": \"aaaaaaaaaa\"}\n{\"text\": \"aaaaaaaaaa\"}\n",
    )]);
    let json = Tokenizer::bytes()
        .to_json()
        .unwrap()
        .replace("<|endoftext|>", "<|no name|>");
    corpus.tokenizer.path = corpus.path("tokenizer.json");
    fs::write(&corpus.tokenizer.path, json).unwrap();
    let message = corpus.refusal();
    assert!(message.contains("no end-of-text token"), "{message}");
    assert!(
        !fs::read_dir(&corpus.data.cache_dir).unwrap().any(|_| true),
        "nothing half-made stays"
    );
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(30))]);
    fs::write(corpus.path("cache"), "a file").unwrap();
    corpus.data.cache_dir = corpus.path("cache");
    let message = corpus.refusal();
    assert!(
        message.contains("cannot write") && message.contains("cache"),
        "{message}"
    );
}

#[test]
fn dependencies_can_be_the_text() {
    let mut corpus = Corpus::new(&[("unused", "x")]);
    corpus.data.train_file = PathBuf::new();
    corpus.data.source = DataSource::CargoRegistry;
    corpus.data.train_crates = vec!["memmap2".to_owned()];
    corpus.data.validation_crates = vec!["strsim".to_owned()];
    let (data, events) = corpus.prepare().unwrap();
    assert!(
        matches!(&events[0], DataEvent::Crates { crates, .. } if crates[0].starts_with("memmap2 "))
    );
    assert!(text(&data.train, &data.tokenizer).contains("pub struct Mmap"));
    assert!(!text(&data.train, &data.tokenizer).contains("jaro_winkler"));
    assert!(text(&data.valid, &data.tokenizer).contains("jaro_winkler"));
    assert!(!was_written(&corpus.prepare().unwrap().1));
    corpus.data.validation_crates = vec!["memmap2".to_owned()];
    let message = corpus.refusal();
    assert!(
        message.contains("memmap2") && message.contains("data.train_crates"),
        "{message}"
    );
}

#[test]
fn a_wrong_split_would_be_caught() {
    let whole = verse(40);
    let mut corpus = Corpus::new(&[("a.txt", &whole)]);
    corpus.data.val_fraction = Some(0.11);
    let data = corpus.ready();
    let cut = (0.9 * whole.chars().count() as f64) as u64;
    assert_ne!(data.train.text_chars(), cut);
}
