//! Runs that take a moment, and what is looked at in them.
#![allow(dead_code, unreachable_pub)]

use infinity_kernels::testing::values;
use infinity_model::ModelConfig;
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::optim::GradientsParams;
use infinity_model::burn::tensor::{Device, Tensor};
use infinity_train::config::{DeviceList, DistributedStrategy, LrSchedulerType, RunConfig};
use infinity_train::data::Packing;
use infinity_train::metrics::{EvalMetrics, Event, Reporter, StepMetrics};
use infinity_train::{Devices, Resume, TrainControl, TrainError, TrainReport, train};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// A model that learns something in a few steps.
pub fn model() -> ModelConfig {
    ModelConfig {
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: Some(32),
        max_position_embeddings: 16,
        initializer_range: 0.1,
        ..ModelConfig::first()
    }
}

/// A text of many lines that are alike and not the same.
pub fn text(lines: usize) -> String {
    let mut text = String::new();
    for i in 0..lines {
        let (a, b) = (i * i % 97, (7 * i + 3) % 89);
        let _ = writeln!(text, "line {i}: {a} foxes jump over {b} dogs");
    }
    text
}

/// A run over eight steps in `directory/run`, of a text that it writes beside it.
pub fn config(directory: &Path, packing: Packing) -> RunConfig {
    let file = directory.join("text.jsonl");
    // A few lines a document, so that packing by documents has documents.
    let (text, mut rows) = (text(300), String::new());
    for lines in text.lines().collect::<Vec<_>>().chunks(4) {
        let _ = writeln!(rows, "{}", serde_json::json!({ "text": lines.join("\n") }));
    }
    fs::write(&file, rows).expect("writable");
    let mut config = RunConfig {
        model: model(),
        ..RunConfig::default()
    };
    config.run.output_dir = directory.join("run").display().to_string();
    config.data.train_file = file;
    config.data.val_fraction = Some(0.1);
    config.data.max_seq_length = 16;
    config.data.packing = packing;
    config.data.cache_dir = directory.join("cache");
    config.training.max_steps = 8;
    config.training.per_device_train_batch_size = 4;
    config.optimizer.learning_rate = 3e-3;
    config.optimizer.weight_decay = 0.01;
    config.lr_scheduler.kind = LrSchedulerType::Cosine;
    config.lr_scheduler.warmup_steps = 2;
    config.eval.every = 4;
    config.eval.sample_tokens = 4;
    config.checkpoint.every = 2;
    config.checkpoint.keep_last = 0;
    config.logging.every = 1;
    config
}

/// What a run said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub steps: Vec<StepMetrics>,
    pub evals: Vec<EvalMetrics>,
    pub messages: Vec<String>,
}

/// Something done after every step that is reported.
pub type Hook = Box<dyn FnMut(u64) + Send>;

/// Hears a run, and stops it after the step it is told.
pub struct Listener {
    heard: Arc<Mutex<Heard>>,
    interrupt: Arc<AtomicBool>,
    stop_at: Option<u64>,
    hook: Option<Hook>,
}

impl Reporter for Listener {
    fn hear(&mut self, event: Event<'_>) {
        let mut heard = self.heard.lock().unwrap();
        match event {
            Event::Step(metrics) => {
                heard.steps.push(metrics.clone());
                drop(heard);
                if self.stop_at == Some(metrics.step) {
                    self.interrupt.store(true, Ordering::Relaxed);
                }
                if let Some(hook) = &mut self.hook {
                    hook(metrics.step);
                }
            }
            Event::Eval(metrics) => heard.evals.push(metrics.clone()),
            Event::Sample { .. } => {}
            Event::Message(text) => heard.messages.push(text.to_owned()),
        }
    }
}

/// Runs `config` on Flex, up to `stop_at` if that is given.
pub fn run(
    config: &RunConfig,
    resume: Option<Resume>,
    stop_at: Option<u64>,
) -> (Result<TrainReport, TrainError>, Heard) {
    run_with(config, resume, stop_at, None)
}

/// [`run`], with something done after every step.
pub fn run_with(
    config: &RunConfig,
    resume: Option<Resume>,
    stop_at: Option<u64>,
    hook: Option<Hook>,
) -> (Result<TrainReport, TrainError>, Heard) {
    hooked_on(Device::flex().into(), config, resume, stop_at, hook)
}

/// Runs `config` on `devices`, up to `stop_at` if that is given.
pub fn run_on(
    devices: impl Into<Devices>,
    config: &RunConfig,
    resume: Option<Resume>,
    stop_at: Option<u64>,
) -> (Result<TrainReport, TrainError>, Heard) {
    hooked_on(devices.into(), config, resume, stop_at, None)
}

fn hooked_on(
    devices: Devices,
    config: &RunConfig,
    resume: Option<Resume>,
    stop_at: Option<u64>,
    hook: Option<Hook>,
) -> (Result<TrainReport, TrainError>, Heard) {
    let (heard, interrupt) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let listener = Listener {
        heard: Arc::clone(&heard),
        interrupt: Arc::clone(&interrupt),
        stop_at,
        hook,
    };
    let control = TrainControl {
        interrupt,
        heeded: Arc::default(),
        reporter: Box::new(listener),
        resume,
        config_text: config.to_toml(),
    };
    // Dropout draws from the device's one generator, which every step of any run seeds.
    static DROPS: RwLock<()> = RwLock::new(());
    let report = if config.model.hidden_dropout_prob > 0.0 || config.lora.dropout > 0.0 {
        let _alone = DROPS.write();
        train(config.clone(), devices, control)
    } else {
        let _together = DROPS.read();
        train(config.clone(), devices, control)
    };
    let heard = heard.lock().unwrap().clone();
    (report, heard)
}

/// `config` on the processor `ranks` times, with as many rows in all, and its devices.
pub fn on_ranks(
    config: &RunConfig,
    strategy: DistributedStrategy,
    ranks: usize,
) -> (RunConfig, Devices) {
    let mut config = config.clone();
    config.training.per_device_train_batch_size /= ranks;
    config.distributed.strategy = strategy;
    if strategy != DistributedStrategy::Single {
        config.distributed.devices = DeviceList::Count(ranks);
    }
    let others = vec![Device::flex(); ranks - 1];
    (config, Devices::new(Device::flex(), others))
}

/// The lines of `metrics.jsonl` without what depends on the clock.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics.jsonl");
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let clock = [
        "time_s",
        "train/tok_per_sec",
        "train/step_ms",
        "mem/bytes",
        "eval/seconds",
    ];
    for line in &mut lines {
        line.as_object_mut()
            .unwrap()
            .retain(|key, _| !clock.contains(&key.as_str()));
    }
    lines
}

/// Values by the path of their parameter.
pub type ByPath = BTreeMap<String, Vec<f64>>;

struct Values<'a> {
    /// Gradients instead of parameters.
    grads: Option<&'a GradientsParams>,
    path: Vec<String>,
    found: ByPath,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        match self.grads {
            None => {
                self.found.insert(path, values(param.val().inner()));
            }
            Some(grads) => {
                if let Some(grad) = grads.get::<D>(param.id) {
                    self.found.insert(path, values(grad));
                }
            }
        }
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

/// Every parameter of a module.
pub fn parameters<M: Module>(module: &M) -> ByPath {
    let mut values = Values {
        grads: None,
        path: Vec::new(),
        found: ByPath::new(),
    };
    module.visit(&mut values);
    values.found
}

/// Every gradient that `grads` has for a module.
pub fn gradients<M: Module>(module: &M, grads: &GradientsParams) -> ByPath {
    let mut values = Values {
        grads: Some(grads),
        path: Vec::new(),
        found: ByPath::new(),
    };
    module.visit(&mut values);
    values.found
}
