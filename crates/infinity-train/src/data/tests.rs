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

    fn prepare(&self) -> Result<(PreparedData, Vec<String>), DataError> {
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

fn rebuilt(events: &[String]) -> Option<String> {
    let mut lines = events.iter().map(String::to_string);
    lines.find(|line| line.contains(": making "))
}

fn was_written(events: &[String]) -> bool {
    events
        .iter()
        .any(|event| event.to_string().starts_with("read "))
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
                    data.train.text.text_chars + data.valid.text.text_chars,
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
        assert_eq!(valid as u64, data.valid.text.text_chars - 1);
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
    let share = data.valid.text.text_chars as f64
        / (data.train.text.text_chars + data.valid.text.text_chars) as f64;
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
    let first = events[0].to_string();
    assert!(first.starts_with("data.train_crates: memmap2 "), "{first}");
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
    assert_ne!(data.train.text.text_chars, cut);
}

/// The lines that say what was done.
fn said(events: &[String]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

/// Text of a directory with these files, as `data.train_file`.
fn folder(files: &[(&str, &str)]) -> Corpus {
    let mut corpus = Corpus::new(&[("unused", "x")]);
    let texts = corpus.path("texts");
    fs::create_dir(&texts).unwrap();
    for (name, text) in files {
        let path = texts.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    corpus.data.train_file = texts;
    corpus
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_is_read() {
    use std::os::unix::ffi::OsStrExt;
    let corpus = folder(&[("a.txt", "one ")]);
    let name = std::ffi::OsStr::from_bytes(b"b\xff.txt");
    fs::write(corpus.data.train_file.join(name), verse(30)).unwrap();
    let (data, events) = corpus.prepare().unwrap();
    assert!(was_written(&events));
    assert_eq!(data.meta.source.documents, 2);
    assert!(
        !was_written(&corpus.prepare().unwrap().1),
        "the cache knows it again"
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_by_name() {
    let mut corpus = Corpus::new(&[("a.txt", &verse(30))]);
    let pipe = corpus.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|made| made.success()) {
        return;
    }
    corpus.data.validation_file = pipe.clone();
    assert!(
        corpus.refusal().contains("`data.validation_file`"),
        "{}",
        corpus.refusal()
    );
    corpus.data.validation_file = PathBuf::new();
    corpus.data.train_file = pipe;
    let message = corpus.refusal();
    assert!(
        message.contains("a pipe") && message.contains("cannot be read twice"),
        "{message}"
    );
    corpus.data.train_file = PathBuf::from("/dev/null");
    assert!(
        corpus.refusal().contains("a device"),
        "{}",
        corpus.refusal()
    );
}

#[cfg(unix)]
#[test]
fn links_to_directories_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let corpus = folder(&[("in/b.txt", &verse(30)), (".hidden/h.txt", "hidden ")]);
    let texts = &corpus.data.train_file;
    let elsewhere = corpus.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("e.txt"), "elsewhere ").unwrap();
    symlink(&elsewhere, texts.join("x-link")).unwrap();
    symlink(texts, elsewhere.join("back")).unwrap();
    symlink("in", texts.join("a-link-inside")).unwrap();
    symlink(".hidden", texts.join("c-link")).unwrap();
    symlink("..", texts.join("up")).unwrap();
    symlink("nowhere", texts.join("broken")).unwrap();
    let data = corpus.ready();
    assert_eq!(data.meta.source.documents, 3, "each file once");
    let all = text(&data.train, &data.tokenizer) + &text(&data.valid, &data.tokenizer);
    assert_eq!(all, format!("hidden {}elsewhere ", verse(30)));
    fs::remove_file(elsewhere.join("back")).unwrap();
    let only = folder(&[]);
    symlink(&elsewhere, only.data.train_file.join("link")).unwrap();
    fs::write(elsewhere.join("e.txt"), verse(30)).unwrap();
    assert_eq!(only.ready().meta.source.documents, 1);
}

#[test]
fn what_this_program_wrote_below_the_text_is_no_text() {
    let corpus = folder(&[
        ("a.txt", &verse(30)),
        ("run/run.json", "{}"),
        ("run/config.effective.toml", ""),
        ("run/samples/step-1.txt", "no"),
        ("model/config.json", "{}"),
        ("model/model.safetensors", ""),
        ("tokens/meta.json", "{}"),
        ("tokens/tokenizer.json", "{}"),
    ]);
    let (data, events) = corpus.prepare().unwrap();
    assert_eq!(data.meta.source.documents, 1);
    let said = said(&events);
    for name in ["run", "model", "tokens"] {
        let path = corpus.data.train_file.join(name).display().to_string();
        assert!(said.contains(&path), "{said}");
    }
    fs::remove_file(corpus.data.train_file.join("a.txt")).unwrap();
    let message = corpus.refusal();
    assert!(
        message.contains("directories of runs, models or token files there: 3"),
        "{message}"
    );
}

#[test]
fn files_are_read_as_what_they_are_or_refused_by_name() {
    let row = "{\n  \"text\": \"a b\"\n}";
    for (name, content, documents) in [
        (
            "a.ndjson",
            "{\"text\": \"a b\"}\n{\"text\": \"a b\"}\n".to_owned(),
            2,
        ),
        ("a.tsv", "id\ttext\n1\t\"a\tb\"\n2\ta, \"b\n".to_owned(), 2),
        ("a.json", format!("{row}\n{row}\n"), 2),
        ("b.json", format!("[\n{row},\n{row}\n]\n"), 2),
        ("c.json", format!("\u{feff}  [{row},{row}] [{row}]"), 3),
        (
            "d.json",
            "{\"text\": \"a b\"}\n{\"text\": \"a b\"}\n".to_owned(),
            2,
        ),
        ("b.jsonl", format!("[{row}]"), 1),
    ] {
        let mut corpus = Corpus::new(&[(name, &content)]);
        corpus.data.max_seq_length = 1;
        corpus.data.val_fraction = Some(0.0);
        let data = corpus.ready();
        assert_eq!(data.meta.source.documents, documents, "{name}");
        let first = text(&data.train, &data.tokenizer);
        assert!(
            first.starts_with("a b") || first.starts_with("a\tb"),
            "{name}: {first}"
        );
    }
    let utf16 = |mark: &[u16]| -> Vec<u8> {
        let text: Vec<u16> = "the cat".encode_utf16().collect();
        [mark, &text]
            .concat()
            .iter()
            .flat_map(|unit| unit.to_le_bytes())
            .collect()
    };
    for (name, content, words) in [
        (
            "c.jsonl",
            row.as_bytes().to_vec(),
            ["line 1", "read from a .json file"],
        ),
        ("a.txt", utf16(&[0xfeff]), ["UTF-16", "iconv"]),
        ("b.txt", utf16(&[]), ["UTF-16", "iconv"]),
        ("c.csv", utf16(&[0xfffe]), ["UTF-16", "iconv"]),
        (
            "a.txt.gz",
            vec![0x1f, 0x8b, 8],
            [".gz files are not read", "unpack"],
        ),
        ("a.parquet", b"PAR1".to_vec(), [".parquet", "unpack"]),
        (
            "e.json",
            b"{\"data\": [1]}".to_vec(),
            ["no column `text`", "data"],
        ),
    ] {
        let mut corpus = Corpus::new(&[("unused", "x")]);
        fs::write(corpus.path(name), content).unwrap();
        corpus.data.train_file = corpus.path(name);
        let message = corpus.refusal();
        for word in words {
            assert!(message.contains(word), "{name}: {message}");
        }
    }
}

#[test]
fn characters_without_a_token_are_counted_and_too_many_are_an_error() {
    let mut corpus = Corpus::new(&[("a.txt", &format!("{}é", "abc ".repeat(300)))]);
    let definition = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null, "decoder": null,
        "model": { "type": "BPE", "dropout": 0.5, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3 },
            "merges": [["a", "b"]] },
    });
    corpus.tokenizer.path = corpus.path("t.json");
    fs::write(&corpus.tokenizer.path, definition.to_string()).unwrap();
    let (data, events) = corpus.prepare().unwrap();
    let said = said(&events);
    assert!(
        said.contains("no tokens for 1 of 1201 characters") && said.contains("'é'"),
        "{said}"
    );
    let ids = data.train.tokens(0..data.train.len()).unwrap();
    assert!(
        ids.chunks(2).all(|pair| pair.starts_with(&[3])),
        "no merge is left out at random"
    );
    fs::write(corpus.path("a.txt"), "abc xyz ".repeat(300)).unwrap();
    let message = corpus.refusal();
    assert!(message.contains("900 of the 2400 characters"), "{message}");
}

/// Words cost the square of their length while merges are learned: without the cut, minutes.
#[test]
fn a_text_without_spaces_is_learned_in_pieces_and_said_so() {
    let mut bits = 1u64;
    let dna: String = (0..400_000)
        .map(|_| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b"acgt"[(bits >> 62) as usize])
        })
        .collect();
    let mut corpus = Corpus::new(&[("a.txt", &dna)]);
    corpus.tokenizer.train_bpe = 300;
    let (data, events) = corpus.prepare().unwrap();
    assert!(
        said(&events).contains("1 words of more than 256 characters are cut"),
        "{}",
        said(&events)
    );
    assert!(
        data.train.len() < 200_000,
        "merges are learned: {} tokens",
        data.train.len()
    );
    let mut words = Corpus::new(&[("a.txt", &verse(100))]);
    words.tokenizer.train_bpe = 300;
    assert!(!said(&words.prepare().unwrap().1).contains("are cut"));
}

/// Earlier versions took fingerprints with FNV-1a.
#[test]
fn token_files_of_an_earlier_version_are_still_known() {
    let corpus = Corpus::new(&[("a.txt", &verse(30))]);
    let data = corpus.ready();
    let path = data.directory.join("meta.json");
    let mut meta: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let old = |bytes: &[u8], length: bool| {
        let mut hash = infinity_files::Fingerprint::like("");
        if length {
            hash.field((bytes.len() as u64).to_le_bytes());
        }
        hash.update(bytes);
        hash.hex()
    };
    meta["tokenizer_hash"] = old(data.tokenizer.to_json().unwrap().as_bytes(), false).into();
    let mut hash = infinity_files::Fingerprint::like("");
    hash.field(old(verse(30).as_bytes(), false));
    meta["source"]["hash"] = hash.hex().into();
    for split in ["train", "validation"] {
        for part in ["tokens", "documents"] {
            let stamp = &mut meta[split][part];
            let file = fs::read(data.directory.join(stamp["file"].as_str().unwrap())).unwrap();
            stamp["checksum"] = old(&file, true).into();
        }
    }
    fs::write(&path, meta.to_string()).unwrap();
    // Written again: the contents have to be compared.
    fs::write(corpus.path("a.txt"), verse(30)).unwrap();
    assert!(!was_written(&corpus.prepare().unwrap().1));
    fs::write(corpus.path("a.txt"), verse(31)).unwrap();
    assert!(was_written(&corpus.prepare().unwrap().1));
}

/// Every failure of the disk leaves the old token files or the new ones, and nothing else in the end.
#[test]
fn token_files_are_whole_after_any_failure() {
    use infinity_files::faults::{Fault, inject};
    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    for fault in [full, Fault::Kill] {
        for n in 0.. {
            let corpus = Corpus::new(&[("a.txt", &verse(30))]);
            corpus.ready();
            fs::write(corpus.path("a.txt"), verse(31)).unwrap();
            let plan = inject(&corpus.data.cache_dir, n, fault);
            // Where only the clearing up fails, this is a success.
            let _ = corpus.prepare();
            let happened = plan.happened();
            drop(plan);
            let directories = || fs::read_dir(&corpus.data.cache_dir).unwrap().flatten();
            let whole =
                directories().find(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
            let kept = open_prepared(&whole.expect("the old or the new").path()).unwrap();
            let all = text(&kept.train, &kept.tokenizer) + &text(&kept.valid, &kept.tokenizer);
            assert!(all == verse(30) || all == verse(31), "{fault:?} {n}");
            let data = corpus.ready();
            let all = text(&data.train, &data.tokenizer) + &text(&data.valid, &data.tokenizer);
            assert_eq!(all, verse(31), "{fault:?} {n}");
            if !happened {
                assert!(n > 10, "{n} changes");
                break;
            }
        }
    }
}
