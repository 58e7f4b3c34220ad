//! How this program was started, so that the commands it prints work as they are typed.

use std::env;
use std::path::MAIN_SEPARATOR;

/// Features besides the default that this build has: a command that Cargo runs must name them too.
const FEATURES: [(&str, bool); 6] = [
    ("ndarray", cfg!(feature = "ndarray")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
];

/// What stands for `infinity` at the start of a command line: `cargo run --release --` under Cargo,
/// the path where one was typed, else the name.
pub(crate) fn program() -> String {
    let variable = |name: &str| env::var(name).ok();
    let by_cargo = variable("CARGO").is_some()
        && variable("CARGO_PKG_NAME").as_deref() == Some(env!("CARGO_PKG_NAME"));
    let typed = env::args_os().next().unwrap_or_default();
    started(by_cargo, &typed.to_string_lossy())
}

fn started(by_cargo: bool, typed: &str) -> String {
    if by_cargo {
        return by_cargo_run();
    }
    // A name without a path was found on the PATH, and will be again.
    match typed.contains(['/', MAIN_SEPARATOR]) {
        true => shell_word(typed),
        false => env!("CARGO_BIN_NAME").to_owned(),
    }
}

fn by_cargo_run() -> String {
    let features: Vec<&str> = FEATURES
        .iter()
        .filter(|(_, built)| *built)
        .map(|(name, _)| *name)
        .collect();
    let profile = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    let features = match features[..] {
        [] => String::new(),
        _ => format!(" --features {}", features.join(",")),
    };
    format!("cargo run{profile}{features} --")
}

/// `word` as a POSIX shell takes it literally.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell() {
        assert_eq!(shell_word("runs/a-1/final"), "runs/a-1/final");
        assert_eq!(shell_word("fn main() {\n"), "'fn main() {\n'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn commands_start_as_this_one_did() {
        assert_eq!(started(false, "infinity"), "infinity");
        assert_eq!(started(false, ""), "infinity");
        assert_eq!(
            started(false, "./my builds/infinity"),
            "'./my builds/infinity'"
        );
        let by_cargo = started(true, "target/release/infinity");
        assert!(
            by_cargo.starts_with("cargo run") && by_cargo.ends_with(" --"),
            "{by_cargo}"
        );
    }
}
