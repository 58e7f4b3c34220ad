//! Decoding that a GPU records once and repeats in one call a token: what a token takes no longer is the launches of
//! every operation.
//!
//! The recorded step reads the token and the rotation of its position from a buffer that stays, and writes the next
//! state over the one it read. Layers whose state grows, memories that are compressed while they read, and devices
//! that record nothing decode as before.

use burn::tensor::{DType, Int, Tensor, TensorData};
use infinity_kernels::borders::Borders;
use infinity_kernels::replay::{Keeping, Kept, Recording, Seen};
use infinity_kernels::rotary::{Rotary, RotaryDims};

use crate::model::InfinityModel;
use crate::state::{LayerState, ModelState};

/// Tensors before the state in the buffer: the tokens, cosines, sines.
const INPUTS: usize = 3;

/// A step of a model that is recorded, with the state that it carries on.
pub struct Replay {
    recording: Recording<(Tensor<2>, Tensor<1>)>,
    kept: Kept,
    /// Reads the buffer.
    state: ModelState,
    rotary: RotaryDims,
}

impl Replay {
    /// Tokens to come that a step is recorded for: recording takes as long as some steps.
    pub const WORTH: usize = 32;

    /// Records a step of `model` and stands where `state` does. `None` where a step cannot be recorded, or where two
    /// recorded ones do not have the bits of two that are launched: then nothing has happened.
    ///
    /// It stays on the thread that recorded it.
    pub fn new(model: &InfinityModel, state: &ModelState) -> Option<Self> {
        let device = model.device();
        let config = model.config();
        if device.is_autodiff() || config.compression().is_some() {
            return None;
        }
        let rows = state.batch();
        let mut pass = model.pass(&state.position, 1, &Borders::default());
        let [cos, sin] = pass.rotary.tables();
        let mut keeping = Keeping::default();
        keeping.push(Tensor::<1>::zeros([rows], &device));
        keeping.push(cos);
        keeping.push(sin);
        push(&mut keeping, &state.layers)?;
        let (kept, mut seen) = keeping.keep()?;
        let tokens = seen.take::<1>();
        pass.rotary = Rotary::of_tables(seen.take(), seen.take(), config.rotary_dims());
        let kept_state = taken(&mut seen, state);
        let step = {
            let (model, kept, layers) = (model.clone(), kept.clone(), kept_state.layers.clone());
            move || {
                let tokens = tokens.clone().reshape([rows, 1]).int();
                let (hidden, next) = model.through(tokens, &pass, layers.clone(), &mut |_| ());
                let logits = model.logits(hidden);
                let mut keeping = Keeping::default();
                push(&mut keeping, &next).expect("a state as the one before");
                let logits = logits.reshape([rows, model.config().vocab_size]);
                (logits, kept.write(INPUTS, keeping))
            }
        };
        let mut replay = Replay {
            recording: Recording::new(&device, step)?,
            kept,
            state: kept_state,
            rotary: config.rotary_dims(),
        };
        // Recording took some steps.
        replay.reset(state)?;
        if !replay.agrees(model, state.clone()) {
            return None;
        }
        replay.reset(state)?;
        Some(replay)
    }

    /// Stands where `state` does, which is like the one it has.
    fn reset(&mut self, state: &ModelState) -> Option<()> {
        let mut keeping = Keeping::default();
        push(&mut keeping, &state.layers)?;
        let written = self.kept.write(INPUTS, keeping);
        self.state.position.clone_from(&state.position);
        // What nobody holds may be left out.
        let done = written.device().sync().ok();
        drop(written);
        done
    }

    /// Whether two steps from `state` have the bits of steps that are launched.
    fn agrees(&mut self, model: &InfinityModel, mut state: ModelState) -> bool {
        let (device, rows) = (model.device(), state.batch());
        let mut same = |token: u32| {
            let ids = TensorData::new(vec![token as i32; rows], [rows]);
            let ids = Tensor::<1, Int>::from_data(ids, &device);
            let (launched, next) = model.decode_step(ids, state.clone());
            state = next;
            let recorded = self.step(&vec![token; rows]).try_into_data();
            match (launched.try_into_data(), recorded) {
                (Ok(launched), Ok(recorded)) => launched.as_bytes() == recorded.as_bytes(),
                _ => false,
            }
        };
        let last = model.config().vocab_size as u32 - 1;
        same(0) && same(last)
    }

    /// Reads one token a row and returns the logits after it `[B, vocab_size]`, which the next call overwrites.
    ///
    /// # Panics
    /// If there are other rows.
    pub fn step(&mut self, tokens: &[u32]) -> Tensor<2> {
        let position = &mut self.state.position;
        assert_eq!(tokens.len(), position.len(), "a token for every row");
        let [cos, sin] = Rotary::angles(position, 1, &Borders::default(), self.rotary);
        let tokens = tokens.iter().map(|token| *token as f32).collect();
        let written = self.kept.upload(vec![tokens, cos, sin]);
        position.iter_mut().for_each(|position| *position += 1);
        let logits = self.recording.replay().0.clone();
        drop(written);
        logits
    }

    /// The state after the last token, in memory of its own.
    pub fn state(&self) -> ModelState {
        self.state.clone().compact()
    }
}

/// Puts every tensor of a state behind the others. `None` if one grows, or is not in f32.
fn push(keeping: &mut Keeping, layers: &[LayerState]) -> Option<()> {
    for layer in layers {
        let LayerState::Infinity { memory, tails } = layer else {
            return None;
        };
        if memory.dtype() != DType::F32 || tails.iter().any(|tail| tail.dtype() != DType::F32) {
            return None;
        }
        keeping.push(memory.clone());
        tails.iter().for_each(|tail| keeping.push(tail.clone()));
    }
    Some(())
}

/// A state like `like` that reads a buffer.
fn taken(seen: &mut Seen, like: &ModelState) -> ModelState {
    let layer = |layer: &LayerState| match layer {
        LayerState::Infinity { tails, .. } => LayerState::Infinity {
            memory: seen.take(),
            tails: tails.iter().map(|_| seen.take()).collect(),
        },
        LayerState::Softmax { .. } => unreachable!("a state that grows is not kept"),
    };
    ModelState {
        layers: like.layers.iter().map(layer).collect(),
        position: like.position.clone(),
    }
}
