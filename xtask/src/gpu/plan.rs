//! What `cargo xtask gpu` was asked for, the executables it needs, and its steps in order of their worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::findings::{
    BURN, DECODING, EMPTY, FIRST, FLA, FUSED, GDN, GPT, LARGE, LAUNCHES, LEARNED, LEARNING,
    LENGTHS, OTHER_TESTS, PRECISIONS, SCAN_TESTS, SMALL, TENSORS, TOKENS, TORCH, TRAINING, WARM,
    labelled,
};
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
/// The one flag without a value.
const COMPILE_ONLY: &str = "--compile-only";

/// What is done where.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Place {
    /// Built and run.
    #[default]
    Here,
    /// Built and copied into a folder.
    Pack(PathBuf),
    /// Run from such a folder.
    Unpacked(PathBuf),
    /// Compiled and looked at.
    Compiled,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) gpu: &'static str,
    pub(crate) place: Place,
    pub(crate) parts: Vec<&'static str>,
    python: PathBuf,
    pub(crate) fla: Option<PathBuf>,
    text: Option<PathBuf>,
    rounds: u64,
    pub(crate) seconds: Option<Duration>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) tools: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> anyhow::Result<Self> {
        let (device, flags) = args.split_first().context(USAGE)?;
        let gpu = GPUS.into_iter().find(|name| name == device);
        let all = GPUS.join(", ");
        let unknown = || format!("unknown GPU device `{device}`: {all}\n\n{USAGE}");
        let mut options = Options {
            gpu: gpu.with_context(unknown)?,
            parts: PARTS.to_vec(),
            python: "python3".into(),
            rounds: 7,
            ..Options::default()
        };
        let mut words = flags.iter().map(String::as_str);
        while let Some(flag) = words.next() {
            let value = match flag {
                COMPILE_ONLY => Some(""),
                _ => words.next(),
            };
            let value = value.with_context(|| format!("{flag} has no value\n\n{USAGE}"))?;
            options.set(flag, value)?;
        }
        Ok(options)
    }

    /// Whether PyTorch runs on the device, and half precision is what is measured.
    fn has_peers(&self) -> bool {
        ["cuda", "rocm"].contains(&self.gpu)
    }

    /// The type that is measured.
    pub(crate) fn dtype(&self) -> &'static str {
        if self.has_peers() { "bf16" } else { "f32" }
    }

    fn set(&mut self, flag: &str, value: &str) -> anyhow::Result<()> {
        let number = || match value.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => bail!("{flag} {value}: a whole number of at least 1"),
        };
        // A path holds from here wherever the program will run; a bare name is looked for.
        let path = || std::path::absolute(value).unwrap_or_else(|_| value.into());
        let given = Path::new(value);
        let path_if = |is_there: bool, why: &str| {
            ensure!(is_there, "{flag} {value}: {why}");
            Ok(Some(path()))
        };
        let places = ["--pack", "--unpacked", COMPILE_ONLY];
        if places.contains(&flag) && self.place != Place::Here {
            bail!("{flag} {value}: one of --pack and --unpacked, once");
        }
        match flag {
            "--only" => {
                let names: Vec<&str> = value.split(',').collect();
                if let Some(unknown) = names.iter().find(|name| !PARTS.contains(name)) {
                    let parts = PARTS.join(", ");
                    bail!("--only {value}: `{unknown}` is none of {parts}");
                }
                self.parts.retain(|part| names.contains(part));
            }
            "--python" if value.contains(std::path::is_separator) => self.python = path(),
            "--python" => self.python = value.into(),
            "--fla" => self.fla = path_if(given.is_dir(), "no such folder")?,
            "--text" => self.text = path_if(given.is_file(), "no such file")?,
            "--tools" => {
                self.tools = path_if(given.join("bin/ptxas").is_file(), "no bin/ptxas there")?;
            }
            "--rounds" => self.rounds = number()?,
            "--seconds" => self.seconds = Some(Duration::from_secs(number()?)),
            "--out" => self.out = Some(path()),
            "--pack" => self.place = Place::Pack(value.into()),
            "--unpacked" => self.place = Place::Unpacked(value.into()),
            COMPILE_ONLY if self.gpu == "cuda" => self.place = Place::Compiled,
            COMPILE_ONLY => bail!("{COMPILE_ONLY}: of cuda, not of {}", self.gpu),
            _ => bail!("unknown flag {flag}\n\n{USAGE}"),
        }
        Ok(())
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

    /// What lies in `folder`.
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

    /// A file, or why it is not there.
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
    let wanted = targets.filter(|(_, part, ..)| options.parts.contains(part));
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
    /// Those it needs to be worth a start, and gets at most.
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
    let (gpu, dtype, rounds) = (options.gpu, options.dtype(), options.rounds);
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
