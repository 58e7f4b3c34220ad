//! `cargo xtask gpu cuda --compile-only`: the machine code of every kernel for a Hopper GPU, made and looked at on a
//! machine without one, as the table in `docs/gpu-kernels.md`.
//!
//! infinity-kernels compiles its kernels to PTX for a device of paper (a test of its own, `gpu::tests`); `ptxas` and `nvdisasm`
//! of a CUDA toolkit, which need no GPU either, do the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::workspace;

/// Where the table is, from the workspace's root.
const TABLE: &str = "docs/gpu-kernels.md";
const ARCHITECTURE: &str = "sm_90a";
/// Kernels whose registers have to be enough.
const NEVER_SPILLS: &str = "memory_scan.";
/// What Cargo builds: without optimisation, for it only compiles kernels, which do not depend on it.
const BUILD: &str = "test --no-run --lib --message-format json-render-diagnostics -p infinity-kernels --features cuda \
    --config profile.dev.opt-level=0 --config profile.dev.debug=false --config profile.dev.package.\"*\".opt-level=0 \
    --config profile.dev.package.\"*\".debug-assertions=false --config profile.dev.build-override.opt-level=0";

/// What is said of a kernel's machine code, in this order: how many registers; bytes that they are spilled to, written
/// and read; instructions that reach the stack; bytes of the stack, and of shared memory that the code itself asks for;
/// instructions, those of matrix units, loads and stores of 16 bytes, and all that reach the device's memory.
const COLUMNS: &str =
    "registers | spilled | local | stack | static shared | instructions | matrix | wide | of all";

/// The numbers of one kernel by their columns; 0 where there is none.
type Code = BTreeMap<&'static str, u64>;

/// Makes the table and compares it with the one that is there; `tools` is a CUDA toolkit's folder, with `bin` and `nvvm`.
pub(crate) fn run(root: &Path, tools: Option<&Path>) -> anyhow::Result<()> {
    let built = workspace::executables(root, BUILD);
    let Ok(built) = built.inspect_err(|error| {
        println!(
            "\nSKIPPED, NOTHING WAS COMPARED: the `cuda` feature does not build here ({error})"
        );
    }) else {
        return Ok(());
    };
    let program = built.get("infinity_kernels");
    let program = program.context("cargo built no tests of infinity-kernels")?;
    let folder = root.join("target/gpu/ptx");
    // That of an earlier call; there may be none.
    let _ = fs::remove_dir_all(&folder);
    let context = || folder.display().to_string();
    fs::create_dir_all(&folder).with_context(context)?;
    let mut compile = Command::new(program);
    compile.args(["gpu::tests::every_kernel", "--exact", "--ignored"]);
    compile.env("INFINITY_PTX", &folder);
    if let Some(tools) = tools {
        // libdevice lies there.
        compile.env("CUDA_PATH", tools);
    }
    output("the compiler", &mut compile)?;
    let mut codes = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(context)? {
        let ptx = entry.context("the PTX")?.path();
        let name = ptx.file_stem().unwrap_or_default().to_string_lossy();
        codes.insert(name.into_owned(), code(&ptx, tools)?);
    }
    ensure!(!codes.is_empty(), "no kernel was compiled");
    let path = root.join(TABLE);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let after = table(&codes);
    println!("{after}");
    fs::write(&path, &after).with_context(|| TABLE.to_owned())?;
    let different = different(&before, &after);
    different.iter().for_each(|line| println!("{line}"));
    let spills = spilling(&codes).join(", ");
    ensure!(spills.is_empty(), "registers are spilled by {spills}");
    let lines = different.len();
    ensure!(
        lines == 0,
        "{lines} lines of {TABLE} were not as above; it is written anew"
    );
    println!("{} kernels, as in {TABLE}", codes.len());
    Ok(())
}

/// Kernels that may not spill and do.
fn spilling(codes: &BTreeMap<String, Code>) -> Vec<&str> {
    let spills = codes.iter().filter(|(name, code)| {
        name.starts_with(NEVER_SPILLS) && (code["spilled"] > 0 || code.contains_key("local"))
    });
    spills.map(|(name, _)| &**name).collect()
}

/// Lines of one text that are not in the other, with what they are.
fn different(before: &str, after: &str) -> Vec<String> {
    let missing = |of: &str, from: &str, sign| -> Vec<String> {
        let there: Vec<&str> = from.lines().collect();
        let gone = of.lines().filter(|line| !there.contains(line));
        gone.map(|line| format!("{sign} {line}")).collect()
    };
    [missing(before, after, '-'), missing(after, before, '+')].concat()
}

/// What a program prints.
fn output(what: &str, command: &mut Command) -> anyhow::Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("cannot start {what} ({command:?})"))?;
    let bytes = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    ensure!(output.status.success(), "{what}: {}\n{text}", output.status);
    Ok(text)
}

fn code(ptx: &Path, tools: Option<&Path>) -> anyhow::Result<Code> {
    let run = |name: &str, words: &[&str], file: &Path| {
        let tool = tools.map_or_else(|| name.into(), |tools| tools.join("bin").join(name));
        let mut command = Command::new(tool);
        let command = command.args(words).arg(file);
        output(&format!("{name}, which is part of CUDA"), command)
    };
    let cubin = ptx.with_extension("cubin");
    let (arch, to) = (format!("-arch={ARCHITECTURE}"), cubin.to_string_lossy());
    let said = run("ptxas", &["-v", &arch, "-o", &to], ptx)?;
    let listing = run("nvdisasm", &["-c"], &cubin)?;
    code_of(&said, &listing).with_context(|| ptx.display().to_string())
}

/// What `ptxas -v` says, and the instructions of a listing of `nvdisasm`.
fn code_of(said: &str, listing: &str) -> anyhow::Result<Code> {
    let before = |unit: &str| -> Option<u64> {
        let (number, _) = said.split_once(&format!(" {unit}"))?;
        number.rsplit([' ', ',', '\n']).next()?.parse().ok()
    };
    let bytes = |of: &str| before(&format!("bytes {of}")).unwrap_or(0);
    let registers = before("registers").context("ptxas names no registers")?;
    let mut code = Code::from([
        ("registers", registers),
        ("spilled", bytes("spill stores") + bytes("spill loads")),
        ("stack", bytes("stack frame")),
        ("static shared", bytes("smem")),
    ]);
    let mut count = |column| *code.entry(column).or_default() += 1;
    // `/*0010*/  @!P0 LDG.E.128 R4, [R2.64] ;`
    let numbered = listing.lines().filter_map(|line| {
        let (_, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let mut words = rest.split_whitespace();
        words.find(|word| !word.starts_with('@'))
    });
    for name in numbered.filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase())) {
        count("instructions");
        let mut parts = name.split('.');
        match parts.next() {
            Some("HMMA" | "HGMMA" | "QGMMA" | "IMMA") => count("matrix"),
            Some("LDL" | "STL") => count("local"),
            Some("LDG" | "STG") => {
                count("of all");
                if parts.any(|part| part == "128") {
                    count("wide");
                }
            }
            _ => {}
        }
    }
    Ok(code)
}

fn table(codes: &BTreeMap<String, Code>) -> String {
    let mut text = format!(
        "# Kernels in machine code\n\n\
         What `cargo xtask gpu cuda --compile-only` finds in the machine code of every kernel for {ARCHITECTURE}, at the sizes of \
         `configs/novels-large.toml`\n(heads of 128, one state, rows in f32 and bf16). Shared memory that a launch asks for is not among it. Spilled: bytes, written and \
         read; local:\ninstructions that reach the stack; matrix: those of matrix units; wide: loads and stores of 16 bytes, of all that reach the \
         device's memory.\n\n\
         | kernel | {COLUMNS} |\n|{}\n",
        " --- |".repeat(1 + COLUMNS.split(" | ").count())
    );
    for (name, code) in codes {
        let columns = COLUMNS.split(" | ");
        let numbers = columns.map(|column| code.get(column).unwrap_or(&0));
        let cells: String = numbers.map(|number| format!(" {number} |")).collect();
        text += &format!("| `{name}` |{cells}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'carry' for 'sm_90a'\n\
        ptxas info    : Function properties for carry\n    \
        16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n\
        ptxas info    : Used 168 registers, used 1 barriers, 512 bytes smem\n\
        ptxas info    : Compile time = 31.700 ms\n";
    const LISTING: &str = "\t.section\t.text.carry\n.L_x_0:\n        \
        /*0000*/                   LDC R1, c[0x0][0x28] ;\n        \
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;\n        \
        /*0020*/                   HMMA.16816.F32.BF16 R4, R4, R8, R12 ;\n        \
        /*0030*/              @P1  STG.E desc[UR4][R2.64], R0 ;\n        \
        /*0040*/                   STL [R1], R0 ;\n";

    #[test]
    fn machine_code_is_read_as_the_tools_print_it() {
        let expected = Code::from([
            ("registers", 168),
            ("spilled", 20),
            ("static shared", 512),
            ("stack", 16),
            ("instructions", 5),
            ("matrix", 1),
            ("wide", 1),
            ("of all", 2),
            ("local", 1),
        ]);
        let code = code_of(SAID, LISTING).unwrap();
        assert_eq!(code, expected);
        let table = table(&BTreeMap::from([("carry".to_owned(), code)]));
        let row = "| `carry` | 168 | 20 | 1 | 16 | 512 | 5 | 1 | 1 | 2 |\n";
        assert!(table.ends_with(row), "{table}");
        assert!(code_of("ptxas fatal", "").is_err());
    }

    #[test]
    fn the_head_of_the_table_is_that_of_the_document() {
        let path = workspace::root().join(TABLE);
        let document = fs::read_to_string(path).unwrap().replace('\r', "");
        assert!(document.starts_with(&table(&BTreeMap::new())));
    }

    #[test]
    fn a_scan_that_spills_and_a_table_that_changes_are_caught() {
        let spills = code_of(SAID, LISTING).unwrap();
        let mut codes = BTreeMap::from([
            (
                "memory_scan.carry".to_owned(),
                code_of("Used 40 registers", "").unwrap(),
            ),
            ("swiglu.multiply".to_owned(), spills.clone()),
        ]);
        assert!(spilling(&codes).is_empty(), "others may");
        let before = table(&codes);
        assert!(different(&before, &before).is_empty());
        codes.insert("memory_scan.carry".to_owned(), spills);
        assert_eq!(spilling(&codes), ["memory_scan.carry"]);
        assert_eq!(different(&before, &table(&codes)).len(), 2);
    }
}
