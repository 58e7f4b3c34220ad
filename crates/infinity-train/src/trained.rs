//! The model of a checkpoint, to use and not to train.
//!
//! A checkpoint's state holds the configuration of its run, with the vocabulary filled in, so that
//! its weights need no other file. The tokenizer is the run's: it stands once in its directory.

use crate::checkpoint::{CheckpointStore, TrainerState};
use crate::config::RunConfig;
use crate::error::{CheckpointError, TrainError};
use crate::step::Trainee;
use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use infinity_model::InfinityModel;

/// The model of the checkpoint that `state` was loaded from, on `device`. Weights in half precision
/// become f32.
///
/// # Errors
/// The configuration in `state` cannot be used by this version, or its weights cannot be read.
pub fn model_of(
    store: &CheckpointStore,
    state: &TrainerState,
    device: &Device,
) -> Result<InfinityModel, TrainError> {
    let config = RunConfig::from_toml(&state.config)?;
    let path = store.path(state.step).join("model.bpk");
    let trainee = Trainee::new(config.model.init(device), config.training.loss_chunk);
    let loaded = ModuleRecord::load(&path)
        .and_then(|record| trainee.try_load_record(record.cast_to_module_dtype()));
    match loaded {
        Ok(trainee) => Ok(trainee.model),
        Err(error) => Err(TrainError::Checkpoint(CheckpointError::Damaged {
            path,
            reason: error.to_string(),
        })),
    }
}
