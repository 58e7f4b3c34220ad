//! Whatever a step recomputes: loss, gradients and the state it leaves are those of the whole graph.

#[path = "../common/mod.rs"]
mod common;
mod runs;
mod whole;

use common::{ByPath, gradients};
use infinity_kernels::testing::{Random, values};
use infinity_model::Borders;
use infinity_model::burn::module::{Module, ModuleMapper, Param};
use infinity_model::burn::optim::GradientsAccumulator;
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::burn::train::TrainStep;
use infinity_model::config::{
    AttnQkNorm, KernelType, LayerType, MemoryRouting, MemoryUpdate, Mixer, QkNorm,
};
use infinity_model::{LayerState, ModelConfig, ModelState};
use infinity_train::data::{HostBatch, IGNORE_INDEX};
use infinity_train::step::{LmBatch, Recompute, Trainee};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Dropout draws from the device's one generator, and a run seeds it before every step.
fn alone() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

const VOCABULARY: usize = 11;
const ROWS: usize = 3;
const LEN: usize = 20;

fn small() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: Some(24),
        max_position_embeddings: 32,
        num_memory_scales: 2,
        initializer_range: 0.1,
        ..ModelConfig::first()
    }
}

/// Models that differ in what a block is, and in what the head is.
fn kinds() -> Vec<(&'static str, ModelConfig)> {
    let additive = ModelConfig {
        memory_update: MemoryUpdate::Additive,
        ..small()
    };
    vec![
        ("three states, tied", small()),
        (
            "three states, own head",
            ModelConfig {
                tie_word_embeddings: false,
                ..small()
            },
        ),
        (
            "one state",
            ModelConfig {
                use_multi_scale_memory: false,
                ..small()
            },
        ),
        (
            "one state, additive",
            ModelConfig {
                use_multi_scale_memory: false,
                ..additive.clone()
            },
        ),
        (
            "denominator",
            ModelConfig {
                qk_norm: QkNorm::Denominator,
                ..additive
            },
        ),
        (
            "no convolution, learnable map",
            ModelConfig {
                conv_kernel_size: 0,
                kernel_type: KernelType::Learnable,
                ..small()
            },
        ),
        (
            "softmax",
            ModelConfig {
                mixer: Mixer::Softmax,
                ..small()
            },
        ),
        (
            "layers of all three types",
            ModelConfig {
                layer_types: Some(vec![LayerType::Sliding, LayerType::Linear, LayerType::Full]),
                num_hidden_layers: 3,
                num_key_value_heads: Some(1),
                sliding_window: Some(5),
                attn_output_gate: true,
                attn_qk_norm: AttnQkNorm::Head,
                ..small()
            },
        ),
        (
            "states chosen by content",
            ModelConfig {
                memory_routing: MemoryRouting::Content,
                ..small()
            },
        ),
        (
            "residuals from the first layer",
            ModelConfig {
                value_residual: true,
                input_residual: true,
                num_hidden_layers: 3,
                ..small()
            },
        ),
        (
            "softmax, residuals from the first layer",
            ModelConfig {
                mixer: Mixer::Softmax,
                value_residual: true,
                input_residual: true,
                num_hidden_layers: 3,
                ..small()
            },
        ),
    ]
}

fn trainee(config: &ModelConfig, device: &Device, recompute: Recompute) -> Trainee {
    // A chunk of the loss that fits neither a row nor a segment.
    let model = config.init_seeded(5, device);
    let model = model.map(&mut Mixed { scales: false });
    Trainee::new(model, 13).recomputing(recompute)
}

/// Scalars of the residuals from the first layer as training may leave them: at their start it adds
/// nothing.
struct Mixed {
    scales: bool,
}

impl ModuleMapper for Mixed {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.scales = name == "scales";
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.scales {
            return param;
        }
        param.map(|scales| {
            let mixed = (scales.detach() * 0.7 + 0.3).detach();
            match mixed.device().is_autodiff() {
                true => mixed.require_grad(),
                false => mixed,
            }
        })
    }
}

/// Rows of random tokens, of which each ignores a few targets more than the one before.
fn host() -> HostBatch {
    let mut random = Random(3);
    let mut ids = || -> Vec<i32> {
        let drawn = random.values(ROWS * LEN, 0.0, VOCABULARY as f64);
        drawn.iter().map(|x| *x as i32).collect()
    };
    let (inputs, mut targets) = (ids(), ids());
    for (row, targets) in targets.chunks_mut(LEN).enumerate() {
        targets[LEN - 3 * row..].fill(IGNORE_INDEX);
    }
    let valid = targets.iter().filter(|target| **target >= 0).count();
    HostBatch {
        inputs,
        targets,
        rows: ROWS,
        len: LEN,
        carry: vec![None; ROWS],
        valid,
        borders: Default::default(),
    }
}

/// A batch that starts from nothing, one whose first two rows go on with a state, and that one with several
/// documents in two of its rows.
fn batches(config: &ModelConfig) -> [(&'static str, LmBatch); 3] {
    let model = config.init_seeded(7, &Device::flex());
    let before: Vec<i32> = host().targets.iter().map(|id| (*id).max(0)).collect();
    let before = Tensor::<2, Int>::from_data(TensorData::new(before, [ROWS, LEN]), &Device::flex());
    let (_, state) = model.forward(before, model.initial_state(ROWS));
    let carry = vec![Some(0), Some(1), None];
    let carried = LmBatch {
        state: Some(state),
        ..LmBatch::alone(HostBatch { carry, ..host() })
    };
    let mut packed = carried.clone();
    packed.host.borders = Borders::new(vec![vec![4, 9, 19], vec![], vec![7, 10, 14]]);
    [
        ("fresh", LmBatch::alone(host())),
        ("carried", carried),
        ("packed", packed),
    ]
}

/// What a step gave.
struct Given {
    loss: f64,
    gradients: ByPath,
    state: Vec<f64>,
    position: Vec<u64>,
}

fn given(trainee: &Trainee, batch: &LmBatch) -> Given {
    let output = TrainStep::step(trainee, batch.clone());
    let state = output.item.state.expect("a step leaves a state");
    Given {
        loss: output.item.loss_sum,
        gradients: gradients(trainee, &output.grads),
        state: numbers(&state),
        position: state.position,
    }
}

/// The same tokens as two batches: the state is carried over the border, no gradient is.
fn accumulated_in_halves(trainee: &Trainee, batch: &LmBatch) -> Given {
    let (mut grads, mut loss, mut state) = (GradientsAccumulator::new(), 0.0, None);
    for (from, to) in [(0, LEN / 2), (LEN / 2, LEN)] {
        let host = HostBatch {
            inputs: batch.host.columns(&batch.host.inputs, from, to),
            targets: batch.host.columns(&batch.host.targets, from, to),
            len: to - from,
            carry: (0..ROWS).map(|row| (from > 0).then_some(row)).collect(),
            ..batch.host.clone()
        };
        let half = LmBatch {
            host,
            state: state.take(),
            ..batch.clone()
        };
        let output = TrainStep::step(trainee, half);
        loss += output.item.loss_sum;
        grads.accumulate(trainee, output.grads);
        state = output.item.state;
    }
    let state = state.expect("a step leaves a state");
    Given {
        loss,
        gradients: gradients(trainee, &grads.grads()),
        state: numbers(&state),
        position: state.position,
    }
}

/// Every number of a state.
fn numbers(state: &ModelState) -> Vec<f64> {
    let mut numbers = Vec::new();
    for layer in state.layers.clone() {
        match layer {
            LayerState::Infinity { memory, tails } => {
                numbers.extend(values(memory));
                numbers.extend(tails.into_iter().flat_map(values));
            }
            LayerState::Softmax { cache } => {
                let filled = cache.filled().expect("a state that has read something");
                numbers.extend(filled.into_iter().flat_map(values));
            }
        }
    }
    numbers
}
