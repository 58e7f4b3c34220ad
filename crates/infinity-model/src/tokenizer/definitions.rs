//! The `tokenizer.json` of the two tokenizers that need no training: bytes and characters.
//!
//! Both are ordinary definitions that any program with the `tokenizers` library loads. Bytes: a
//! BPE with the 256 byte tokens and no merges. Characters: one word for each character, the text
//! split everywhere.

use serde_json::{Map, Value, json};

use super::byte_level;

/// The token between two texts.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// The tokenizer whose ids 0 to 255 are the bytes of the text.
pub(crate) fn bytes() -> Value {
    let vocab: Map<String, Value> = byte_level::alphabet()
        .iter()
        .enumerate()
        .map(|(byte, character)| (character.to_string(), json!(byte)))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": false,
    });
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": false,
        "vocab": vocab,
        "merges": [],
    });
    definition(256, byte_level.clone(), byte_level, model)
}

/// The tokenizer whose ids are the places of the characters in `characters`, each there once.
pub(crate) fn chars(characters: &[char]) -> Value {
    let vocab: Map<String, Value> = characters
        .iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let every_character = json!({
        "type": "Split",
        "pattern": { "Regex": "[\\s\\S]" },
        "behavior": "Isolated",
        "invert": false,
    });
    // An `unk_token` that is in no vocabulary makes an unknown character an error there too.
    let model = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" });
    definition(
        characters.len(),
        every_character,
        json!({ "type": "Fuse" }),
        model,
    )
}

fn definition(end_of_text: usize, pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": end_of_text,
            "content": END_OF_TEXT,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    })
}

/// The characters of a definition that [`chars`] made, by id; `None` for any other.
pub(crate) fn chars_of(definition: &Value) -> Option<Vec<char>> {
    let vocab = definition.pointer("/model/vocab")?.as_object()?;
    let mut characters: Vec<(u64, char)> = Vec::with_capacity(vocab.len());
    for (token, id) in vocab {
        let mut token = token.chars();
        let (Some(character), None) = (token.next(), token.next()) else {
            return None;
        };
        characters.push((id.as_u64()?, character));
    }
    characters.sort_unstable();
    let characters: Vec<char> = characters
        .into_iter()
        .map(|(_, character)| character)
        .collect();
    (chars(&characters) == *definition).then_some(characters)
}
