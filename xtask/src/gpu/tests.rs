//! The whole command over programs of a few lines of shell.

use super::*;
use criteria::{FLA, KERNELS, LEARNING, Verdict};

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn tests_are_counted_and_their_figure_kept() {
    let tests = counted(&lines(
        "running 3 tests\n\
         test devices::cuda_gives_the_losses_of_flex ... 3.1e-5 nats apart\n\
         ok\n\
         test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 1.0s\n\
         test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
    ));
    let expected = Tests {
        passed: 13,
        failed: 2,
        figure: Some("3.1e-5 nats apart".to_owned()),
    };
    assert_eq!(tests, expected);
}

/// A folder as `--pack` writes one, with scripts for executables.
#[cfg(unix)]
struct Fake(tempfile::TempDir);

#[cfg(unix)]
impl Fake {
    fn new(programs: &[(&str, &str)]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, script) in programs {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("executable");
        }
        Fake(folder)
    }

    /// The error of the command, and the table that it wrote.
    fn run(&self, flags: &str) -> (String, String) {
        let folder = self.0.path().display();
        let python = self.0.path().join("python").display().to_string();
        let line = format!("cuda --unpacked {folder} --python {python} {flags}");
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let error = run(Path::new("."), &args).expect_err("not everything is met");
        let table = std::fs::read_to_string(self.0.path().join("out/table.txt"));
        (error.to_string(), table.unwrap_or_default())
    }
}

#[cfg(unix)]
const PASSES: &str = "echo 'test result: ok. 2 passed; 0 failed'";

/// A row of the table.
#[cfg(unix)]
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let found = table.lines().find(|line| line.starts_with(name));
    found.unwrap_or_else(|| panic!("no row {name}:\n{table}"))
}

#[cfg(unix)]
#[test]
fn findings_become_verdicts() {
    let scan = r#"echo '{"kind":"check","what":"fused","ok":true,"detail":"1e-3"}'
echo '{"kind":"time","what":"fused","pass":"forward","tokens":8192,"states":1,"width":128,"ms":1.0}'"#;
    let python = r#"echo '{"kind":"setting","text":"torch 2 on a card"}'
echo '{"kind":"check","what":"FLA","ok":true,"detail":"1e-3"}'
echo '{"kind":"time","what":"FLA","pass":"forward","tokens":8192,"states":1,"width":128,"ms":0.4}'
echo '{"kind":"missing","what":"PyTorch attention","why":"no kernel for this card"}'"#;
    let fake = Fake::new(&[
        ("kernels", PASSES),
        ("training", PASSES),
        ("memory_scan", scan),
        ("python", python),
    ]);
    let (error, table) = fake.run("");
    assert!(error.contains("of 25 criteria are not met"), "{error}");
    assert!(table.contains("\ntorch 2 on a card\n"), "{table}");
    assert!(row(&table, KERNELS).contains("met"), "{table}");
    let slow = row(&table, "forward: time over FLA");
    assert!(
        slow.contains("NOT MET") && slow.contains("2.50 x"),
        "{slow}"
    );
    let missing = row(&table, "forward, T 8192: faster than PyTorch");
    assert!(missing.contains("no kernel for this card"), "{missing}");
    let training = row(&table, "training");
    assert!(
        training.contains("`model_throughput` is not in this pack"),
        "{training}"
    );
    let findings = std::fs::read_to_string(fake.0.path().join("out/findings.jsonl")).unwrap();
    assert!(findings.contains(r#""what":"FLA""#) && !findings.contains("test result"));
}

#[cfg(unix)]
#[test]
fn nothing_is_timed_if_a_test_fails() {
    let fails = "echo 'test result: FAILED. 2 passed; 1 failed'; exit 101";
    let fake = Fake::new(&[
        ("kernels", fails),
        ("training", PASSES),
        ("memory_scan", "touch ran"),
    ]);
    let (_, table) = fake.run("");
    assert!(row(&table, KERNELS).contains("NOT MET"), "{table}");
    assert!(row(&table, LEARNING).contains("  met"), "{table}");
    assert!(
        table.contains("the tests did not pass, so nothing is timed"),
        "{table}"
    );
    assert!(!fake.0.path().join("ran").exists());
}

#[cfg(unix)]
#[test]
fn a_program_that_breaks_off_is_named_where_its_times_are_missing() {
    let scan = r#"case "$*" in *16384*) exit 9;; esac"#;
    let fake = Fake::new(&[("memory_scan", scan)]);
    let (_, table) = fake.run("--only scan");
    let broken = row(&table, "forward, T 16384: faster than Burn");
    assert!(
        broken.contains("memory_scan") && broken.contains('9'),
        "{broken}"
    );
    assert!(row(&table, KERNELS).contains("--only leaves out tests"));
}

#[cfg(unix)]
#[test]
fn tests_that_match_nothing_and_time_that_is_up_are_seen() {
    let none = "echo 'test result: ok. 0 passed; 0 failed; 40 filtered out'";
    let fake = Fake::new(&[("kernels", none), ("training", PASSES)]);
    let (_, table) = fake.run("--only tests");
    let kernels = row(&table, KERNELS);
    assert!(kernels.contains("ran no test"), "{kernels}");
    assert!(kernels.contains("not measured"), "{kernels}");
    let (_, table) = fake.run("--only tests --seconds 1");
    assert!(table.contains("no time was left of --seconds"), "{table}");
}

#[cfg(unix)]
#[test]
fn a_checkout_comes_first_on_pythons_path() {
    let path = with_path(Path::new("/fla"), Some("/a:/b".into()));
    assert_eq!(path, "/fla:/a:/b");
    assert_eq!(with_path(Path::new("/fla"), None), "/fla");
}

#[test]
fn only_what_was_asked_for_may_run() {
    let args = ["cuda", "--only", "scan"].map(str::to_owned);
    let options = Options::parse(&args).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let steps = steps::steps(&options, &Programs::unpacked(folder.path()).unwrap());
    for step in steps {
        let why = may_run(&step, &options, false).unwrap_err();
        match step.part {
            Part::Scan => assert!(why.contains("not in this pack"), "{why}"),
            _ => assert!(why.contains("--only leaves out"), "{why}"),
        }
    }
    let rows = criteria::rows(&Findings::default());
    assert!(rows.iter().all(|row| row.verdict == Verdict::NotMeasured));
    assert!(rows.iter().any(|row| row.name.contains(FLA)));
}
