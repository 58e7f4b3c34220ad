//! Models of other families against what PyTorch computes with them, and their files when they are damaged.
//!
//! `tests/foreign/make.py` makes the folders beside it: tiny models with random weights, and what comes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::*;
use crate::chat_template::{ChatTemplate, Message};
use crate::generate::generate_tokens;
use crate::generation_config::GenerationConfig;
use crate::parameters::weights;
use crate::pretrained::plan::{self, Recipe};
use crate::pretrained::read::StoredWeights;
use crate::pretrained::{
    from_pretrained, from_pretrained_in, read_settings, save_like, save_pretrained,
};
use crate::state::LayerState;
use crate::state_file::{fingerprint, fingerprint_in_bf16};
use crate::{InfinityModel, Precision, Pretrained};

const FAMILIES: [&str; 10] = [
    "llama",
    "llama3",
    "linear_rope",
    "qwen3",
    "qwen3_5",
    "qwen3_next",
    "olmo_hybrid",
    "olmo_hybrid_rope",
    "gated_deltanet",
    "gated_deltanet_plain",
];
/// How far a logit or a number of a state may be from PyTorch's, and a gradient in parts of its largest number.
const CLOSE: f32 = 1e-4;
/// How far a wrong setting moves a logit at least.
const MOVED: f32 = 1e-2;
/// Tokens of a row before the greedy ones, and those after which states are compared.
const PROMPT: usize = 30;
const REMEMBERED: usize = 20;

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/foreign")
        .join(family)
}

/// What PyTorch computed.
struct Expected(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Expected {
    fn of(folder: &Path) -> Self {
        let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |dtype, data: &[u8]| -> Vec<f32> {
            let words = data.as_chunks().0.iter();
            match dtype {
                Dtype::U8 => data.iter().map(|&x| f32::from(x)).collect(),
                Dtype::I32 => words.map(|x| i32::from_le_bytes(*x) as f32).collect(),
                _ => words.map(|x| f32::from_le_bytes(*x)).collect(),
            }
        };
        let tensors = all.iter().map(|(name, tensor)| {
            let numbers = numbers(tensor.dtype(), tensor.data());
            (name.to_owned(), (tensor.shape().to_vec(), numbers))
        });
        Self(tensors.collect())
    }

    fn get(&self, name: &str) -> &[f32] {
        &self.0[name].1
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.get(name).iter().map(|&id| id as u32).collect()
    }

    /// The texts, `[rows, length]`.
    fn ids(&self, device: &Device) -> Tensor<2, Int> {
        let shape = self.0["ids"].0.clone();
        let ids: Vec<i32> = self.get("ids").iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), device)
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The largest distance between two lists.
#[track_caller]
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let far = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A number that is none is far from all.
    let far = far.map(|x| if x.is_nan() { f32::INFINITY } else { x });
    far.fold(0.0, f32::max)
}

fn load(folder: &Path) -> Pretrained {
    from_pretrained(folder, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

fn logits(model: &InfinityModel, expected: &Expected) -> Vec<f32> {
    values(model.forward(expected.ids(&model.device()), None).0)
}

#[test]
fn logits_and_greedy_tokens_are_theirs() {
    for family in FAMILIES {
        let (folder, loaded) = (folder(family), load(&folder(family)));
        let expected = Expected::of(&folder);
        let far = distance(&logits(&loaded.model, &expected), expected.get("logits"));
        assert!(far <= CLOSE, "{family}: a logit is {far} away");
        assert!(loaded.notes.is_empty(), "{family}: {:?}", loaded.notes);
        assert_eq!(
            greedy(&loaded, &expected),
            expected.tokens("greedy"),
            "{family}"
        );
    }
}

/// 20 tokens after the first ones of row 0.
fn greedy(loaded: &Pretrained, expected: &Expected) -> Vec<u32> {
    let config = GenerationConfig {
        max_new_tokens: Some(20),
        ignore_eos: true,
        ..loaded.generation.clone()
    };
    assert!(
        config.is_greedy(),
        "as their reader takes a folder that does not say"
    );
    let prompt = &expected.tokens("ids")[..PROMPT];
    let made = generate_tokens(&loaded.model, prompt, &config, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    made.unwrap().tokens
}

/// The network of a family's folder with other settings, as far as it has their weights.
fn changed(family: &str, change: impl FnOnce(&mut Map<String, Value>)) -> InfinityModel {
    let text = fs::read_to_string(folder(family).join("config.json")).unwrap();
    let foreign = Foreign::read(&text).unwrap().unwrap();
    let ours = serde_json::to_value(&foreign.config).unwrap();
    let mut ours = ours.as_object().unwrap().clone();
    change(&mut ours);
    let config = ModelConfig::from_json(&Value::Object(ours).to_string()).unwrap();
    let stored = StoredWeights::open(&folder(family)).unwrap();
    let recipe = |weight: &_| foreign.names.recipe(&stored, weight);
    plan::load(
        &stored,
        &config,
        (Precision::F32, &Device::flex()),
        recipe,
        |_| true,
    )
    .unwrap()
}

/// A model whose matrices stay in bf16 decodes the bits of one that has their values in f32, its caches and memories
/// too; a prompt is read to the accuracy of f32. Numbers that the files have in bf16 lose nothing, and those of a model
/// of ours, which have more bits, are seen to.
#[test]
fn matrices_in_bf16_decode_the_bits_of_their_values() {
    let device = Device::flex();
    let tokens = |at: i64| Tensor::<1, Int>::from_ints([3 + at % 50, 60 - at % 47], &device);
    let own = tempfile::tempdir().unwrap();
    let config = ModelConfig {
        initializer_range: 0.3,
        ..ModelConfig::new(64)
            .with_hidden_size(32)
            .with_num_hidden_layers(2)
    };
    let (model, settings) = (config.init(&device), GenerationConfig::default());
    save_pretrained(&own.path().join("own"), &model, None, &settings).unwrap();
    let own = ("own", own.path().join("own"));
    let folders = FAMILIES.map(|family| (family, folder(family)));
    for (family, folder) in folders.into_iter().chain([own]) {
        let load = |precision| from_pretrained_in(&folder, precision, &device).unwrap();
        let half = load(Precision::Bf16Weights).model;
        let wide = half.clone().with_precision(Precision::F32).unwrap();
        let stored = load(Precision::F32).model;
        let cast = stored
            .clone()
            .with_precision(Precision::Bf16Weights)
            .unwrap();

        let mut states = [&half, &wide, &stored, &cast].map(|model| model.initial_state(2));
        let mut furthest = 0f32;
        for at in 0..12 {
            let mut each = [&half, &wide, &stored, &cast].into_iter().zip(&mut states);
            let logits: [Vec<f32>; 4] = std::array::from_fn(|_| {
                let (model, state) = each.next().unwrap();
                let (logits, next) = model.decode_step(tokens(at), state.clone());
                *state = next;
                values(logits)
            });
            assert_eq!(logits[0], logits[1], "{family}, token {at}");
            assert_eq!(
                logits[0], logits[3],
                "{family}, token {at}: cast and loaded"
            );
            furthest = furthest.max(distance(&logits[0], &logits[2]));
        }
        assert_eq!(states[0].position, [12, 12]);
        match family {
            "own" => assert!(furthest > 1e-3, "{furthest}"),
            _ => assert_eq!(furthest, 0.0, "{family}"),
        }

        // A state that one of them leaves is the other's, and no other model's.
        let names = [&half, &wide, &stored].map(fingerprint);
        assert_eq!(names[0], names[1], "{family}");
        assert_eq!(names[0] == names[2], family != "own");
        let names = [&half, &wide, &stored].map(fingerprint_in_bf16);
        assert!(names.iter().all(|name| *name == names[0]), "{family}");

        let prompt: Vec<i32> = (0..80).map(|at| at % 60).collect();
        let prompt = Tensor::<1, Int>::from_ints(&prompt[..], &device).unsqueeze();
        let read = |model: &InfinityModel| -> Vec<f32> {
            let (logits, _) = model.forward(prompt.clone(), None);
            values(logits)
        };
        let far = distance(&read(&half), &read(&wide));
        assert!(far < CLOSE, "{family}: {far}");
    }
}

#[test]
fn every_switch_shows() {
    let rope = |key: &'static str, value: Value| {
        move |ours: &mut Map<String, Value>| ours["rope_parameters"][key] = value.clone()
    };
    let set = |key: &'static str, value: Value| {
        move |ours: &mut Map<String, Value>| {
            assert_ne!(ours[key], value, "{key} is changed");
            ours[key] = value.clone();
        }
    };
    type Change = Box<dyn Fn(&mut Map<String, Value>)>;
    let all: Vec<(&str, &str, Change)> = vec![
        (
            "llama",
            "layer_norm_eps",
            Box::new(set("layer_norm_eps", json!(1e-5))),
        ),
        (
            "llama",
            "attention_bias",
            Box::new(set("attention_bias", json!(false))),
        ),
        ("llama", "mlp_bias", Box::new(set("mlp_bias", json!(false)))),
        (
            "llama",
            "rope_theta",
            Box::new(rope("rope_theta", json!(1e4))),
        ),
        (
            "llama3",
            "rope_type",
            Box::new(set(
                "rope_parameters",
                json!({ "rope_theta": 1e4, "partial_rotary_factor": 1.0 }),
            )),
        ),
        (
            "llama3",
            "high_freq_factor",
            Box::new(rope("high_freq_factor", json!(2.0))),
        ),
        (
            "linear_rope",
            "factor",
            Box::new(rope("factor", json!(2.0))),
        ),
        (
            "qwen3",
            "attn_qk_norm",
            Box::new(set("attn_qk_norm", json!("none"))),
        ),
        (
            "qwen3",
            "sliding_window",
            Box::new(set("sliding_window", json!(25))),
        ),
        (
            "qwen3_5",
            "rope part",
            Box::new(rope("partial_rotary_factor", json!(0.5))),
        ),
        (
            "qwen3_5",
            "attn_output_gate",
            Box::new(set("attn_output_gate", json!(false))),
        ),
        (
            "qwen3_5",
            "output_gate_act",
            Box::new(set("output_gate_act", json!("sigmoid"))),
        ),
        (
            "qwen3_5",
            "o_norm_eps",
            Box::new(set("o_norm_eps", json!(1e-3))),
        ),
        (
            "qwen3_5",
            "qk_l2_eps",
            Box::new(set("qk_l2_eps", json!(1e-12))),
        ),
        (
            "qwen3_next",
            "qk_l2_eps",
            Box::new(set("qk_l2_eps", json!(1e-12))),
        ),
        (
            "olmo_hybrid",
            "allow_neg_eigval",
            Box::new(set("allow_neg_eigval", json!(false))),
        ),
        (
            "olmo_hybrid",
            "attn_norm_order",
            Box::new(set("attn_norm_order", json!("pre"))),
        ),
        (
            "olmo_hybrid",
            "rope",
            Box::new(rope("rope_type", json!("default"))),
        ),
        (
            "olmo_hybrid_rope",
            "rope_theta",
            Box::new(rope("rope_theta", json!(1e4))),
        ),
        (
            "gated_deltanet",
            "qkv_bias",
            Box::new(set("qkv_bias", json!(false))),
        ),
        (
            "gated_deltanet",
            "sliding_window",
            Box::new(set("sliding_window", json!(25))),
        ),
        (
            "gated_deltanet_plain",
            "o_norm_eps",
            Box::new(set("o_norm_eps", json!(1e-2))),
        ),
    ];
    let mut unseen = Vec::new();
    for (family, what, change) in all {
        let expected = Expected::of(&folder(family));
        let far = distance(
            &logits(&changed(family, change), &expected),
            expected.get("logits"),
        );
        if far < MOVED {
            unseen.push(format!("{family}, {what}: {far}"));
        }
    }
    assert!(unseen.is_empty(), "{unseen:#?}");
}

#[test]
fn what_is_remembered_is_theirs() {
    for family in FAMILIES {
        let (loaded, expected) = (load(&folder(family)), Expected::of(&folder(family)));
        let ids = expected.ids(&Device::flex()).narrow(1, 0, REMEMBERED);
        let (_, state) = loaded.model.forward(ids, None);
        let mut compared = 0;
        let mut compare = |layer: usize, kind: &str, found: &[f32], theirs: Vec<f32>| {
            let far = distance(found, &theirs);
            assert!(
                far <= CLOSE,
                "{family}: {kind} of layer {layer} is {far} away"
            );
            compared += 1;
        };
        for (layer, state) in state.layers.into_iter().enumerate() {
            let theirs = |kind: &str| &expected.0[&format!("memory.{layer}.{kind}")];
            match state {
                LayerState::Infinity { memory, tails } => {
                    compare(
                        layer,
                        "memory",
                        &values(memory),
                        theirs("recurrent").1.clone(),
                    );
                    if tails.iter().all(|tail| tail.dims()[2] == 0) {
                        continue;
                    }
                    // Theirs has one input more, the oldest, and q, k and v as channels of one.
                    let (shape, numbers) = theirs("conv");
                    let data = TensorData::new(numbers.clone(), shape.clone());
                    let conv = Tensor::<3>::from_data(data, &Device::flex());
                    let kept = conv.narrow(2, 1, shape[2] - 1);
                    compare(layer, "tails", &values(Tensor::cat(tails, 1)), values(kept));
                }
                LayerState::Softmax { cache } => {
                    let ours = cache.filled().unwrap();
                    for (kind, found) in ["k", "v"].into_iter().zip(ours) {
                        let found = values(found.swap_dims(1, 2));
                        compare(layer, kind, &found, theirs(kind).1.clone());
                    }
                }
            }
        }
        assert!(compared >= 2, "{family}");
    }
}

/// Puts each parameter's gradient in its place.
struct InPlace<'a>(&'a mut Gradients);

impl ModuleMapper for InPlace<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad_remove(self.0);
        let gradient = gradient.unwrap_or_else(|| param.val().inner().zeros_like());
        Param::from_tensor(gradient)
    }
}

#[test]
fn gradients_are_theirs() {
    for family in FAMILIES {
        let expected = Expected::of(&folder(family));
        let device = Device::flex().autodiff();
        let loaded = from_pretrained(&folder(family), &device).unwrap();
        let ids = expected.ids(&device);
        let [rows, length] = ids.dims();
        let (logits, _) = loaded.model.forward(ids.clone(), None);
        let targets = ids.narrow(1, 1, length - 1).reshape([rows, length - 1, 1]);
        let losses = log_softmax(logits.narrow(1, 0, length - 1), 2)
            .gather(2, targets)
            .neg();
        let loss = losses.mean();
        let far = distance(&values(loss.clone().inner()), expected.get("loss"));
        assert!(far <= CLOSE, "{family}: the loss is {far} away");
        let mut gradients = loss.backward();
        let found = loaded.model.map(&mut InPlace(&mut gradients));
        let found = found.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);

        // Theirs as a weight file, read by the recipes of the weights.
        let file = tempfile::tempdir().unwrap();
        let bytes = fs::read(folder(family).join("expected.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        let theirs = all
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("gradient.")?, tensor)));
        let theirs: Vec<_> = theirs.collect();
        let written = safetensors::serialize(theirs, None).unwrap();
        fs::write(file.path().join("model.safetensors"), written).unwrap();
        let stored = StoredWeights::open(file.path()).unwrap();
        let names = Foreign::read(&fs::read_to_string(folder(family).join("config.json")).unwrap());
        let names = names.unwrap().unwrap().names;
        let there = |recipe: &Recipe| {
            let there = |name: &String| stored.tensors.contains_key(name);
            !recipe.pieces.is_empty() && recipe.pieces.iter().all(|piece| there(&piece.tensor))
        };
        let mut compared = 0;
        for weight in weights(&loaded.config) {
            let recipe = names.recipe(&stored, &weight).one_plus(false);
            if !there(&recipe) {
                continue;
            }
            let ours = found
                .iter()
                .find(|tensor| tensor.name == weight.name)
                .unwrap();
            let ours: Vec<f32> = bridge::into_data(ours.clone())
                .unwrap()
                .iter::<f32>()
                .collect();
            let made = plan::made(&stored, &weight, &recipe, &mut Default::default());
            let made = made.read(false).unwrap();
            let theirs: Vec<f32> = made.iter::<f32>().collect();
            let largest = theirs.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let far = distance(&ours, &theirs);
            let name = &weight.name;
            assert!(largest > 0.0, "{family}: {name}");
            assert!(
                far <= CLOSE * largest,
                "{family}: {name} is {far} away of {largest}"
            );
            compared += 1;
        }
        assert!(compared >= 8, "{family}: {compared}");
    }
}

#[test]
fn a_comparison_that_is_wrong_on_purpose_is_seen() {
    let expected = Expected::of(&folder("llama"));
    let found = logits(&load(&folder("llama")).model, &expected);
    let mut wrong = found.clone();
    wrong[17] += 2.0 * CLOSE;
    assert!(distance(&wrong, expected.get("logits")) > CLOSE);
    wrong[17] = f32::NAN;
    assert_eq!(distance(&wrong, expected.get("logits")), f32::INFINITY);
}

/// A copy of a family's folder, to be changed.
fn copy(family: &str) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder(family)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

fn with_config(folder: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let path = folder.join("config.json");
    let mut object = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut object);
    fs::write(path, Value::Object(object).to_string()).unwrap();
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn with_tensors(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = (all.iter())
        .map(|(name, t)| {
            (
                name.to_owned(),
                (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
            )
        })
        .collect();
    change(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name, view)
    });
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[track_caller]
fn refused(folder: &Path) -> String {
    let error = from_pretrained(folder, &Device::flex());
    error
        .expect_err("this folder is wrong on purpose")
        .to_string()
}

#[test]
fn folders_that_are_damaged_are_named() {
    let all = |folder: &Path, words: &[&str]| {
        let message = refused(folder);
        for word in words {
            assert!(message.contains(word), "{word:?} in {message:?}");
        }
    };
    let dir = copy("qwen3");
    let shard = "model-00002-of-00003.safetensors";
    fs::remove_file(dir.path().join(shard)).unwrap();
    all(
        dir.path(),
        &[shard, "is missing", "model.safetensors.index.json"],
    );

    let dir = copy("qwen3_next");
    with_tensors(dir.path(), |tensors| {
        let (_, shape, data) = tensors
            .get_mut("model.layers.0.linear_attn.in_proj_qkvz.weight")
            .unwrap();
        shape[0] -= 1;
        data.truncate(shape[0] * shape[1] * 2);
    });
    all(
        dir.path(),
        &["in_proj_qkvz.weight [191, 32] instead of [192, 32]"],
    );
    with_tensors(dir.path(), |tensors| {
        tensors.remove("model.layers.0.linear_attn.in_proj_qkvz.weight");
    });
    all(
        dir.path(),
        &["missing: model.layers.0.linear_attn.in_proj_qkvz.weight"],
    );

    let dir = copy("llama");
    with_tensors(dir.path(), |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        tensors.insert("model.layers.0.self_attn.q_norm.weight".into(), norm);
    });
    all(
        dir.path(),
        &["unexpected: model.layers.0.self_attn.q_norm.weight"],
    );
    let dir = copy("llama");
    with_tensors(dir.path(), |tensors| {
        tensors.get_mut("model.norm.weight").unwrap().0 = Dtype::I32;
    });
    all(dir.path(), &["model.norm.weight of I32 instead of floats"]);
    let dir = copy("llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    all(dir.path(), &["model.safetensors", "instead of"]);

    let dir = copy("llama");
    fs::write(dir.path().join("generation_config.json"), r#"{"top_p": 7}"#).unwrap();
    all(
        dir.path(),
        &["generation_config.json", "generation.top_p = 7"],
    );
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    all(dir.path(), &["tokenizer_config.json"]);
}

#[test]
fn what_cannot_be_run_is_told_in_a_sentence() {
    let told = |family: &str, key: &str, value: Value, words: &[&str]| {
        let text = fs::read_to_string(folder(family).join("config.json")).unwrap();
        let mut object: Map<String, Value> = serde_json::from_str(&text).unwrap();
        object.insert(key.into(), value);
        let read = Foreign::read(&Value::Object(object).to_string());
        let message = read.expect_err("wrong on purpose").to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} in {message:?}");
        }
    };
    for (model_type, word) in [
        ("qwen3_moe", "mixture of experts"),
        ("mixtral", "mixture of experts"),
        ("mamba2", "Mamba-2"),
        ("qwen4_exp", "another network"),
        ("gpt2", "it must be infinityformer, llama"),
    ] {
        told(
            "llama",
            "model_type",
            json!(model_type),
            &["model_type", model_type, word],
        );
    }
    let numbers = json!({ "rope_type": "yarn", "factor": 4.0 });
    told(
        "llama",
        "rope_parameters",
        numbers,
        &["rope_type", "yarn", "default, linear or llama3"],
    );
    let lacks = json!({ "rope_type": "llama3", "factor": 4.0 });
    told(
        "llama",
        "rope_parameters",
        lacks,
        &["low_freq_factor is missing"],
    );
    told(
        "llama",
        "hidden_act",
        json!("gelu"),
        &["hidden_act", "gelu", "SiLU"],
    );
    told(
        "llama",
        "quantization_config",
        json!({"bits": 4}),
        &["quantization_config", "not quantised"],
    );
    told(
        "llama",
        "hidden_size",
        json!("wide"),
        &["hidden_size", "wide", "whole number"],
    );
    told(
        "llama",
        "hidden_size",
        json!(null),
        &["hidden_size is missing"],
    );
    told(
        "llama",
        "num_attention_heads",
        json!(0),
        &["num_attention_heads", "from 1 on"],
    );
    told(
        "llama",
        "num_key_value_heads",
        json!(3),
        &["num_attention_heads = 4", "num_key_value_heads = 3"],
    );
    told(
        "qwen3",
        "layer_types",
        json!(["full_attention"]),
        &["layer_types", "2 words"],
    );
    told(
        "qwen3",
        "use_sliding_window",
        json!(false),
        &["use_sliding_window is false"],
    );
    told(
        "qwen3_5",
        "num_experts",
        json!(8),
        &["num_experts", "mixture of experts"],
    );
    told(
        "qwen3_5",
        "attn_output_gate",
        json!(false),
        &["attn_output_gate"],
    );
    told(
        "qwen3_5",
        "attention_bias",
        json!(true),
        &["attention_bias"],
    );
    told(
        "qwen3_next",
        "num_experts",
        json!(null),
        &["num_experts = 512", "mixture of experts"],
    );
    told("gated_deltanet", "norm_first", json!(true), &["norm_first"]);
    told(
        "gated_deltanet",
        "attn",
        json!([{}]),
        &["attn", "one object"],
    );
    told(
        "gated_deltanet",
        "attn",
        json!({"layers": [7], "num_heads": 4}),
        &["attn.layers", "below"],
    );
    told(
        "gated_deltanet",
        "expand_v",
        json!(1.3),
        &["expand_v", "head_dim = 16"],
    );
}

#[test]
fn what_changes_nothing_is_noted_or_known() {
    let dir = copy("llama");
    with_config(dir.path(), |config| {
        config.insert("new_switch".into(), json!(true));
        config.insert("pad_token_id".into(), json!(-1));
        config.insert("eos_token_id".into(), json!([2, 5, 99]));
    });
    let generation = r#"{"do_sample": true, "top_p": 0.9, "new_setting": 1}"#;
    fs::write(dir.path().join("generation_config.json"), generation).unwrap();
    let settings = read_settings(dir.path()).unwrap();
    assert_eq!(
        settings.notes,
        [
            "config.json: new_switch is not known and not used",
            "generation_config.json: new_setting is not known and not used"
        ]
    );
    let ends = &settings.generation.eos_token_id;
    assert_eq!(
        (ends.as_slice(), settings.generation.top_p),
        (&[2, 5][..], 0.9)
    );
    assert_eq!(settings.config.pad_token_id, None);
}

#[test]
fn texts_and_conversations_become_the_tokens_that_transformers_makes() {
    for (family, begins) in [("llama", true), ("qwen3_5", false)] {
        let folder = folder(family);
        let expected = fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        let ids =
            |key: &str| -> Vec<u32> { serde_json::from_value(expected[key].clone()).unwrap() };
        let settings = read_settings(&folder).unwrap();
        let tokenizer = settings.tokenizer.unwrap();
        assert_eq!(tokenizer.adds_special_tokens(), begins, "{family}");
        let text = expected["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode_text(text).unwrap(), ids("ids"), "{family}");
        let without = &ids("ids")[usize::from(begins)..];
        assert_eq!(tokenizer.encode(text).unwrap(), without, "{family}");

        let talk: Vec<Message> = serde_json::from_value(expected["talk"].clone()).unwrap();
        let template = ChatTemplate::from_model_dir(&folder).unwrap();
        let said = template.render(&talk, false).unwrap();
        assert_eq!(said, expected["said"].as_str().unwrap(), "{family}");
        // It says the first token itself.
        assert_eq!(
            tokenizer.encode_text(&said).unwrap(),
            ids("said_ids"),
            "{family}"
        );

        // In a folder of ours they still begin so.
        let dir = tempfile::tempdir().unwrap();
        let saved = dir.path().join("saved");
        let model = load(&folder).model;
        save_pretrained(&saved, &model, Some(&tokenizer), &settings.generation).unwrap();
        let back = read_settings(&saved).unwrap().tokenizer.unwrap();
        assert_eq!(back.encode_text(text).unwrap(), ids("ids"), "{family}");
    }
}

#[test]
fn where_a_folder_says_how_texts_end() {
    let ends = |dir: &Path| read_settings(dir).unwrap().generation.eos_token_id;
    let dir = copy("qwen3_5");
    let generation = dir.path().join("generation_config.json");
    fs::write(&generation, r#"{"eos_token_id": [7, 9]}"#).unwrap();
    assert_eq!(
        ends(dir.path()),
        [7, 9],
        "what it says about generation goes first"
    );
    fs::remove_file(&generation).unwrap();
    assert_eq!(
        ends(dir.path()),
        [2, 5],
        "config.json's, and <|im_end|> of tokenizer_config.json"
    );
    fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    assert_eq!(ends(dir.path())[0], 2);
}

#[test]
fn the_other_layouts_of_a_family_are_the_same_model() {
    let same = |family: &str, dir: &Path| {
        let expected = Expected::of(&folder(family));
        let far = distance(&logits(&load(dir).model, &expected), expected.get("logits"));
        assert!(far <= CLOSE, "{family}: {far}");
    };
    // Qwen3.5 with its eyes, as it is released.
    let dir = copy("qwen3_5");
    with_config(dir.path(), |config| {
        let text = std::mem::take(config);
        config.insert("model_type".into(), json!("qwen3_5"));
        config.insert("tie_word_embeddings".into(), json!(true));
        config.insert("vision_config".into(), json!({}));
        config.insert("text_config".into(), text.into());
    });
    with_tensors(dir.path(), |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        let all = std::mem::take(tensors).into_iter();
        let renamed = all.map(|(name, t)| (name.replacen("model.", "model.language_model.", 1), t));
        tensors.extend(renamed);
        tensors.insert("model.visual.norm.weight".into(), norm.clone());
        tensors.insert("mtp.norm.weight".into(), norm);
    });
    same("qwen3_5", dir.path());
    with_config(dir.path(), |config| {
        config.insert("tie_word_embeddings".into(), json!(false));
    });
    assert!(refused(dir.path()).contains("tie_word_embeddings"));

    // The names of Olmo-Hybrid's own releases: a convolution each, and norms by their places.
    let dir = copy("olmo_hybrid");
    with_tensors(dir.path(), |tensors| {
        let of = |part: &str| format!("model.layers.0.linear_attn.{part}_conv1d.weight");
        let parts = ["q", "k", "v"].map(|part| tensors.remove(&of(part)).unwrap().2);
        let whole = parts.concat();
        let (mut at, row) = (0, 4 * 2);
        for (part, rows) in [("q", 24), ("k", 24), ("v", 96)] {
            let data = whole[at * row..(at + rows) * row].to_vec();
            tensors.insert(of(part), (Dtype::BF16, vec![rows, 1, 4], data));
            at += rows;
        }
        let norm = tensors
            .remove("model.layers.1.feedforward_layer_norm.weight")
            .unwrap();
        tensors.insert(
            "model.layers.1.post_attention_layernorm.weight".into(),
            norm,
        );
    });
    same("olmo_hybrid", dir.path());

    // flash-linear-attention with gate and up in one matrix, and a tensor that it did not use.
    let dir = copy("gated_deltanet");
    with_tensors(dir.path(), |tensors| {
        for layer in 0..2 {
            let of = |part: &str| format!("model.layers.{layer}.mlp.{part}_proj.weight");
            let up = tensors.remove(&of("up")).unwrap().2;
            let (_, shape, data) = tensors.get_mut(&of("gate")).unwrap();
            shape[0] *= 2;
            data.extend(up);
        }
        let unused = (Dtype::F32, vec![4], vec![0; 16]);
        tensors.insert("model.layers.0.attn.D".into(), unused);
    });
    same("gated_deltanet", dir.path());
}

/// All stored bytes, and their formats and shapes.
fn tensors(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = fs::read(&path).unwrap();
            let stored = SafeTensors::deserialize(&bytes).unwrap();
            let entry = |(name, t): (&str, safetensors::tensor::TensorView<'_>)| {
                (
                    name.to_owned(),
                    (t.dtype(), t.shape().to_vec(), t.data().to_vec()),
                )
            };
            all.extend(stored.iter().map(entry));
        }
    }
    all
}

#[test]
fn written_like_its_folder_a_model_has_the_bytes_that_it_was_read_from() {
    for family in FAMILIES {
        let (from, dir) = (folder(family), tempfile::tempdir().unwrap());
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        let loaded = load(&from);
        // Through a folder of ours, as after training.
        save_pretrained(&ours, &loaded.model, None, &loaded.generation).unwrap();
        save_like(&theirs, &load(&ours).model, &from).unwrap();
        let (found, expected) = (tensors(&theirs), tensors(&from));
        assert!(
            found == expected,
            "{family}: {:?} {:?}",
            found.keys(),
            expected.keys()
        );
        let config = |dir: &Path| fs::read(dir.join("config.json")).unwrap();
        assert_eq!(config(&theirs), config(&from), "{family}");
        // Other weights are other bytes, and another network is refused.
        let other = loaded.config.init_seeded(3, &Device::flex());
        save_like(&theirs, &other, &from).unwrap();
        assert!(tensors(&theirs) != expected, "{family}");
        let wider = loaded.config.clone().with_layer_norm_eps(0.05);
        let error = save_like(&theirs, &wider.init(&Device::flex()), &from).unwrap_err();
        assert!(
            error.to_string().contains("model.layer_norm_eps = 0.05"),
            "{error}"
        );
        let error = save_like(&theirs, &other, &ours).unwrap_err();
        assert!(error.to_string().contains("another family"), "{error}");
    }
}

#[test]
fn a_model_that_was_loaded_is_saved_in_our_layout_and_comes_back() {
    for family in FAMILIES {
        let (loaded, dir) = (load(&folder(family)), tempfile::tempdir().unwrap());
        let saved = dir.path().join("saved");
        save_pretrained(&saved, &loaded.model, None, &loaded.generation).unwrap();
        let back = load(&saved);
        let expected = Expected::of(&folder(family));
        let [before, after] = [&loaded, &back].map(|loaded| logits(&loaded.model, &expected));
        assert_eq!(before, after, "{family}");
        assert_eq!(loaded.generation, back.generation, "{family}");
        assert!(matches!(Foreign::read(&back.config.to_json()), Ok(None)));
    }
}

/// The same comparison with a model that somebody has: `make.py expect DIR` first, then
/// `INFINITY_MODEL_DIR=DIR cargo test --release -p infinity-model -- --ignored a_folder`.
#[test]
#[ignore = "needs a model in INFINITY_MODEL_DIR"]
fn a_folder_of_ones_own_computes_what_pytorch_does_with_it() {
    let folder = PathBuf::from(std::env::var_os("INFINITY_MODEL_DIR").expect("INFINITY_MODEL_DIR"));
    let (loaded, expected) = (load(&folder), Expected::of(&folder));
    let theirs = expected.get("logits");
    let spread = (theirs.iter().map(|x| x * x).sum::<f32>() / theirs.len() as f32).sqrt();
    let far = distance(&logits(&loaded.model, &expected), theirs);
    assert!(
        far <= CLOSE * spread.max(1.0),
        "a logit is {far} away, of {spread}"
    );
    assert_eq!(greedy(&loaded, &expected), expected.tokens("greedy"));
}
