//! What goes wrong around a run: a full disk, a kill, a damaged file, a model that is lost.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Ran, TINY, command, directory, infinity, shell, with_model, with_texts};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_infinity");

fn checkpoints(dir: &Path) -> Vec<String> {
    names(&dir.join("run/checkpoints"))
}

/// A run that does not end by itself, nor fill a pipe that nobody reads.
const LONG: &str = "--max-steps 1000000 --set logging.every=100000 --set eval.sample_every=0";

/// A program that runs on, with all it has said so far.
struct Running {
    child: Child,
    out: String,
}

impl Running {
    /// Starts `line` in `dir`.
    fn started(dir: &Path, line: &str) -> Self {
        let mut command = command(dir, line);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running {
            child: command.spawn().unwrap(),
            out: String::new(),
        }
    }

    /// Starts `line` in `dir` and waits until it has said `word` on standard output.
    fn until(dir: &Path, line: &str, word: &str) -> Self {
        let mut run = Self::started(dir, line);
        let mut piece = [0; 4096];
        while !run.out.contains(word) {
            let n = run.child.stdout.as_mut().unwrap().read(&mut piece).unwrap();
            run.out.push_str(&String::from_utf8_lossy(&piece[..n]));
            assert!(n > 0, "ended without {word:?}: {}", run.out);
        }
        run
    }

    fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        let sent = std::process::Command::new("sh")
            .args(["-c", &line])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    fn ended(mut self) -> Ran {
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        // Both pipes are read to their ends, so that neither fills.
        let reader = std::thread::spawn(move || stderr.read_to_string(&mut err).map(|_| err));
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut self.out).unwrap();
        Ran {
            code: self.child.wait().unwrap().code().unwrap_or(-1),
            out: std::mem::take(&mut self.out),
            err: reader.join().unwrap().unwrap(),
        }
    }
}

/// A test that fails leaves nothing running.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Waits until `done`.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What lies in `path`, hidden things included.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn has_checkpoint(dir: &Path) -> bool {
    let names = checkpoints(dir);
    names.iter().any(|name| name.starts_with("step-"))
}

/// The directory of token files in the cache of `dir`.
fn prepared(dir: &Path) -> PathBuf {
    let cache = dir.join(".infinity-cache");
    let name = names(&cache)
        .into_iter()
        .find(|name| !name.starts_with('.'));
    cache.join(name.expect("token files"))
}

/// A limit on the size of files stands for the end of a disk: writing beyond it is an error.
#[test]
fn a_full_disk_ends_the_run_with_an_error_and_keeps_what_was_saved() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run {TINY} --set model.hidden_size=64 --save-steps 2 \
         --lr-scheduler-type constant"
    );
    infinity(dir.path(), &format!("{line} --max-steps 2")).exits(0);
    assert!(
        fs::metadata(dir.path().join("run/final/model.safetensors"))
            .unwrap()
            .len()
            > 80_000
    );
    let more = format!("{line} --max-steps 6 --resume");
    // 120 blocks are 60 KiB. Without the trap the system would end the program instead.
    let limited = format!("trap '' XFSZ; ulimit -f 120; exec '{PROGRAM}' {more}");
    let full = shell(dir.path(), &limited).exits(1);
    full.says(&[
        "cannot write the checkpoint",
        "step-00000004: File too large",
    ]);
    assert_eq!(
        checkpoints(dir.path()),
        ["best", "step-00000002"],
        "nothing half-written"
    );
    let again = infinity(dir.path(), &more).exits(0);
    assert!(again.out.contains("step 00003/6"), "{}", again.out);
}

/// Killed at any moment, a run goes on from its last complete checkpoint, and ends as one that was
/// never killed.
#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let dir = with_texts();
    let line = |output: &str| {
        format!(
            "train --train-file train.txt -o {output} --max-steps 40 {TINY} --save-steps 1 \
             --eval-steps 3 --packing shuffled"
        )
    };
    let again = || match has_checkpoint(dir.path()) {
        true => format!("{} --resume", line("run")),
        false => format!("{} --overwrite", line("run")),
    };
    infinity(dir.path(), &line("whole")).exits(0);
    for wait in [40, 90, 160, 250] {
        let mut child = command(dir.path(), &again())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Not before it has begun to learn, else slow machines test nothing.
        let mut first = [0; 1];
        let _ = child.stdout.as_mut().unwrap().read(&mut first).unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    infinity(dir.path(), &again()).exits(0);
    let model = |output: &str| fs::read(dir.path().join(output).join("final/model.safetensors"));
    assert!(
        model("run").unwrap() == model("whole").unwrap(),
        "another model"
    );
}

#[test]
fn a_model_that_is_lost_has_the_exit_code_of_divergence() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 6 {TINY} --eval-steps 5 --lr 1e38 \
         --max-grad-norm 0"
    );
    let lost = infinity(dir.path(), &line).exits(3);
    assert!(lost.out.contains("left out"), "{}", lost.out);
    lost.says(&["diverged"]);
    assert!(!dir.path().join("run/final").exists());
}

#[test]
fn a_damaged_token_file_is_named() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    infinity(dir.path(), &line).exits(0);
    let prepared = prepared(dir.path());
    let file = prepared.join("train.bin");
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 0x40;
    fs::write(&file, bytes).unwrap();
    infinity(dir.path(), &format!("{line} --resume"))
        .exits(1)
        .says(&["train.bin", "damaged"]);
    fs::remove_dir_all(&prepared).unwrap();
    infinity(dir.path(), &format!("{line} --resume")).exits(0);
}

/// Reading past the end of a file that was cut must be an error, not the end of the program.
#[test]
fn a_token_file_cut_while_it_is_read_is_named() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run {TINY} {LONG}");
    let run = Running::until(dir.path(), &line, "step 0");
    let file = prepared(dir.path()).join("train.bin");
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(64).unwrap();
    run.ended().exits(1).says(&["train.bin", "damaged", "64"]);
}

#[test]
fn a_second_run_in_the_same_directory_is_refused() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run {TINY} {LONG} --save-steps 100");
    let run = Running::until(dir.path(), &line, "step 0");
    wait_for("checkpoint", || has_checkpoint(dir.path()));
    for how in ["--overwrite", "--resume"] {
        infinity(dir.path(), &format!("{line} {how}"))
            .exits(1)
            .says(&["another process is training in", "run"]);
    }
    assert!(dir.path().join("run/metrics.jsonl").exists());
    run.signal("TERM");
    run.ended().exits(130);
    // The lock goes with the process, however it ends; what is left of it is no run.
    let line = line.replace("1000000", "2");
    infinity(dir.path(), &format!("{line} --overwrite")).exits(0);
    fs::create_dir(dir.path().join("new")).unwrap();
    fs::write(dir.path().join("new/.lock"), "").unwrap();
    infinity(dir.path(), &line.replace("-o run", "-o new")).exits(0);
}

#[test]
fn a_model_that_is_not_finite_is_not_measured() {
    let dir = with_model();
    let file = dir.path().join("model/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for number in bytes[8 + header..].chunks_exact_mut(4) {
        number.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    fs::write(&file, bytes).unwrap();
    for how in ["", "--json", "--stream --against-context 32 --span 8"] {
        let made = infinity(dir.path(), &format!("eval model --file valid.txt {how}")).exits(1);
        assert_eq!(made.out, "");
        made.says(&["NaN", "weights are damaged, or it diverged"]);
    }
}

/// A directory with a text of `words` different words, so that learning a BPE from it takes a while.
fn with_many_words(words: u64) -> TempDir {
    let dir = directory();
    let word = |i: u64| format!("{:x} ", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16);
    fs::write(
        dir.path().join("many.txt"),
        (0..words).map(word).collect::<String>(),
    )
    .unwrap();
    dir
}

/// What is being written, or was left by a killed process: a directory and its lock beside it.
fn unfinished(path: &Path) -> Vec<String> {
    let names = names(path);
    let hidden = names.into_iter().filter(|name| name.contains(".partial"));
    hidden.collect()
}

fn unfinished_directories(path: &Path) -> Vec<String> {
    let mut names = unfinished(path);
    names.retain(|name| path.join(name).is_dir());
    names
}

#[test]
fn a_signal_while_a_tokenizer_is_learned_ends_the_program() {
    let dir = with_many_words(400_000);
    let line = format!("train --train-file many.txt -o run {TINY} --tokenizer bpe:30000");
    for signal in ["INT", "TERM"] {
        let run = Running::until(dir.path(), &line, "learning a BPE");
        let began = Instant::now();
        run.signal(signal);
        let ended = run.ended().exits(130);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(!ended.err.contains("after this step"), "{}", ended.err);
        assert!(!dir.path().join("run").exists());
    }
}

#[test]
fn a_signal_while_text_is_tokenized_leaves_nothing_half_made() {
    let dir = with_many_words(3_000_000);
    let (cache, tokens) = (dir.path().join(".infinity-cache"), dir.path());
    for (line, place) in [
        (
            format!("train --train-file many.txt -o run {TINY}"),
            &*cache,
        ),
        ("tokenize many.txt -o tokens".to_owned(), tokens),
    ] {
        let run = Running::started(dir.path(), &line);
        wait_for("partial directory", || !unfinished(place).is_empty());
        run.signal("TERM");
        run.ended().exits(130);
        assert_eq!(unfinished(place), [""; 0], "{line}");
        assert!(!dir.path().join("run").exists() && !dir.path().join("tokens").exists());
    }
}

#[test]
fn what_a_killed_tokenization_left_is_removed_by_the_next() {
    let dir = with_many_words(3_000_000);
    let line = "tokenize many.txt -o tokens";
    let killed = Running::started(dir.path(), line);
    wait_for("partial directory", || {
        !unfinished_directories(dir.path()).is_empty()
    });
    killed.signal("KILL");
    killed.ended();
    assert_eq!(unfinished_directories(dir.path()).len(), 1);
    // What another process is still making stays.
    let other = Running::started(dir.path(), &line.replace("tokens", "others"));
    wait_for("other directory", || {
        unfinished(dir.path())
            .iter()
            .any(|name| name.contains("others"))
    });
    other.signal("STOP");
    infinity(dir.path(), line).exits(0);
    let left = unfinished(dir.path());
    assert!(left.iter().all(|name| name.contains("others")), "{left:?}");
    assert_eq!(unfinished_directories(dir.path()).len(), 1, "{left:?}");
    other.signal("CONT");
    other.ended().exits(0);
    assert_eq!(names(dir.path()), ["many.txt", "others", "tokens"]);
    let files = names(&dir.path().join("tokens"));
    assert!(files.iter().all(|name| !name.starts_with('.')), "{files:?}");
}

/// A run that has just written a checkpoint, so that it will not write for a while.
fn after_a_checkpoint(dir: &Path) -> Running {
    let line = format!(
        "train --train-file train.txt -o run {TINY} {LONG} --save-steps 200 --eval-steps 10000 \
         --set logging.tensorboard=true"
    );
    let run = Running::until(dir, &line, "step 0");
    wait_for("checkpoint", || has_checkpoint(dir));
    run
}

#[test]
fn a_run_directory_that_is_removed_is_made_again() {
    const FILES: [&str; 4] = [
        "config.toml",
        "config.effective.toml",
        "run.json",
        "metrics.jsonl",
    ];
    let dir = with_texts();
    let run = after_a_checkpoint(dir.path());
    let path = dir.path().join("run");
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    wait_for("files of the run", || {
        FILES.iter().all(|name| path.join(name).exists())
    });
    run.signal("TERM");
    let ended = run.ended().exits(130);
    for name in FILES.iter().chain(&["tensorboard"]) {
        let told = format!("run/{name} has been removed");
        assert!(ended.out.contains(&told), "{told}: {}", ended.out);
    }
    for name in FILES[..3].iter() {
        let read = |directory: &str| fs::read(dir.path().join(directory).join(name)).unwrap();
        assert!(read("run") == read("elsewhere"), "another {name}");
    }
    assert_eq!(names(&path.join("tensorboard")).len(), 1);
}

#[test]
fn removed_events_begin_anew() {
    let dir = with_texts();
    let run = after_a_checkpoint(dir.path());
    let path = dir.path().join("run/tensorboard");
    fs::remove_dir_all(&path).unwrap();
    wait_for("new events", || !names(&path).is_empty());
    run.signal("TERM");
    let ended = run.ended().exits(130);
    let told = "run/tensorboard has been removed while the run goes on; it begins anew";
    assert!(ended.out.contains(told), "{}", ended.out);
}

#[test]
fn a_missing_step_is_answered_with_those_that_are_there() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 6 {TINY} --save-steps 2 \
         --set checkpoint.keep_last=0"
    );
    infinity(dir.path(), &line).exits(0);
    let made = infinity(dir.path(), &format!("{line} --resume 3")).exits(2);
    assert!(!made.err.contains("overwrite"), "{}", made.err);
    made.says(&["step 3", "2, 4, 6", "checkpoints"]);
    fs::remove_dir_all(dir.path().join("run/checkpoints")).unwrap();
    infinity(dir.path(), &format!("{line} --resume 3"))
        .exits(2)
        .says(&["no complete checkpoint", "run.overwrite"]);
}

#[test]
fn too_many_workers_are_refused() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run {TINY} --set data.num_workers=100000");
    infinity(dir.path(), &line)
        .exits(2)
        .says(&["data.num_workers", "100000", "256"]);
}

#[test]
fn a_run_past_its_end_says_so() {
    let dir = with_texts();
    let line = |steps| {
        format!(
            "train --train-file train.txt -o run --max-steps {steps} {TINY} \
             --lr-scheduler-type constant"
        )
    };
    infinity(dir.path(), &line(6)).exits(0);
    let past = infinity(dir.path(), &format!("{} --resume", line(2))).exits(0);
    assert!(past.out.contains("at step 6, past the 2"), "{}", past.out);
}

#[test]
fn a_full_disk_at_the_end_names_the_model() {
    let dir = with_texts();
    let line = format!(
        "train --train-file train.txt -o run --max-steps 2 {TINY} --set model.hidden_size=64"
    );
    let first = format!("{line} --set checkpoint.export_safetensors=false");
    infinity(dir.path(), &first).exits(0);
    // 120 blocks are 60 KiB; without the trap the system would end the program instead.
    let limited = format!("trap '' XFSZ; ulimit -f 120; exec '{PROGRAM}' {line} --resume");
    let full = shell(dir.path(), &limited).exits(1);
    assert!(!full.err.contains("partial"), "{}", full.err);
    full.says(&["cannot write", "run/final/model.safetensors", "too large"]);
    let left = names(&dir.path().join("run"));
    assert!(!left.iter().any(|name| name.contains("final")), "{left:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn standard_output_that_is_full_is_named() {
    let dir = with_texts();
    let line = format!("'{PROGRAM}' tokenize train.txt -o tokens > /dev/full");
    shell(dir.path(), &line)
        .exits(1)
        .says(&["cannot write to standard output", "No space"]);
}

#[test]
fn texts_that_are_missing_or_too_short_are_named_as_they_were_given() {
    let dir = with_model();
    let missing = infinity(dir.path(), "eval model --file missing.txt").exits(2);
    assert!(!missing.err.contains("train_file"), "{}", missing.err);
    missing.says(&["no file or directory missing.txt"]);
    fs::write(dir.path().join("short.txt"), "too short").unwrap();
    let line = format!("train --train-file train.txt --validation-file short.txt -o run {TINY}");
    let short = infinity(dir.path(), &line);
    assert!(!short.err.contains("val_fraction"), "{}", short.err);
    short.says(&["9 tokens", "a longer `data.validation_file`"]);
}

#[test]
fn damage_says_what_to_do() {
    let dir = with_texts();
    let line = format!("train --train-file train.txt -o run --max-steps 2 {TINY}");
    infinity(dir.path(), &line).exits(0);
    let weights = dir.path().join("run/checkpoints/step-00000002/model.bpk");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    infinity(dir.path(), &format!("{line} --resume"))
        .exits(1)
        .says(&["model.bpk is damaged", "its fingerprint is not that"]);
    let prepared = prepared(dir.path());
    fs::remove_file(prepared.join("meta.json")).unwrap();
    infinity(dir.path(), &format!("{line} --overwrite"))
        .exits(1)
        .says(&[
            "meta.json is damaged: it is missing",
            "delete .infinity-cache/",
        ]);
}

/// The first Ctrl-C does not wait for the end of a prompt, and what was read is kept.
#[test]
fn a_signal_while_a_prompt_is_read_ends_it_and_keeps_the_state() {
    let dir = with_model();
    fs::write(dir.path().join("long.txt"), "some words ".repeat(1_000_000)).unwrap();
    let line = "generate model -f long.txt -n 5 --state-out a.state";
    for signal in ["INT", "TERM"] {
        let run = Running::started(dir.path(), line);
        std::thread::sleep(Duration::from_millis(1500));
        let began = Instant::now();
        run.signal(signal);
        let ended = run.ended().exits(130);
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(ended.out.is_empty(), "{} bytes", ended.out.len());
        if ended.err.contains("interrupted") {
            ended.says(&[" of 11000000 tokens", "decode: 0 tokens"]);
            infinity(dir.path(), "generate model --state-in a.state -n 3 -q").exits(0);
        }
    }
}

/// A run that goes on after it had finished has a newer model than `final/` when it is stopped.
#[test]
fn the_newest_model_of_a_resumed_run_is_taken_and_named() {
    let dir = with_texts();
    let line = |steps: &str| {
        format!(
            "train --train-file train.txt -o run {TINY} --max-steps {steps} --save-steps 2 \
             --lr-scheduler-type constant"
        )
    };
    infinity(dir.path(), &line("2")).exits(0);
    let generate = "generate run -p line -n 2 --greedy";
    let finished = infinity(dir.path(), generate).exits(0);
    assert!(!finished.err.contains("checkpoint of"), "{}", finished.err);
    let settings = dir.path().join("run/final/generation_config.json");
    fs::write(&settings, r#"{"max_new_tokens": 7}"#).unwrap();
    let long = format!("{} --set logging.every=1 --resume", line("1000000"));
    let run = Running::until(dir.path(), &long, "step 0000006");
    run.signal("TERM");
    run.ended().exits(130);
    let newer = infinity(dir.path(), "generate run -p line --greedy").exits(0);
    newer.says(&[
        "checkpoint of step ",
        "which is newer than run/final",
        "decode: 7 tokens",
    ]);
    infinity(dir.path(), "eval run --file valid.txt")
        .exits(0)
        .says(&["which is newer than run/final"]);
    let older = "generate run/final-step-00000002 -p line -n 2 --greedy";
    let named = infinity(dir.path(), older).exits(0);
    assert!(!named.err.contains("checkpoint of"), "{}", named.err);
}

/// As a user who is not root, as far as that one may start the program: what is there and may not be read is not said to
/// be missing, and what may not be written is found out before a model has read anything.
#[test]
fn what_may_not_be_read_or_written_is_named_at_once() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let dir = with_model();
    let allow = |name: &str, mode: u32| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(dir.path().join(name), permissions).unwrap();
    };
    for name in ["hidden", "locked", "hidden/model"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("hidden/model/config.json"), "{}").unwrap();
    allow("", 0o755);
    allow("locked", 0o555);
    allow("hidden", 0o000);
    let as_nobody = |line: &str| {
        let mut command = command(dir.path(), line);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    if as_nobody("--version").output().is_err() {
        // The program lies where nobody else may look.
        return;
    }
    for (line, words) in [
        ("generate hidden/model -p x", "cannot read hidden/model"),
        ("generate hidden -p x", "cannot read hidden"),
        (
            "generate model -p x --adapter hidden/model",
            "cannot read hidden/model",
        ),
        (
            "eval model --file hidden/text.txt",
            "hidden/text.txt: Permission denied",
        ),
        (
            "train --train-file hidden/text.txt -o run",
            "cannot read hidden/text.txt",
        ),
        (
            "generate model -p x --state-out locked/a.state",
            "--state-out: locked/a.state cannot be written",
        ),
        (
            "stream model valid.txt --state-out locked/a.state",
            "--state-out: locked/a.state cannot be written",
        ),
        (
            "eval model --file valid.txt --stream --state-out locked/a.state",
            "--state-out: locked/a.state cannot be written",
        ),
        (
            "eval model --file valid.txt --task needle --plot locked/a.svg",
            "--plot: locked/a.svg cannot be written",
        ),
        (
            "tokenize valid.txt -o locked/tokens",
            "cannot write locked/tokens",
        ),
    ] {
        let ran = super::ran(as_nobody(line));
        assert!([1, 2].contains(&ran.code), "{line}: {}", ran.code);
        let (before, told) = (ran.out.clone(), ran.says(&[words]).err);
        // A run says what it will be before anything is read.
        let nothing_done = before.is_empty() || line.starts_with("train");
        assert!(
            nothing_done && !told.contains("there is no"),
            "{line}: {before}{told}"
        );
    }
    allow("hidden", 0o700);
    assert!(names(&dir.path().join("locked")).is_empty());
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
