//! The byte alphabet of GPT-2: one printable character for each of the 256 bytes.
//!
//! Printable Latin-1 bytes are their own character; the 68 others are, in order, U+0100 onwards.
//! Tokenizers write byte tokens this way because a vocabulary file holds text, not bytes.

/// The first character that stands for a byte which is not printable itself.
const FIRST_SUBSTITUTE: u32 = 0x100;

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that stands for each byte.
pub(crate) fn alphabet() -> [char; 256] {
    let mut substitutes = (FIRST_SUBSTITUTE..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        byte if is_printable(byte) => char::from(byte),
        _ => substitutes.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}

/// The byte that a character stands for.
fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => {
            let index = (code - FIRST_SUBSTITUTE) as usize;
            (0..=255u8).filter(|&byte| !is_printable(byte)).nth(index)
        }
    }
}

/// The bytes that a token stands for; a token with a character outside the alphabet stands for
/// itself, as in the `ByteLevel` decoder of the `tokenizers` crate.
pub(crate) fn token_bytes(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(byte_of)
        .collect::<Option<_>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_and_back() {
        let alphabet = alphabet();
        for byte in 0..=255u8 {
            assert_eq!(byte_of(alphabet[byte as usize]), Some(byte));
        }
        assert_eq!(alphabet[b' ' as usize], 'Ġ');
        assert_eq!(alphabet[b'\n' as usize], 'Ċ');
        assert_eq!(
            alphabet[0xAD], 'Ń',
            "the soft hyphen is the last substitute"
        );
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('中'), None);
    }

    #[test]
    fn tokens_outside_the_alphabet_stand_for_themselves() {
        assert_eq!(token_bytes("ĠMÃ©"), " Mé".as_bytes());
        assert_eq!(token_bytes("  "), b"  ");
    }
}
