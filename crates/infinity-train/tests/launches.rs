//! How many kernels a GPU is asked to run in one step of training.
//!
//! A launch costs its 10 to 20 µs on a fast GPU whatever it computes, so their number is what a step of a small model
//! takes. Two models that differ in one layer say what a layer costs; what is left is what all models pay.

#[path = "common/mod.rs"]
mod common;

use infinity_kernels::launches::{Launches, launches};
use infinity_kernels::testing::Random;
use infinity_model::ModelConfig;
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::optim::GradientsParams;
use infinity_model::burn::tensor::{Device, DeviceKind, Tensor};
use infinity_model::parameters::ParameterRole;
use infinity_train::config::{LrSchedulerConfig, OptimizerConfig, OptimizerName};
use infinity_train::data::HostBatch;
use infinity_train::optimizer::{Optimizer, clip};
use infinity_train::step::{LmBatch, Trainee};
use std::collections::BTreeSet;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Forward and backward, a layer.
const OF_A_LAYER: usize = 60;
/// Parameters whose squares a launch adds up, at least: a device binds so many buffers.
const OF_THE_NORM: usize = 16;
/// Muon, for all matrices of one shape.
const OF_A_SHAPE: usize = 20;

/// A model of layers like those of `configs/shakespeare-char.toml`.
fn model(layers: usize) -> ModelConfig {
    ModelConfig {
        vocab_size: 65,
        hidden_size: 64,
        num_hidden_layers: layers,
        num_attention_heads: 2,
        intermediate_size: Some(128),
        num_memory_scales: 3,
        max_position_embeddings: 64,
        ..ModelConfig::default()
    }
}

fn batch() -> LmBatch {
    let (rows, len) = (2, 64);
    let ids = |seed| -> Vec<i32> {
        let ids = Random(seed).values(rows * len, 0.0, 65.0);
        ids.iter().map(|x| *x as i32).collect()
    };
    LmBatch::alone(HostBatch {
        inputs: ids(1),
        targets: ids(2),
        rows,
        len,
        carry: vec![None; rows],
        valid: rows * len,
        borders: Default::default(),
    })
}

/// The launches of a step's parts, once all that is to be tuned is.
struct Counted {
    learn: Launches,
    clip: Launches,
    optimizer: Launches,
}

fn counted(layers: usize, name: OptimizerName, device: &Device) -> Counted {
    let mut trainee = Trainee::new(model(layers).init_seeded(5, device), 0);
    let config = OptimizerConfig {
        name,
        ..OptimizerConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, &LrSchedulerConfig::default(), 10, &trainee);
    let mut step = |n: u64| {
        let (grads, learn) = launches(|| synced(device, || trainee.learn(batch()).1));
        // Training clips in the optimizer's own launches.
        let (grads, clip) = launches(|| {
            synced(device, || -> GradientsParams {
                clip(&trainee, grads, 1.0, 0.0).0
            })
        });
        let (after, optimizer) =
            launches(|| synced(device, || optimizer.step(trainee.clone(), grads, n)));
        trainee = after;
        Counted {
            learn,
            clip,
            optimizer,
        }
    };
    step(0);
    step(1);
    step(2)
}

fn synced<R>(device: &Device, work: impl FnOnce() -> R) -> R {
    let result = work();
    device.sync().expect("a device that works");
    result
}

fn total(launches: &Launches) -> usize {
    launches.values().sum()
}

/// What `more` has above `less`.
fn above(more: &Launches, less: &Launches) -> Vec<(String, isize)> {
    let count = |of: &Launches, name: &str| of.get(name).copied().unwrap_or(0) as isize;
    let names = more
        .keys()
        .chain(less.keys().filter(|name| !more.contains_key(*name)));
    let difference = names.map(|name| (name.clone(), count(more, name) - count(less, name)));
    difference.filter(|(_, n)| *n != 0).collect()
}

fn print(title: &str, mut rows: Vec<(String, isize)>) {
    rows.sort_by_key(|(_, n)| -n);
    let sum: isize = rows.iter().map(|(_, n)| n).sum();
    println!("{title}: {sum}");
    for (name, n) in rows {
        println!("  {n:5}  {name}");
    }
}

/// Parameters, and the shapes of those that Muon moves.
fn parameters(layers: usize, device: &Device) -> (usize, BTreeSet<Vec<usize>>) {
    #[derive(Default)]
    struct Seen(Vec<String>, usize, BTreeSet<Vec<usize>>);
    impl ModuleVisitor for Seen {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1 += 1;
            if ParameterRole::of(&self.0.join(".")) == ParameterRole::Matrix {
                self.2.insert(param.val().dims().to_vec());
            }
        }
    }
    let mut seen = Seen::default();
    model(layers).init_seeded(5, device).visit(&mut seen);
    (seen.1, seen.2)
}

mod wgpu {
    #[test]
    fn a_step_is_few_launches() {
        super::a_step_is_few_launches();
    }
}

fn a_step_is_few_launches() {
    let device = Device::wgpu(DeviceKind::DefaultDevice).autodiff();
    let [two, three] = [2, 3].map(|layers| counted(layers, OptimizerName::Muon, &device));
    let none = Launches::new();
    print(
        "a layer, forward and backward",
        above(&three.learn, &two.learn),
    );
    print("a layer, clipping", above(&three.clip, &two.clip));
    print("a layer, Muon", above(&three.optimizer, &two.optimizer));
    print("two layers, forward and backward", above(&two.learn, &none));
    print("two layers, clipping", above(&two.clip, &none));
    print("two layers, Muon", above(&two.optimizer, &none));
    let adamw = counted(2, OptimizerName::Adamw, &device);
    print("two layers, AdamW", above(&adamw.optimizer, &none));
    let (tensors, shapes) = parameters(2, &device);
    println!(
        "two layers: {tensors} parameters, {} shapes of Muon's matrices",
        shapes.len()
    );
    let layer = total(&three.learn) - total(&two.learn);
    assert!(layer <= OF_A_LAYER, "{layer} launches a layer");
    let norm = total(&two.clip);
    let most = 1 + tensors.div_ceil(OF_THE_NORM);
    assert!(
        norm <= most,
        "{norm} launches for the norm of {tensors} parameters"
    );
    let adamw = total(&adamw.optimizer);
    assert!(
        adamw <= tensors,
        "{adamw} launches for AdamW of {tensors} parameters"
    );
    // What is not Muon's is AdamW's.
    let muon = total(&two.optimizer);
    assert!(
        muon <= OF_A_SHAPE * shapes.len() + tensors,
        "{muon} launches for Muon of {} shapes",
        shapes.len()
    );
}
