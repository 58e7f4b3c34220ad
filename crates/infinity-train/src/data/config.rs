//! `[data]` and `[tokenizer]`: where text comes from and how it becomes tokens.

use super::error::{DataError, bad, within};
use super::stories::{MOST_STORIES, StoriesConfig};
use super::task::{Part, Task, TaskConfig, TaskRows};
use crate::section::section;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Threads beyond which nothing gets faster, and the system may refuse the next one.
const MANY_WORKERS: usize = 256;

/// Where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// `train_file` and `validation_file`.
    #[serde(alias = "text")]
    Files,
    /// The Rust sources of this workspace's locked dependencies: `train_crates`, `validation_crates`.
    CargoRegistry,
    /// Small English stories that this program makes: `[data.stories]`. No file is needed.
    Stories,
    /// No text: keys with values, and queries for them (MQAR).
    Recall,
    /// No text: keys written once and keys overwritten all the time.
    Sticky,
    /// No text: bits, and the parity of all so far.
    Parity,
    /// No text: symbols, to be said again.
    Copy,
}

/// How windows are taken from the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Row `b` of a batch goes on where row `b` of the batch before stopped. All documents are one
    /// stream: a carried state flows over their borders, which the end-of-text token marks.
    #[default]
    Contiguous,
    /// Every window starts anywhere, independently of the others.
    Random,
    /// A grid of windows, shifted and put in a new order every epoch: no token twice in an epoch.
    Shuffled,
    /// Windows start where documents start, and never hold two documents: a border is always the
    /// start of a row, and there a carried state is reset.
    Documents,
    /// The documents of an epoch, in a random order, stand one behind the other in the rows, without
    /// padding and each as if it were alone: nothing crosses a border. With `stateful`, a document that goes
    /// on in the next window goes on with its state.
    Packed,
}

section! {
    /// The `[data]` section.
    DataConfig {
        /// Files, the sources of dependencies, made stories, or a task that makes its own rows.
        source: DataSource = DataSource::Files;
        /// Sizes of a task.
        task: TaskConfig = TaskConfig::default();
        /// How many stories.
        stories: StoriesConfig = StoriesConfig::default();
        /// A .txt, .jsonl, .ndjson, .json, .csv or .tsv file, a directory of them, or a directory that `infinity tokenize` wrote.
        train_file: PathBuf = PathBuf::new();
        /// The same for validation; empty: the end of the training text.
        validation_file: PathBuf = PathBuf::new();
        /// Key or column that holds the text in .jsonl, .json, .csv and .tsv.
        text_column: String = "text".to_owned();
        /// Key of .jsonl and .json rows that holds a conversation, a list of {"role", "content"}, as in "messages": the
        /// answers of its assistant alone are learned. Empty: rows hold text.
        messages_column: String = String::new();
        /// How conversations are written: a .jinja file, or "plain" for paragraphs with the speaker's name. Empty: the
        /// chat template in the directory of `tokenizer.path`.
        chat_template: String = String::new();
        /// Part of the characters, from the end of the text, that is kept for validation when
        /// `validation_file` is empty. Unset: a tenth, but no more than a million characters or 0.5 %,
        /// whichever is more.
        val_fraction: Option<f64> = None;
        /// Put the end-of-text token after the last document too, not only between documents.
        append_eos: bool = false;
        /// Crates to learn from (`name` or `name@version`), for `source = "cargo-registry"`.
        train_crates: Vec<String> = Vec::new();
        /// Crates held out for validation, for `source = "cargo-registry"`.
        validation_crates: Vec<String> = Vec::new();
        /// Tokens in a window. Windows are for training; a trained model has no such limit.
        max_seq_length: usize = 1024;
        /// How windows are taken.
        packing: Packing = Packing::Contiguous;
        /// Part of the windows in which sentences with a number are hidden and asked for again, for
        /// `infinity eval --task needle`, which asks for another; with "random", "shuffled" and "contiguous" windows. With
        /// `stateful` up to 32 windows share their numbers, and the first of them begins with an empty memory.
        needle_fraction: f64 = 0.0;
        /// Carry the model's memory from a window to the one that follows it.
        stateful: bool = false;
        /// Which state a window starts from when `stateful`: its own past, another stream's, or none; and
        /// at the end of a run on shuffled windows.
        initial_state: InitialState = InitialState::default();
        /// Windows to propagate gradients through when `stateful`: so many follow each other in every
        /// row of a batch.
        tbptt_chunks: usize = 1;
        /// Threads that prepare batches ahead of their step. Changes speed, never the data.
        num_workers: usize = 1;
        /// Where token files are kept between runs.
        cache_dir: PathBuf = PathBuf::from(".infinity-cache");
    }
}

impl DataConfig {
    /// Tokens in a row of a training batch: the windows that gradients go through.
    pub fn training_window(&self) -> usize {
        self.max_seq_length * self.tbptt_chunks.max(1)
    }

    /// Returns the first key that cannot be right, without looking at any file.
    pub fn validate(&self) -> Result<(), DataError> {
        let fraction = self.val_fraction.unwrap_or(0.0);
        if !(0.0..1.0).contains(&fraction) {
            return bad(
                "data.val_fraction",
                fraction,
                "must be at least 0 and below 1",
            );
        }
        if self.max_seq_length == 0 {
            return bad("data.max_seq_length", 0, "must be at least 1");
        }
        if self.tbptt_chunks == 0 {
            return bad("data.tbptt_chunks", 0, "must be at least 1");
        }
        within("data.num_workers", self.num_workers, 1..=MANY_WORKERS)?;
        if self.text_column.is_empty() {
            return bad("data.text_column", "\"\"", "must name a column");
        }
        let talks = !self.messages_column.is_empty();
        if !talks && !self.chat_template.is_empty() {
            let why = "is for conversations: name their key in data.messages_column";
            return bad("data.chat_template", &self.chat_template, why);
        }
        if talks && self.source != DataSource::Files {
            let why = "needs `data.source = \"files\"`";
            return bad("data.messages_column", &self.messages_column, why);
        }
        if talks && self.needle_fraction > 0.0 {
            let why = "hides sentences in text, and `data.messages_column` names conversations";
            return bad("data.needle_fraction", self.needle_fraction, why);
        }
        if self.tbptt_chunks > 1 && !self.stateful {
            let reason = "needs `data.stateful = true`";
            return bad("data.tbptt_chunks", self.tbptt_chunks, reason);
        }
        let alone = matches!(self.packing, Packing::Random | Packing::Shuffled);
        let of_documents = matches!(self.packing, Packing::Documents | Packing::Packed);
        if self.stateful && alone {
            let reason = "windows that do not follow each other carry no memory; use `data.packing = \"contiguous\"`, \"documents\" or \"packed\"";
            return bad("data.stateful", true, reason);
        }
        within("data.needle_fraction", self.needle_fraction, 0.0..=1.0)?;
        if self.needle_fraction > 0.0 && of_documents {
            let reason = "is of windows as they come: `data.packing = \"shuffled\"`, \"random\" or \"contiguous\"";
            return bad("data.needle_fraction", self.needle_fraction, reason);
        }
        let state = &self.initial_state;
        state.validate()?;
        if state.last_fraction > 0.0 && !alone {
            let reason = "windows that follow each other carry their own state: use `data.stateful`, or \
                          `data.packing = \"shuffled\"`";
            let key = "data.initial_state.last_fraction";
            return bad(key, state.last_fraction, reason);
        }
        if !self.stateful && !state.is_own() {
            return bad("data.initial_state", state, "needs `data.stateful = true`");
        }
        self.validate_source()?;
        match self.source {
            DataSource::CargoRegistry if self.train_crates.is_empty() => {
                let hint = "`data.source = \"cargo-registry\"` needs names of locked dependencies";
                Err(DataError::not_set("data.train_crates", hint))
            }
            DataSource::Files | DataSource::CargoRegistry => Ok(()),
            DataSource::Stories => {
                let told = &self.stories;
                within("data.stories.count", told.count, 1..=MOST_STORIES)?;
                within("data.stories.validation", told.validation, 1..=MOST_STORIES)
            }
            _ => self.task_rows(Part::Train, 0).map(drop),
        }
    }

    /// The rows of the task that `data.source` names.
    ///
    /// # Errors
    /// A source that is no task, or a size that cannot be, with its key and its limit.
    pub fn task_rows(&self, part: Part, seed: u64) -> Result<TaskRows, DataError> {
        let Some(task) = self.source.task() else {
            let hint = "needs `data.source` = \"recall\", \"sticky\", \"parity\" or \"copy\"";
            return bad("data.task", "its sizes", hint);
        };
        TaskRows::new(task, &self.task, self.max_seq_length, part, seed)
    }

    /// What makes a validation split longer.
    pub(super) fn more_validation(&self) -> &'static str {
        if !self.validation_file.as_os_str().is_empty() {
            "a longer `data.validation_file`"
        } else if !self.validation_crates.is_empty() {
            "more `data.validation_crates`"
        } else if self.source == DataSource::Stories {
            "more `data.stories.validation`"
        } else {
            "more text, a larger `data.val_fraction`"
        }
    }

    /// Refuses what names another text than the source, naming the key.
    fn validate_source(&self) -> Result<(), DataError> {
        let shown = |path: &Path| path.display().to_string();
        let fraction = self.val_fraction.map(|fraction| fraction.to_string());
        let packing = Some(self.packing).filter(|packing| *packing != Packing::default());
        let packing = packing.map(|packing| format!("{packing:?}").to_lowercase());
        let stateful = self.stateful.then(|| "true".to_owned());
        let given = [
            ("data.train_file", shown(&self.train_file)),
            ("data.validation_file", shown(&self.validation_file)),
            ("data.train_crates", self.train_crates.join(", ")),
            ("data.validation_crates", self.validation_crates.join(", ")),
            ("data.val_fraction", fraction.unwrap_or_default()),
            ("data.packing", packing.unwrap_or_default()),
            ("data.stateful", stateful.unwrap_or_default()),
        ];
        let task = self.source.task().map(|task| task.to_string());
        let own_rows = format!(
            "`data.source = \"{}\"` makes its own rows, of no text and each for itself: leave it out",
            task.unwrap_or_default()
        );
        let (refused, reason) = match self.source {
            DataSource::Files => (&given[2..4], "needs `data.source = \"cargo-registry\"`"),
            DataSource::CargoRegistry => (
                &given[..2],
                "contradicts `data.source = \"cargo-registry\"`",
            ),
            DataSource::Stories => (
                &given[..5],
                "`data.source = \"stories\"` tells its own text and holds out `data.stories.validation` stories",
            ),
            _ => (&given[..], own_rows.as_str()),
        };
        if let Some((key, value)) = refused.iter().find(|(_, value)| !value.is_empty()) {
            return bad(key, value, reason);
        }
        let fraction = self.val_fraction.unwrap_or(0.0);
        if fraction > 0.0 && !self.validation_file.as_os_str().is_empty() {
            let reason = "contradicts `data.validation_file`; keep one of them";
            return bad("data.val_fraction", fraction, reason);
        }
        Ok(())
    }
}

impl DataSource {
    /// The task, where the source is one.
    pub fn task(self) -> Option<Task> {
        match self {
            Self::Files | Self::CargoRegistry | Self::Stories => None,
            Self::Recall => Some(Task::Recall),
            Self::Sticky => Some(Task::Sticky),
            Self::Parity => Some(Task::Parity),
            Self::Copy => Some(Task::Copy),
        }
    }
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TokenizerKind {
    /// A byte of UTF-8: 256 tokens and the end of text, no training, reads everything.
    Byte,
    /// A character of the text (training and validation).
    Char,
    /// A Hugging Face `tokenizer.json` at `tokenizer.path`.
    File,
    /// A byte-level BPE of `tokenizer.train_bpe` entries, learned from the training text.
    Bpe,
    /// A tokenizer downloaded by name. Not available; named here so that the message can say so.
    Hub,
}

impl TokenizerKind {
    /// The word used in configuration files.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

section! {
    /// The `[tokenizer]` section.
    TokenizerConfig {
        /// What a token is.
        kind: TokenizerKind = TokenizerKind::Byte;
        /// `tokenizer.json`, or a directory that holds one, for `kind = "file"`.
        path: PathBuf = PathBuf::new();
        /// Entries of the BPE to learn; 0: none. Set with the default `kind`, it means `kind = "bpe"`.
        train_bpe: usize = 0;
        /// Whether documents begin with the special tokens that a `tokenizer.json` puts before a text.
        add_special_tokens: bool = false;
    }
}

/// The 256 byte symbols and the end of text.
const SMALLEST_BPE: usize = 257;

impl TokenizerConfig {
    /// The kind that is meant, or the first contradiction between the three keys.
    pub fn resolve(&self) -> Result<TokenizerKind, DataError> {
        let has_path = !self.path.as_os_str().is_empty();
        let kind = match self.kind {
            TokenizerKind::Byte if self.train_bpe > 0 => TokenizerKind::Bpe,
            TokenizerKind::Byte if has_path => TokenizerKind::File,
            kind => kind,
        };
        let contradicts = || format!("contradicts `tokenizer.kind = \"{}\"`", kind.name());
        if self.train_bpe > 0 && kind != TokenizerKind::Bpe {
            return bad("tokenizer.train_bpe", self.train_bpe, contradicts());
        }
        if has_path && kind != TokenizerKind::File {
            return bad("tokenizer.path", self.path.display(), contradicts());
        }
        match kind {
            TokenizerKind::Hub => bad(
                "tokenizer.kind",
                "\"hub\"",
                "downloading tokenizers is not available; save the tokenizer.json yourself and set `tokenizer.kind = \"file\"` and `tokenizer.path`",
            ),
            TokenizerKind::File if !has_path => Err(DataError::not_set(
                "tokenizer.path",
                "name the tokenizer.json",
            )),
            TokenizerKind::Bpe if self.train_bpe < SMALLEST_BPE => bad(
                "tokenizer.train_bpe",
                self.train_bpe,
                format!("must be at least {SMALLEST_BPE}: 256 bytes and the end of text"),
            ),
            kind => Ok(kind),
        }
    }
}

section! {
    /// Shares of windows by the state that they start from. They apply where a window continues a
    /// stream; the first window of a stream always starts from the empty state.
    #[derive(Copy)]
    InitialState {
        /// From the state its row had at the end of the window before. Unset: what the others leave.
        own: Option<f64> = None;
        /// From the state that another row had at the end of the batch before, drawn evenly.
        other: f64 = 0.0;
        /// From the empty state.
        zero: f64 = 0.0;
        /// Without `stateful`: the part of all steps, at the end of the run, in which every row starts
        /// from the state that another row had at the end of the batch before.
        last_fraction: f64 = 0.0;
    }
}

/// How far the shares may be from 1 together: three decimal fractions, rounded.
const ROUNDING: f64 = 1e-6;

impl InitialState {
    /// Every window continues its own past.
    pub fn is_own(&self) -> bool {
        self.other == 0.0 && self.zero == 0.0
    }

    /// The first of `total_steps` steps, counted from 0, whose rows start from other rows' states.
    pub fn first_passing(&self, total_steps: u64) -> u64 {
        let passing = (self.last_fraction * total_steps as f64).round() as u64;
        total_steps.saturating_sub(passing)
    }

    /// Refuses shares that are none, naming the key, the value and the limit.
    pub(super) fn validate(&self) -> Result<(), DataError> {
        let own = self.own.unwrap_or(0.0);
        within("data.initial_state.own", own, 0.0..=1.0)?;
        within("data.initial_state.other", self.other, 0.0..=1.0)?;
        within("data.initial_state.zero", self.zero, 0.0..=1.0)?;
        let last = self.last_fraction;
        within("data.initial_state.last_fraction", last, 0.0..=1.0)?;
        let sum = own + self.other + self.zero;
        let reason = match self.own {
            Some(_) if (sum - 1.0).abs() > ROUNDING => "own, other and zero must add up to 1",
            None if sum > 1.0 + ROUNDING => "other and zero leave nothing below 0 for own",
            _ => return Ok(()),
        };
        let reason = format!("adds up to {sum}; {reason}");
        bad("data.initial_state", self, reason)
    }
}

impl fmt::Display for InitialState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = self.own.map(|own| format!("own = {own}, "));
        let (own, other, zero) = (own.unwrap_or_default(), self.other, self.zero);
        write!(f, "{{ {own}other = {other}, zero = {zero} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> DataConfig {
        DataConfig {
            train_file: "a.txt".into(),
            ..DataConfig::default()
        }
    }

    fn message(config: DataConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn an_empty_section_is_the_default_and_unknown_keys_are_refused() {
        assert_eq!(
            toml::from_str::<DataConfig>("").unwrap(),
            DataConfig::default()
        );
        assert!(toml::from_str::<DataConfig>("tain_file = 'a'").is_err());
        let config: DataConfig =
            toml::from_str("source = 'cargo-registry'\npacking = 'random'").unwrap();
        assert_eq!(
            (config.source, config.packing),
            (DataSource::CargoRegistry, Packing::Random)
        );
        let written = toml::to_string(&files()).unwrap();
        assert_eq!(toml::from_str::<DataConfig>(&written).unwrap(), files());
    }

    #[test]
    fn contradictions_name_their_keys() {
        assert!(files().validate().is_ok());
        let (unset, tokenizer) = (DataConfig::default(), TokenizerConfig::default());
        let refused = crate::data::prepare(&unset, &tokenizer, &mut |_| {}).unwrap_err();
        assert!(refused.to_string().contains("data.train_file"));
        let with = |edit: &dyn Fn(&mut DataConfig)| {
            let mut config = files();
            edit(&mut config);
            message(config)
        };
        assert!(with(&|c| c.val_fraction = Some(1.0)).contains("below 1"));
        assert!(with(&|c| c.val_fraction = Some(f64::NAN)).contains("data.val_fraction"));
        assert!(with(&|c| c.max_seq_length = 0).contains("data.max_seq_length"));
        assert!(with(&|c| c.tbptt_chunks = 2).contains("data.stateful"));
        assert!(with(&|c| c.train_crates = vec!["csv".into()]).contains("cargo-registry"));
        assert!(with(&|c| c.source = DataSource::CargoRegistry).contains("data.train_file"));
        assert!(
            with(&|c| {
                c.stateful = true;
                c.packing = Packing::Random;
            })
            .contains("contiguous")
        );
        assert!(
            with(&|c| {
                c.val_fraction = Some(0.1);
                c.validation_file = "b.txt".into();
            })
            .contains("data.validation_file")
        );
    }

    #[test]
    fn tokenizer_keys_say_which_kind_is_meant() {
        let resolve = |text: &str| toml::from_str::<TokenizerConfig>(text).unwrap().resolve();
        assert_eq!(resolve("").unwrap(), TokenizerKind::Byte);
        assert_eq!(resolve("train_bpe = 512").unwrap(), TokenizerKind::Bpe);
        assert_eq!(
            resolve("path = 'tokenizer.json'").unwrap(),
            TokenizerKind::File
        );
        for (text, word) in [
            ("kind = 'char'\ntrain_bpe = 512", "contradicts"),
            ("kind = 'char'\npath = 'x.json'", "contradicts"),
            ("kind = 'file'", "tokenizer.path"),
            ("kind = 'hub'", "tokenizer.json"),
            ("kind = 'bpe'", "257"),
            ("train_bpe = 100", "257"),
        ] {
            let message = resolve(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }

    fn shares(own: Option<f64>, other: f64, zero: f64) -> InitialState {
        InitialState {
            own,
            other,
            zero,
            last_fraction: 0.0,
        }
    }

    #[test]
    fn wrong_shares_are_refused_by_name() {
        for (mixture, words) in [
            (shares(Some(0.8), 0.1, 0.2), ["data.initial_state", "1.1"]),
            (shares(Some(0.5), 0.0, 0.0), ["data.initial_state", "0.5"]),
            (shares(None, 0.7, 0.7), ["data.initial_state", "1.4"]),
            (
                shares(None, -0.1, 0.0),
                ["data.initial_state.other", "-0.1"],
            ),
            (shares(None, 0.0, 1.5), ["data.initial_state.zero", "1.5"]),
            (
                shares(Some(f64::NAN), 0.0, 0.0),
                ["data.initial_state.own", "NaN"],
            ),
        ] {
            let message = mixture.validate().unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{mixture}: {message}");
            }
        }
        let passing = |last_fraction| InitialState {
            last_fraction,
            ..InitialState::default()
        };
        for wrong in [-0.1, 1.1, f64::NAN] {
            let message = passing(wrong).validate().unwrap_err().to_string();
            assert!(
                message.contains("data.initial_state.last_fraction"),
                "{message}"
            );
        }
        assert_eq!(
            [0.0, 0.1, 1.0].map(|part| passing(part).first_passing(15)),
            [15, 13, 0]
        );
        let packed = |packing| DataConfig {
            packing,
            initial_state: passing(0.1),
            train_file: "a.txt".into(),
            ..DataConfig::default()
        };
        packed(Packing::Shuffled).validate().unwrap();
        let needles = |packing, needle_fraction| DataConfig {
            packing,
            needle_fraction,
            train_file: "a.txt".into(),
            ..DataConfig::default()
        };
        needles(Packing::Shuffled, 0.5).validate().unwrap();
        for wrong in [
            needles(Packing::Shuffled, 1.5),
            needles(Packing::Shuffled, f64::NAN),
            needles(Packing::Packed, 0.5),
        ] {
            let message = wrong.validate().unwrap_err().to_string();
            assert!(message.contains("data.needle_fraction"), "{message}");
        }
        for packing in [Packing::Contiguous, Packing::Documents, Packing::Packed] {
            let message = packed(packing).validate().unwrap_err().to_string();
            assert!(
                message.contains("data.initial_state.last_fraction"),
                "{message}"
            );
        }
        for mixture in [
            InitialState::default(),
            shares(Some(0.8), 0.1, 0.1),
            shares(None, 0.3, 0.7),
        ] {
            mixture.validate().unwrap();
        }
    }
}
