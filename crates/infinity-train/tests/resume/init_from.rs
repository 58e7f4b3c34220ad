//! A run that starts with another's weights.

use crate::common::run;
use crate::{directory, result, store};
use infinity_kernels::testing::values;
use infinity_model::burn::tensor::{Device, Int, Tensor};
use infinity_model::config::Mixer;
use infinity_model::{InfinityModel, from_pretrained};
use infinity_train::config::RunConfig;
use infinity_train::data::Packing;
use infinity_train::{Resume, TrainError};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A run that starts with what is in `source`, and moves its weights by nothing where it is `still`.
fn of(source: &Path, still: bool, change: impl Fn(&mut RunConfig)) -> (TempDir, RunConfig) {
    directory(Packing::Shuffled, |config| {
        config.training.init_from = source.to_path_buf();
        // Other fresh weights than the source's.
        config.run.seed = 7;
        if still {
            config.optimizer.learning_rate = 1e-30;
        }
        change(config);
    })
}

fn weights(config: &RunConfig) -> Vec<u8> {
    fs::read(config.output_dir().join("final/model.safetensors")).unwrap()
}

#[test]
fn weights_are_those_of_a_run_a_checkpoint_or_a_directory() {
    let (_source, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let root = config.output_dir();
    for from in [root.clone(), root.join("final"), store(&config).path(8)] {
        let (_run, started) = of(&from, true, |_| {});
        let (report, heard) = run(&started, None, None);
        assert_eq!(report.unwrap().step, 8);
        assert!(weights(&started) == weights(&config), "{}", from.display());
        let all = |text: &String| {
            let (taken, all) = text.strip_prefix("weights   ")?.split_once(" of ")?;
            Some(taken == all.split(' ').next()?)
        };
        let said: Vec<bool> = heard.messages.iter().filter_map(all).collect();
        assert_eq!(said, [true], "{:?}", heard.messages);
        let about = |text: &String| text.starts_with("left out") || text.contains("tokenizer");
        assert!(!heard.messages.iter().any(about), "{:?}", heard.messages);
    }
    // An earlier checkpoint is another model, and without a source the weights are others.
    let (_run, started) = of(&store(&config).path(4), true, |_| {});
    run(&started, None, None).0.unwrap();
    let (_run, fresh) = of(Path::new(""), true, |_| {});
    run(&fresh, None, None).0.unwrap();
    assert!(weights(&started) != weights(&config) && weights(&fresh) != weights(&config));
}

/// A run that goes on has its weights; one that would begin anew is told what is missing.
#[test]
fn a_run_goes_on_without_the_model_that_it_began_from() {
    let (source, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let (_run, started) = of(&config.output_dir(), false, |_| {});
    let (_new, other) = of(&config.output_dir(), false, |_| {});
    run(&started, None, Some(3)).0.unwrap();
    drop(source);
    let report = run(&started, Some(Resume::Latest), None).0.unwrap();
    assert_eq!(report.step, 8);
    for resume in [None, Some(Resume::Latest)] {
        let message = run(&other, resume, None).0.unwrap_err().to_string();
        for words in ["`training.init_from`", "no model directory"] {
            assert!(message.contains(words), "{message}");
        }
    }
}

/// Whether a run says that it begins some weights anew; the word alone may be a folder's name.
fn some_are_fresh(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("fresh "))
}

#[test]
fn what_does_not_fit_is_named() {
    let (_source, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let source = config.output_dir();
    let (_run, wider) = of(&source, false, |config| {
        config.model.intermediate_size = Some(48);
        config.model.num_hidden_layers = 2;
    });
    let (report, heard) = run(&wider, None, None);
    report.unwrap();
    let said = heard.messages.join("\n");
    for words in [
        "left out  model.layers.0.mlp",
        "instead of [48, 16]",
        "fresh     model.layers.0.mlp.down_proj.weight",
        "more",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert!(some_are_fresh(&said), "{said}");
    // Of nothing nothing is begun.
    let (_run, other) = of(&source, false, |config| {
        config.model.hidden_size = 8;
        config.model.mixer = Mixer::Softmax;
    });
    let (_run, nowhere) = of(&source.join("nowhere"), false, |_| {});
    for (config, words) in [
        (other, "nothing of the name and shape"),
        (nowhere, "there is no model directory"),
    ] {
        let error = run(&config, None, None).0.unwrap_err();
        assert!(matches!(error, TrainError::NoModel(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!config.output_dir().exists(), "nothing is begun");
    }
}

/// It goes on from its own weights, and its source is not needed again.
#[test]
fn it_is_resumed_with_the_same_bits() {
    let (source, config) = directory(Packing::Shuffled, |_| {});
    run(&config, None, None).0.unwrap();
    let (whole, uninterrupted) = of(&config.output_dir(), false, |_| {});
    run(&uninterrupted, None, None).0.unwrap();
    let (parts, mut stopped) = of(&config.output_dir(), false, |_| {});
    run(&stopped, None, Some(3)).0.unwrap();
    drop(source);
    run(&stopped, Some(Resume::Latest), None).0.unwrap();
    assert_eq!(result(&parts), result(&whole));
    stopped.training.init_from = "elsewhere".into();
    let error = run(&stopped, Some(Resume::Latest), None).0.unwrap_err();
    assert!(error.to_string().contains("training.init_from"), "{error}");
}

/// Another family's folder is the model, with its weights and its tokenizer, where a run says nothing of them.
#[test]
fn a_model_that_others_trained_is_taken_with_its_tokenizer() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    for family in ["llama", "qwen3_5"] {
        let source = tests.join(family);
        let with = |config: &mut RunConfig| {
            config.model = infinity_model::ModelConfig {
                max_position_embeddings: 16,
                ..Default::default()
            };
            config.eval.sample_prompts = vec!["the".into()];
        };
        let (_run, still) = of(&source, true, with);
        let (report, heard) = run(&still, None, None);
        report.unwrap();
        let said = heard.messages.join("\n");
        assert!(
            said.contains("tokenizer its own") && !some_are_fresh(&said),
            "{said}"
        );
        let load = |path: &Path| from_pretrained(path, &Device::flex()).unwrap();
        let (theirs, ours) = (load(&source), load(&still.output_dir().join("final")));
        assert_eq!(
            ours.generation.eos_token_id, theirs.generation.eos_token_id,
            "it ends as it did"
        );
        let template = |dir: &Path| infinity_model::ChatTemplate::from_model_dir(dir).unwrap();
        let [own, of_source] =
            [still.output_dir().join("final"), source.clone()].map(|dir| template(&dir));
        assert!(
            own == of_source && !own.is_plain(),
            "{family} talks as it did"
        );
        let logits = |model: &InfinityModel| {
            let ids = Tensor::<2, Int>::from_ints([[1, 20, 13, 10, 7, 30]], &Device::flex());
            values(model.forward(ids, None).0)
        };
        assert_eq!(logits(&ours.model), logits(&theirs.model), "{family}");
        let [theirs, ours] = [theirs, ours].map(|of| of.tokenizer.unwrap());
        assert_eq!(
            ours.encode_text("the").unwrap(),
            theirs.encode_text("the").unwrap()
        );

        let (_run, learning) = of(&source, false, with);
        let (_, heard) = run(&learning, None, None);
        let losses: Vec<f64> = heard.evals.iter().map(|eval| eval.report.loss).collect();
        assert!(
            losses.last() < losses.first(),
            "{family} learns: {losses:?}"
        );
    }
}
