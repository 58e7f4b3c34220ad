//! `cargo xtask`: the chores of this workspace, in one small program that builds without Burn.
//!
//! `check` is what CI runs, `tidy` the part of it that lints cannot see, `bench` a measurement; `kills`, `fuzz` and
//! `valgrind` run tests for longer or closer than CI does; `gpu` tests and measures the kernels on one, `plot` draws.
#![allow(clippy::print_stdout, reason = "a command-line program")]

mod check;
mod child;
mod gpu;
mod plot;
mod tidy;
mod workspace;

const USAGE: &str = "\
usage: cargo xtask <command>

  check               formatting, tidy, licences, clippy, documentation, all tests, the GPU kernels on software
                      Vulkan: everything a change has to pass, as CI runs it
  tidy                layering, import circles, sizes, unsafe code, and the paths that documents name
  bench <name> [...]  one measurement; `cargo xtask bench` lists them
  kills               1,000 random kills of a small run, each resumed: none lost, none with other bits
  fuzz [N]            N broken texts, JSON, TOML, tokenizer and model files: no panic  [1000000]
  valgrind [FILTER]   the native kernels' tests under valgrind: no value used that nobody wrote
  gpu <device> [...]  the kernels on a GPU: all their tests there, times beside PyTorch's, and a table of what
                      is met; `cargo xtask gpu` tells more, also how to do it on a machine without Cargo
  plot <json> <svg>   the file that `bench length` writes, as a picture
  plot stream <svg> <name>=<json> ...  files of `infinity eval --stream --json`, as a picture
";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = &workspace::root();
    match args.first().map(String::as_str) {
        Some("check") => check::run(root, &args[1..]),
        Some("tidy") => tidy::run(root),
        Some("bench") => workspace::bench(root, &args[1..]),
        Some("kills") => workspace::kills(root, &args[1..]),
        Some("fuzz") => workspace::fuzz(root, &args[1..]),
        Some("valgrind") => workspace::valgrind(root, &args[1..]),
        Some("gpu") => gpu::run(root, &args[1..]),
        Some("plot") => plot::run(&args[1..]),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => anyhow::bail!("unknown command `{other}`\n\n{USAGE}"),
        None => anyhow::bail!("no command given\n\n{USAGE}"),
    }
}
