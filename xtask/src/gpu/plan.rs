//! What `cargo xtask gpu` was asked for, the executables it needs, and its steps in order of their worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::findings::{
    BURN, DECODING, EMPTY, FIRST, FLA, FUSED, GDN, GPT, LARGE, LAUNCHES, LEARNED, LEARNING,
    LENGTHS, OTHER_TESTS, SCAN_TESTS, SMALL, TENSORS, TOKENS, TORCH, WARM, labelled,
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
/// What runs by `--python`.
const PEERS: &str = "peers.py";
/// The one flag without a value.
const COMPILE_ONLY: &str = "--compile-only";

/// What is done where.
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
                    let parts = PARTS.join(", ");
                    bail!("--only {value}: `{unknown}` is none of {parts}");
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
                let ptxas = Path::new(value).join("bin/ptxas");
                ensure!(ptxas.is_file(), "--tools {value}: no bin/ptxas there");
                self.tools = Some(path());
            }
            "--pack" | "--unpacked" => {
                if self.place != Place::Here {
                    bail!("{flag} {value}: one of --pack and --unpacked, once");
                }
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
        let wanted = targets(options);
        if !wanted.is_empty() {
            for (name, kind, path) in workspace::executables(root, &command(options))? {
                let mut targets = wanted.iter();
                let ours = targets.find(|(_, flag, ours)| *ours == name && flag[2..] == kind);
                all.extend(ours.map(|(.., ours)| (*ours, path)));
            }
            for (.., name) in wanted {
                ensure!(all.contains_key(name), "cargo built no executable `{name}`");
            }
        }
        Ok(Programs(all))
    }

    /// What lies in `folder`.
    pub(crate) fn unpacked(folder: &Path, options: &Options) -> anyhow::Result<Self> {
        let context = || format!("--unpacked {}: no such folder", folder.display());
        let folder = folder.canonicalize().with_context(context)?;
        let names = TARGETS.map(|(_, _, name)| name).into_iter();
        let names = names.chain(FILES.map(name_of)).chain([TEXT]);
        let files = names.map(|name| (name, folder.join(name)));
        let mut all: BTreeMap<_, _> = files.filter(|(_, path)| path.is_file()).collect();
        all.extend(options.text.clone().map(|text| (TEXT, text)));
        Ok(Programs(all))
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

/// The last part of a path.
fn name_of(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Those of [`TARGETS`] that were asked for.
fn targets(options: &Options) -> Vec<(&'static str, &'static str, &'static str)> {
    let mut targets = TARGETS.to_vec();
    targets.retain(|(part, ..)| options.parts.contains(part));
    targets
}

/// The Cargo command that builds them.
pub(crate) fn command(options: &Options) -> String {
    let packages = ["infinity-kernels", "infinity-model", "infinity-train"];
    let features = packages.map(|package| format!("{package}/{}", options.gpu));
    let mut line = format!(
        "test --release --no-run --message-format json-render-diagnostics -p {} --features {}",
        packages.join(" -p "),
        features.join(",")
    );
    for (_, flag, name) in targets(options) {
        line += &format!(" {flag} {name}");
    }
    line
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
    /// Seconds that it needs to be worth a start, and gets at most.
    pub(crate) needs: u64,
    pub(crate) limit: u64,
    /// Where it runs, below `--out`: [`COUNTED`], [`STARTED`], or there.
    pub(crate) folder: &'static str,
}

/// Launches are counted instead of seconds.
pub(crate) const COUNTED: &str = "counted";
/// Caches are of its own: empty ones, or those of the start before.
pub(crate) const STARTED: &str = "started";

impl Step {
    pub(crate) fn shown(&self) -> String {
        let program = self.program.as_deref().unwrap_or(Path::new("?"));
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", self.args.join(" "))
    }
}

/// Every step of every part, asked for or not, of most worth first. Burn's attention runs in a process for every
/// length: out of memory on a device may take a process with it. torch.compile and Triton take up to a minute to
/// start, so that every peer has a process and a limit of its own.
pub(crate) fn steps(options: &Options, programs: &Programs) -> Vec<Step> {
    let (gpu, dtype, rounds) = (options.gpu, options.dtype, options.rounds);
    // A word that names a file that goes along is that file.
    let step = |program: &str, line: &str, label, whats: &[&str], [needs, limit]: [u64; 2]| {
        let (part, mut found) = match TARGETS.iter().find(|(.., name)| *name == program) {
            Some((part, ..)) => (*part, programs.get(program)),
            None if !options.has_peers => ("peers", Err(format!("PyTorch does not run on {gpu}"))),
            None => ("peers", Ok(options.python.clone())),
        };
        let mut args = Vec::new();
        for word in line.split_whitespace() {
            let is_file = FILES.map(name_of).contains(&word) || word == TEXT;
            let file = is_file.then(|| programs.get(word)).transpose();
            match file {
                Ok(Some(path)) => args.push(path.display().to_string()),
                Ok(None) => args.push(word.to_owned()),
                Err(why) => found = found.and(Err(why)),
            }
        }
        Step {
            part,
            program: found,
            args,
            label,
            whats: whats.iter().map(|what| labelled(label, what)).collect(),
            tokens: None,
            needs,
            limit,
            folder: "",
        }
    };
    let tests = |program, filter: &str, what, seconds| {
        step(
            program,
            &format!("{filter} --nocapture"),
            "",
            &[what],
            seconds,
        )
    };
    let scan = |line: &str, whats: &[&str]| {
        let line = format!("--device {gpu} --dtype {dtype} --rounds {rounds} --json {line}");
        step("memory_scan", &line, "", whats, [20, 150])
    };
    let peer = |line: &str, what, needs| {
        let line = format!("-u {PEERS} {line}");
        step(PEERS, &line, "", &[what], [needs, 150])
    };
    let training = |line: &str, label, whats: &[&str], seconds| {
        let line = format!("--device {gpu} --json {line}");
        step("model_throughput", &line, label, whats, seconds)
    };
    let start = |label| Step {
        folder: STARTED,
        ..training(
            "--precision f32 --config shakespeare-char.toml --first",
            label,
            &[FIRST],
            [60, 240],
        )
    };
    let both = ["training f32", "training bf16-mixed"];
    let sizes = format!("--device cuda --dtype {dtype} --rounds {rounds} --lengths");
    let lengths = LENGTHS.map(|tokens| tokens.to_string()).join(",");
    let at_lengths = LENGTHS.map(|tokens| {
        let line = format!("--tokens {tokens} --only fused,attention");
        let mut one = scan(&line, &[FUSED, BURN]);
        // One argument, though it has spaces.
        let size = ["--size", "one state, 128 wide"];
        one.args.extend(size.map(str::to_owned));
        one.tokens = Some(tokens);
        one
    });
    let mut steps = vec![
        tests(
            "kernels",
            "memory_scan:: --skip flex::",
            SCAN_TESTS,
            [10, 170],
        ),
        peer(&format!("fla {sizes} {TOKENS}"), FLA, 60),
        scan(
            &format!("--tokens {TOKENS} --only fused,chunkwise"),
            &[FUSED, TENSORS],
        ),
        peer(&format!("attention {sizes} {lengths}"), TORCH, 40),
        start(EMPTY),
        start(WARM),
        training(
            "--precision f32,bf16-mixed --config novels-large.toml",
            LARGE,
            &both,
            [60, 240],
        ),
        peer("gpt", GPT, 60),
        training(
            "--precision f32,bf16-mixed --config shakespeare-char.toml",
            SMALL,
            &both,
            [60, 240],
        ),
        training(
            "--precision f32 --config shakespeare-char.toml --learn text.txt",
            "",
            &[LEARNED],
            [60, 300],
        ),
        Step {
            folder: COUNTED,
            ..training(
                "--precision f32 --config shakespeare-char.toml",
                "",
                &[LAUNCHES],
                [30, 120],
            )
        },
        step(
            "decoding",
            &format!("--device {gpu} --size 174m --json"),
            "",
            &[DECODING],
            [20, 120],
        ),
        tests(
            "kernels",
            &format!("{gpu}:: --skip memory_scan::"),
            OTHER_TESTS,
            [30, 170],
        ),
        tests(
            "training",
            &format!("devices::gpu::{gpu}::"),
            LEARNING,
            [60, 240],
        ),
        peer("gdn", GDN, 60),
    ];
    steps.extend(at_lengths);
    steps
}
