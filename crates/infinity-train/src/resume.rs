//! Going on with a run: from which checkpoint, and whether it is still the same run.

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::{DistributedConfig, LrSchedulerType, RunConfig};
use crate::data::PreparedMeta;
use crate::error::{CheckpointError, TrainError};
use crate::metrics::Reporter;
use infinity_files::Fingerprint;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// Where a run goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From the newest complete checkpoint; anew where a run has not saved one yet.
    Latest,
    /// From the checkpoint of this step.
    Step(u64),
    /// From this checkpoint directory of the run.
    Directory(PathBuf),
}

/// The state of the checkpoint a run goes on from; none where it is to start.
pub(crate) fn resume_state(
    config: &RunConfig,
    checkpoints: &CheckpointStore,
    resume: Option<&Resume>,
    reporter: &mut dyn Reporter,
) -> Result<Option<TrainerState>, TrainError> {
    let Some(resume) = resume else {
        return Ok(None);
    };
    let (state, damaged) = match resume {
        Resume::Latest => match checkpoints.latest() {
            Err(CheckpointError::None { .. }) => return Ok(None),
            latest => latest?,
        },
        Resume::Step(step) => (checkpoints.load(*step)?, Vec::new()),
        Resume::Directory(path) => (checkpoints.load(checkpoints.step_of(path)?)?, Vec::new()),
    };
    for error in damaged {
        reporter.message(&format!("{error}; going back to an older one"));
    }
    unchanged(&state, config)?;
    reporter.message(&format!("going on after step {}", state.step));
    Ok(Some(state))
}

const ROWS_KEY: &str = "per_device_train_batch_size";
/// Sections whose settings decide what the next step computes. The model's come last: some follow
/// from others, such as its positions from the window, and what was set is to be named.
const FIXED_SECTIONS: [&str; 7] = [
    "data",
    "training",
    "lora",
    "optimizer",
    "lr_scheduler",
    "tokenizer",
    "model",
];
/// Keys in them that may change: how long, how fast, how it is watched.
const FREE_KEYS: [&str; 15] = [
    "vocab_size",
    // Compared by the rows of all devices together.
    ROWS_KEY,
    "max_seconds",
    "num_workers",
    "cache_dir",
    "per_device_eval_batch_size",
    "loss_chunk",
    "gradient_checkpointing",
    "checkpoint_segment",
    "loss_watchdog",
    "loss_scale",
    "skip_non_finite",
    "eos_token_id",
    "bos_token_id",
    "pad_token_id",
];

/// Keys that say how long the run is. They may change where the rate does not depend on them.
const LENGTH_KEYS: [&str; 3] = ["max_steps", "max_tokens", "num_train_epochs"];

/// Refuses to go on with settings that would make it another run.
fn unchanged(state: &TrainerState, config: &RunConfig) -> Result<(), CheckpointError> {
    let parse = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
    // A key that an earlier version did not have meant what its default means.
    let was = RunConfig::from_record(&state.config).map(|was| was.to_toml());
    let was = parse(was.as_deref().unwrap_or(&state.config));
    let now = parse(&config.to_toml());
    let any_length = match config.lr_scheduler.kind {
        // Where the last part of a run is another one, its length decides what that is.
        LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => {
            config.data.initial_state.last_fraction == 0.0
        }
        _ => false,
    };
    let fixed = |key: &&String| {
        let key = key.as_str();
        !(FREE_KEYS.contains(&key) || any_length && LENGTH_KEYS.contains(&key))
    };
    let mut fixed_keys = vec![("run", "seed"), ("run", "precision")];
    for section in FIXED_SECTIONS {
        let tables = [&now, &was].map(|table| table.get(section)?.as_table());
        let keys = tables.into_iter().flatten().flat_map(toml::Table::keys);
        fixed_keys.extend(keys.filter(fixed).map(|key| (section, key.as_str())));
    }
    if let Some(changed) = other_rows(&was, config) {
        return Err(changed);
    }
    let shown = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), |v| v.to_string());
    for (section, name) in fixed_keys {
        let [was, now] = [&was, &now].map(|table| table.get(section)?.get(name));
        let key = format!("{section}.{name}");
        if was != now && !is_same_path(&key, was, now, state) {
            return Err(CheckpointError::Changed {
                why: of_length(&key, config),
                key,
                was: shown(was),
                now: shown(now),
            });
        }
    }
    Ok(())
}

/// Whether two values of `key` are paths of the same thing: of the same place or, where the
/// checkpoint noted its contents, of anything, since [`same_text`] compares those.
fn is_same_path(
    key: &str,
    was: Option<&toml::Value>,
    now: Option<&toml::Value>,
    state: &TrainerState,
) -> bool {
    let noted = match key {
        "data.train_file" => !state.text.is_empty() && !state.train_tokens.is_empty(),
        "tokenizer.path" => !state.tokenizer.is_empty(),
        "training.init_from" => state.base.is_some(),
        "data.validation_file" => false,
        _ => return false,
    };
    let place = |value: Option<&toml::Value>| fs::canonicalize(value?.as_str()?).ok();
    noted || place(was).is_some_and(|was| place(now) == Some(was))
}

/// Why a key of [`LENGTH_KEYS`] may not change.
fn of_length(key: &str, config: &RunConfig) -> Option<String> {
    let name = key.strip_prefix("training.")?;
    let kind = toml::Value::try_from(config.lr_scheduler.kind).ok()?;
    LENGTH_KEYS.contains(&name).then(|| {
        format!(
            "; the rates of `lr_scheduler.type = {kind}` depend on the length of the run, and only \
             those of \"constant\" and \"constant_with_warmup\" let it change"
        )
    })
}

/// Other rows in a batch than in the run `was`: they may only be spread over another number of
/// devices.
fn other_rows(was: &toml::Table, config: &RunConfig) -> Option<CheckpointError> {
    let section = |name: &str| was.get(name)?.as_table();
    let distributed = section("distributed").cloned().unwrap_or_default();
    // A checkpoint without the section is one of a single device.
    let ranks = DistributedConfig::deserialize(distributed).map_or(1, |was| was.ranks());
    let rows = section("training")?.get(ROWS_KEY)?.as_integer()? as usize;
    let shown = |rows: usize, ranks| match ranks {
        1 => rows.to_string(),
        _ => format!("{rows} on each of {ranks} devices"),
    };
    let now = config.training.per_device_train_batch_size;
    (rows.saturating_mul(ranks) != config.rows()).then(|| CheckpointError::Changed {
        key: format!("training.{ROWS_KEY}"),
        was: shown(rows, ranks),
        now: shown(now, config.distributed.ranks()),
        why: None,
    })
}

/// Refuses to go on with another text or tokenizer under the same name.
pub(crate) fn same_text(state: &TrainerState, meta: &PreparedMeta) -> Result<(), CheckpointError> {
    let [train, validation] = [&meta.train, &meta.validation].map(|split| &split.tokens.checksum);
    let mut pairs = [
        ("data.train_file", &state.text, &meta.source.hash),
        // A prepared directory may hold another part of the same text.
        ("data.train_file", &state.train_tokens, train),
        ("tokenizer", &state.tokenizer, &meta.tokenizer_hash),
        ("data.validation_file", &state.validation_tokens, validation),
    ]
    .into_iter();
    let changed = pairs.find(|(_, was, now)| !was.is_empty() && was != now);
    changed.map_or(Ok(()), |(key, was, now)| {
        Err(CheckpointError::Changed {
            key: key.to_owned(),
            was: format!("contents {was}"),
            now: format!("contents {now}"),
            why: (!Fingerprint::comparable(was, now)).then(|| {
                "; an earlier version noted them, and its token files in data.cache_dir, which could \
                 be compared, are gone"
                    .to_owned()
            }),
        })
    })
}
