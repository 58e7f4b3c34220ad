//! Model directories: what is saved comes back, what is damaged is named.

use std::ops::ControlFlow;

use super::*;
use crate::generate::{Generation, generate};

/// Tied to a small embedding, a fresh model only repeats what it read, whatever its weights are.
/// Untied and with large weights, its text depends on all of them.
fn tiny() -> ModelConfig {
    ModelConfig {
        tie_word_embeddings: false,
        initializer_range: 0.3,
        vocab_size: 257,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        eos_token_id: Some(256),
        ..ModelConfig::default()
    }
}

fn greedy(model: &InfinityModel) -> Generation {
    let config = GenerationConfig {
        max_new_tokens: Some(24),
        ignore_eos: true,
        ..Default::default()
    };
    let mut on_text = |_: &str| ControlFlow::Continue(());
    generate(
        model,
        &Tokenizer::bytes(),
        "To be, or",
        &config.greedy(),
        &mut on_text,
    )
    .unwrap()
}

/// A saved model in a directory of its own.
fn saved() -> (tempfile::TempDir, PathBuf, InfinityModel) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("models/tiny");
    let model = tiny().init(&Device::flex());
    let generation = GenerationConfig {
        temperature: 0.5,
        ..Default::default()
    };
    save_pretrained(&dir, &model, Some(&Tokenizer::bytes()), &generation).unwrap();
    (folder, dir, model)
}

fn load(dir: &Path) -> Result<Pretrained, PretrainedError> {
    from_pretrained(dir, &Device::flex())
}

#[track_caller]
fn refused(dir: &Path) -> String {
    load(dir)
        .expect_err("this directory is wrong on purpose")
        .to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const ALL: [&str; 5] = [CONFIG, GENERATION, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG];

#[test]
fn a_saved_model_comes_back_and_says_the_same() {
    let (folder, dir, model) = saved();
    assert_eq!(names(&dir), ALL);
    assert_eq!(
        names(&folder.path().join("models")),
        ["tiny"],
        "nothing temporary is left"
    );

    let loaded = load(&dir).unwrap();
    assert_eq!(loaded.config, tiny().resolved());
    assert_eq!(loaded.generation.temperature, 0.5);
    assert_eq!(loaded.tokenizer.unwrap().vocab_size(), 257);
    assert_eq!(greedy(&loaded.model).tokens, greedy(&model).tokens);

    // Other weights say something else: the comparison above is one that can fail.
    let other = tiny().init_seeded(1, &Device::flex());
    assert_ne!(greedy(&other).tokens, greedy(&model).tokens);

    let again = folder.path().join("again");
    save_pretrained(&again, &loaded.model, None, &GenerationConfig::default()).unwrap();
    let bytes = |dir: &Path| fs::read(dir.join(WEIGHTS)).unwrap();
    assert!(
        bytes(&again) == bytes(&dir),
        "the same weights are the same bytes"
    );
    assert!(load(&again).unwrap().tokenizer.is_none());
}

#[test]
fn saving_over_a_model_replaces_its_files_alone() {
    let (_folder, dir, _) = saved();
    fs::write(dir.join("README.md"), "mine").unwrap();
    let smaller = ModelConfig {
        num_hidden_layers: 1,
        ..tiny()
    };
    let model = smaller.init(&Device::flex());
    save_pretrained(&dir, &model, None, &GenerationConfig::default()).unwrap();
    assert_eq!(names(&dir), ["README.md", CONFIG, GENERATION, WEIGHTS]);
    let loaded = load(&dir).unwrap();
    assert_eq!(loaded.config.num_hidden_layers, 1);
    assert_eq!(greedy(&loaded.model).tokens, greedy(&model).tokens);
}

#[test]
fn the_file_is_what_python_expects() {
    let (_folder, dir, model) = saved();
    let bytes = fs::read(dir.join(WEIGHTS)).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut expected: Vec<(String, Vec<usize>)> = crate::parameters::weights(model.config())
        .into_iter()
        .map(|weight| (weight.name, weight.shape))
        .collect();
    let mut found: Vec<(String, Vec<usize>)> = tensors
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec()))
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert!(
        tensors
            .iter()
            .all(|(_, view)| view.dtype() == safetensors::Dtype::F32)
    );
}

#[test]
fn missing_files_are_named() {
    let (_folder, dir, _) = saved();
    assert!(refused(&dir.join("nowhere")).contains("no such directory"));
    for name in [CONFIG, WEIGHTS] {
        let bytes = fs::read(dir.join(name)).unwrap();
        fs::remove_file(dir.join(name)).unwrap();
        let message = refused(&dir);
        assert!(message.contains(&format!("{name} is missing")), "{message}");
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::remove_file(dir.join(GENERATION)).unwrap();
    assert_eq!(load(&dir).unwrap().generation, GenerationConfig::default());
}

#[test]
fn damaged_weights_are_named() {
    let (_folder, dir, _) = saved();
    let path = dir.join(WEIGHTS);
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let message = refused(&dir);
        assert!(
            message.contains("not a whole safetensors file"),
            "{length}: {message}"
        );
        assert!(message.contains(WEIGHTS), "{message}");
    }
    fs::write(
        &path,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    )
    .unwrap();
    assert!(refused(&dir).contains(WEIGHTS));
}

#[test]
fn weights_of_another_network_are_named() {
    let (_folder, dir, _) = saved();
    let write_config =
        |config: &ModelConfig| fs::write(dir.join(CONFIG), config.to_json()).unwrap();

    write_config(&ModelConfig {
        num_hidden_layers: 3,
        ..tiny()
    });
    let message = refused(&dir);
    assert!(
        message.contains("missing: model.layers.2.input_layernorm.weight"),
        "{message}"
    );
    assert!(message.contains("more"), "{message}");

    write_config(&ModelConfig {
        num_hidden_layers: 1,
        ..tiny()
    });
    let message = refused(&dir);
    assert!(message.contains("unexpected: model.layers.1."), "{message}");

    write_config(&ModelConfig {
        intermediate_size: Some(100),
        ..tiny()
    });
    let message = refused(&dir);
    assert!(
        message.contains("mlp.gate_proj.weight [128, 32] instead of [100, 32]"),
        "{message}"
    );
}

#[test]
fn wrong_configurations_are_named_with_their_file() {
    let (_folder, dir, _) = saved();
    fs::write(dir.join(CONFIG), r#"{"vocab_size": 257, "hiden_size": 32}"#).unwrap();
    let message = refused(&dir);
    assert!(
        message.contains("config.json: model.hiden_size"),
        "{message}"
    );

    fs::write(dir.join(CONFIG), tiny().to_json()).unwrap();
    fs::write(dir.join(GENERATION), r#"{"top_p": 7}"#).unwrap();
    let message = refused(&dir);
    assert!(
        message.contains("generation_config.json: generation.top_p = 7"),
        "{message}"
    );
}

#[test]
fn a_tokenizer_too_large_for_the_model_is_named() {
    let (_folder, dir, model) = saved();
    let large = Tokenizer::chars('\u{20}'..'\u{500}');
    large.save(dir.join(TOKENIZER)).unwrap();
    let message = refused(&dir);
    assert!(
        message.contains("model.vocab_size is only 257"),
        "{message}"
    );
    let target = dir.join("other");
    let error = save_pretrained(&target, &model, Some(&large), &GenerationConfig::default());
    assert!(matches!(error, Err(PretrainedError::Vocabulary { .. })));
    assert!(!target.exists(), "nothing is written");
}

#[test]
fn half_precision_weights_become_f32() {
    let (_folder, dir, model) = saved();
    let path = dir.join(WEIGHTS);
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // bf16 is the upper half of an f32.
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, view)| {
            let data = view
                .data()
                .chunks(4)
                .flat_map(|f32| [f32[2], f32[3]])
                .collect();
            (name.to_owned(), view.shape().to_vec(), data)
        })
        .collect();
    let views = halves.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), data);
        (name.as_str(), view.unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(&path, file).unwrap();
    let loaded = load(&dir).unwrap().model;
    assert_eq!(loaded.num_params(), model.num_params());
    let logits = |model: &InfinityModel| {
        let token = Tensor::<1, Int>::from_data([65], &Device::flex());
        model.decode_step(token, model.initial_state(1)).0
    };
    let difference = (logits(&loaded) - logits(&model))
        .abs()
        .max()
        .into_scalar::<f32>();
    assert!(difference > 0.0 && difference < 0.1, "{difference}");
}

#[test]
fn every_kind_of_layer_comes_back() {
    use crate::config::{KernelType, PRESETS};
    let sizes = |config: ModelConfig| ModelConfig {
        vocab_size: 257,
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        initializer_range: 0.3,
        ..config
    };
    let mut configs: Vec<ModelConfig> = PRESETS
        .iter()
        .filter_map(|name| ModelConfig::preset(name))
        .map(sizes)
        .collect();
    configs.push(ModelConfig {
        kernel_type: KernelType::Learnable,
        value_head_dim: Some(8),
        use_gating: false,
        ..tiny()
    });
    configs.push(ModelConfig {
        value_residual: true,
        input_residual: true,
        allow_neg_eigval: true,
        ..tiny()
    });
    for config in configs {
        let folder = tempfile::tempdir().unwrap();
        let model = config.init(&Device::flex());
        let weights = crate::parameters::weights(&config);
        let counted: usize = weights.iter().map(crate::parameters::Weight::len).sum();
        assert_eq!(counted, model.num_params(), "{config:?}");
        save_pretrained(folder.path(), &model, None, &GenerationConfig::default()).unwrap();
        let loaded = load(folder.path()).unwrap();
        assert_eq!(
            greedy(&loaded.model).tokens,
            greedy(&model).tokens,
            "{config:?}"
        );
    }
}

/// Whoever may read one file of a model may read all.
#[test]
#[cfg(unix)]
fn all_files_have_the_permissions_of_new_files() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, dir, model) = saved();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::write(folder.path().join("new"), "").unwrap();
    let usual = mode(&folder.path().join("new"));
    let all_usual = || {
        let mut files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
        files.all(|file| mode(&file) == usual)
    };
    assert!(all_usual());
    let generation = GenerationConfig::default();
    save_pretrained(&dir, &model, Some(&Tokenizer::bytes()), &generation).unwrap();
    assert!(all_usual());
    fs::set_permissions(dir.join(CONFIG), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!all_usual(), "the comparison must be able to fail");
}

/// A directory in the place of the file: nobody can read it, not even root.
#[test]
#[cfg(unix)]
fn weights_that_the_system_does_not_give_are_not_called_damaged() {
    let (_folder, dir, _) = saved();
    fs::remove_file(dir.join(WEIGHTS)).unwrap();
    fs::create_dir(dir.join(WEIGHTS)).unwrap();
    let message = refused(&dir);
    assert!(
        message.starts_with("cannot read ") && message.contains(WEIGHTS),
        "{message}"
    );
}
