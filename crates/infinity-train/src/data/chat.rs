//! Rows that hold conversations, of which the answers alone are learned.
//!
//! ```text
//! {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]}
//! ```
//!
//! A conversation becomes a text by the chat template of the tokenizer's directory, which `infinity chat` uses too, and a
//! document of its own. Tokens that share no byte with an answer are read and never predicted. In a token file they
//! carry a mark, the highest of 32 bits.

use infinity_model::tokenizer::Tokenizer;
use infinity_model::{ChatTemplate, Message, TokenizerError};
use serde_json::Value;
use std::ops::Range;

/// On a token that is not predicted.
pub(super) const SILENT: u32 = 1 << 31;
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// The answers in the text of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Bytes of the text.
    pub ranges: Vec<Range<usize>>,
    /// Whether the text ends by itself, without a token that ends texts, and begins so.
    pub whole: bool,
}

impl Answers {
    /// Whether the last of them ends `text`.
    pub(super) fn end(&self, text: &str) -> bool {
        let last = self.ranges.last();
        last.is_some_and(|range| range.end >= text.trim_end().len())
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.len() as u64).sum()
    }

    /// The tokens of `text`, marked where they are not predicted.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
    ) -> Result<Vec<u32>, TokenizerError> {
        let placed = tokenizer.encode_placed(text, !self.whole)?;
        let spoken = |place: &Range<usize>| {
            let mut ranges = self.ranges.iter();
            ranges.any(|range| place.start < range.end && range.start < place.end)
        };
        let mark = |(id, place)| if spoken(&place) { id } else { id | SILENT };
        Ok(placed.into_iter().map(mark).collect())
    }
}

/// The text of a conversation, the value of `column` in a row, or what is wrong with it; `tools` are the row's.
pub(super) fn conversation(
    template: &ChatTemplate,
    value: Value,
    tools: Option<&Value>,
    column: &str,
) -> Result<(String, Answers), String> {
    let Value::Array(found) = value else {
        return Err(format!("`{column}` is no list of messages"));
    };
    let says = |value: Option<&Value>| match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if says(tools) {
        return Err("`tools` are not read: rows are conversations of texts".to_owned());
    }
    let mut messages = Vec::with_capacity(found.len());
    for (i, message) in found.into_iter().enumerate() {
        let at = format!("{column}[{i}]");
        let mut calls = ["tool_calls", "function_call"].into_iter();
        if let Some(key) = calls.find(|key| says(message.get(key))) {
            return Err(format!("{at}.{key} is not read: messages are texts"));
        }
        let said: Message = serde_json::from_value(message)
            .map_err(|error| format!("{at} is no {{\"role\", \"content\"}} of texts: {error}"))?;
        if !ROLES.contains(&said.role.as_str()) {
            let (role, roles) = (said.role, ROLES.join(", "));
            return Err(format!("{at}.role is {role:?}, and must be one of {roles}"));
        }
        messages.push(said);
    }
    let written = template.answers(&messages);
    let (text, ranges) = written.map_err(|error| format!("`{column}`: {error}"))?;
    let whole = !template.is_plain();
    Ok((text, Answers { ranges, whole }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        DataConfig, DataError, EvalSource, IGNORE_INDEX, Packing, PreparedData, TokenizerConfig,
        TrainSource, prepare,
    };
    use std::fmt::Write as _;
    use std::fs;
    use std::path::Path;

    /// A file of `rows`, and what it takes to read it.
    fn data(dir: &Path, rows: &str) -> DataConfig {
        let file = dir.join("talk.jsonl");
        fs::write(&file, rows).unwrap();
        DataConfig {
            train_file: file,
            messages_column: "messages".into(),
            chat_template: "plain".into(),
            val_fraction: Some(0.2),
            max_seq_length: 24,
            cache_dir: dir.join("cache"),
            ..DataConfig::default()
        }
    }

    fn row(turns: &[(&str, &str)]) -> String {
        let turns = turns.iter();
        let turns = turns.map(|(role, said)| serde_json::json!({ "role": role, "content": said }));
        let turns: Vec<Value> = turns.collect();
        format!("{}\n", serde_json::json!({ "messages": turns }))
    }

    /// Questions of letters, answers of digits.
    fn talks(count: usize) -> String {
        let mut rows = String::new();
        for i in 0..count {
            let (asked, answer) = ("ab ".repeat(1 + i % 7), format!("{}", 17 * i * i));
            let mut turns = vec![("user", &*asked), ("assistant", &*answer)];
            if i % 3 == 0 {
                turns.extend([("user", "cd"), ("assistant", "8"), ("user", "ef")]);
            }
            let _ = write!(rows, "{}", row(&turns));
        }
        rows
    }

    fn prepared(data: &DataConfig) -> Result<PreparedData, DataError> {
        prepare(data, &TokenizerConfig::default(), &mut |_| {})
    }

    /// Digits and the end of a text are all that is learned, and every one of them is, whatever stands beside what.
    #[test]
    fn answers_are_learned_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = data(dir.path(), &talks(40));
        let prepared = prepared(&config).unwrap();
        let eos = prepared.tokenizer.eos_id().unwrap() as i32;
        let ids = prepared.train.tokens(0..prepared.train.len()).unwrap();
        assert!(
            ids.iter().all(|id| (0..=eos).contains(id)),
            "marks are no ids"
        );
        let digit = |id: i32| u8::try_from(id).is_ok_and(|byte| byte.is_ascii_digit());
        for packing in [
            Packing::Documents,
            Packing::Packed,
            Packing::Shuffled,
            Packing::Contiguous,
        ] {
            let config = DataConfig {
                packing,
                ..config.clone()
            };
            let source = TrainSource::new(prepared.train.clone(), &config, 3, 5).unwrap();
            let mut learned = 0;
            for step in 0..source.steps_per_epoch() {
                let batch = source.batch(step).unwrap().within(257).unwrap();
                let mut counted = 0;
                for (at, target) in batch.targets.iter().enumerate() {
                    // What a target that does not count would have been, where the row shows it.
                    let (row, next) = (at / batch.len, at % batch.len + 1);
                    let pieces = batch.borders.pieces(row, batch.len);
                    let goes_on =
                        next < batch.len && !pieces.into_iter().any(|p| p.tokens.start == next);
                    let after = batch.inputs.get(at + 1).filter(|_| goes_on);
                    let padded = batch.targets[at..(row + 1) * batch.len]
                        .iter()
                        .all(|id| *id == IGNORE_INDEX);
                    match (*target, after) {
                        (IGNORE_INDEX, Some(after)) if !padded => {
                            assert!(!digit(*after), "{packing:?}: a digit is left out");
                        }
                        (IGNORE_INDEX, _) => {}
                        (target, _) => {
                            counted += 1;
                            let said = digit(target) || target == eos || target == i32::from(b' ');
                            assert!(said, "{packing:?}: {target} is learned");
                        }
                    }
                }
                assert_eq!(counted, batch.valid);
                learned += counted;
            }
            assert!(learned > 60, "{packing:?}: {learned}");
        }
        let valid = EvalSource::new(prepared.valid.clone(), 2, 24, false).unwrap();
        let counted: usize = valid.iter().map(|batch| batch.unwrap().valid).sum();
        let held_out = prepared.valid.tokens(0..prepared.valid.len()).unwrap();
        let digits = held_out.iter().filter(|id| digit(**id)).count();
        assert!(digits > 0 && counted >= digits && counted < held_out.len() / 2);
        // The same as text, without marks, is learned whole: what is looked at above can fail.
        let file = dir.path().join("talk.txt");
        fs::write(&file, "User: ab ab\n\nAssistant: 17\n".repeat(40)).unwrap();
        let text = DataConfig {
            train_file: file,
            messages_column: String::new(),
            chat_template: String::new(),
            packing: Packing::Shuffled,
            ..config
        };
        let source = self::prepared(&text).unwrap().train;
        let batch = TrainSource::new(source, &text, 3, 5)
            .unwrap()
            .batch(0)
            .unwrap();
        assert!(
            batch
                .targets
                .iter()
                .any(|id| !digit(*id) && *id != IGNORE_INDEX)
        );
        assert_eq!(batch.valid, 3 * 24);
    }

    /// Behind an answer the end of a text is learned, behind a question it is not.
    #[test]
    fn a_text_ends_behind_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let learned = |turns: &[(&str, &str)]| {
            let config = data(dir.path(), &row(turns).repeat(30));
            let prepared = prepared(&config).unwrap();
            let eos = prepared.tokenizer.eos_id().unwrap() as i32;
            let valid = EvalSource::new(prepared.train.clone(), 1, 24, false).unwrap();
            let targets = valid.iter().flat_map(|batch| batch.unwrap().targets);
            targets.filter(|id| *id == eos).count()
        };
        assert!(learned(&[("user", "a"), ("assistant", "7")]) > 10);
        assert_eq!(
            learned(&[("user", "a"), ("assistant", "7"), ("user", "b")]),
            0
        );
    }

    #[test]
    fn a_row_that_is_no_conversation_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let good = row(&[("user", "a"), ("assistant", "b")]);
        let told = |rows: &str, words: &[&str]| {
            let message = prepared(&data(dir.path(), rows)).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} in {message:?}");
            }
        };
        let second = |bad: &str, words: &[&str]| {
            let all = [&["talk.jsonl, line 2"], words].concat();
            told(&format!("{good}{bad}\n{good}"), &all);
        };
        second(
            "{\"text\": \"a\"}",
            &["no column `messages`", "data.messages_column", "text"],
        );
        second("{\"messages\": \"a\"}", &["no list of messages"]);
        second(
            "{\"messages\": [{\"role\": \"user\"}]}",
            &["messages[0]", "content"],
        );
        second("{\"messages\": []}", &["no message of the role assistant"]);
        second(
            &row(&[("user", "a")]),
            &["no message of the role assistant"],
        );
        second(
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{}]}]}",
            &["messages[0].tool_calls is not read"],
        );
        second(
            "{\"messages\": [], \"tools\": [{}]}",
            &["`tools` are not read"],
        );
        let robot = row(&[("user", "a"), ("robot", "b")]);
        second(&robot, &["messages[1].role", "robot", "assistant"]);
        second("{\"messages\": [", &["not a JSON object"]);
        told("", &["talk.jsonl", "holds no text"]);
        let with = |change: fn(&mut DataConfig), words: &[&str]| {
            let mut config = data(dir.path(), &good.repeat(50));
            change(&mut config);
            let message = prepared(&config).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} in {message:?}");
            }
        };
        with(
            |c| c.chat_template.clear(),
            &["data.chat_template", "no chat template", "plain"],
        );
        with(
            |c| c.chat_template = "none.jinja".into(),
            &["none.jinja", "is no file"],
        );
        with(
            |c| c.messages_column.clear(),
            &["data.chat_template", "data.messages_column"],
        );
        with(|c| c.messages_column = "chat".into(), &["no column `chat`"]);
        // Tokens of a text have no marks.
        let mut text = data(dir.path(), "");
        (text.messages_column, text.chat_template) = (String::new(), String::new());
        text.train_file = dir.path().join("talk.txt");
        fs::write(&text.train_file, "User: ab\n\nAssistant: 17\n".repeat(50)).unwrap();
        let tokens = prepared(&text).unwrap().directory;
        let marked = DataConfig {
            train_file: tokens,
            ..data(dir.path(), &good)
        };
        let message = prepared(&marked).unwrap_err().to_string();
        assert!(
            message.contains("data.messages_column") && message.contains("no answers are marked"),
            "{message}"
        );
    }
}
