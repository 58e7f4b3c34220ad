//! What goes wrong around a run: a full disk, a kill, a damaged file, a model that is lost.
#![cfg(all(feature = "flex", unix))]

#[path = "../common/mod.rs"]
mod common;
mod ended;
mod taken_away;
mod words;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, TINY, command, infinity, shell, with_model, with_texts};

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
