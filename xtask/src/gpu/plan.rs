//! What `cargo xtask gpu` was asked for, the executables it needs, and its steps in order of their worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Parser, value_parser};

use super::findings::{
    BURN, DECODING, EMPTY, FIRST, FLA, FUSED, GDN, GPT, LARGE, LAUNCHES, LEARNED, LEARNING,
    LENGTHS, OTHER_TESTS, PRECISIONS, SCAN_TESTS, SMALL, TENSORS, TOKENS, TORCH, TRAINING, WARM,
    labelled,
};
use crate::workspace;

const ELSEWHERE: &str = "\
For a machine without Cargo:
  cargo xtask gpu cuda --pack PACK [--only scan,peers]
  (there)  mkdir PACK; tar -C PACK -xJf PACK.tar.xz; bash PACK/run.sh --python python3 --fla FOLDER";

/// Where the CPUs stand aside, by the Cargo feature that reaches it.
const GPUS: [&str; 5] = ["cuda", "rocm", "metal", "vulkan", "wgpu"];
/// What can be asked for alone.
pub(crate) const PARTS: [&str; 4] = ["tests", "scan", "peers", "training"];

/// Programs, the part that each belongs to, the flag with which Cargo builds it, and the seconds that it needs to be
/// worth a start and gets at most.
const PROGRAMS: [(&str, &str, &str, [u64; 2]); 6] = [
    ("kernels", "tests", "--test", [30, 170]),
    ("training", "tests", "--test", [60, 240]),
    ("memory_scan", "scan", "--bench", [20, 150]),
    (PEERS, "peers", "", [60, 150]),
    ("model_throughput", "training", "--bench", [60, 300]),
    ("decoding", "training", "--bench", [20, 120]),
];
/// A script, which is there already.
const PEERS: &str = "peers.py";
/// Files that go along, from the workspace's root.
const FILES: [&str; 3] = [
    "xtask/src/gpu/peers.py",
    "configs/novels-large.toml",
    "configs/shakespeare-char.toml",
];
/// What `--text` names, in a pack.
const TEXT: &str = "text.txt";

/// Builds, tests and measures on this machine's GPU and ends with a table: every criterion, its figure, its limit, met
/// or not.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask gpu", no_binary_name = true)]
#[command(arg_required_else_help = true, after_help = ELSEWHERE)]
pub(crate) struct Options {
    #[arg(value_name = "DEVICE", value_parser = GPUS)]
    pub(crate) gpu: String,
    /// What to do, with commas between
    #[arg(long = "only", value_name = "PARTS", value_delimiter = ',')]
    #[arg(overrides_with = "parts", value_parser = PARTS, default_values = PARTS)]
    pub(crate) parts: Vec<String>,
    /// The Python that has torch and triton
    #[arg(long, value_name = "PATH", default_value = "python3", value_parser = program)]
    python: PathBuf,
    /// A checkout of flash-linear-attention, put on PYTHONPATH
    #[arg(long, value_name = "FOLDER", value_parser = path_if(Path::is_dir, "no such folder"))]
    pub(crate) fla: Option<PathBuf>,
    /// Tiny Shakespeare, for its validation loss beside the CPU's
    #[arg(long, value_name = "FILE", value_parser = path_if(Path::is_file, "no such file"))]
    text: Option<PathBuf>,
    /// Rounds of every measurement, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = value_parser!(u64).range(1..))]
    rounds: u64,
    /// Starts what fits, of most worth first, and cuts what runs off [default: no limit]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) seconds: Option<u64>,
    /// Where findings.jsonl (as they come) and table.txt are written [default: target/gpu]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: Option<PathBuf>,
    /// Only builds: a new folder of executables, peers.py, configs and run.sh, and FOLDER.tar.xz
    #[arg(long, value_name = "FOLDER", group = "place")]
    pub(crate) pack: Option<PathBuf>,
    /// What run.sh calls: measures with what lies in that folder, and keeps compiled kernels there
    #[arg(long, value_name = "FOLDER", group = "place")]
    pub(crate) unpacked: Option<PathBuf>,
    /// Without a GPU: machine code of every kernel, compared with docs/gpu-kernels.md (cuda; takes CUDA's
    /// ptxas and nvdisasm)
    #[arg(long, group = "place")]
    pub(crate) compile_only: bool,
    /// The CUDA toolkit's folder, which has bin/ and nvvm/ [default: what PATH finds]
    #[arg(long, value_name = "FOLDER", value_parser = path_if(has_ptxas, "no bin/ptxas there"))]
    pub(crate) tools: Option<PathBuf>,
}

/// A reader of paths that hold wherever the program will run, for what is there.
fn path_if(
    is_there: fn(&Path) -> bool,
    why: &'static str,
) -> impl Fn(&str) -> anyhow::Result<PathBuf> + Clone {
    move |text| {
        ensure!(is_there(text.as_ref()), why);
        Ok(std::path::absolute(text)?)
    }
}

fn has_ptxas(tools: &Path) -> bool {
    tools.join("bin/ptxas").is_file()
}

/// A path, or a bare name that is looked for.
fn program(text: &str) -> std::io::Result<PathBuf> {
    match text.contains(std::path::is_separator) {
        true => std::path::absolute(text),
        false => Ok(text.into()),
    }
}

impl Options {
    pub(crate) fn asks_for(&self, part: &str) -> bool {
        self.parts.iter().any(|one| one == part)
    }

    /// Whether PyTorch runs on the device, and half precision is what is measured.
    fn has_peers(&self) -> bool {
        ["cuda", "rocm"].contains(&&*self.gpu)
    }

    pub(crate) fn dtype(&self) -> &'static str {
        if self.has_peers() { "bf16" } else { "f32" }
    }
}

/// Where everything that runs or goes along lies, by its name; all paths are absolute.
#[derive(Debug)]
pub(crate) struct Programs(pub(crate) BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds what `options` needs, with one call of Cargo, so that Burn is built once.
    pub(crate) fn build(root: &Path, options: &Options) -> anyhow::Result<Self> {
        let mut all = match command(options) {
            Some(line) => workspace::executables(root, &line)?,
            None => BTreeMap::new(),
        };
        for (name, _) in targets(options) {
            ensure!(all.contains_key(name), "cargo built no executable `{name}`");
        }
        for file in FILES {
            let name = file.rsplit('/').next().unwrap_or(file);
            all.insert(name.to_owned(), root.join(file));
        }
        Ok(Self::with_text(all, options))
    }

    pub(crate) fn unpacked(folder: &Path, options: &Options) -> anyhow::Result<Self> {
        let context = || format!("--unpacked {}: no such folder", folder.display());
        let folder = folder.canonicalize().with_context(context)?;
        let entries = folder.read_dir().with_context(context)?.flatten();
        let files = entries.map(|file| (file.file_name().to_string_lossy().into(), file.path()));
        Ok(Self::with_text(files.collect(), options))
    }

    fn with_text(mut all: BTreeMap<String, PathBuf>, options: &Options) -> Self {
        let text = options.text.clone();
        all.extend(text.map(|text| (TEXT.to_owned(), text)));
        Self(all)
    }

    fn get(&self, name: &str) -> Result<PathBuf, String> {
        let found = self.0.get(name).cloned();
        found.ok_or_else(|| match name {
            TEXT => "--text named no text".to_owned(),
            _ => format!("`{name}` is not in this pack"),
        })
    }
}

/// Names and flags of Cargo's targets that were asked for.
fn targets(options: &Options) -> impl Iterator<Item = (&'static str, &'static str)> {
    let targets = PROGRAMS.iter().filter(|(.., flag, _)| !flag.is_empty());
    let wanted = targets.filter(|(_, part, ..)| options.asks_for(part));
    wanted.map(|(name, _, flag, _)| (*name, *flag))
}

/// The Cargo command that builds them, if there are any.
pub(crate) fn command(options: &Options) -> Option<String> {
    let targets = targets(options).map(|(name, flag)| format!(" {flag} {name}"));
    let targets: String = targets.collect();
    let packages = ["infinity-kernels", "infinity-model", "infinity-train"];
    let features = packages.map(|package| format!("{package}/{}", options.gpu));
    let (packages, features) = (packages.join(" -p "), features.join(","));
    (!targets.is_empty()).then(|| {
        format!(
            "test --release --no-run --message-format json-render-diagnostics -p {packages} --features {features}{targets}"
        )
    })
}

/// A program to run, and whose figures are missing if it fails.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) part: &'static str,
    /// The executable, or what it lacks.
    pub(crate) program: Result<PathBuf, String>,
    pub(crate) args: Vec<String>,
    /// Goes before the names that the program gives.
    pub(crate) label: &'static str,
    /// Names of findings that it makes.
    pub(crate) whats: Vec<String>,
    /// If it measures nothing but this length.
    pub(crate) tokens: Option<u64>,
    pub(crate) seconds: [u64; 2],
    /// Where it runs, below `--out`: [`COUNTED`], [`STARTED`], or there.
    pub(crate) folder: &'static str,
}

/// Launches are counted instead of seconds.
pub(crate) const COUNTED: &str = "counted";
/// Caches are of its own: empty ones, or those of the start before.
pub(crate) const STARTED: &str = "started";

/// Every step of every part, asked for or not, of most worth first. Burn's attention runs in a process for every
/// length: out of memory on a device may take a process with it. torch.compile and Triton take up to a minute to
/// start, so that every peer has a process and a limit of its own.
pub(crate) fn steps(options: &Options, programs: &Programs) -> Vec<Step> {
    let (gpu, dtype, rounds) = (&options.gpu, options.dtype(), options.rounds);
    // A word with a point is a file that goes along.
    let step = |folder, label, name: &str, line: &str, whats: &[&str]| {
        let program = PROGRAMS.iter().find(|(program, ..)| *program == name);
        let (_, part, _, seconds) = *program.expect("a name of PROGRAMS");
        let mut program = match name {
            PEERS if options.has_peers() => Ok(options.python.clone()),
            PEERS => Err(format!("PyTorch does not run on {gpu}")),
            _ => programs.get(name),
        };
        let mut args = Vec::new();
        for word in line.split_whitespace() {
            match programs.get(word) {
                Ok(path) if word.contains('.') => args.push(path.display().to_string()),
                Err(why) if word.contains('.') => program = program.and(Err(why)),
                _ => args.push(word.to_owned()),
            }
        }
        Step {
            part,
            program,
            args,
            label,
            whats: whats.iter().map(|what| labelled(label, what)).collect(),
            tokens: None,
            seconds,
            folder,
        }
    };
    let tests = |name, filter: &str, what| {
        let line = format!("{filter} --nocapture");
        step("", "", name, &line, &[what])
    };
    let scan = |tokens, only: &str, whats: &[&str]| {
        let line = format!("--device {gpu} --dtype {dtype} --rounds {rounds} --json");
        let line = format!("{line} --tokens {tokens} --only {only}");
        step("", "", "memory_scan", &line, whats)
    };
    let peer = |line: &str, what| step("", "", PEERS, &format!("-u {PEERS} {line}"), &[what]);
    let sizes = format!("--device cuda --dtype {dtype} --rounds {rounds} --lengths");
    let lengths = LENGTHS.map(|tokens| tokens.to_string()).join(",");
    let training = |folder, label, config: &str, more: &str, whats: &[&str]| {
        let line = format!("--device {gpu} --json --config {config}.toml --precision {more}");
        step(folder, label, "model_throughput", &line, whats)
    };
    let both = |config| training("", config, config, &PRECISIONS.join(","), &TRAINING);
    let decoding = format!("--device {gpu} --size 174m --json");
    let others = format!("{gpu}:: --skip memory_scan::");
    let mut steps = vec![
        tests("kernels", "memory_scan:: --skip flex::", SCAN_TESTS),
        peer(&format!("fla {sizes} {TOKENS}"), FLA),
        scan(TOKENS, "fused,chunkwise", &[FUSED, TENSORS]),
        peer(&format!("attention {sizes} {lengths}"), TORCH),
        training(STARTED, EMPTY, SMALL, "f32 --first", &[FIRST]),
        training(STARTED, WARM, SMALL, "f32 --first", &[FIRST]),
        both(LARGE),
        peer("gpt", GPT),
        both(SMALL),
        training("", "", SMALL, "f32 --learn text.txt", &[LEARNED]),
        training(COUNTED, "", SMALL, "f32", &[LAUNCHES]),
        step("", "", "decoding", &decoding, &[DECODING]),
        tests("kernels", &others, OTHER_TESTS),
        tests("training", &format!("devices::gpu::{gpu}::"), LEARNING),
        peer("gdn", GDN),
    ];
    for tokens in LENGTHS {
        let mut one = scan(tokens, "fused,attention", &[FUSED, BURN]);
        // One argument, though it has spaces.
        let size = ["--size", "one state, 128 wide"];
        one.args.extend(size.map(str::to_owned));
        one.tokens = Some(tokens);
        steps.push(one);
    }
    steps
}
