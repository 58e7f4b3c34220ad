//! Tokenizers: nothing is lost, fast paths agree with the `tokenizers` crate, mistakes are named.

use std::fs;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEXT: &str =
    "First Citizen:\nBefore we proceed — naïve, 中文, 👩‍👩‍👧, \u{0}\t<|endoftext|> end.\r\n";

/// GPT-2's scheme in small: byte-level BPE with merges and a regex.
fn small_bpe() -> Tokenizer {
    let mut definition = definitions::bytes();
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

/// The text of a stream, and its pieces.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> (String, Vec<String>) {
    let mut stream = tokenizer.decode_stream();
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

proptest! {
    #[test]
    fn any_text_survives(text in any::<String>()) {
        for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(text.chars())] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
            prop_assert_eq!(streamed(&tokenizer, &ids).0, text.clone());
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
