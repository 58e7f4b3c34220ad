//! Model directories: what is saved comes back, what is damaged is named.

use std::io::ErrorKind;
use std::ops::ControlFlow;

use super::files::{INDEX, WEIGHTS, is_shard};
use super::*;
use crate::generate::{Generation, generate};
use burn::prelude::*;
use infinity_files::faults::{Fault, inject};
use safetensors::SafeTensors;
use serde_json::Value;

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
        ..ModelConfig::first()
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
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
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
    let error = error.unwrap_err().to_string();
    assert!(error.contains("they do not belong together"), "{error}");
    assert!(!target.exists(), "nothing is written");
}

/// Every number of a model's weight files by tensor, as bits of its format.
fn stored(dir: &Path) -> Vec<(String, Vec<u32>)> {
    let files = names(dir)
        .into_iter()
        .filter(|name| name.ends_with(".safetensors"));
    let mut all = Vec::new();
    for file in files {
        let bytes = fs::read(dir.join(file)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let size = view.dtype().bitsize() / 8;
            let number = |bytes: &[u8]| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |x, byte| x << 8 | u32::from(*byte))
            };
            all.push((
                name.to_owned(),
                view.data().chunks(size).map(number).collect(),
            ));
        }
    }
    all.sort();
    all
}

/// The upper half of an f32 of these bits, rounded to the nearest, ties to even.
fn bf16_bits(bits: u32) -> u32 {
    let (kept, lost) = (bits >> 16, bits & 0xFFFF);
    kept + u32::from(lost > 0x8000 || lost == 0x8000 && kept % 2 == 1)
}

fn export(dir: &Path, model: &InfinityModel, options: SaveOptions) -> Result<(), PretrainedError> {
    let generation = GenerationConfig::default();
    save_pretrained_with(dir, model, Some(&Tokenizer::bytes()), &generation, &options)
}

#[test]
fn weights_in_half_precision_are_rounded_once_and_read_exactly() {
    let (folder, dir, model) = saved();
    let exact = stored(&dir);
    for (format, max_shard_bytes) in [
        (WeightFormat::Bf16, None),
        (WeightFormat::Bf16, Some(20_000)),
        (WeightFormat::F16, Some(9_000)),
    ] {
        let half = folder.path().join("half");
        let options = SaveOptions {
            format: Some(format),
            max_shard_bytes,
        };
        export(&half, &model, options).unwrap();
        let text = fs::read_to_string(half.join(CONFIG)).unwrap();
        assert!(text.contains(format.torch_name()), "{text}");
        let rounded = stored(&half);
        if format == WeightFormat::Bf16 {
            for ((name, found), (_, exact)) in rounded.iter().zip(&exact) {
                let expected: Vec<u32> = exact.iter().map(|bits| bf16_bits(*bits)).collect();
                assert!(*found == expected, "{name}");
            }
            assert_ne!(
                bf16_bits(0x3F80_8001),
                0x3F80_8001 >> 16,
                "cutting is not rounding"
            );
        }
        let loaded = load(&half).unwrap();
        assert_eq!(loaded.config, tiny().resolved());
        // What was read is what was stored: written again in f32 it has the bits of the halves.
        let wide = folder.path().join("wide");
        let again = SaveOptions {
            format: Some(WeightFormat::F32),
            max_shard_bytes: None,
        };
        export(&wide, &loaded.model, again).unwrap();
        for ((name, half), (_, wide)) in rounded.iter().zip(stored(&wide)) {
            let widened = half.iter().map(|bits| match format {
                WeightFormat::F16 => half::f16::from_bits(*bits as u16).to_f32().to_bits(),
                _ => bits << 16,
            });
            assert!(widened.eq(wide), "{name}");
        }
        // And rounding it again changes nothing.
        export(&wide, &loaded.model, options).unwrap();
        assert!(stored(&wide) == rounded);
    }
}

#[test]
fn weights_that_a_format_does_not_have_are_named() {
    let (folder, dir, model) = saved();
    let path = dir.join(WEIGHTS);
    let mut bytes = fs::read(&path).unwrap();
    // The largest that f16 still rounds down to, and the first that it does not.
    let at = bytes.len() - 4;
    let target = folder.path().join("half");
    let half = SaveOptions {
        format: Some(WeightFormat::F16),
        ..SaveOptions::default()
    };
    for (value, fits) in [(65519.0f32, true), (65520.0, false), (f32::INFINITY, true)] {
        bytes[at..].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let changed = load(&dir).unwrap().model;
        let written = export(&target, &changed, half);
        assert_eq!(written.is_ok(), fits, "{value}");
        if let Err(error) = written {
            let message = error.to_string();
            let words = ["model.norm.weight holds 65520", "float16", "65504"];
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
            // What was written before is still there.
            assert_eq!(load(&target).unwrap().config, tiny().resolved());
        }
    }
    let nowhere = folder.path().join("nowhere");
    fs::write(&path, {
        bytes[at..].copy_from_slice(&1e30f32.to_le_bytes());
        &bytes
    })
    .unwrap();
    assert!(export(&nowhere, &load(&dir).unwrap().model, half).is_err());
    assert!(!nowhere.exists());
    export(&nowhere, &model, half).unwrap();
}

#[test]
fn weights_in_several_files_are_one_model() {
    let (folder, dir, model) = saved();
    let shards = folder.path().join("shards");
    let options = SaveOptions {
        format: None,
        max_shard_bytes: Some(20_000),
    };
    export(&shards, &model, options).unwrap();
    let files = names(&shards)
        .into_iter()
        .filter(|name| is_part(name) && name.ends_with("safetensors"));
    let sizes: Vec<u64> = files
        .map(|name| fs::metadata(shards.join(name)).unwrap().len())
        .collect();
    assert!(sizes.len() > 3, "{sizes:?}");
    let index: Value =
        serde_json::from_str(&fs::read_to_string(shards.join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 4 * model.num_params());
    assert!(stored(&shards) == stored(&dir));
    assert_eq!(
        greedy(&load(&shards).unwrap().model).tokens,
        greedy(&model).tokens
    );
    // One file in the place of many, and many in the place of one.
    export(&shards, &model, SaveOptions::default()).unwrap();
    assert_eq!(names(&shards), ALL);
    export(&dir, &model, options).unwrap();
    assert!(!dir.join(WEIGHTS).exists() && load(&dir).is_ok());
}

#[test]
fn what_is_wrong_with_an_index_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny().init(&Device::flex());
    let dir = folder.path().join("shards");
    let options = SaveOptions {
        format: None,
        max_shard_bytes: Some(20_000),
    };
    export(&dir, &model, options).unwrap();
    let shards: Vec<String> = names(&dir)
        .into_iter()
        .filter(|name| is_shard(name))
        .collect();
    let index = dir.join(INDEX);
    let good = fs::read_to_string(&index).unwrap();
    let (first, second) = (&shards[0], &shards[1]);
    let moved = dir.join("moved");

    fs::rename(dir.join(first), &moved).unwrap();
    let message = refused(&dir);
    let says = format!("{first} is missing");
    assert!(
        message.contains(&says) && message.contains(INDEX),
        "{message}"
    );
    fs::rename(&moved, dir.join(first)).unwrap();

    // The tensors of one file in another, too.
    fs::rename(dir.join(second), &moved).unwrap();
    fs::copy(dir.join(first), dir.join(second)).unwrap();
    let message = refused(&dir);
    assert!(message.contains("is in two files"), "{message}");
    fs::rename(&moved, dir.join(second)).unwrap();

    let (name, _) = good.split_once("\": \"model-").unwrap();
    let name = name.rsplit_once('"').unwrap().1;
    let entry = format!("\"{name}\": \"{first}\"");
    for (now, words) in [
        (
            format!("{entry}, \"{name}\": \"{second}\""),
            "is in two files",
        ),
        (
            format!("{entry}, \"other.weight\": \"{second}\""),
            "other.weight is not in",
        ),
        (format!("\"{name}\": \"{second}\""), "is not in"),
        (format!("\"renamed\": \"{first}\""), "is not listed"),
        (
            format!("\"{name}\": \"../tiny/{WEIGHTS}\""),
            "no file in this folder",
        ),
        (
            format!("\"{name}\": \"/etc/passwd\""),
            "no file in this folder",
        ),
        (
            format!("\"{name}\": \"..\\\\x.safetensors\""),
            "no file in this folder",
        ),
        (format!("\"{name}\": \"\""), "no file in this folder"),
        (format!("\"{name}\": 7"), "expected a string"),
    ] {
        assert!(good.contains(&entry));
        fs::write(&index, good.replacen(&entry, &now, 1)).unwrap();
        let message = refused(&dir);
        assert!(
            message.contains(words) && message.contains(INDEX),
            "{now}: {message}"
        );
    }
    // A tensor of a file with several is said to be in another.
    let mut swapped: Value = serde_json::from_str(&good).unwrap();
    let map = swapped["weight_map"].as_object_mut().unwrap();
    let norms: Vec<&String> = map
        .keys()
        .filter(|name| name.ends_with("norm.weight"))
        .collect();
    let beside = norms
        .iter()
        .find(|norm| map.values().filter(|of| **of == map[norm.as_str()]).count() > 1);
    let (beside, other) = (beside.unwrap().to_string(), map[name].clone());
    map[&beside] = other;
    fs::write(&index, swapped.to_string()).unwrap();
    let message = refused(&dir);
    assert!(message.contains(&format!("{beside} is ")), "{message}");
    for (text, words) in [
        ("{", "EOF"),
        ("{}", "weight_map"),
        ("{\"weight_map\": {}}", "no tensors"),
    ] {
        fs::write(&index, text).unwrap();
        let message = refused(&dir);
        assert!(message.contains(words), "{text}: {message}");
    }
    fs::write(&index, &good).unwrap();
    load(&dir).unwrap();
    // A file that is cut is named itself.
    let whole = fs::read(dir.join(second)).unwrap();
    fs::write(dir.join(second), &whole[..whole.len() - 1]).unwrap();
    assert!(refused(&dir).contains(&format!("{second}: it is not a whole safetensors file")));
}

#[test]
fn a_failure_while_saving_leaves_the_old_model_or_the_new() {
    let smaller = ModelConfig {
        num_hidden_layers: 1,
        ..tiny()
    };
    let model = smaller.init(&Device::flex());
    for fault in [Fault::Error(ErrorKind::StorageFull), Fault::Kill] {
        let (mut failures, mut layers) = (0, Vec::new());
        for n in 0.. {
            let (folder, dir, _) = saved();
            fs::create_dir(dir.join("notes")).unwrap();
            fs::write(dir.join("notes/mine.md"), "mine").unwrap();
            let plan = inject(folder.path(), n, fault);
            let options = SaveOptions {
                format: None,
                max_shard_bytes: Some(60_000),
            };
            let written = export(&dir, &model, options);
            let happened = plan.happened();
            drop(plan);
            // Whole, and of one kind: weights of the old fit no other configuration.
            let found = load(&dir).unwrap().config.num_hidden_layers;
            let parts = names(&dir).into_iter().filter(|name| name != "notes");
            assert_eq!(parts.eq(ALL), found == 2, "{n}: {found}");
            assert!(
                written.is_err() || found == 1,
                "{n}: written, and not there"
            );
            assert_eq!(
                fs::read_to_string(dir.join("notes/mine.md")).unwrap(),
                "mine"
            );
            layers.push(found);
            failures += usize::from(written.is_err());
            if !happened {
                break;
            }
        }
        assert!(
            failures >= 10 && layers.contains(&1) && layers.contains(&2),
            "{layers:?}"
        );
    }
}

#[test]
fn a_place_that_cannot_be_exchanged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny().init(&Device::flex());
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(
        export(&file, &model, SaveOptions::default()),
        Err(PretrainedError::Write { .. })
    ));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let here = std::env::current_dir().unwrap();
    let message = export(&here, &model, SaveOptions::default())
        .unwrap_err()
        .to_string();
    assert!(message.contains("started in"), "{message}");
    assert!(!here.join(WEIGHTS).exists());
}

#[test]
fn every_kind_of_layer_comes_back() {
    use crate::config::{KernelType, MemoryRouting, PRESETS};
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
        memory_routing: MemoryRouting::Content,
        ..tiny()
    });
    for config in configs {
        let folder = tempfile::tempdir().unwrap();
        let model = config.init(&Device::flex());
        let weights = crate::parameters::weights(&config);
        let counted: usize = weights.iter().map(crate::parameters::Weight::numbers).sum();
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
