//! Folders of models that others trained, used as they are.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{command, directory, infinity, ran};

/// A tiny folder as `transformers` writes it, with what that makes of a text.
fn folder(family: &str) -> (PathBuf, Value) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../infinity-model/tests/foreign");
    let folder = tests.join(family);
    let expected = fs::read_to_string(folder.join("expected.json")).unwrap();
    (folder, serde_json::from_str(&expected).unwrap())
}

#[test]
fn a_folder_of_another_family_is_generated_with_measured_and_exported() {
    for family in ["llama", "qwen3_5"] {
        let ((folder, expected), dir) = (folder(family), directory());
        let (dir, model) = (dir.path(), folder.display());
        let text = expected["text"].as_str().unwrap();
        let said = |model: &str, more: &str| -> Value {
            let mut command = command(dir, &format!("generate {model} -n 12 --json {more}"));
            command.args(["-p", text]);
            let ran = ran(command).exits(0);
            assert!(!ran.err.contains("not known"), "{}", ran.err);
            serde_json::from_str(&ran.out).unwrap()
        };
        let first = said(&model.to_string(), "--ignore-eos");
        let ids = expected["ids"].as_array().unwrap().len();
        assert_eq!(
            first["prompt_tokens"], ids,
            "{family}: as transformers counts"
        );
        assert_eq!(first["tokens"].as_array().unwrap().len(), 12);
        assert_eq!(
            said(&model.to_string(), "--ignore-eos")["tokens"],
            first["tokens"],
            "greedy, for the folder says nothing else"
        );
        infinity(dir, &format!("export {model} -o ours")).exits(0);
        assert_eq!(
            said("ours", "--ignore-eos")["tokens"],
            first["tokens"],
            "{family}"
        );
        assert_eq!(
            said("ours", "--ignore-eos")["prompt_tokens"],
            ids,
            "{family}"
        );

        // A kept text goes on as if it had not been interrupted.
        let half = format!("generate {model} -n 6 --ignore-eos --json --state-out kept");
        let mut begun = command(dir, &half);
        begun.args(["-p", text]);
        let begun: Value = serde_json::from_str(&ran(begun).exits(0).out).unwrap();
        let rest = format!("generate {model} -n 6 --ignore-eos --json --state-in kept");
        let rest: Value = serde_json::from_str(&infinity(dir, &rest).exits(0).out).unwrap();
        let all = [&begun, &rest].map(|part| part["tokens"].as_array().unwrap().clone());
        assert_eq!(Value::Array(all.concat()), first["tokens"], "{family}");

        fs::write(dir.join("text.txt"), "This was the cat. ".repeat(20)).unwrap();
        let measured = infinity(dir, &format!("eval {model} --file text.txt --json")).exits(0);
        let measured: Value = serde_json::from_str(&measured.out).unwrap();
        // Every character but the first is predicted, and that too after a token that begins a text.
        let begins = usize::from(family == "llama");
        assert_eq!(
            measured["tokens"],
            20 * 18 - 1 + begins,
            "{family}: {measured}"
        );
        let read = infinity(dir, &format!("stream {model} text.txt --json")).exits(0);
        let read: Value = serde_json::from_str(read.out.lines().next().unwrap()).unwrap();
        assert_eq!(read["tokens"], 20 * 18 + begins, "{family}: {read}");

        fs::write(dir.join("said"), "Was it the cat?\nIt was.\n/stats\n").unwrap();
        let mut chat = command(dir, &format!("chat {model} -n 5 --no-history"));
        chat.stdin(fs::File::open(dir.join("said")).unwrap());
        let chat = ran(chat).exits(0).says(&["chat template of the model"]);
        for words in ["messages            2", "and more with every token"] {
            assert!(chat.out.contains(words), "{}", chat.out);
        }
    }
}

#[test]
fn a_folder_that_cannot_be_run_is_refused_in_a_sentence() {
    let dir = directory();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    for (config, words) in [
        (r#"{"model_type": "qwen3_moe"}"#, "mixture of experts"),
        (
            r#"{"model_type": "gpt2"}"#,
            "it must be infinityformer, llama",
        ),
        (r#"{"model_type": "llama"}"#, "hidden_size is missing"),
    ] {
        fs::write(model.join("config.json"), config).unwrap();
        let ran = infinity(dir.path(), "generate model -p x");
        assert!([1, 2].contains(&ran.code), "{}", ran.code);
        ran.says(&["config.json", words]);
    }
}
