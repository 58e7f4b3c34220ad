//! `cargo xtask gpu <device>`: everything there is to know about the kernels on this machine's GPU.
//!
//! First every test of the kernels and a short training run on that device, then `memory_scan` at 32
//! heads over 8,192 tokens with 128 keys and values, S = 1 and S = 4: forward, and forward with backward,
//! against the tensor form and Burn's softmax attention, in `f32` and `bf16`. A bench checks before it
//! times, and nothing is timed if a test fails.

use std::path::Path;

use anyhow::{Context, bail, ensure};

use crate::cargo;

/// Devices that are GPUs, by their Cargo feature, and the types to measure.
const DEVICES: [(&str, &[&str]); 5] = [
    ("cuda", &["f32", "bf16"]),
    ("rocm", &["f32", "bf16"]),
    ("metal", &["f32"]),
    ("vulkan", &["f32"]),
    ("wgpu", &["f32"]),
];

/// Runs the steps for the device that `args` names; `args` after it go to the bench.
pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let Some((device, rest)) = args.split_first() else {
        println!(
            "usage: cargo xtask gpu <{}> [arguments of the bench]",
            names()
        );
        return Ok(());
    };
    for step in steps(device, rest)? {
        println!("\ncargo {}", step.join(" "));
        let words: Vec<&str> = step.iter().map(String::as_str).collect();
        let status = cargo(root, &words).status().context("cannot start cargo")?;
        ensure!(status.success(), "cargo {}: {status}", step.join(" "));
    }
    Ok(())
}

/// The Cargo commands for a device, in order.
fn steps(device: &str, rest: &[String]) -> anyhow::Result<Vec<Vec<String>>> {
    let Some((name, types)) = DEVICES.iter().find(|(name, _)| *name == device) else {
        bail!("unknown GPU device `{device}`: {}", names());
    };
    let mut steps = vec![words(&format!(
        "test --release -p infinity-kernels -p infinity-train \
         --features infinity-kernels/{name},infinity-train/{name} --tests {name} -- --nocapture"
    ))];
    for dtype in *types {
        let mut bench = words(&format!(
            "bench -p infinity-kernels --features {name} --bench memory_scan -- \
             --device {name} --dtype {dtype}"
        ));
        bench.extend(rest.iter().cloned());
        steps.push(bench);
    }
    Ok(steps)
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn names() -> String {
    DEVICES.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_come_before_times_and_on_the_device_that_was_named() {
        let steps = steps("cuda", &["--rounds".to_owned(), "3".to_owned()]).unwrap();
        assert_eq!(steps[0][0], "test");
        assert!(steps[0].contains(&"infinity-kernels/cuda,infinity-train/cuda".to_owned()));
        assert!(steps[1..].iter().all(|step| step[0] == "bench"));
        assert!(
            steps[1..]
                .iter()
                .all(|step| step.ends_with(&["3".to_owned()]))
        );
        assert_eq!(steps.len(), 3);
    }

    #[test]
    fn an_unknown_device_is_answered_with_the_list() {
        let error = steps("cdua", &[]).unwrap_err().to_string();
        for (name, _) in DEVICES {
            assert!(error.contains(name), "{error}");
        }
    }
}
