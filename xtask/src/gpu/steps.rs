//! Which programs run, in order, with what arguments and for how long at most.
//!
//! Burn's attention runs in a process for every length: out of memory on a device may take a process
//! with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::criteria::{self, LENGTHS, TOKENS};
use super::options::{Options, Part};
use super::programs::{KERNELS, LEARNING, Programs, SCAN, THROUGHPUT};

/// A program to run, and whose times are missing if it fails.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) part: Part,
    /// The executable, or why there is none.
    pub(crate) program: Result<PathBuf, String>,
    pub(crate) args: Vec<String>,
    /// Names of [`criteria`] whose findings it makes.
    pub(crate) whats: Vec<&'static str>,
    /// If it measures nothing but this length.
    pub(crate) tokens: Option<u64>,
    pub(crate) limit: Duration,
}

impl Step {
    pub(crate) fn shown(&self) -> String {
        let program = self.program.as_deref().unwrap_or(Path::new("?"));
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {}", self.args.join(" "))
    }
}

/// Every step of every part, asked for or not.
pub(crate) fn steps(options: &Options, programs: &Programs) -> Vec<Step> {
    let gpu = options.gpu;
    let rounds = options.rounds;
    let step = |part, name: &str, line: String, whats: &[&'static str], minutes: u64| Step {
        part,
        program: programs.executable(name).map(Path::to_path_buf),
        args: line.split_whitespace().map(str::to_owned).collect(),
        whats: whats.to_vec(),
        tokens: None,
        limit: Duration::from_secs(60 * minutes),
    };
    let mut steps = vec![
        step(
            Part::Tests,
            KERNELS,
            format!("{}:: --nocapture", gpu.name),
            &[criteria::KERNELS],
            10,
        ),
        step(
            Part::Tests,
            LEARNING,
            "gives_the_losses_of_flex --nocapture".to_owned(),
            &[criteria::LEARNING],
            4,
        ),
    ];

    let scan = format!(
        "--device {} --dtype {} --rounds {rounds} --json",
        gpu.name, gpu.dtype
    );
    let ours = [criteria::FUSED, criteria::TENSORS];
    let all = format!("{scan} --tokens {TOKENS} --only fused,chunkwise");
    steps.push(step(Part::Scan, SCAN, all, &ours, 5));
    for tokens in LENGTHS {
        let line = format!("{scan} --tokens {tokens} --only fused,attention");
        let mut one = step(
            Part::Scan,
            SCAN,
            line,
            &[criteria::FUSED, criteria::BURN],
            3,
        );
        // One argument, though it has spaces.
        one.args
            .extend(["--size".to_owned(), "one state, 128 wide".to_owned()]);
        one.tokens = Some(tokens);
        steps.push(one);
    }

    steps.push(peers(options, programs));

    let line = format!(
        "--device {} --precision f32,bf16-mixed --json --config",
        gpu.name
    );
    let whats = [criteria::SINGLE, criteria::MIXED];
    let mut training = step(Part::Training, THROUGHPUT, line, &whats, 5);
    training.args.push(programs.config.display().to_string());
    steps.push(training);
    steps
}

fn peers(options: &Options, programs: &Programs) -> Step {
    let (gpu, python) = (options.gpu, &options.python);
    let program = match gpu.has_peers {
        true => Ok(python.clone()),
        false => Err(format!("PyTorch does not run on {}", gpu.name)),
    };
    let lengths = LENGTHS.map(|tokens| tokens.to_string()).join(",");
    let line = format!(
        "--device cuda --dtype {} --lengths {lengths} --scan-lengths {TOKENS} --rounds {}",
        gpu.dtype, options.rounds
    );
    let mut args = vec!["-u".to_owned(), programs.peers.display().to_string()];
    args.extend(line.split_whitespace().map(str::to_owned));
    Step {
        part: Part::Peers,
        program,
        args,
        whats: vec![criteria::TORCH, criteria::FLA],
        tokens: None,
        limit: Duration::from_secs(60 * 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(line: &str) -> Vec<Step> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let programs = Programs {
            executables: [KERNELS, LEARNING, SCAN, THROUGHPUT]
                .map(|name| (name, Path::new("/t").join(name)))
                .into(),
            peers: "/t/peers.py".into(),
            config: "/t/large.toml".into(),
            folder: "/t".into(),
        };
        steps(&Options::parse(&args).unwrap(), &programs)
    }

    #[test]
    fn tests_come_before_times_and_on_the_device_that_was_named() {
        let steps = all("cuda --rounds 3");
        let parts: Vec<Part> = steps.iter().map(|step| step.part).collect();
        assert!(parts.is_sorted_by_key(|part| *part as usize), "{parts:?}");
        assert_eq!(steps[0].args[0], "cuda::");
        let of_scan = steps.iter().filter(|step| step.part == Part::Scan);
        for step in of_scan {
            let line = step.shown();
            assert!(
                line.contains("--device cuda --dtype bf16 --rounds 3 --json"),
                "{line}"
            );
        }
    }

    #[test]
    fn every_criterion_is_measured_by_some_step() {
        let steps = all("cuda");
        for what in [
            criteria::KERNELS,
            criteria::LEARNING,
            criteria::FUSED,
            criteria::TENSORS,
            criteria::BURN,
            criteria::TORCH,
            criteria::FLA,
            criteria::SINGLE,
            criteria::MIXED,
        ] {
            assert!(
                steps.iter().any(|step| step.whats.contains(&what)),
                "{what}"
            );
        }
    }

    #[test]
    fn a_size_with_spaces_is_one_argument() {
        let steps = all("cuda");
        let of_length = steps.iter().find(|step| step.tokens == Some(16_384));
        let args = &of_length.unwrap().args;
        assert!(args.ends_with(&["--size".to_owned(), "one state, 128 wide".to_owned()]));
    }

    #[test]
    fn a_device_without_pytorch_says_so() {
        let steps = all("metal");
        let peers = steps.iter().find(|step| step.part == Part::Peers).unwrap();
        let why = peers.program.as_ref().unwrap_err();
        assert!(why.contains("does not run on metal"), "{why}");
    }
}
