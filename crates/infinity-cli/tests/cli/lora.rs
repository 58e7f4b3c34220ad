//! Fine-tuning by hand: adapters on a folder of others, conversations, and both ways to and from PEFT's files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{command, directory, infinity, ran};

fn folder(family: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    tests.join(family).display().to_string()
}

/// A run of adapters that learns to answer, in `dir/run`.
fn trained(dir: &Path, base: &str) {
    trained_by(dir, base, "");
}

/// The same by a template of one's own, or the folder's.
fn trained_by(dir: &Path, base: &str, template: &str) {
    let mut rows = String::new();
    for i in 0..60 {
        let asked = ["who", "what", "when"][i % 3];
        let answer = ["the cat", "a mat", "at 9"][i % 3];
        let said =
            json!([{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]);
        let _ = writeln!(rows, "{}", json!({ "messages": said }));
    }
    fs::write(dir.join("talks.jsonl"), rows).unwrap();
    let text = format!(
        "[run]\noutput_dir = \"run\"\n[training]\ninit_from = {base:?}\nmax_steps = 12\n\
         per_device_train_batch_size = 4\n[lora]\nr = 4\nalpha = 16.0\ntarget_modules = \"all-linear\"\n\
         [data]\ntrain_file = \"talks.jsonl\"\nmessages_column = \"messages\"\nchat_template = {template:?}\npacking = \"packed\"\n\
         max_seq_length = 32\nval_fraction = 0.2\n[optimizer]\nlearning_rate = 2e-2\n\
         [eval]\nevery = 6\nsample_prompts = []\n[checkpoint]\nevery = 6\n"
    );
    fs::write(dir.join("tune.toml"), text).unwrap();
    let trained = infinity(dir, "train tune.toml").exits(0);
    assert!(trained.out.contains("adapters of"), "{}", trained.out);
}

#[test]
fn adapters_are_learned_used_exported_and_merged() {
    let dir = directory();
    let (dir, base) = (dir.path(), folder("qwen3_5"));
    trained(dir, &base);
    let said = |model: &str| -> Value {
        let line = format!("generate {model} -p what -n 12 --ignore-eos --json");
        serde_json::from_str(&infinity(dir, &line).exits(0).out).unwrap()
    };
    let tokens = |model: &str| said(model)["tokens"].clone();
    let (own, before) = (tokens("run"), tokens(&base));
    assert_ne!(own, before, "something was learned");
    assert_eq!(tokens("run/checkpoints/step-00000012"), own);
    let written = infinity(dir, "export run -o adapter").exits(0);
    assert!(
        written.out.contains("adapter in adapter"),
        "{}",
        written.out
    );
    infinity(dir, "export run/checkpoints/step-00000012 -o again").exits(0);
    let bytes = |name: &str| fs::read(dir.join(name).join("adapter_model.safetensors")).unwrap();
    assert!(bytes("adapter") == bytes("again") && bytes("adapter") == bytes("run/final"));
    assert_eq!(tokens("adapter"), own);
    for adapter in ["adapter", "run", "run/final", "run/checkpoints/step-12"] {
        assert_eq!(tokens(&format!("{base} --adapter {adapter}")), own);
    }
    let earlier = format!("{base} --adapter run/checkpoints/step-6");
    assert_eq!(tokens(&earlier), tokens("run/checkpoints/step-6"));
    assert_ne!(said(&earlier), said("run"), "not the last ones");
    infinity(dir, "export run --merge -o merged").exits(0);
    assert_eq!(tokens("merged"), own);
    // In the folder's own number format, bf16, it may differ later on.
    infinity(dir, &format!("export run --merge --like {base} -o theirs")).exits(0);
    assert_eq!(tokens("theirs")[0], own[0]);

    // What it answers, in the words of the base's template.
    fs::write(dir.join("said"), "who\n").unwrap();
    let mut chat = command(dir, "chat run -n 8 --no-history --greedy");
    chat.stdin(fs::File::open(dir.join("said")).unwrap());
    ran(chat).exits(0).says(&["chat template of the model"]);
    let measured = infinity(dir, "eval run --file talks.jsonl --json").exits(0);
    let measured: Value = serde_json::from_str(&measured.out).unwrap();
    // The answers, each with the token that ends it.
    let answers = 20 * ("the cat".len() + "a mat".len() + "at 9".len() + 3);
    assert_eq!(measured["tokens"], answers, "{measured}");
    assert!(measured["loss"].as_f64().unwrap() < 2.0, "{measured}");

    for (line, words) in [
        (
            "export merged --merge -o x",
            "--merge: merged has no adapters",
        ),
        ("export run --like merged -o x", "--merge makes one of both"),
        (
            "generate run --adapter merged -p x",
            "is a model and no adapter",
        ),
        ("generate run --adapter adapter -p x", "an adapter itself"),
        (
            "generate run/checkpoints/best --adapter run/checkpoints/best -p x",
            "an adapter itself",
        ),
        (
            "export run --dtype bf16 -o x",
            "--dtype is for a model, and these are adapters",
        ),
        (
            "export adapter --max-shard-size 1KB -o x",
            "--max-shard-size is for a model, and these are adapters",
        ),
        (
            "train tune.toml --resume --set lora.r=2",
            "`lora.r` was 4 and is now 2",
        ),
    ] {
        let ran = infinity(dir, line);
        assert!([1, 2].contains(&ran.code), "{line}: {}", ran.code);
        ran.says(&[words]);
    }
    let base_config = fs::read_to_string(dir.join("adapter/adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&base_config).unwrap();
    for (key, value) in [
        ("use_dora", json!(true)),
        ("use_rslora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("init_lora_weights", json!("pissa")),
        ("peft_type", json!("IA3")),
    ] {
        let own = std::mem::replace(&mut config[key], value);
        fs::write(dir.join("adapter/adapter_config.json"), config.to_string()).unwrap();
        let ran = infinity(dir, "generate adapter -p x").exits(2);
        ran.says(&["adapter_config.json", key, "plain LoRA"]);
        config[key] = own;
    }
    config["base_model_name_or_path"] = json!("Qwen/Qwen3.5-0.8B");
    fs::write(dir.join("adapter/adapter_config.json"), config.to_string()).unwrap();
    infinity(dir, "generate adapter -p x")
        .exits(2)
        .says(&["Qwen/Qwen3.5-0.8B", "--adapter"]);
    assert_eq!(tokens(&format!("{base} --adapter adapter")), own);
}

/// Paragraphs, where the folder has a template: what was learned is remembered in the run, its checkpoints, and whatever is
/// made of them; and the path of a template means a file where the run was started.
#[test]
fn a_run_knows_how_its_conversations_were_written() {
    let dir = directory();
    let (dir, base) = (dir.path(), folder("llama"));
    for (template, greets) in [
        ("plain", "messages as plain text"),
        ("own.jinja", "chat template of the model"),
    ] {
        fs::write(
            dir.join("own.jinja"),
            "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}",
        )
        .unwrap();
        trained_by(dir, &base, template);
        fs::remove_file(dir.join("own.jinja")).unwrap();
        infinity(dir, "export run --merge -o merged --overwrite").exits(0);
        infinity(dir, "export run -o adapter --overwrite").exits(0);
        fs::write(dir.join("said"), "who\n").unwrap();
        let elsewhere = directory();
        for model in ["run", "run/checkpoints/best", "merged", "adapter"] {
            let model = dir.join(model);
            let model = model.display();
            let line = format!("chat {model} -n 8 --no-history --greedy");
            let mut chat = command(elsewhere.path(), &line);
            chat.stdin(fs::File::open(dir.join("said")).unwrap());
            ran(chat).exits(0).says(&[greets]);
        }
        let texts = ["run", "run/final", "merged", "adapter"];
        let texts = texts.map(|of| fs::read(dir.join(of).join("chat_template.jinja")).unwrap());
        assert!(texts.windows(2).all(|two| two[0] == two[1]));
        let file = dir.join("talks.jsonl");
        let measured = |model: &str| {
            let model = dir.join(model);
            let line = format!("eval {} --file {} --json", model.display(), file.display());
            let out = infinity(elsewhere.path(), &line).exits(0).out;
            serde_json::from_str::<Value>(&out).unwrap()
        };
        let (of_run, of_step) = (measured("run"), measured("run/checkpoints/step-12"));
        assert_eq!(of_run["loss"], of_step["loss"]);
        // Bits of the bytes that answers have, no others.
        let nats = of_run["loss"].as_f64().unwrap() * of_run["tokens"].as_f64().unwrap();
        let bits = of_run["bits_per_byte"].as_f64().unwrap() * of_run["bytes"].as_f64().unwrap();
        assert!((nats / 2f64.ln() / bits - 1.0).abs() < 0.05, "{of_run}");
        fs::remove_dir_all(dir.join("run")).unwrap();
    }
}

/// Windows in which nobody answers have no loss, and a split without an answer none to be the best by.
#[test]
fn where_nobody_answers_there_is_no_loss() {
    let dir = directory();
    let dir = dir.path();
    let row = |asked: &str, answer: &str| {
        let said = [("user", asked), ("assistant", answer)];
        let said = said.map(|(role, content)| json!({"role": role, "content": content}));
        json!({ "messages": said }).to_string() + "\n"
    };
    let long = "x".repeat(400);
    fs::write(dir.join("talks.jsonl"), row(&long, "yes").repeat(8)).unwrap();
    let line = format!(
        "train {} --train-file talks.jsonl --output-dir run --max-steps 12 --set data.messages_column=messages \
         --set data.chat_template=plain --set data.packing=contiguous --set data.val_fraction=0.4 \
         --set eval.sample_prompts=[] --set eval.max_batches=0",
        super::TINY
    );
    let ran = infinity(dir, &line).exits(0);
    assert!(ran.out.contains("| nothing to predict |"), "{}", ran.out);
    let lines = fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let losses: Vec<Option<f64>> = lines
        .iter()
        .filter(|line| line.get("train/lr").is_some())
        .map(|line| line.get("train/loss").map(|loss| loss.as_f64().unwrap()))
        .collect();
    assert_eq!(losses.len(), 12);
    assert!(losses.iter().any(Option::is_none) && losses.iter().any(Option::is_some));
    assert!(
        losses.iter().flatten().all(|loss| *loss > 0.0),
        "{losses:?}"
    );

    let none = line.replace("eval.max_batches=0", "eval.max_batches=1");
    let none = none.replace(
        "per_device_eval_batch_size=4",
        "per_device_eval_batch_size=1",
    );
    let none = none.replace("--output-dir run", "--output-dir none");
    assert_ne!(none, line);
    infinity(dir, &none)
        .exits(1)
        .says(&["validation split holds no answer", "data.val_fraction"]);
    assert!(!dir.join("none").exists(), "nothing is begun");
}

/// What learned from conversations in a form of its own is talked to in that form, wherever it is copied to, and an
/// adapter finds its model from there.
#[test]
fn the_template_and_the_model_of_an_adapter_go_with_it() {
    let dir = directory();
    let (dir, base) = (dir.path(), folder("llama"));
    let own = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}\
               {% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(dir.join("own.jinja"), own).unwrap();
    trained_by(dir, &base, "own.jinja");
    let template = |of: &str| fs::read_to_string(dir.join(of).join("chat_template.jinja")).ok();
    infinity(dir, "export run -o adapter").exits(0);
    infinity(dir, "export run --merge -o merged").exits(0);
    for of in ["run/final", "adapter", "merged"] {
        assert_eq!(template(of).as_deref(), Some(own), "{of}");
    }
    // The folder has a template of its own, by which it is answered otherwise.
    fs::write(dir.join("said"), "who\n").unwrap();
    let answer = |of: &str| {
        let mut chat = command(dir, &format!("chat {of} -n 8 --no-history --greedy"));
        chat.stdin(fs::File::open(dir.join("said")).unwrap());
        ran(chat).exits(0).says(&["chat template of the model"]).out
    };
    let learned = answer("run");
    assert_eq!(learned, answer("merged"));
    let theirs = Path::new(&base).join("chat_template.jinja");
    fs::copy(theirs, dir.join("merged/chat_template.jinja")).unwrap();
    assert_ne!(learned, answer("merged"));

    infinity(
        dir,
        &format!("export {} -o merged --overwrite", folder("llama3")),
    )
    .exits(0);
    assert_eq!(template("merged"), None, "of the model that was there");
    fs::write(dir.join("merged/chat_template.jinja"), own).unwrap();
    let theirs = folder("llama3");
    let like = format!("export {theirs} --like {theirs} -o merged --overwrite");
    infinity(dir, &like).exits(0);
    assert_eq!(template("merged"), None, "written like another");
    let bare = folder("adapters/llama/end");
    infinity(dir, &format!("export {bare} -o adapter --overwrite")).exits(0);
    assert_eq!(template("adapter"), None, "of the adapter that was there");

    let written = folder("adapters/llama/end");
    infinity(dir, &format!("export {written} -o copy")).exits(0);
    let said = |of: &str| {
        infinity(dir, &format!("generate {of} -p what -n 9"))
            .exits(0)
            .out
    };
    assert_eq!(said("copy"), said(&written));
}
