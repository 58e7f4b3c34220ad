//! How the conversations in rows are written as texts.

use super::config::{DataConfig, TokenizerConfig, TokenizerKind};
use super::error::{DataError, bad};
use super::tokenize::tokenizer_path;
use infinity_model::ChatTemplate;
use infinity_model::chat_template::TEMPLATE;
use infinity_model::pretrained::conversations;
use infinity_model::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};

/// The word for the template of models that have none.
const PLAIN: &str = "plain";

/// How conversations are written, where rows hold some.
pub(super) fn template(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
) -> Result<Option<ChatTemplate>, DataError> {
    if data.messages_column.is_empty() {
        return Ok(None);
    }
    let dir = directory(tokenizer)?.unwrap_or_default();
    let template = match data.chat_template.as_str() {
        PLAIN => ChatTemplate::plain(),
        "" => ChatTemplate::from_model_dir(&dir)?,
        file if Path::new(file).is_file() => ChatTemplate::from_file(Path::new(file), &dir)?,
        file => return bad("data.chat_template", file, "is no file, and not \"plain\""),
    };
    let given = !data.chat_template.is_empty() || dir.join(TEMPLATE).is_file();
    if template.is_plain() && !given {
        let hint = "the tokenizer's directory has no chat template: name a .jinja file, or \"plain\" for paragraphs with \
                    the speaker's name";
        return Err(DataError::not_set("data.chat_template", hint));
    }
    Ok(Some(template))
}

/// The directory of a tokenizer that lies in one.
pub(crate) fn directory(tokenizer: &TokenizerConfig) -> Result<Option<PathBuf>, DataError> {
    let path = tokenizer_path(tokenizer);
    Ok(match tokenizer.resolve()? {
        TokenizerKind::File => path.parent().map(Path::to_path_buf),
        _ => None,
    })
}

/// What a run leaves beside its tokenizer, by the names of files, for what it learns to be talked to: what lies beside
/// the one that it was given, and the template that its rows are written in, where they are conversations.
pub(crate) fn remembered(
    data: &DataConfig,
    config: &TokenizerConfig,
    tokenizer: &Tokenizer,
) -> Result<Vec<(&'static str, String)>, DataError> {
    let dir = directory(config)?;
    let mut files = dir.map_or_else(Vec::new, |dir| conversations(&dir, Some(tokenizer)));
    if let Some(template) = template(data, config)? {
        files.retain(|(name, _)| *name != TEMPLATE);
        files.push((TEMPLATE, template.text().to_owned()));
    }
    Ok(files)
}
