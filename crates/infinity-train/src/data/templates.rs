//! How the conversations in rows are written as texts.

use super::config::{DataConfig, TokenizerConfig, TokenizerKind};
use super::error::{DataError, bad};
use super::tokenize::tokenizer_path;
use infinity_model::ChatTemplate;
use std::path::{Path, PathBuf};

/// The word for the template of models that have none.
const PLAIN: &str = "plain";

/// How conversations are written, where rows hold some.
///
/// # Errors
/// `data.chat_template` names none, or the tokenizer's directory has none.
pub(super) fn template(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
) -> Result<Option<ChatTemplate>, DataError> {
    let given = &data.chat_template;
    if data.messages_column.is_empty() {
        return Ok(None);
    }
    let path = tokenizer_path(tokenizer);
    let dir = match tokenizer.resolve()? {
        TokenizerKind::File => path.parent().map(Path::to_path_buf),
        _ => None,
    };
    let dir = dir.unwrap_or_default();
    match given.as_str() {
        PLAIN => Ok(Some(ChatTemplate::plain())),
        "" => match ChatTemplate::from_model_dir(&dir)? {
            template if template.is_plain() => {
                let hint = "the tokenizer's directory has no chat template: name a .jinja file, or \"plain\" for \
                            paragraphs with the speaker's name";
                Err(DataError::NotSet {
                    key: "data.chat_template",
                    hint,
                })
            }
            template => Ok(Some(template)),
        },
        file => {
            let path = PathBuf::from(file);
            match path.is_file() {
                true => Ok(Some(ChatTemplate::from_file(&path, &dir)?)),
                false => bad("data.chat_template", file, "is no file, and not \"plain\""),
            }
        }
    }
}
