//! Making or loading the tokenizer that the configuration asks for.

use super::config::{TokenizerConfig, TokenizerKind};
use super::error::DataError;
use infinity_model::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Mutex;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

/// The token between documents, under the name that loaders of `tokenizer.json` recognise.
const END_OF_TEXT: &str = "<|endoftext|>";

/// A pair seen once teaches nothing about the next text.
const MIN_FREQUENCY: u64 = 2;

/// A set of characters, one bit each.
pub(super) struct Alphabet(Vec<u64>);

impl Default for Alphabet {
    fn default() -> Self {
        Self(vec![0; (char::MAX as usize + 1) / 64])
    }
}

impl Alphabet {
    pub(super) fn extend(&mut self, text: &str) {
        for character in text.chars() {
            self.0[character as usize / 64] |= 1 << (character as u32 % 64);
        }
    }

    fn characters(&self) -> impl Iterator<Item = char> + '_ {
        let holds = |code: u32| self.0[code as usize / 64] >> (code % 64) & 1 == 1;
        (0..=char::MAX as u32)
            .filter(move |code| holds(*code))
            .filter_map(char::from_u32)
    }

    /// The tokenizer whose tokens are these characters.
    pub(super) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::chars(self.characters())
    }
}

/// The tokenizer at `tokenizer.path`, which may be its directory.
pub(super) fn from_file(config: &TokenizerConfig) -> Result<Tokenizer, DataError> {
    let path = tokenizer_path(config);
    if !path.exists() {
        return Err(DataError::NotFound {
            key: "tokenizer.path",
            path,
        });
    }
    Ok(Tokenizer::from_file(path)?)
}

fn tokenizer_path(config: &TokenizerConfig) -> PathBuf {
    if config.path.is_dir() {
        config.path.join("tokenizer.json")
    } else {
        config.path.clone()
    }
}

/// Tokenizers that do not depend on the text; nothing for the ones that are learned from it.
pub(super) fn fixed(
    config: &TokenizerConfig,
    kind: TokenizerKind,
) -> Result<Option<Tokenizer>, DataError> {
    match kind {
        TokenizerKind::Byte => Ok(Some(Tokenizer::bytes())),
        TokenizerKind::File => from_file(config).map(Some),
        TokenizerKind::Char | TokenizerKind::Bpe | TokenizerKind::Hub => Ok(None),
    }
}

/// Learns a byte-level BPE of `entries` tokens (GPT-2's kind: bytes, merges inside words, no unknown
/// token) from `texts`. The same texts give the same tokenizer.
///
/// # Errors
/// The first error of `texts`, or what the `tokenizers` crate refuses.
pub fn train_bpe(
    texts: impl Iterator<Item = Result<String, DataError>> + Send,
    entries: usize,
) -> Result<Tokenizer, DataError> {
    let failed = |error: tokenizers::Error| DataError::TrainTokenizer(error.to_string());
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(entries)
        .min_frequency(MIN_FREQUENCY)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    let bytes = ByteLevel::new(false, false, true);
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
            .with_model(BPE::default())
            .with_normalizer(None)
            .with_pre_tokenizer(Some(bytes))
            .with_decoder(Some(bytes))
            .with_post_processor(None)
            .build()
            .map_err(failed)?;
    // The trainer takes texts, not results: the first error ends them and is kept aside.
    let first_error = Mutex::new(None);
    let good = texts.map_while(|text| match text {
        Ok(text) => Some(text),
        Err(error) => {
            *first_error.lock().expect("nothing panics while holding it") = Some(error);
            None
        }
    });
    let trained = tokenizer
        .train(&mut trainer, good)
        .map_err(failed)
        .map(|_| ());
    match first_error
        .into_inner()
        .expect("nothing panics while holding it")
    {
        Some(error) => Err(error),
        None => trained.and_then(|()| {
            Ok(Tokenizer::from_json(
                &tokenizer.to_string(false).map_err(failed)?,
            )?)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn text() -> String {
        (0..400)
            .map(|i| {
                format!(
                    "the cat number {i} sat on the mat, über allen 水 {}\n",
                    i * i
                )
            })
            .collect()
    }

    fn trained(text: &str, entries: usize) -> Tokenizer {
        train_bpe(text.lines().map(|line| Ok(format!("{line}\n"))), entries).unwrap()
    }

    #[test]
    fn a_trained_bpe_is_deterministic_and_loses_nothing() {
        let tokenizer = trained(&text(), 400);
        assert_eq!(tokenizer.vocab_size(), 400);
        assert!(tokenizer.eos_id().is_some());
        for _ in 0..3 {
            assert_eq!(
                trained(&text(), 400).to_json().unwrap(),
                tokenizer.to_json().unwrap()
            );
        }
        for sample in [text().as_str(), "  unseen\r\n\tÆ 🦀 words  ", ""] {
            let ids = tokenizer.encode(sample).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), sample);
            assert!(ids.len() <= sample.len());
        }
        assert!(tokenizer.encode(&text()).unwrap().len() < text().len() / 2);
    }

    #[test]
    fn other_text_gives_another_bpe() {
        let other = text().replace("cat", "dog");
        assert_ne!(
            trained(&text(), 400).to_json().unwrap(),
            trained(&other, 400).to_json().unwrap()
        );
    }

    #[test]
    fn an_error_in_the_text_ends_the_training() {
        let texts = [
            Ok("good".to_owned()),
            Err(DataError::Empty {
                path: "bad.txt".into(),
            }),
        ];
        let message = train_bpe(texts.into_iter(), 300).unwrap_err().to_string();
        assert!(message.contains("bad.txt"), "{message}");
    }

    #[test]
    fn the_alphabet_holds_what_was_read() {
        let mut alphabet = Alphabet::default();
        alphabet.extend("bab");
        alphabet.extend("水\u{10ffff}\0");
        assert_eq!(
            alphabet.characters().collect::<String>(),
            "\0ab水\u{10ffff}"
        );
        assert_eq!(alphabet.tokenizer().encode("水ab").unwrap(), [3, 1, 2]);
    }

    #[test]
    fn a_missing_tokenizer_file_names_its_key() {
        let config = TokenizerConfig {
            path: "no/such.json".into(),
            ..TokenizerConfig::default()
        };
        let message = fixed(&config, TokenizerKind::File).unwrap_err().to_string();
        assert!(
            message.contains("tokenizer.path") && message.contains("such.json"),
            "{message}"
        );
        let dir = tempfile::tempdir().unwrap();
        Tokenizer::bytes()
            .save(dir.path().join("tokenizer.json"))
            .unwrap();
        let config = TokenizerConfig {
            path: dir.path().into(),
            ..TokenizerConfig::default()
        };
        assert!(fixed(&config, TokenizerKind::File).unwrap().is_some());
        assert!(tokenizer_path(&config).ends_with(Path::new("tokenizer.json")));
    }
}
