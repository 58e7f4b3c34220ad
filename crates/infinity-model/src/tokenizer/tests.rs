//! Tokenizers: nothing is lost, fast paths agree with the `tokenizers` crate, mistakes are named.

use std::fs;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEXT: &str =
    "First Citizen:\nBefore we proceed — naïve, 中文, 👩‍👩‍👧, \u{0}\t<|endoftext|> end.\r\n";

/// GPT-2's scheme in small: byte-level BPE with merges and a regex.
fn small_bpe() -> Tokenizer {
    let mut definition = definition::bytes_definition();
    let vocab = definition["model"]["vocab"].as_object_mut().unwrap();
    for (id, token) in ["th", "the", "Ġthe"].into_iter().enumerate() {
        vocab.insert(token.into(), json!(256 + id));
    }
    definition["model"]["merges"] = json!([["t", "h"], ["th", "e"], ["Ġ", "the"]]);
    definition["pre_tokenizer"]["use_regex"] = json!(true);
    definition["added_tokens"][0]["id"] = json!(259);
    Tokenizer::from_json(&definition.to_string()).unwrap()
}

/// SentencePiece's scheme in small: a marker for spaces, bytes for what is unknown.
fn small_sentencepiece() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    vocab.insert("<unk>".into(), json!(0));
    for byte in 0..=255u32 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(1 + byte));
    }
    for (id, piece) in ["▁", "T", "h", "i", "s", "Th", "is", "This", "▁This"]
        .iter()
        .enumerate()
    {
        vocab.insert((*piece).into(), json!(257 + id));
    }
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab,
            "merges": [["T", "h"], ["i", "s"], ["Th", "is"], ["▁", "This"]],
        },
    });
    Tokenizer::from_json(&definition.to_string()).unwrap()
}

/// A tokenizer whose words are `pieces` (special ones in angle brackets) and whose text is made by
/// `decoder`.
fn of_pieces(pieces: &[&str], decoder: Value) -> Tokenizer {
    let ids = pieces.iter().enumerate();
    let vocab: serde_json::Map<String, Value> = ids
        .clone()
        .map(|(id, piece)| ((*piece).into(), json!(id)))
        .collect();
    let special = ids.filter(|(_, piece)| piece.starts_with('<') && !piece.starts_with("<0x"));
    let added = special.map(|(id, piece)| {
        json!({ "id": id, "content": piece, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    });
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null,
        "decoder": decoder,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    });
    Tokenizer::from_json(&definition.to_string()).unwrap()
}

/// One tokenizer for each way in which tokens become text.
fn every_kind() -> Vec<(&'static str, Tokenizer)> {
    let metaspace = |scheme: &str| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true });
    let marked = [
        "<unk>", "<s>", "▁", "▁the", "▁cat", "▁▁", "s", "at", ".", "\u{FFFD}", "é",
    ];
    let words = [
        "<unk>",
        "the",
        "##cat",
        "cat",
        "##s",
        ".",
        ",",
        "n't",
        "'",
        "##\u{FFFD}",
        "do not",
    ];
    let wordpiece =
        |cleanup: bool| json!({ "type": "WordPiece", "prefix": "##", "cleanup": cleanup });
    let ended = ["<unk>", "th", "e</w>", "cat</w>", "s", ".</w>", "</w>"];
    let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let fallback: Vec<&str> = marked
        .into_iter()
        .chain(bytes.iter().map(String::as_str))
        .collect();
    let alphabet: Vec<String> = definition::alphabet().iter().map(char::to_string).collect();
    let alphabet: Vec<&str> = ["<unk>", "Ġthe"]
        .into_iter()
        .chain(alphabet.iter().map(String::as_str))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let sequence = |parts: Value| json!({ "type": "Sequence", "decoders": parts });
    let replace = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let (fuse, bytes) = (json!({ "type": "Fuse" }), json!({ "type": "ByteFallback" }));
    let strip =
        |start, stop| json!({ "type": "Strip", "content": " ", "start": start, "stop": stop });
    vec![
        ("bytes", Tokenizer::bytes()),
        ("chars", Tokenizer::chars("the catsé中👩\u{FFFD}".chars())),
        ("byte-level BPE", small_bpe()),
        (
            "byte level among others",
            of_pieces(&alphabet, sequence(json!([byte_level, fuse]))),
        ),
        ("SentencePiece BPE", small_sentencepiece()),
        ("metaspace, always", of_pieces(&marked, metaspace("always"))),
        ("metaspace, first", of_pieces(&marked, metaspace("first"))),
        ("metaspace, never", of_pieces(&marked, metaspace("never"))),
        ("wordpiece", of_pieces(&words, wordpiece(true))),
        ("wordpiece as it is", of_pieces(&words, wordpiece(false))),
        (
            "ends of words",
            of_pieces(&ended, json!({ "type": "BPEDecoder", "suffix": "</w>" })),
        ),
        (
            "llama",
            of_pieces(
                &fallback,
                sequence(json!([replace, bytes, fuse, strip(1, 0)])),
            ),
        ),
        (
            "gemma",
            of_pieces(&fallback, sequence(json!([replace, bytes, fuse]))),
        ),
        (
            "stripped at the end",
            of_pieces(&marked, sequence(json!([replace, fuse, strip(0, 1)]))),
        ),
        ("no decoder", of_pieces(&marked, Value::Null)),
    ]
}

/// The text of a stream, and its pieces.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> (String, Vec<String>) {
    streamed_after(tokenizer, &[], ids)
}

fn streamed_after(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) -> (String, Vec<String>) {
    let mut stream = tokenizer.decode_stream(before).unwrap();
    let mut pieces: Vec<String> = Vec::new();
    for &id in ids {
        pieces.extend(stream.push(id).unwrap());
    }
    pieces.extend(stream.finish().unwrap());
    (pieces.concat(), pieces)
}

#[test]
fn byte_ids_are_the_bytes() {
    let tokenizer = Tokenizer::bytes();
    let ids = tokenizer.encode(TEXT).unwrap();
    assert!(ids.iter().copied().eq(TEXT.bytes().map(u32::from)));
    assert_eq!(tokenizer.decode(&ids).unwrap(), TEXT);
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.eos_id()),
        (257, Some(256))
    );
    assert_eq!(tokenizer.decode(&[72, 105, 256]).unwrap(), "Hi");
    assert_eq!(tokenizer.kind(), TokenizerKind::Byte);
}

#[test]
fn char_ids_are_the_places_of_the_sorted_characters() {
    let tokenizer = Tokenizer::chars("hello".chars());
    assert_eq!(tokenizer.encode("hello").unwrap(), [1, 0, 2, 2, 3]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos_id()), (5, Some(4)));
    assert_eq!(tokenizer.decode(&[1, 0, 2, 2, 3, 4]).unwrap(), "hello");

    let tokenizer = Tokenizer::chars(TEXT.chars());
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(TEXT).unwrap()).unwrap(),
        TEXT
    );
}

#[test]
fn an_unknown_character_is_named_with_its_place() {
    let tokenizer = Tokenizer::chars("hello".chars());
    let message = tokenizer.encode("héllo").unwrap_err().to_string();
    assert_eq!(
        message,
        "the character 'é' (U+00E9) at position 1 of the text is not in the tokenizer's \
         vocabulary of 5 tokens"
    );
    let message = tokenizer.decode(&[7]).unwrap_err().to_string();
    assert_eq!(
        message,
        "token id 7 is not in the tokenizer's vocabulary of 5 tokens"
    );
}

#[test]
fn the_direct_paths_say_what_the_library_says() {
    let text = TEXT.replace("<|endoftext|>", "");
    for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(TEXT.chars())] {
        let library = tokenizer.inner.encode(text.as_str(), false).unwrap();
        assert_eq!(tokenizer.encode(&text).unwrap(), library.get_ids());
        let decoded = tokenizer.inner.decode(library.get_ids(), true).unwrap();
        assert_eq!(decoded, text);
    }
}

#[test]
fn a_saved_tokenizer_comes_back_with_its_direct_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for tokenizer in [
        Tokenizer::bytes(),
        Tokenizer::chars(TEXT.chars()),
        small_bpe(),
    ] {
        tokenizer.save(&path).unwrap();
        let loaded = Tokenizer::from_file(&path).unwrap();
        assert_eq!(loaded.kind(), tokenizer.kind());
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        assert_eq!(
            loaded.encode(TEXT).unwrap(),
            tokenizer.encode(TEXT).unwrap()
        );
        assert_eq!(loaded.to_json().unwrap(), tokenizer.to_json().unwrap());
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn a_tokenizer_from_a_file_works() {
    let tokenizer = small_bpe();
    assert_eq!(tokenizer.kind(), TokenizerKind::File);
    assert_eq!(tokenizer.encode("the the").unwrap(), [257, 258]);
    assert_eq!(tokenizer.eos_id(), Some(259));
    assert_eq!(tokenizer.encode("the<|endoftext|>").unwrap(), [257, 259]);
    assert_eq!(tokenizer.decode(&[257, 259, 258]).unwrap(), "the the");
    let batch = tokenizer.encode_batch(&["the", "", " the"]).unwrap();
    assert_eq!(batch, [vec![257], vec![], vec![258]]);

    let tokenizer = small_sentencepiece();
    assert_eq!(tokenizer.eos_id(), None);
    let ids = tokenizer.encode("This This").unwrap();
    assert_eq!(ids, [265, 265]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "This This");
}

#[test]
fn truncation_and_padding_of_a_file_are_left_out() {
    let mut definition: Value = serde_json::from_str(&small_bpe().to_json().unwrap()).unwrap();
    definition["truncation"] = json!({
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
    });
    let tokenizer = Tokenizer::from_json(&definition.to_string()).unwrap();
    assert_eq!(tokenizer.encode("abcdef").unwrap().len(), 6);
}

#[test]
fn streams_give_whole_characters_and_the_whole_text() {
    for tokenizer in [
        Tokenizer::bytes(),
        Tokenizer::chars(TEXT.chars()),
        small_bpe(),
    ] {
        let ids = tokenizer.encode(TEXT).unwrap();
        let (text, pieces) = streamed(&tokenizer, &ids);
        assert_eq!(text, tokenizer.decode(&ids).unwrap());
        assert!(
            pieces.len() > TEXT.chars().count() / 2,
            "text comes as soon as it can"
        );
        assert!(!text.contains(char::REPLACEMENT_CHARACTER));
    }
    let tokenizer = small_sentencepiece();
    let ids = tokenizer.encode("This é中 This").unwrap();
    let (text, pieces) = streamed(&tokenizer, &ids);
    assert_eq!(text, "This é中 This");
    assert!(
        pieces
            .iter()
            .all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER))
    );
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters_at_once() {
    let tokenizer = Tokenizer::bytes();
    let ids = [0x80, 0xFF, 0x41, 0xE4, 0xB8, 0x41, 0xF0, 0x9F];
    let (text, pieces) = streamed(&tokenizer, &ids);
    assert_eq!(text, tokenizer.decode(&ids).unwrap());
    assert_eq!(
        pieces[0], "\u{FFFD}",
        "an impossible byte is not waited for"
    );
    assert_eq!(
        pieces.last().unwrap(),
        "\u{FFFD}",
        "a cut character ends as one"
    );

    // A byte-fallback tokenizer that only gives halves of characters must not wait for ever.
    let tokenizer = small_sentencepiece();
    let (_, pieces) = streamed(&tokenizer, &[1 + 0x80; 40]);
    assert!(pieces.len() >= 9, "{}", pieces.len());
}

#[test]
fn the_space_after_a_prompt_is_kept() {
    let spaced = |(name, tokenizer): (&str, Tokenizer)| {
        let (prompt, next) = match name {
            "SentencePiece BPE" => (265, 265),
            "byte-level BPE" => (257, 258),
            "wordpiece" | "wordpiece as it is" => (1, 3),
            "llama" | "gemma" => (3, 4),
            _ if name.starts_with("metaspace") => (3, 4),
            _ => return false,
        };
        let (text, _) = streamed_after(&tokenizer, &[prompt], &[next]);
        assert!(text.starts_with(' ') && text.len() > 3, "{name}: {text:?}");
        true
    };
    assert_eq!(
        every_kind()
            .into_iter()
            .filter(|kind| spaced(kind.clone()))
            .count(),
        9
    );
}

#[test]
fn an_added_token_is_its_own_text() {
    let mut definition: Value = serde_json::from_str(&small_bpe().to_json().unwrap()).unwrap();
    let added = definition["added_tokens"].as_array_mut().unwrap();
    for (id, content) in [(260, "café"), (261, "«é»"), (262, "中"), (263, "  ")] {
        let mut token = added[0].clone();
        (token["id"], token["content"]) = (json!(id), json!(content));
        token["special"] = json!(false);
        added.push(token);
    }
    let tokenizer = Tokenizer::from_json(&definition.to_string()).unwrap();
    for text in ["é", "café", "«é»", "中", "  ", "the café", "thé«é»中the  "] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(streamed(&tokenizer, &ids).0, text);
    }
    assert_eq!(tokenizer.encode("café").unwrap(), [260]);
}

#[test]
fn characters_without_a_token_are_counted() {
    let refuses = |tokenizer: &Tokenizer, text: &str| {
        let dropped = tokenizer.dropped(text).unwrap();
        (
            dropped.characters,
            dropped.check().err().map(|error| error.to_string()),
        )
    };
    let bpe = |change: &dyn Fn(&mut Value)| {
        let mut definition = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "ignore_merges": false,
                "vocab": { "a": 0, "b": 1, "c": 2, "<unk>": 3, "b</w>": 4 }, "merges": [] },
        });
        change(&mut definition["model"]);
        Tokenizer::from_json(&definition.to_string()).unwrap()
    };
    let silent = bpe(&|_| ());
    assert_eq!(
        refuses(&silent, "a bc\n"),
        (0, None),
        "spaces are the pre-tokenizer's"
    );
    let (count, error) = refuses(&silent, "abxacé x");
    let error = error.unwrap();
    assert_eq!(count, 3);
    assert!(
        error.contains("3 of the 8 characters") && error.contains("'x', U+0078"),
        "{error}"
    );
    let mostly = format!("{}x", "abc ".repeat(100));
    assert_eq!(
        refuses(&silent, &mostly),
        (1, None),
        "a part that is let pass"
    );
    let known = bpe(&|model| model["unk_token"] = json!("<unk>"));
    assert_eq!(refuses(&known, "abxac"), (0, None));
    let ended = bpe(&|model| model["end_of_word_suffix"] = json!("</w>"));
    assert_eq!(refuses(&ended, "ab aab aa").0, 1, "no `a` ends a word");
    // What cannot leave anything out does not even count.
    for tokenizer in [Tokenizer::bytes(), small_bpe(), small_sentencepiece()] {
        assert_eq!(tokenizer.dropped(TEXT).unwrap(), Dropped::default());
    }
    let sum = silent
        .dropped("x")
        .unwrap()
        .and(silent.dropped("aé").unwrap());
    assert_eq!((sum.characters, sum.of, sum.first), (2, 3, Some('x')));
}

#[test]
fn merges_are_not_left_out_at_random() {
    let mut definition: Value = serde_json::from_str(&small_bpe().to_json().unwrap()).unwrap();
    definition["model"]["dropout"] = json!(0.9);
    let text = format!("\u{feff}{definition}");
    let tokenizer = Tokenizer::from_json(&text).expect("a mark is no JSON and no mistake");
    let expected = [257, 258].repeat(50);
    assert_eq!(tokenizer.encode(&"the the".repeat(50)).unwrap(), expected);
    assert_eq!(tokenizer.to_json().unwrap(), small_bpe().to_json().unwrap());
}

#[test]
fn files_that_are_no_tokenizers_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let message = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: "), "{message}");

    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        let error = Tokenizer::from_file(&path).expect_err(text);
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        error
    };
    assert!(matches!(
        refused("\u{1}binary"),
        TokenizerError::NotJson { .. }
    ));
    assert!(matches!(
        refused("{\"model\": {"),
        TokenizerError::NotJson { .. }
    ));
    let config = refused(r#"{"tokenizer_class": "GPT2Tokenizer"}"#);
    assert!(config.to_string().contains("beside it"), "{config}");
    for text in [
        "[]",
        r#"{"model": {}}"#,
        r#"{"model": {"type": "BPE", "vocab": 3, "merges": []}}"#,
        r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": {"type": "Nothing"}}"#,
        r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": 5}"#,
    ] {
        assert!(
            matches!(refused(text), TokenizerError::NotATokenizer { .. }),
            "{text}"
        );
    }
    let mut shifted: Value = serde_json::from_str(&small_bpe().to_json().unwrap()).unwrap();
    shifted["added_tokens"][0]["id"] = json!(300);
    let error = refused(&shifted.to_string());
    assert!(error.to_string().contains("has the id 300"), "{error}");
}

#[test]
fn a_broken_answer_is_caught() {
    let tokenizer = Tokenizer::bytes();
    let mut ids = tokenizer.encode(TEXT).unwrap();
    ids[3] ^= 1;
    assert_ne!(tokenizer.decode(&ids).unwrap(), TEXT);
    assert_ne!(streamed(&tokenizer, &ids).0, TEXT);
}

/// A prompt whose only byte is a space that the decoder strips has no text, and no end yet either: bytes that come
/// can make U+FFFD of it.
#[test]
fn a_stripped_space_waits_for_the_bytes_after_it() {
    for (name, tokenizer) in every_kind() {
        if !["SentencePiece BPE", "llama"].contains(&name) {
            continue;
        }
        let id = |byte: u8| {
            let token = format!("<0x{byte:02X}>");
            let ids = 0..tokenizer.vocab_size() as u32;
            let mut found = ids.filter(|&id| tokenizer.token(id).as_deref() == Some(&*token));
            found.next().expect("every byte is a token")
        };
        let before = [id(0x20)];
        assert_eq!(tokenizer.decode(&before).unwrap(), "", "{name}");
        for (bytes, text) in [
            (&[0x80][..], "\u{FFFD}\u{FFFD}"),
            (&[0x41, 0x80], "\u{FFFD}\u{FFFD}\u{FFFD}"),
            (&[0xC3, 0xA9], "é"),
            (&[0x41], "A"),
            (&[], ""),
        ] {
            let after: Vec<u32> = bytes.iter().map(|&byte| id(byte)).collect();
            let (streamed, _) = streamed_after(&tokenizer, &before, &after);
            let all = tokenizer.decode(&[&before[..], &after].concat()).unwrap();
            assert_eq!((&*streamed, &*all), (text, text), "{name} {bytes:X?}");
        }
    }
}

proptest! {
    #[test]
    fn any_text_survives(text in any::<String>()) {
        for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(text.chars())] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
            prop_assert_eq!(streamed(&tokenizer, &ids).0, text.clone());
        }
    }

    /// Of every kind: prompt and stream are together what all tokens decode to, and each step costs
    /// the same.
    #[test]
    fn a_prompt_and_its_stream_are_the_decoding_of_all_tokens(
        draws in proptest::collection::vec(any::<u32>(), 0..96),
        at in 0..96usize,
    ) {
        for (name, tokenizer) in every_kind() {
            let n = tokenizer.vocab_size() as u32;
            let ids: Vec<u32> = draws.iter().map(|draw| draw % n).collect();
            let (before, after) = ids.split_at(at.min(ids.len()));
            let all = tokenizer.decode(&ids).unwrap();
            prop_assert_eq!(&streamed(&tokenizer, &ids).0, &all, "{}", name);
            // A prompt is text: it does not end within a character.
            let prompt = tokenizer.decode(before).unwrap();
            let (text, _) = streamed_after(&tokenizer, before, after);
            let ends_whole = !prompt.ends_with(char::REPLACEMENT_CHARACTER);
            if ends_whole && all.starts_with(&prompt) {
                prop_assert_eq!(prompt + &text, all, "{} {:?} {:?}", name, before, after);
            }
        }
    }

    #[test]
    fn any_bytes_stream_to_what_they_decode_to(
        ids in proptest::collection::vec(0u32..257, 0..64),
    ) {
        let tokenizer = Tokenizer::bytes();
        prop_assert_eq!(streamed(&tokenizer, &ids).0, tokenizer.decode(&ids).unwrap());
    }
}
