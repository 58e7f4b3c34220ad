//! The splits of a task: stores that make their rows when they are read, and no files.

use super::config::{DataConfig, TokenizerConfig, TokenizerKind};
use super::error::{DataError, bad};
use super::store::{
    FORMAT_VERSION, FileStamp, PreparedData, PreparedMeta, SourceMeta, SplitMeta, TextMeta,
    TokenStore, Width,
};
use super::task::{Part, TaskRows};
use infinity_files::fingerprint;
use infinity_model::Tokenizer;
use std::path::PathBuf;

/// Seed of the rows that a run validates on: the same for all runs, so that they can be compared.
const VALIDATION_SEED: u64 = 0;

/// Both parts of the task that `data` names, and the characters that stand for its tokens.
pub(super) fn of(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
) -> Result<PreparedData, DataError> {
    if *tokenizer != TokenizerConfig::default() {
        let reason = "a task's tokens are its own; leave [tokenizer] out";
        return bad("tokenizer.kind", tokenizer.resolve()?.name(), reason);
    }
    let train = data.task_rows(Part::Train, 0)?;
    let valid = data.task_rows(Part::HeldOut, VALIDATION_SEED)?;
    // Characters that can be seen, one for each id, in ascending order as ids are.
    let visible = |c: &char| !c.is_whitespace() && !c.is_control();
    let characters = ('!'..=char::MAX).filter(visible).take(train.vocab_size());
    let tokenizer = Tokenizer::chars(characters);
    let hash = fingerprint(train.describe());
    let stamp = |count| FileStamp {
        file: String::new(),
        dtype: Width::U16,
        count,
        checksum: hash.clone(),
    };
    let split = |rows: &TaskRows| SplitMeta {
        tokens: stamp(rows.rows() * rows.row_len() as u64),
        documents: stamp(rows.rows()),
        text: TextMeta::default(),
    };
    Ok(PreparedData {
        meta: PreparedMeta {
            format_version: FORMAT_VERSION,
            tokenizer_kind: TokenizerKind::Char,
            tokenizer_hash: fingerprint(tokenizer.to_json()?),
            vocab_size: tokenizer.vocab_size(),
            eos_id: tokenizer.eos_id(),
            source: SourceMeta {
                hash: hash.clone(),
                documents: train.rows(),
                files: Vec::new(),
            },
            validation_source: None,
            train: split(&train),
            validation: split(&valid),
        },
        train: TokenStore::of_rows(train),
        valid: TokenStore::of_rows(valid),
        tokenizer,
        directory: PathBuf::new(),
    })
}
