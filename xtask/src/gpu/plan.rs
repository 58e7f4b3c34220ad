//! What `cargo xtask gpu` was asked for, the executables it needs, and its steps in order of their worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::findings::{self, LARGE, LENGTHS, PRECISIONS, SMALL, TOKENS};
use crate::child;
use crate::workspace;

pub(crate) const USAGE: &str = "\
usage: cargo xtask gpu <device> [flags]

builds, tests and measures on this machine's GPU and ends with a table: every criterion, its figure, its
limit, met or not. Devices: cuda, rocm, metal, vulkan, wgpu.

  --only PARTS    of tests, scan, peers, training; with commas between them         [all]
  --python PATH   the Python that has torch and triton                              [python3]
  --fla FOLDER    a checkout of flash-linear-attention, put on PYTHONPATH           [none]
  --text FILE     Tiny Shakespeare, for its validation loss beside the CPU's        [none]
  --rounds N      rounds of every measurement, of which the median counts           [7]
  --seconds N     starts what fits, of most worth first, and cuts what runs off     [no limit]
  --out FOLDER    where findings.jsonl (as they come) and table.txt are written     [target/gpu]

For a machine without Cargo:

  --pack FOLDER   only builds: a new folder of executables, peers.py, configs and run.sh, and FOLDER.tar.xz
  --unpacked FOLDER   what run.sh calls: measures with what lies in that folder, and keeps compiled kernels there

Without a GPU:

  --compile-only      machine code of every kernel, compared with docs/gpu-kernels.md (cuda; takes CUDA's ptxas and nvdisasm)
  --tools FOLDER      the CUDA toolkit's folder, which has bin/ and nvvm/           [what PATH finds]

  cargo xtask gpu cuda --pack PACK [--only scan,peers]
  (there)  mkdir PACK; tar -C PACK -xJf PACK.tar.xz; bash PACK/run.sh --python python3 --fla FOLDER
";

/// Where the CPUs stand aside, by the Cargo feature that reaches it: the type that is measured, and whether PyTorch
/// runs there.
const GPUS: [(&str, &str, bool); 5] = [
    ("cuda", "bf16", true),
    ("rocm", "bf16", true),
    ("metal", "f32", false),
    ("vulkan", "f32", false),
    ("wgpu", "f32", false),
];
/// What can be asked for alone.
pub(crate) const PARTS: [&str; 4] = ["tests", "scan", "peers", "training"];

/// Cargo's targets by the part that needs them, and the flag that builds them.
const TARGETS: [(&str, &str, &str); 5] = [
    ("tests", "--test", "kernels"),
    ("tests", "--test", "training"),
    ("scan", "--bench", "memory_scan"),
    ("training", "--bench", "model_throughput"),
    ("training", "--bench", "decoding"),
];
/// Files that go along, from the workspace's root.
const FILES: [&str; 3] = [
    "xtask/src/gpu/peers.py",
    "configs/novels-large.toml",
    "configs/shakespeare-char.toml",
];
/// What `--text` names, in a pack.
const TEXT: &str = "text.txt";
/// The one flag without a value.
const COMPILE_ONLY: &str = "--compile-only";
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// Built and run.
    Here,
    /// Built and copied into a folder.
    Pack(PathBuf),
    /// Run from such a folder.
    Unpacked(PathBuf),
    /// Compiled and looked at.
    Compiled,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) gpu: &'static str,
    pub(crate) dtype: &'static str,
    has_peers: bool,
    pub(crate) place: Place,
    pub(crate) parts: Vec<&'static str>,
    python: PathBuf,
    fla: Option<PathBuf>,
    text: Option<PathBuf>,
    rounds: u64,
    pub(crate) seconds: Option<Duration>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) tools: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> anyhow::Result<Self> {
        let (device, flags) = args.split_first().context(USAGE)?;
        let Some((gpu, dtype, has_peers)) = GPUS.iter().find(|(name, ..)| name == device) else {
            let names = GPUS.map(|(name, ..)| name).join(", ");
            bail!("unknown GPU device `{device}`: {names}\n\n{USAGE}");
        };
        let mut options = Options {
            gpu,
            dtype,
            has_peers: *has_peers,
            place: Place::Here,
            parts: PARTS.to_vec(),
            python: "python3".into(),
            fla: None,
            text: None,
            rounds: 7,
            seconds: None,
            out: None,
            tools: None,
        };
        let mut flags: Vec<&String> = flags.iter().collect();
        if let Some(at) = flags.iter().position(|flag| *flag == COMPILE_ONLY) {
            ensure!(*gpu == "cuda", "{COMPILE_ONLY}: of cuda, not of {gpu}");
            flags.remove(at);
            options.place = Place::Compiled;
        }
        for pair in flags.chunks(2) {
            let [flag, value] = pair else {
                bail!("{} has no value\n\n{USAGE}", pair[0]);
            };
            options.set(flag, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> anyhow::Result<()> {
        let number = || match value.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => bail!("{flag} {value}: a whole number of at least 1"),
        };
        // A path holds from here wherever the program will run; a bare name is looked for.
        let path = || std::path::absolute(value).unwrap_or_else(|_| value.into());
        match flag {
            "--only" => {
                let names: Vec<&str> = value.split(',').collect();
                if let Some(unknown) = names.iter().find(|name| !PARTS.contains(name)) {
                    bail!(
                        "--only {value}: `{unknown}` is none of {}",
                        PARTS.join(", ")
                    );
                }
                self.parts.retain(|part| names.contains(part));
            }
            "--python" if value.contains(std::path::is_separator) => self.python = path(),
            "--python" => self.python = value.into(),
            "--fla" => {
                ensure!(Path::new(value).is_dir(), "--fla {value}: no such folder");
                self.fla = Some(path());
            }
            "--text" => {
                ensure!(Path::new(value).is_file(), "--text {value}: no such file");
                self.text = Some(path());
            }
            "--rounds" => self.rounds = number()?,
            "--seconds" => self.seconds = Some(Duration::from_secs(number()?)),
            "--out" => self.out = Some(path()),
            "--tools" => {
                let is_it = Path::new(value).join("bin/ptxas").is_file();
                ensure!(is_it, "--tools {value}: no bin/ptxas there");
                self.tools = Some(path());
            }
            "--pack" | "--unpacked" => {
                let is_first = self.place == Place::Here;
                ensure!(
                    is_first,
                    "{flag} {value}: one of --pack and --unpacked, once"
                );
                self.place = match flag {
                    "--pack" => Place::Pack(value.into()),
                    _ => Place::Unpacked(value.into()),
                };
            }
            _ => bail!("unknown flag {flag}\n\n{USAGE}"),
        }
        Ok(())
    }
}

/// Where everything that runs lies, by its name; all paths are absolute.
#[derive(Debug)]
pub(crate) struct Programs(pub(crate) BTreeMap<&'static str, PathBuf>);

impl Programs {
    /// Builds what `options` needs, with one call of Cargo, so that Burn is built once.
    pub(crate) fn build(root: &Path, options: &Options) -> anyhow::Result<Self> {
        let mut all: BTreeMap<_, _> = FILES.map(|file| (name_of(file), root.join(file))).into();
        all.extend(options.text.clone().map(|text| (TEXT, text)));
        if let Some(words) = command(options) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            all.extend(
                workspace::executables(root, &words)?
                    .into_iter()
                    .filter_map(ours),
            );
            for (_, _, name) in TARGETS {
                let wanted = words.contains(&name);
                ensure!(
                    !wanted || all.contains_key(name),
                    "cargo built no executable `{name}`"
                );
            }
        }
        Ok(Programs(all))
    }

    /// What lies in `folder`.
    pub(crate) fn unpacked(folder: &Path) -> anyhow::Result<Self> {
        let context = || format!("--unpacked {}: no such folder", folder.display());
        let folder = folder.canonicalize().with_context(context)?;
        let names = TARGETS.map(|(_, _, name)| name).into_iter();
        let files = names
            .chain(FILES.map(name_of))
            .chain([TEXT])
            .map(|name| (name, folder.join(name)));
        Ok(Programs(files.filter(|(_, path)| path.is_file()).collect()))
    }

    /// A file, or why it is not there.
    fn get(&self, name: &str) -> Result<PathBuf, String> {
        let found = self.0.get(name).cloned();
        found.ok_or_else(|| format!("`{name}` is not in this pack"))
    }
}

/// The last part of a path.
fn name_of(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The words of the Cargo command that builds what was asked for.
pub(crate) fn command(options: &Options) -> Option<Vec<String>> {
    let wanted = TARGETS
        .iter()
        .filter(|(part, ..)| options.parts.contains(part));
    let targets: Vec<&str> = wanted.flat_map(|(_, flag, name)| [*flag, *name]).collect();
    if targets.is_empty() {
        return None;
    }
    let packages = ["infinity-kernels", "infinity-model", "infinity-train"];
    let features = packages
        .map(|package| format!("{package}/{}", options.gpu))
        .join(",");
    let line = format!(
        "test --release --no-run --message-format json-render-diagnostics -p {} --features {features}",
        packages.join(" -p ")
    );
    let words = line.split_whitespace().chain(targets);
    Some(words.map(str::to_owned).collect())
}

/// An executable by the name of ours that it is, if it is one.
fn ours((name, kind, path): (String, String, PathBuf)) -> Option<(&'static str, PathBuf)> {
    let is_it = |(_, flag, target): &&(_, &str, &str)| {
        *target == name && flag.trim_start_matches('-') == kind
    };
    TARGETS
        .iter()
        .find(is_it)
        .map(|(.., target)| (*target, path))
}

/// A program to run, and whose figures are missing if it fails.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) part: &'static str,
    /// The executable, or why there is none.
    pub(crate) program: Result<PathBuf, String>,
    pub(crate) args: Vec<String>,
    /// Names of findings that it makes.
    pub(crate) whats: Vec<String>,
    /// Goes before the names that the program gives.
    pub(crate) label: &'static str,
    /// If it measures nothing but this length.
    pub(crate) tokens: Option<u64>,
    /// Seconds that it needs to be worth a start, and gets at most.
    pub(crate) needs: u64,
    pub(crate) limit: u64,
    /// Counts launches instead of seconds.
    pub(crate) counts: bool,
    /// Starts with caches of its own: empty ones, or those of the start before.
    pub(crate) starts: Option<bool>,
    python_path: Option<PathBuf>,
}

impl Step {
    pub(crate) fn shown(&self) -> String {
        let program = self.program.as_deref().unwrap_or(Path::new("?"));
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", self.args.join(" "))
    }

    /// Runs it in `folder` within `limit`; `each` takes its lines as they come.
    pub(crate) fn run(
        &self,
        folder: &Path,
        limit: Duration,
        each: impl FnMut(&str),
    ) -> child::Ended {
        let program = match &self.program {
            Ok(program) => program,
            Err(why) => return child::Ended::without(why),
        };
        let mut command = Command::new(program);
        command.args(&self.args).current_dir(folder);
        if let Some(first) = &self.python_path {
            let before = std::env::var_os("PYTHONPATH").unwrap_or_default();
            let others = std::env::split_paths(&before).filter(|path| !path.as_os_str().is_empty());
            let all = std::env::join_paths(std::iter::once(first.clone()).chain(others));
            command.env("PYTHONPATH", all.unwrap_or_else(|_| first.into()));
        }
        child::run_with(&mut command, limit, each)
    }
}

/// Every step of every part, asked for or not, of most worth first. Burn's attention runs in a process for every
/// length: out of memory on a device may take a process with it. torch.compile and Triton take up to a minute to
/// start, so that every peer has a process and a limit of its own.
pub(crate) fn steps(options: &Options, programs: &Programs) -> Vec<Step> {
    let (gpu, dtype, rounds) = (options.gpu, options.dtype, options.rounds);
    let step = |part, name: &str, line: &str, whats: &[&str], [needs, limit]: [u64; 2]| Step {
        part,
        program: programs.get(name),
        args: line.split_whitespace().map(str::to_owned).collect(),
        whats: whats.iter().map(|what| (*what).to_owned()).collect(),
        label: "",
        tokens: None,
        needs,
        limit,
        counts: false,
        starts: None,
        python_path: None,
    };
    let peer = |line: &str, what: &str, seconds| {
        let script = programs.get("peers.py");
        let mut step = step("peers", "peers.py", "", &[what], seconds);
        step.program = match (options.has_peers, script.is_ok()) {
            (false, _) => Err(format!("PyTorch does not run on {gpu}")),
            (true, true) => Ok(options.python.clone()),
            (true, false) => step.program,
        };
        step.args = vec![
            "-u".to_owned(),
            script.unwrap_or_default().display().to_string(),
        ];
        step.args.extend(line.split_whitespace().map(str::to_owned));
        step.python_path.clone_from(&options.fla);
        step
    };
    let training = |label, config: &'static str, precisions: &str, seconds| {
        let line = format!("--device {gpu} --precision {precisions} --json --config");
        let mut step = step("training", "model_throughput", &line, &[], seconds);
        let config = programs.get(config);
        step.program = step
            .program
            .and_then(|program| config.clone().map(|_| program));
        step.args
            .push(config.unwrap_or_default().display().to_string());
        step.label = label;
        let each = precisions.split(',');
        step.whats = each
            .map(|precision| format!("{label}: training {precision}"))
            .collect();
        step
    };
    let scan = format!("--device {gpu} --dtype {dtype} --rounds {rounds} --json");
    let at_lengths = LENGTHS.map(|tokens| {
        let line = format!("{scan} --tokens {tokens} --only fused,attention");
        let mut one = step(
            "scan",
            "memory_scan",
            &line,
            &[findings::FUSED, findings::BURN],
            [20, 150],
        );
        // One argument, though it has spaces.
        one.args
            .extend(["--size", "one state, 128 wide"].map(str::to_owned));
        one.tokens = Some(tokens);
        one
    });
    let lengths = LENGTHS.map(|tokens| tokens.to_string()).join(",");
    let sizes = format!("--device cuda --dtype {dtype} --rounds {rounds}");
    let both = PRECISIONS.join(",");
    let mut launches = training(SMALL, "shakespeare-char.toml", PRECISIONS[0], [30, 120]);
    (launches.counts, launches.label) = (true, "");
    launches.whats = vec![findings::LAUNCHES.to_owned()];
    let start = |label, empty| {
        let mut start = training(label, "shakespeare-char.toml", PRECISIONS[0], [60, 240]);
        start.args.push("--first".to_owned());
        start.starts = Some(empty);
        start.whats = vec![format!("{label}: {}", findings::FIRST)];
        start
    };
    let mut learning = training("", "shakespeare-char.toml", PRECISIONS[0], [60, 300]);
    learning.whats = vec![findings::LEARNED.to_owned()];
    match options.text.clone().or(programs.0.get(TEXT).cloned()) {
        Some(text) => learning
            .args
            .extend(["--learn".to_owned(), text.display().to_string()]),
        None => learning.program = Err("--text named no text".to_owned()),
    }
    let mut steps = vec![
        step(
            "tests",
            "kernels",
            "memory_scan:: --skip flex:: --nocapture",
            &[findings::SCAN_TESTS],
            [10, 170],
        ),
        peer(
            &format!("fla {sizes} --lengths {TOKENS}"),
            findings::FLA,
            [60, 150],
        ),
        step(
            "scan",
            "memory_scan",
            &format!("{scan} --tokens {TOKENS} --only fused,chunkwise"),
            &[findings::FUSED, findings::TENSORS],
            [20, 150],
        ),
        peer(
            &format!("attention {sizes} --lengths {lengths}"),
            findings::TORCH,
            [40, 150],
        ),
        start(findings::EMPTY, true),
        start(findings::WARM, false),
        training(LARGE, "novels-large.toml", &both, [60, 240]),
        peer("gpt", findings::GPT, [60, 150]),
        training(SMALL, "shakespeare-char.toml", &both, [60, 240]),
        learning,
        launches,
        step(
            "training",
            "decoding",
            &format!("--device {gpu} --size 174m --json"),
            &[findings::DECODING],
            [20, 120],
        ),
        step(
            "tests",
            "kernels",
            &format!("{gpu}:: --skip memory_scan:: --nocapture"),
            &[findings::OTHER_TESTS],
            [30, 170],
        ),
        step(
            "tests",
            "training",
            &format!("devices::gpu::{gpu}:: --nocapture"),
            &[findings::LEARNING],
            [60, 240],
        ),
        peer("gdn", findings::GDN, [60, 150]),
    ];
    steps.extend(at_lengths);
    steps
}
