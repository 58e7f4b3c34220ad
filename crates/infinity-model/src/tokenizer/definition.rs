//! The `tokenizer.json` of the two tokenizers that need no training, and checks of those of other
//! programs.
//!
//! Bytes: a BPE with the 256 byte tokens and no merges. Characters: one word for each character,
//! the text split everywhere. Both are ordinary definitions that any program with the `tokenizers`
//! library loads.

use serde_json::{Map, Value, json};
use tokenizers::{ModelWrapper, PreTokenizerWrapper};

/// The token between two texts.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// Whether a tokenizer leaves out what it does not know, and does not know everything.
pub(super) fn drops(inner: &tokenizers::Tokenizer) -> bool {
    let ModelWrapper::BPE(bpe) = inner.get_model() else {
        return false;
    };
    let has_all = |token: fn(u8) -> String| {
        let mut names = (0..=255).map(token);
        names.all(|name| inner.token_to_id(&name).is_some())
    };
    let knows_bytes = inner.get_pre_tokenizer().is_some_and(of_bytes)
        && has_all(|byte| alphabet()[usize::from(byte)].to_string());
    bpe.unk_token.is_none() && !knows_bytes && !(bpe.byte_fallback && has_all(byte_token))
}

fn of_bytes(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::ByteLevel(_) => true,
        PreTokenizerWrapper::Sequence(parts) => parts.as_ref().iter().any(of_bytes),
        _ => false,
    }
}

/// The name of a byte's token where bytes stand in for what a vocabulary lacks.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Refuses a definition whose added tokens would get other ids than it says: the crate only logs
/// that, and a model would then read other tokens than it was trained on.
pub(super) fn check_added_tokens(
    inner: &tokenizers::Tokenizer,
    definition: &Value,
) -> Result<(), String> {
    let added = definition.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        let content = token.get("content").and_then(Value::as_str);
        let (Some(content), Some(id)) = (content, token.get("id").and_then(Value::as_u64)) else {
            continue;
        };
        let given = inner.token_to_id(content);
        if given.map(u64::from) != Some(id) {
            return Err(format!(
                "its added token {content:?} has the id {id}, but the ids before it leave {}",
                given.map_or("none".into(), |given| given.to_string())
            ));
        }
    }
    Ok(())
}

/// The tokenizer whose ids 0 to 255 are the bytes of the text.
pub(super) fn bytes_definition() -> Value {
    let vocab = numbered(&alphabet());
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
    });
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "ignore_merges": false, "vocab": vocab, "merges": [],
    });
    definition(256, byte_level.clone(), byte_level, model)
}

/// The tokenizer whose ids are the places of the characters in `characters`, each there once.
pub(super) fn chars_definition(characters: &[char]) -> Value {
    let vocab = numbered(characters);
    let every_character = json!({
        "type": "Split", "pattern": { "Regex": "[\\s\\S]" }, "behavior": "Isolated",
        "invert": false,
    });
    // An `unk_token` that is in no vocabulary makes an unknown character an error there too.
    let model = json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" });
    let fuse = json!({ "type": "Fuse" });
    definition(characters.len(), every_character, fuse, model)
}

/// A vocabulary of these characters, each with its place as its id.
fn numbered(characters: &[char]) -> Map<String, Value> {
    let each = characters.iter().enumerate();
    each.map(|(id, character)| (character.to_string(), json!(id)))
        .collect()
}

fn definition(end_of_text: usize, pre_tokenizer: Value, decoder: Value, model: Value) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": end_of_text, "content": END_OF_TEXT, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": model,
    })
}

/// The characters of a definition that [`chars_definition`] made, by id; `None` for any other.
pub(super) fn chars_of(definition: &Value) -> Option<Vec<char>> {
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
    let characters: Vec<char> = characters.into_iter().map(|(_, c)| c).collect();
    (chars_definition(&characters) == *definition).then_some(characters)
}

/// GPT-2's byte alphabet: the printable character that stands for each byte in a vocabulary file.
/// Printable Latin-1 bytes are their own character; the 68 others are, in order, U+0100 onwards.
pub(super) fn alphabet() -> [char; 256] {
    let mut substitutes = ('\u{100}'..).take(256);
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(byte),
        _ => substitutes.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let alphabet = alphabet();
        let distinct: std::collections::BTreeSet<char> = alphabet.into_iter().collect();
        assert_eq!(distinct.len(), 256);
        assert_eq!(alphabet[b' ' as usize], 'Ġ');
        assert_eq!(alphabet[b'\n' as usize], 'Ċ');
        assert_eq!(
            alphabet[0xAD], 'Ń',
            "the soft hyphen is the last substitute"
        );
        assert!(!distinct.contains(&' ') && !distinct.contains(&'中'));
    }
}
