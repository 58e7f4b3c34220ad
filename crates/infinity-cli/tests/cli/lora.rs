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
    assert_eq!(tokens(&format!("{base} --adapter adapter")), own);
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
