//! Runs whose adapters learn beside weights that stay as they are.

use crate::common::{metrics, run};
use crate::{copy, directory, store};
use infinity_kernels::testing::values;
use infinity_model::burn::store::ModuleRecord;
use infinity_model::burn::tensor::{Device, Int, Tensor};
use infinity_model::{ModelConfig, ModelState};
use infinity_train::config::{GradientCheckpointing, OptimizerName, Precision, RunConfig};
use infinity_train::data::Packing;
use infinity_train::model_dir::{find, find_with};
use infinity_train::{Resume, estimate};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A finished run to adapt, and another family's folder.
fn bases() -> (TempDir, [PathBuf; 2]) {
    let (source, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    (source, [config.output_dir(), tests.join("qwen3_5")])
}

/// A run of adapters on every projection of the model in `base`.
fn of(base: &Path, packing: Packing, change: impl Fn(&mut RunConfig)) -> (TempDir, RunConfig) {
    directory(packing, |config| {
        config.model = ModelConfig {
            max_position_embeddings: 16,
            ..Default::default()
        };
        config.training.init_from = base.to_path_buf();
        config.lora.r = 2;
        config.lora.target_modules = vec!["all-linear".into()];
        config.optimizer.learning_rate = 2e-2;
        config.eval.sample_prompts.clear();
        change(config);
    })
}

fn adapter(config: &RunConfig) -> Vec<u8> {
    fs::read(config.output_dir().join("final/adapter_model.safetensors")).unwrap()
}

fn logits(model: &Path) -> Vec<f64> {
    logits_in(Precision::F32, model)
}

fn logits_in(precision: Precision, model: &Path) -> Vec<f64> {
    let found = find(model).unwrap();
    let model = found.load(precision, &Device::flex()).unwrap().model;
    let ids = Tensor::<2, Int>::from_ints([[1, 20, 13, 10, 7, 30, 2, 9]], &Device::flex());
    values(model.forward(ids, None).0)
}

#[test]
fn adapters_learn_and_go_on_with_the_same_bits() {
    let (_source, [ours, theirs]) = bases();
    type Change = fn(&mut RunConfig);
    let ways: [(&Path, Packing, Change); 7] = [
        (&ours, Packing::Shuffled, |_| {}),
        (&theirs, Packing::Packed, |config| config.lora.dropout = 0.1),
        (&ours, Packing::Contiguous, |config| {
            config.data.stateful = true;
            config.optimizer.name = OptimizerName::Muon;
        }),
        (&theirs, Packing::Shuffled, |config| {
            config.training.gradient_checkpointing = GradientCheckpointing::Blocks;
            config.lora.dropout = 0.1;
        }),
        (&ours, Packing::Shuffled, |config| {
            config.training.gradient_checkpointing = GradientCheckpointing::Segments;
            config.training.checkpoint_segment = 5;
            config.lora.dropout = 0.1;
        }),
        (&theirs, Packing::Shuffled, |config| {
            config.run.precision = Precision::Bf16Mixed;
        }),
        (&ours, Packing::Shuffled, |config| {
            config.run.precision = Precision::Bf16Weights;
        }),
    ];
    for (i, (base, packing, change)) in ways.into_iter().enumerate() {
        let (_whole, config) = of(base, packing, change);
        let (report, heard) = run(&config, None, None);
        report.unwrap();
        let losses: Vec<f64> = heard.evals.iter().map(|eval| eval.report.loss).collect();
        assert!(losses.last() < losses.first(), "{i} learns: {losses:?}");
        let (_parts, parts) = of(base, packing, change);
        run(&parts, None, Some(3)).0.unwrap();
        run(&parts, Some(Resume::Latest), None).0.unwrap();
        let lines = |config: &RunConfig| metrics(&config.output_dir());
        assert_eq!(lines(&parts), lines(&config), "{i}");
        assert!(
            adapter(&parts) == adapter(&config),
            "{i}: the adapters differ"
        );
    }
}

/// Beside weights that are kept in bf16, adapters learn what they learn beside the same values in f32, and both are read
/// in either format. What rounding weights changes that have more bits is seen.
#[test]
fn adapters_learn_beside_weights_in_bf16() {
    let (_source, bases) = bases();
    let far = |a: &[f64], b: &[f64]| {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        apart.fold(0.0, f64::max)
    };
    for (base, [least, most]) in bases.iter().zip([[1e-3, 1.0], [0.0, 1e-3]]) {
        let runs = [Precision::F32, Precision::Bf16Weights].map(|precision| {
            let (folder, config) = of(base, Packing::Shuffled, |config| {
                config.run.precision = precision;
                config.training.gradient_checkpointing = GradientCheckpointing::Blocks;
            });
            run(&config, None, None).0.unwrap();
            (folder, config.output_dir())
        });
        let places = runs.each_ref().map(|(_, dir)| dir.as_path());
        let [single, kept] = places.map(logits);
        assert!(far(&single, &logits(base)) > 1e-2, "something is learned");
        let apart = far(&single, &kept);
        assert!((least..most).contains(&apart), "{apart}");
        for dir in places {
            let in_bf16 = logits_in(Precision::Bf16Weights, dir);
            let apart = far(&in_bf16, &logits(dir));
            assert!((least..most).contains(&apart), "{apart}");
            goes_on_in_either(dir, least == 0.0);
        }
    }
    let (_run, config) = directory(Packing::Shuffled, |config| {
        config.run.precision = Precision::Bf16Weights;
    });
    let message = run(&config, None, None).0.unwrap_err().to_string();
    for words in ["run.precision", "bf16-weights", "[lora]"] {
        assert!(message.contains(words), "{message}");
    }
}

/// A state of adapters goes from weights in f32, to which they are added, to weights in bf16, beside which they stay, and
/// back, where the weights are the same.
fn goes_on_in_either(run: &Path, the_same: bool) {
    let models = [
        (run.to_path_buf(), Precision::F32),
        (run.to_path_buf(), Precision::Bf16Weights),
        (run.join("final"), Precision::Bf16Mixed),
    ];
    let models = models.map(|(place, precision)| {
        let loaded = find(&place).unwrap().load(precision, &Device::flex());
        (precision, loaded.unwrap().model)
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    for (from, model) in &models {
        let ids = Tensor::<2, Int>::from_ints([[1, 20, 13, 10]], &Device::flex());
        model.forward(ids, None).1.save(&path, model).unwrap();
        for (to, model) in &models {
            let loaded = ModelState::load(&path, model);
            let bf16 = |of: &Precision| *of == Precision::Bf16Weights;
            match the_same || bf16(from) == bf16(to) {
                true => assert_eq!(loaded.unwrap().position, [4], "{from} to {to}"),
                false => {
                    let message = loaded.unwrap_err().to_string();
                    assert!(message.contains("kept in bf16"), "{message}");
                }
            }
        }
    }
}

/// Whatever is computed twice, the adapters that come of it are the same up to rounding.
#[test]
fn adapters_do_not_depend_on_what_is_computed_twice() {
    let (_source, [ours, theirs]) = bases();
    for base in [ours, theirs] {
        let after = |how| {
            let (_run, config) = of(&base, Packing::Shuffled, |config| {
                config.training.gradient_checkpointing = how;
            });
            run(&config, None, None).0.unwrap();
            logits(&config.output_dir())
        };
        let whole = after(GradientCheckpointing::None);
        for how in [
            GradientCheckpointing::Blocks,
            GradientCheckpointing::Segments,
        ] {
            let far = whole.iter().zip(after(how)).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f64::max);
            assert!(far < 1e-3, "{how:?}: {far}");
        }
    }
}

#[test]
fn a_checkpoint_holds_the_adapters_and_what_they_are_on() {
    let (source, [ours, _]) = bases();
    let (_run, config) = of(&ours, Packing::Shuffled, |_| {});
    let (report, heard) = run(&config, None, None);
    report.unwrap();
    let said = heard.messages.join("\n");
    assert!(
        said.contains("parameters that stay as they are, adapters of"),
        "{said}"
    );
    let checkpoint = store(&config).path(8);
    let record = ModuleRecord::load(checkpoint.join("model.bpk")).unwrap();
    // Ten projections of the only layer with two factors each, gates in it.
    let text =
        String::from_utf8_lossy(&fs::read(checkpoint.join("model.bpk")).unwrap()).into_owned();
    assert!(!text.contains("embed_tokens") && text.contains("q_proj.weight.lora.A"));
    assert_eq!(record.len() % 2, 0);
    let projections = record.len() / 2;
    assert!(projections >= 10, "{projections}");
    let optimizer = fs::read(checkpoint.join("optim.bpk")).unwrap();
    let optimizer = String::from_utf8_lossy(&optimizer).into_owned();
    assert_eq!(
        optimizer.matches("momentum.moment_1").count(),
        2 * projections
    );

    // The last checkpoint, the finished adapters and the run are one model, which is not the base.
    let (run_dir, base) = (config.output_dir(), logits(&ours));
    let learned = logits(&checkpoint);
    assert_eq!(logits(&run_dir), learned);
    assert_eq!(logits(&run_dir.join("final")), learned);
    assert_ne!(base, learned);
    assert!(!run_dir.join("final/model.safetensors").exists());

    // A base that lies elsewhere now is named anew; one of other weights is refused.
    let moved = source.path().join("moved");
    fs::create_dir(&moved).unwrap();
    copy(&ours.join("final"), &moved);
    let mut elsewhere = config.clone();
    elsewhere.training.init_from.clone_from(&moved);
    run(&elsewhere, Some(Resume::Step(4)), None).0.unwrap();
    let weights = moved.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let resumed = run(&elsewhere, Some(Resume::Step(4)), None).0;
    let message = resumed.unwrap_err().to_string();
    assert!(
        message.contains("`training.init_from` was a model of weights xxh3:"),
        "{message}"
    );
    for model in [
        run_dir.clone(),
        store(&elsewhere).path(4),
        run_dir.join("final"),
    ] {
        let of_step = find(&model).unwrap();
        let error = of_step.load(Precision::F32, &Device::flex());
        // Step 4 was written before the base moved.
        match model.ends_with("step-00000004") {
            true => drop(error.unwrap()),
            false => {
                let message = error.unwrap_err().to_string();
                assert!(message.contains("a model of other weights"), "{message}");
            }
        }
    }
    fs::remove_dir_all(&moved).unwrap();
    let message = find(&run_dir).unwrap_err().to_string();
    for words in ["is an adapter of", "--adapter"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn what_learns_is_counted_apart() {
    let (_source, [_, theirs]) = bases();
    let (_run, config) = of(&theirs, Packing::Shuffled, |config| {
        config.lora.target_modules = vec!["q_proj".into()];
        config.training.max_steps = 3;
    });
    let control = infinity_train::TrainControl {
        interrupt: Default::default(),
        heeded: Default::default(),
        reporter: Box::new(|_: infinity_train::metrics::Event<'_>| {}),
        resume: None,
        config_text: String::new(),
    };
    let found = estimate(config, Device::flex(), control).unwrap();
    // Two layers of width 32, 32 and 128 outputs, rank 2.
    assert_eq!(found.parameters, 2 * (32 + 32) + 2 * (32 + 128));
    assert!(found.frozen > 10_000, "{}", found.frozen);
}

#[test]
fn what_cannot_be_adapted_is_refused_by_name() {
    let (_source, [ours, theirs]) = bases();
    let told = |base: &Path, change: &dyn Fn(&mut RunConfig), words: &[&str]| {
        let (_run, config) = of(base, Packing::Shuffled, change);
        let message = run(&config, None, None).0.unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} in {message:?}");
        }
        assert!(!config.output_dir().exists(), "nothing is begun");
        assert!(!config.data.cache_dir.exists(), "before data is prepared");
    };
    told(&ours, &|c| c.lora.r = 0, &["`lora.r` is 0"]);
    told(&ours, &|c| c.lora.alpha = 0.0, &["`lora.alpha` is 0"]);
    told(&ours, &|c| c.lora.dropout = 1.0, &["`lora.dropout` is 1"]);
    told(
        Path::new(""),
        &|_| {},
        &["`lora.r` is 2", "training.init_from"],
    );
    let misspelt = |c: &mut RunConfig| c.lora.target_modules = vec!["q_porj".into()];
    told(
        &theirs,
        &misspelt,
        &["lora.target_modules", "q_porj", "did you mean q_proj?"],
    );
    let wider = |c: &mut RunConfig| c.model.hidden_size = 48;
    told(
        &theirs,
        &wider,
        &["model.", "in this folder", "leave [model] out"],
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("model.txt");
    fs::write(&file, "no model").unwrap();
    for (base, words) in [
        (elsewhere.path().join("none"), "there is no model directory"),
        (elsewhere.path().to_path_buf(), "is not a model directory"),
        (file, "is a file"),
    ] {
        // Whatever else is said of the model.
        told(&base, &|_| {}, &["`training.init_from`", words]);
        told(&base, &wider, &["`training.init_from`", words]);
    }
    let bytes = |c: &mut RunConfig| {
        c.tokenizer.kind = infinity_train::data::TokenizerKind::Byte;
        c.tokenizer.add_special_tokens = true;
    };
    told(&theirs, &bytes, &["tokens", "leave [tokenizer] out"]);
    let (_run, adapters) = of(&theirs, Packing::Shuffled, |_| {});
    run(&adapters, None, None).0.unwrap();
    for of in [
        adapters.output_dir(),
        adapters.output_dir().join("final"),
        store(&adapters).path(8),
    ] {
        told(&of, &|_| {}, &["an adapter itself", "--merge"]);
        told(&of, &wider, &["an adapter itself", "--merge"]);
    }
    // A checkpoint that was put in the place of its own base is not looked into again and again.
    let base = ours.join("checkpoints/step-00000004");
    let (_run, changed) = of(&base, Packing::Shuffled, |_| {});
    run(&changed, None, None).0.unwrap();
    fs::remove_dir_all(&base).unwrap();
    copy(&store(&changed).path(4), &base);
    let message = find(&store(&changed).path(8)).unwrap_err().to_string();
    assert!(message.contains("an adapter itself"), "{message}");
    // What a run of adapters was told, it goes on with.
    let mut other = adapters.clone();
    other.lora.alpha = 2.0;
    let message = run(&other, Some(Resume::Latest), None)
        .0
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`lora.alpha` was 8.0 and is now 2.0"),
        "{message}"
    );
    let text: Value = serde_json::from_str(
        &fs::read_to_string(adapters.output_dir().join("final/adapter_config.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(text["peft_type"], "LORA");
}

/// Settings as PEFT may have them that name no model, or modules by patterns: a clear word, and no adapter that counts
/// something else than it says.
#[test]
fn settings_of_an_adapter_that_are_not_understood_are_refused() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    let [base, adapter] = [tests.join("llama"), tests.join("adapters/llama/end")];
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine");
    let told = |key: &str, value: Value| {
        copy(&adapter, &mine);
        let path = mine.join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        let load = |found: infinity_train::model_dir::Found| {
            let loaded = found.load(Precision::F32, &Device::flex());
            loaded.map(drop).map_err(|error| error.to_string())
        };
        let alone = find(&mine)
            .map_err(|error| error.to_string())
            .and_then(load);
        let with = find_with(&base, Some(&mine)).map_err(|error| error.to_string());
        [alone, with.and_then(load)]
    };
    for nothing in [Value::Null, "".into()] {
        let [alone, with] = told("base_model_name_or_path", nothing);
        let message = alone.unwrap_err();
        assert!(
            message.contains("does not name") && message.contains("--adapter"),
            "{message}"
        );
        with.unwrap();
    }
    let [alone, _] = told("base_model_name_or_path", mine.to_str().unwrap().into());
    assert!(alone.unwrap_err().contains("an adapter itself"));
    for pattern in ["(q|v)_proj", "layers.[01].self_attn.q_proj", ".*q_proj"] {
        let [_, with] = told("alpha_pattern", serde_json::json!({ pattern: 1000 }));
        let message = with.unwrap_err();
        assert!(
            message.contains("alpha_pattern") && message.contains("names of modules"),
            "{message}"
        );
    }
    let [_, with] = told("alpha_pattern", serde_json::json!({ "q_proj": 1000 }));
    with.unwrap();
}
