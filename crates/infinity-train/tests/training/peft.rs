//! Adapters that PEFT made, and ten steps of plain SGD with them, against PEFT's own.
//!
//! `crates/infinity-model/tests/foreign/peft.py` makes the folders.

use infinity_kernels::testing::values;
use infinity_model::burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use infinity_model::burn::optim::GradientsParams;
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::pretrained::with_adapter_of;
use infinity_model::{InfinityModel, from_pretrained};
use infinity_train::data::HostBatch;
use infinity_train::step::{LmBatch, Recompute, Trainee};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// How far a number may be from PEFT's.
const CLOSE: f64 = 1e-4;

fn folder(family: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    tests.join(family)
}

/// The model of a family with the adapters in `adapter`.
fn adapted(family: &str, adapter: &Path, device: &Device) -> InfinityModel {
    let base = folder(family);
    let model = from_pretrained(&base, device).unwrap().model;
    with_adapter_of(model, Some(&base), adapter).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// Every factor of every adapter, by its path.
#[derive(Default)]
struct Factors {
    path: Vec<String>,
    found: Vec<(String, Vec<f64>)>,
    /// The gradients of all that have the same numbers: theirs is one A where ours are several.
    shared: HashMap<Vec<u64>, Vec<f64>>,
    grads: GradientsParams,
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

impl ModuleVisitor for Factors {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.grads.remove::<D>(param.id).map(values);
        let path = self.path.join(".");
        assert_eq!(gradient.is_some(), path.contains(".lora."), "{path}");
        let Some(gradient) = gradient else { return };
        let own = values(param.val().inner());
        let end = self.path.last().unwrap();
        // Zeros are no sign: every B begins with them.
        let key = match end.as_str() {
            "A" => bits(&own),
            _ => path.bytes().map(u64::from).collect(),
        };
        let sum = self
            .shared
            .entry(key)
            .or_insert_with(|| vec![0.0; own.len()]);
        sum.iter_mut().zip(&gradient).for_each(|(sum, x)| *sum += x);
        self.found.push((path, own));
    }
}

/// Moves every factor against the gradients in `of`.
struct Sgd<'a> {
    path: Vec<String>,
    of: &'a Factors,
    rate: f64,
}

impl ModuleMapper for Sgd<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        if !path.contains(".lora.") {
            return param;
        }
        let own = values(param.val().inner());
        let key = match path.ends_with(".A") {
            true => bits(&own),
            false => path.bytes().map(u64::from).collect(),
        };
        let moved = own.iter().zip(&self.of.shared[&key]);
        let moved: Vec<f32> = moved.map(|(x, d)| (x - self.rate * d) as f32).collect();
        param.map(|old| {
            let data = TensorData::new(moved, old.dims());
            Tensor::from_data(data, &old.device()).require_grad()
        })
    }
}

/// The losses of ten steps and the last one, and the model after them.
fn ten_steps(model: InfinityModel, expected: &Value, how: Recompute) -> (Vec<f64>, InfinityModel) {
    let rows = expected["ids"].as_array().unwrap();
    let rows: Vec<Vec<i32>> = rows
        .iter()
        .map(|row| numbers(row).into_iter().map(|id| id as i32).collect())
        .collect();
    let len = rows[0].len() - 1;
    let host = HostBatch {
        inputs: rows.iter().flat_map(|row| row[..len].to_vec()).collect(),
        targets: rows.iter().flat_map(|row| row[1..].to_vec()).collect(),
        rows: rows.len(),
        len,
        carry: vec![None; rows.len()],
        valid: rows.len() * len,
        borders: Default::default(),
    };
    let mut trainee = Trainee::new(model, 16).recomputing(how);
    let mut losses = Vec::new();
    for _ in 0..11 {
        let (output, grads) = trainee.learn(LmBatch::alone(host.clone()));
        losses.push(output.loss_sum / output.n_tokens as f64);
        if losses.len() == 11 {
            break;
        }
        let mut factors = Factors {
            grads,
            ..Factors::default()
        };
        trainee.visit(&mut factors);
        let rate = expected["rate"].as_f64().unwrap();
        let path = Vec::new();
        trainee = trainee.map(&mut Sgd {
            path,
            of: &factors,
            rate,
        });
    }
    (losses, trainee.model)
}

fn far(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let each = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    each.map(|x| if x.is_nan() { f64::INFINITY } else { x })
        .fold(0.0, f64::max)
}

fn expected(family: &str) -> (PathBuf, Value) {
    let folder = folder("adapters").join(family);
    let text = fs::read_to_string(folder.join("expected.json")).unwrap();
    (folder, serde_json::from_str(&text).unwrap())
}

fn all(model: &InfinityModel) -> Vec<(String, Vec<f64>)> {
    struct All(Vec<String>, Vec<(String, Vec<f64>)>);
    impl ModuleVisitor for All {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let path = self.0.join(".");
            if path.contains(".lora.") {
                self.1.push((path, values(param.val().inner())));
            }
        }
    }
    let mut found = All(Vec::new(), Vec::new());
    model.visit(&mut found);
    found.1
}

#[test]
fn ten_steps_of_sgd_are_those_of_peft() {
    let device = Device::flex().autodiff();
    for family in ["llama", "qwen3_5"] {
        let (folder, expected) = expected(family);
        let start = adapted(family, &folder.join("start"), &device);
        let theirs = numbers(&expected["losses"]);
        for how in [Recompute::Nothing, Recompute::Segments(13)] {
            let (losses, model) = ten_steps(start.clone(), &expected, how);
            let off = far(&losses, &theirs);
            assert!(
                off <= CLOSE,
                "{family}, {how:?}: a loss is {off} away: {losses:?}"
            );
            let (ours, end) = (
                all(&model),
                all(&adapted(family, &folder.join("end"), &device)),
            );
            assert!(ours.len() >= 16 && ours.len() == end.len());
            for ((path, own), (_, end)) in ours.iter().zip(&end) {
                let off = far(own, end);
                assert!(off <= CLOSE, "{family}, {how:?}: {path} is {off} away");
            }
        }
        // What PEFT computes with its adapters is what the merged model computes here.
        let merged = adapted(family, &folder.join("end"), &Device::flex()).merged();
        let ids: Vec<i32> = numbers(&expected["ids"][0])
            .iter()
            .map(|id| *id as i32)
            .collect();
        let length = ids.len();
        let ids = Tensor::<1, Int>::from_ints(&ids[..], &Device::flex()).reshape([1, length]);
        let logits = numbers(&expected["logits"]);
        let off = far(&values(merged.forward(ids, None).0), &logits);
        assert!(off <= CLOSE, "{family}: a logit is {off} away");
    }
}

#[test]
fn a_wrong_scale_is_seen() {
    let (folder, expected) = expected("llama");
    let wrong = tempfile::tempdir().unwrap();
    let name = "adapter_model.safetensors";
    fs::copy(folder.join("start").join(name), wrong.path().join(name)).unwrap();
    let text = fs::read_to_string(folder.join("start/adapter_config.json")).unwrap();
    let other = text.replace("\"lora_alpha\": 6", "\"lora_alpha\": 5");
    assert_ne!(text, other);
    fs::write(wrong.path().join("adapter_config.json"), other).unwrap();
    let device = Device::flex().autodiff();
    let model = adapted("llama", wrong.path(), &device);
    let (losses, _) = ten_steps(model, &expected, Recompute::Nothing);
    let off = far(&losses, &numbers(&expected["losses"]));
    assert!(off > 10.0 * CLOSE, "{off}");
}
