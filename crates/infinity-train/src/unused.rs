//! What burn-train asks for and the step loop decides itself: data loaders, and when to save.

use crate::step::LmBatch;
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::tensor::Device;
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::EventStoreClient;
use std::sync::Arc;

/// Saves whenever the loop asks; the loop knows when.
pub(crate) struct Always;

impl CheckpointingStrategy for Always {
    fn checkpointing(&mut self, _: usize, _: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

/// burn-train wants loaders; the loop takes batches by number instead.
pub(crate) struct NoLoader;

impl DataLoader<LmBatch> for NoLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<LmBatch> + 'a> {
        unreachable!("the step loop takes batches by number")
    }

    fn num_items(&self) -> usize {
        0
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<LmBatch>> {
        Arc::new(NoLoader)
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<LmBatch>> {
        Arc::new(NoLoader)
    }
}
