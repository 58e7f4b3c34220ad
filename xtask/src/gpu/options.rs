//! What `cargo xtask gpu` was asked for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

pub(crate) const USAGE: &str = "\
usage: cargo xtask gpu <device> [flags]

builds, tests and measures on this machine's GPU and ends with a table: every criterion, its figure, its
limit, met or not. Devices: cuda, rocm, metal, vulkan, wgpu.

  --only PARTS    of tests, scan, peers, training; with commas between them         [all]
  --python PATH   the Python that has torch and triton                              [python3]
  --fla FOLDER    a checkout of flash-linear-attention, put on PYTHONPATH           [none]
  --rounds N      rounds of every measurement, of which the median counts           [7]
  --seconds N     starts nothing later and cuts what runs off, to end with a table  [no limit]
  --out FOLDER    where findings.jsonl and table.txt are written                    [target/gpu]

For a machine without Cargo:

  --pack FOLDER   only builds, and writes a new folder: executables, peers.py, a config, run.sh
  --unpacked FOLDER   what run.sh calls: measures with what lies in that folder

  cargo xtask gpu cuda --pack PACK [--only scan,peers]
  tar -C PACK -c . | xz -T0 --lzma2=preset=9,dict=512MiB > pack.tar.xz
  (there)  mkdir PACK; tar -C PACK -xJf pack.tar.xz; bash PACK/run.sh --python python3 --fla FOLDER

The executables share most of their code, and such a dictionary spans them; unpacking takes as much
memory. Without xz there, `python3 -m tarfile -e pack.tar.xz PACK` unpacks too.
";

/// A GPU by the Cargo feature that reaches it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gpu {
    pub(crate) name: &'static str,
    /// The type of queries, keys and values that is measured.
    pub(crate) dtype: &'static str,
    /// Whether PyTorch runs on it.
    pub(crate) has_peers: bool,
}

const GPUS: [Gpu; 5] = [
    gpu("cuda", "bf16", true),
    gpu("rocm", "bf16", true),
    gpu("metal", "f32", false),
    gpu("vulkan", "f32", false),
    gpu("wgpu", "f32", false),
];

const fn gpu(name: &'static str, dtype: &'static str, has_peers: bool) -> Gpu {
    Gpu {
        name,
        dtype,
        has_peers,
    }
}

/// What can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    /// The kernels' tests on the device, and a short training run with the CPU's losses.
    Tests,
    /// `memory_scan` against its form on tensors and Burn's attention.
    Scan,
    /// PyTorch's attention and flash-linear-attention.
    Peers,
    /// Training steps in two precisions.
    Training,
}

impl Part {
    /// In the order in which they run.
    pub(crate) const ALL: [(Part, &'static str); 4] = [
        (Part::Tests, "tests"),
        (Part::Scan, "scan"),
        (Part::Peers, "peers"),
        (Part::Training, "training"),
    ];

    pub(crate) fn name(self) -> &'static str {
        Part::ALL[self as usize].1
    }
}

/// Where the programs come from, and what is done with them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// Built and run.
    Here,
    /// Built and copied into a folder.
    Pack(PathBuf),
    /// Run from such a folder.
    Unpacked(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) gpu: Gpu,
    pub(crate) place: Place,
    pub(crate) parts: Vec<Part>,
    pub(crate) python: PathBuf,
    pub(crate) fla: Option<PathBuf>,
    pub(crate) rounds: usize,
    pub(crate) seconds: Option<Duration>,
    pub(crate) out: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> anyhow::Result<Self> {
        let (device, flags) = args.split_first().context(USAGE)?;
        let Some(gpu) = GPUS.iter().find(|gpu| gpu.name == device) else {
            let names = GPUS.map(|gpu| gpu.name).join(", ");
            bail!("unknown GPU device `{device}`: {names}\n\n{USAGE}");
        };
        let mut options = Options {
            gpu: *gpu,
            place: Place::Here,
            parts: Part::ALL.map(|(part, _)| part).to_vec(),
            python: "python3".into(),
            fla: None,
            rounds: 7,
            seconds: None,
            out: None,
        };
        for pair in flags.chunks(2) {
            let [flag, value] = pair else {
                bail!("{} has no value\n\n{USAGE}", pair[0]);
            };
            options.set(flag, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> anyhow::Result<()> {
        match flag {
            "--only" => self.parts = parts(value)?,
            "--python" => self.python = program(value),
            "--fla" => {
                let folder = PathBuf::from(value);
                ensure!(folder.is_dir(), "--fla {value}: no such folder");
                self.fla = Some(folder);
            }
            "--rounds" => self.rounds = positive(flag, value)? as usize,
            "--seconds" => self.seconds = Some(Duration::from_secs(positive(flag, value)?)),
            "--out" => self.out = Some(value.into()),
            "--pack" | "--unpacked" => {
                ensure!(
                    self.place == Place::Here,
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

/// Parts by name, in the order in which they run.
fn parts(list: &str) -> anyhow::Result<Vec<Part>> {
    let names: Vec<&str> = list.split(',').collect();
    let all = Part::ALL.map(|(_, name)| name);
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("--only {list}: `{unknown}` is none of {}", all.join(", "));
    }
    let wanted = Part::ALL
        .into_iter()
        .filter(|(_, name)| names.contains(name));
    Ok(wanted.map(|(part, _)| part).collect())
}

/// A name to look for, or a path, which is from here wherever the program will run.
fn program(value: &str) -> PathBuf {
    match value.contains(std::path::is_separator) {
        true => std::path::absolute(value).unwrap_or_else(|_| value.into()),
        false => value.into(),
    }
}

fn positive(flag: &str, value: &str) -> anyhow::Result<u64> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("{flag} {value}: a whole number of at least 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Options> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn everything_runs_here_unless_told_otherwise() {
        let options = parse("cuda").unwrap();
        assert_eq!(options.gpu.dtype, "bf16");
        assert_eq!(options.place, Place::Here);
        assert_eq!(options.parts.len(), Part::ALL.len());
    }

    #[test]
    fn flags_are_read() {
        let options = parse("cuda --pack p --only peers,scan --python py --seconds 60").unwrap();
        assert_eq!(options.place, Place::Pack("p".into()));
        assert_eq!(options.parts, [Part::Scan, Part::Peers], "as they run");
        assert_eq!(options.python, PathBuf::from("py"));
        assert_eq!(options.seconds, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_path_to_python_is_from_here_and_a_name_stays_one() {
        assert!(
            parse("cuda --python venv/bin/python")
                .unwrap()
                .python
                .is_absolute()
        );
        let named = parse("cuda --python python3.12").unwrap().python;
        assert_eq!(named, PathBuf::from("python3.12"));
    }

    #[test]
    fn names_are_those_of_the_parts() {
        for (part, name) in Part::ALL {
            assert_eq!(part.name(), name);
        }
    }

    #[test]
    fn a_mistake_is_answered_with_the_value_and_the_way_out() {
        for (line, said) in [
            ("", vec!["usage: cargo xtask gpu"]),
            ("cdua", vec!["`cdua`", "cuda, rocm, metal, vulkan, wgpu"]),
            ("cuda --python", vec!["--python has no value"]),
            ("cuda --pyton x", vec!["--pyton", "usage"]),
            ("cuda --only scan,pears", vec!["`pears`", "tests, scan"]),
            ("cuda --fla no/such", vec!["--fla no/such: no such folder"]),
            ("cuda --rounds 0", vec!["--rounds 0", "at least 1"]),
            ("cuda --seconds soon", vec!["--seconds soon"]),
            ("cuda --pack a --unpacked b", vec!["--unpacked b", "once"]),
        ] {
            let error = parse(line).unwrap_err().to_string();
            for words in said {
                assert!(error.contains(words), "{line}: {error}");
            }
        }
    }
}
