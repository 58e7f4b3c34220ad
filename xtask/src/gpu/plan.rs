//! What `cargo xtask gpu` was asked for, the executables it needs, and its steps in order of their worth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::findings::{
    BURN, DECODING, EMPTY, FIRST, FLA, FUSED, GDN, GPT, LARGE, LAUNCHES, LEARNED, LEARNING,
    LENGTHS, OTHER_TESTS, PRECISIONS, SCAN_TESTS, SMALL, TENSORS, TOKENS, TORCH, WARM, labelled,
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
            parts: PARTS.to_vec(),
            python: "python3".into(),
            rounds: 7,
            ..Options::default()
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
        let given = Path::new(value);
        let path_if = |is_there: bool, why: &str| {
            ensure!(is_there, "{flag} {value}: {why}");
            Ok(Some(path()))
        };
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
            "--rounds" => self.rounds = number()?,
            "--seconds" => self.seconds = Some(Duration::from_secs(number()?)),
            "--out" => self.out = Some(path()),
            "--tools" => {
                let has_ptxas = given.join("bin/ptxas").is_file();
                self.tools = path_if(has_ptxas, "no bin/ptxas there")?;
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

/// Where everything that runs or goes along lies, by its name; all paths are absolute.
#[derive(Debug)]
pub(crate) struct Programs(pub(crate) BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds what `options` needs, with one call of Cargo, so that Burn is built once.
    pub(crate) fn build(root: &Path, options: &Options) -> anyhow::Result<Self> {
        let wanted = targets(options);
        let mut all = match wanted.is_empty() {
            true => BTreeMap::new(),
            false => workspace::executables(root, &command(options))?,
        };
        for (name, _) in wanted {
            ensure!(all.contains_key(name), "cargo built no executable `{name}`");
        }
        for file in FILES {
            let name = file.rsplit('/').next().unwrap_or(file);
            all.insert(name.to_owned(), root.join(file));
        }
        all.extend(options.text.clone().map(|text| (TEXT.to_owned(), text)));
        Ok(Programs(all))
    }

    /// What lies in `folder`.
    pub(crate) fn unpacked(folder: &Path, options: &Options) -> anyhow::Result<Self> {
        let context = || format!("--unpacked {}: no such folder", folder.display());
        let folder = folder.canonicalize().with_context(context)?;
        let entries = folder.read_dir().with_context(context)?.flatten();
        let files = entries.map(|file| (file.file_name().to_string_lossy().into(), file.path()));
        let text = options.text.clone().map(|text| (TEXT.to_owned(), text));
        Ok(Programs(files.chain(text).collect()))
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
fn targets(options: &Options) -> Vec<(&'static str, &'static str)> {
    let wanted = PROGRAMS
        .iter()
        .filter(|(_, part, ..)| options.parts.contains(part));
    let targets = wanted.map(|(name, _, flag, _)| (*name, *flag));
    targets.filter(|(_, flag)| !flag.is_empty()).collect()
}

/// The Cargo command that builds them.
pub(crate) fn command(options: &Options) -> String {
    let packages = ["infinity-kernels", "infinity-model", "infinity-train"];
    let features = packages.map(|package| format!("{package}/{}", options.gpu));
    let (packages, features) = (packages.join(" -p "), features.join(","));
    let mut line = format!(
        "test --release --no-run --message-format json-render-diagnostics -p {packages} --features {features}"
    );
    for (name, flag) in targets(options) {
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
    let (gpu, dtype, rounds) = (options.gpu, options.dtype, options.rounds);
    // A word with a point is a file that goes along.
    let step = |name: &str, line: &str, whats: &[&str]| {
        let program = PROGRAMS.iter().find(|(program, ..)| *program == name);
        let (_, part, _, seconds) = *program.expect("a name of PROGRAMS");
        let mut program = match name == PEERS {
            true if options.has_peers => Ok(options.python.clone()),
            true => Err(format!("PyTorch does not run on {gpu}")),
            false => programs.get(name),
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
            label: "",
            whats: whats.iter().map(|what| (*what).to_owned()).collect(),
            tokens: None,
            seconds,
            folder: "",
        }
    };
    let tests = |name, filter: &str, what| step(name, &format!("{filter} --nocapture"), &[what]);
    let scan = |tokens, only: &str, whats: &[&str]| {
        let line = format!("--device {gpu} --dtype {dtype} --rounds {rounds} --json");
        let line = format!("{line} --tokens {tokens} --only {only}");
        step("memory_scan", &line, whats)
    };
    let peer = |line: &str, what| step(PEERS, &format!("-u {PEERS} {line}"), &[what]);
    let sizes = format!("--device cuda --dtype {dtype} --rounds {rounds} --lengths");
    let lengths = LENGTHS.map(|tokens| tokens.to_string()).join(",");
    let training = |label, config: &str, precisions: &str, more: &str, whats: &[&str]| {
        let line = format!("--device {gpu} --precision {precisions} --json --config {config}.toml");
        let mut step = step("model_throughput", &format!("{line} {more}"), whats);
        step.label = label;
        for what in &mut step.whats {
            *what = labelled(label, what);
        }
        step
    };
    let both = |config| {
        let whats = PRECISIONS.map(|precision| format!("training {precision}"));
        training(
            config,
            config,
            &PRECISIONS.join(","),
            "",
            &whats.each_ref().map(|what| &**what),
        )
    };
    let start = |caches| Step {
        folder: STARTED,
        ..training(caches, SMALL, "f32", "--first", &[FIRST])
    };
    let mut steps = vec![
        tests("kernels", "memory_scan:: --skip flex::", SCAN_TESTS),
        peer(&format!("fla {sizes} {TOKENS}"), FLA),
        scan(TOKENS, "fused,chunkwise", &[FUSED, TENSORS]),
        peer(&format!("attention {sizes} {lengths}"), TORCH),
        start(EMPTY),
        start(WARM),
        both(LARGE),
        peer("gpt", GPT),
        both(SMALL),
        training("", SMALL, "f32", "--learn text.txt", &[LEARNED]),
        Step {
            folder: COUNTED,
            ..training("", SMALL, "f32", "", &[LAUNCHES])
        },
        step(
            "decoding",
            &format!("--device {gpu} --size 174m --json"),
            &[DECODING],
        ),
        tests(
            "kernels",
            &format!("{gpu}:: --skip memory_scan::"),
            OTHER_TESTS,
        ),
        tests("training", &format!("devices::gpu::{gpu}::"), LEARNING),
        peer("gdn", GDN),
    ];
    for tokens in LENGTHS {
        let mut one = scan(tokens, "fused,attention", &[FUSED, BURN]);
        // One argument, though it has spaces.
        one.args
            .extend(["--size", "one state, 128 wide"].map(str::to_owned));
        one.tokens = Some(tokens);
        steps.push(one);
    }
    steps
}
