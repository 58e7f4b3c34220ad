//! Damaged input of every kind is an error, never a panic: configurations, model and generation files, adapters,
//! tokenizers, chat templates, conversations, token files, texts, weights and states.
//!
//! A fixed seed and a few thousand inputs by default; `INFINITY_FUZZ=1000000` takes so many, and
//! `INFINITY_FUZZ_SEED` others; `INFINITY_FUZZ_ONLY=conv` those with that in their name.
#![allow(clippy::print_stdout, reason = "the long form says what it tried")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use infinity_model::pretrained::{config_from_json, read_adapter_settings, with_adapter_of};
use infinity_model::tokenizer::Tokenizer;
use infinity_model::{
    ChatTemplate, Context, GenerationConfig, Message, ModelConfig, ModelState, from_pretrained,
    save_pretrained, state_file,
};
use infinity_train::config::ConfigLayers;
use infinity_train::data::{
    DataConfig, Sources, TokenizerConfig, open_prepared, tokenize_to, train_bpe,
};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Pieces that parsers are likely to be wrong about.
const PIECES: [&str; 40] = [
    "-1",
    "0",
    "1",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "1e999",
    "-0.0",
    "nan",
    "inf",
    "1e-400",
    "4294967296",
    "\"\"",
    "null",
    "true",
    "[]",
    "{}",
    "[[",
    "]]",
    "{{",
    "}",
    "\"",
    "'''",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "\u{fffd}",
    "ß",
    "🦀",
    "\r\n",
    "\n\n",
    ",",
    "=",
    ".",
    "[a.b.c]",
    "[[x]]",
    "# ",
    "\t",
    "1979-05-27T07:32:00Z",
    "_",
];

/// A damaged copy of one of `seeds`.
fn damaged(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(1..=16)).min(bytes.len());
        match random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + 40).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                let until = if random.random_bool(0.5) { end } else { at };
                bytes.splice(at..until, piece.bytes());
            }
        }
    }
    bytes
}

/// Reads one damaged input; what it answers does not matter.
type Read = Box<dyn Fn(&[u8])>;
/// Its name, its share of a thousand inputs, what is damaged, and what reads it.
type Target = (&'static str, u64, Vec<Vec<u8>>, Read);

fn with_text(act: impl Fn(&str) + 'static) -> Read {
    Box::new(move |bytes| act(&String::from_utf8_lossy(bytes)))
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// The targets, each with its share of the inputs in thousandths.
fn targets(folder: &Path) -> Vec<Target> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut tomls: Vec<Vec<u8>> = fs::read_dir(configs)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    tomls.push(infinity_train::RunConfig::default().to_toml().into_bytes());
    let mut all: Vec<Target> = vec![
        (
            "configuration",
            250,
            tomls,
            with_text(|text| {
                let layers = ConfigLayers::new().text("fuzz", text);
                drop(layers.and_then(ConfigLayers::resolve));
            }),
        ),
        (
            "assignment",
            100,
            texts(&[
                "training.max_steps=5",
                "data.initial_state={own=0.8,other=0.2}",
                "distributed.devices=[\"a\"]",
                "model.head_dim = 3",
                "eval.sample_prompts=[\"x\"]",
            ]),
            with_text(|text| {
                let layers = ConfigLayers::new().set(text);
                drop(layers.and_then(ConfigLayers::resolve));
                let (name, value) = text.split_at(text.floor_char_boundary(text.len() / 2));
                let variable = (format!("INFINITY__{name}"), value.to_owned());
                drop(ConfigLayers::new().environment([variable]));
            }),
        ),
    ];

    let device = Device::flex();
    let config = ModelConfig {
        vocab_size: 257,
        hidden_size: 16,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        ..ModelConfig::first()
    };
    all.push((
        "config.json",
        150,
        texts(&[&config.to_json(), "{\"vocab_size\": 9}"]),
        with_text(|text| {
            drop(ModelConfig::from_json(text));
        }),
    ));
    let others = fs::read_dir(foreign(""))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let others = others.filter(|path| path.join("config.json").is_file());
    all.push((
        "config.json of others",
        200,
        others
            .map(|folder| fs::read(folder.join("config.json")).unwrap())
            .collect(),
        with_text(|text| {
            drop(config_from_json(text));
        }),
    ));
    let generation = GenerationConfig::default().to_json();
    all.push((
        "generation_config.json",
        150,
        texts(&[&generation]),
        with_text(|text| {
            drop(GenerationConfig::from_json(text));
            drop(GenerationConfig::from_json_of_others(text));
        }),
    ));

    let corpus: Vec<String> = (0..40)
        .map(|i| format!("the cat {i} sat on the mat, ß 水\n"))
        .collect();
    let lines = corpus.iter().map(|line| Ok(line.clone()));
    let (bpe, _) = train_bpe(lines, 280).unwrap();
    let tokenizers = [Tokenizer::bytes(), Tokenizer::chars("the cat".chars()), bpe];
    let jsons: Vec<String> = tokenizers.iter().map(|t| t.to_json().unwrap()).collect();
    let jsons: Vec<&str> = jsons.iter().map(String::as_str).collect();
    all.push((
        "tokenizer.json",
        20,
        texts(&jsons),
        with_text(|text| {
            let Ok(tokenizer) = Tokenizer::from_json(text) else {
                return;
            };
            drop(tokenizer.encode("the cat 水"));
            drop(tokenizer.decode(&[0, 1, 5, u32::MAX]));
        }),
    ));

    let rows = [
        (
            "a.jsonl",
            "{\"text\": \"a\"}\n{\"text\": \"b ß\", \"n\": [1]}\n",
        ),
        (
            "a.json",
            "[{\"text\": \"a\"}, {\"text\": \"b\"}]\n{\n\"text\": \"c\"}",
        ),
        ("a.csv", "\u{feff}id,text\n1,\"a \"\"b\"\"\nc\"\n2,d\n"),
        ("a.tsv", "id\ttext\n1\ta\n"),
        ("a.txt", "\u{feff}ein Vers, 水\n"),
    ];
    for (name, text) in rows {
        let path = folder.join(name);
        all.push((
            name,
            50,
            texts(&[text]),
            Box::new(move |bytes| {
                fs::write(&path, bytes).unwrap();
                let sources = Sources::resolve("data.train_file", &path, "text");
                drop(sources.map(|sources| sources.fragments().count()));
            }),
        ));
    }

    let (text, prepared) = (folder.join("corpus.txt"), folder.join("prepared"));
    fs::write(&text, corpus.concat()).unwrap();
    let data = DataConfig {
        max_seq_length: 4,
        ..DataConfig::default()
    };
    let kind = TokenizerConfig::default();
    tokenize_to(&[text], &data, &kind, &prepared, &mut |_| {}).unwrap();
    for name in ["meta.json", "train.bin", "val.documents.bin"] {
        let path = prepared.join(name);
        let good = fs::read(&path).unwrap();
        let (directory, seed) = (prepared.clone(), vec![good.clone()]);
        all.push((
            name,
            20,
            seed,
            Box::new(move |bytes| {
                fs::write(&path, bytes).unwrap();
                let opened = open_prepared(&directory);
                fs::write(&path, &good).unwrap();
                if let Ok(data) = opened {
                    drop(data.train.borders());
                    drop(data.train.tokens(0..data.train.len().min(1 << 20)));
                }
            }),
        ));
    }

    let model = config.init(&device);
    let saved = folder.join("model");
    save_pretrained(&saved, &model, None, &GenerationConfig::default()).unwrap();
    let path = saved.join("model.safetensors");
    let good = fs::read(&path).unwrap();
    all.push((
        "model.safetensors",
        5,
        vec![good],
        Box::new(move |bytes| {
            fs::write(&path, bytes).unwrap();
            drop(from_pretrained(&saved, &device));
        }),
    ));
    all.push(states(folder));
    all.extend(adapters(folder));
    all.extend(conversations(folder));
    all
}

fn foreign(path: &str) -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    tests.join(path)
}

/// Settings and weights of adapters, as PEFT writes them.
fn adapters(folder: &Path) -> Vec<Target> {
    let base = foreign("llama");
    let model = from_pretrained(&base, &Device::flex()).unwrap().model;
    let names = ["adapter_config.json", "adapter_model.safetensors"];
    let each = names.into_iter().zip([200, 20]);
    let each = each.map(|(name, share)| {
        let dir = folder.join(name);
        fs::create_dir(&dir).unwrap();
        let mut seeds = Vec::new();
        for from in ["llama/end", "llama/start", "qwen3_5/end"] {
            let from = foreign("adapters").join(from);
            seeds.push(fs::read(from.join(name)).unwrap());
            for name in names {
                fs::copy(from.join(name), dir.join(name)).unwrap();
            }
        }
        let (base, model) = (base.clone(), model.clone());
        let read: Read = Box::new(move |bytes| {
            fs::write(dir.join(name), bytes).unwrap();
            drop(read_adapter_settings(&dir));
            drop(with_adapter_of(model.clone(), Some(&base), &dir));
        });
        (name, share, seeds, read)
    });
    each.collect()
}

/// Chat templates, what a tokenizer's directory says of conversations, and files of them.
fn conversations(folder: &Path) -> Vec<Target> {
    let talk = || -> [Message; 5] {
        let turns = [
            ("system", "Be brief."),
            ("user", " One? ß"),
            ("assistant", "Two.\n"),
            ("user", "水"),
            ("assistant", "Three."),
        ];
        turns.map(|(role, content)| Message::new(role, content))
    };
    let said = move |template: &ChatTemplate| {
        drop(template.render(&talk(), false));
        drop(template.render(&talk()[..2], true));
        if let Ok((text, ranges)) = template.answers(&talk()) {
            ranges
                .into_iter()
                .for_each(|range| drop(text[range].to_owned()));
        }
    };
    let marks = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
                 <end>{%- endgeneration %}{% else %}{{ m['content'].strip()|upper }}{% endif %}{% endfor %}\
                 {% if add_generation_prompt %}{{ bos_token ~ raise_exception('no') }}{% endif %}";
    let theirs = ["llama", "qwen3_5"].map(|family| foreign(family).join("chat_template.jinja"));
    let mut templates = texts(&[ChatTemplate::plain().text(), marks]);
    templates.extend(theirs.iter().filter_map(|path| fs::read(path).ok()));
    let from_jinja = move |text: &str| {
        if let Ok(template) = ChatTemplate::from_jinja(text, "<s>", "</s>") {
            said(&template);
        }
    };
    let told = folder.join("told");
    fs::create_dir(&told).unwrap();
    let about = r#"{"bos_token": {"content": "B"}, "eos_token": "ß", "chat_template": [{"name": "default",
        "template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"}]}"#;
    let from_dir = move |bytes: &[u8]| {
        fs::write(told.join("tokenizer_config.json"), bytes).unwrap();
        if let Ok(template) = ChatTemplate::from_model_dir(&told) {
            said(&template);
        }
    };
    let rows = r#"{"messages": [{"role": "user", "content": "One? ß"}, {"role": "assistant", "content": "Two."}]}
{"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "水"}], "tools": null}
"#;
    let (read, tokenized) = (folder.join("talks.jsonl"), folder.join("tokenized.jsonl"));
    let fragments = move |bytes: &[u8]| {
        fs::write(&read, bytes).unwrap();
        for template in [
            ChatTemplate::plain(),
            ChatTemplate::from_jinja(marks, "", "").unwrap(),
        ] {
            let sources = Sources::resolve("data.train_file", &read, "messages");
            let sources = sources.map(|sources| sources.written_by(Some(template)));
            drop(sources.map(|sources| sources.fragments().count()));
        }
    };
    let output = folder.join("tokens");
    let data = DataConfig {
        messages_column: "messages".into(),
        chat_template: "plain".into(),
        max_seq_length: 4,
        ..DataConfig::default()
    };
    let tokens = move |bytes: &[u8]| {
        fs::write(&tokenized, bytes).unwrap();
        let texts = [tokenized.clone()];
        let made = tokenize_to(
            &texts,
            &data,
            &TokenizerConfig::default(),
            &output,
            &mut |_| {},
        );
        if let Ok(data) = made {
            drop(data.train.tokens(0..data.train.len()));
            fs::remove_dir_all(&output).unwrap();
        }
    };
    vec![
        ("chat template", 200, templates, with_text(from_jinja)),
        (
            "tokenizer_config.json",
            100,
            texts(&[about]),
            Box::new(from_dir),
        ),
        ("conversations", 200, texts(&[rows]), Box::new(fragments)),
        (
            "conversations as tokens",
            5,
            texts(&[rows]),
            Box::new(tokens),
        ),
    ]
}

/// State files: of both mixers, of a text with its logits, and without version and checksum, so that what
/// is damaged behind those is read.
fn states(folder: &Path) -> Target {
    use infinity_model::config::Mixer;
    let of = |mixer| {
        let config = ModelConfig {
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            mixer,
            ..ModelConfig::first().with_vocab_size(5)
        };
        let model = config.init(&Device::flex());
        let mut context = Context::new(&model);
        context.read(&model, &[3, 1, 4]).unwrap();
        (model, context)
    };
    let path = folder.join("fuzz.state");
    let (model, context) = of(Mixer::Infinity);
    context
        .save(&path, &model, Some(&Tokenizer::bytes()))
        .unwrap();
    let mut seeds = vec![fs::read(&path).unwrap()];
    for (model, context) in [of(Mixer::Infinity), of(Mixer::Softmax)] {
        context.state.save(&path, &model).unwrap();
        let bytes = fs::read(&path).unwrap();
        let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let layers = [("layers".to_owned(), "2".to_owned())];
        let named = state_file::fingerprint(&model);
        let layers = layers.into_iter().chain([("model".to_owned(), named)]);
        seeds.push(safetensors::serialize(whole.tensors(), Some(layers.collect())).unwrap());
        seeds.push(bytes);
    }
    let read = move |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        drop(state_file::notes(bytes));
        drop(ModelState::from_bytes(bytes, &model.device()));
        if let Ok(mut context) = Context::load(&path, &model, Some(&Tokenizer::bytes())) {
            drop(context.read(&model, &[1, 2]));
        }
    };
    ("state", 100, seeds, Box::new(read))
}

#[test]
fn damaged_input_is_an_error_and_never_a_panic() {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    let inputs: u64 = variable("INFINITY_FUZZ").unwrap_or(4000);
    let seed: u64 = variable("INFINITY_FUZZ_SEED").unwrap_or(1);
    let only = std::env::var("INFINITY_FUZZ_ONLY").unwrap_or_default();
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut total, mut failures) = (0, Vec::new());
    let targets = targets(folder.path());
    for (name, share, seeds, read) in targets.into_iter().filter(|of| of.0.contains(&only)) {
        let (begun, count) = (Instant::now(), (inputs * share).div_ceil(1000));
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let input = damaged(&seeds, &mut random);
            let at = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| read(&input))).is_err() {
                failures.push(format!("{name}: {:?}", String::from_utf8_lossy(&input)));
            }
            slowest = slowest.max(at.elapsed());
        }
        total += count;
        println!(
            "{name}: {count} inputs in {:?}, the slowest {slowest:?}",
            begun.elapsed()
        );
    }
    println!("{total} inputs, {} panics", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
