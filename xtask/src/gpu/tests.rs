//! The whole command over programs of a few lines of shell, and the words that it is given.

use super::findings::{BURN, FLA, FUSED, LEARNING, SCAN_TESTS, TENSORS, TORCH};
use super::*;

const TIME: &str = r#"{"kind":"time","what":"FLA","pass":"forward","tokens":8192,"states":1,"width":128,"ms":0.5}"#;
const RIGHT: &str = r#"{"kind":"check","what":"FLA","ok":true,"detail":"1e-3"}"#;
const WRONG: &str = r#"{"kind":"check","what":"FLA","ok":false,"detail":"rms 0.3"}"#;

fn options(line: &str) -> Result<Options, clap::Error> {
    Options::try_parse_from(line.split_whitespace())
}

fn found(lines: &[&str]) -> Findings {
    let mut found = Findings::default();
    for line in lines {
        found.read(line, "").unwrap();
    }
    found
}

/// FLA's time.
fn fla(found: &Findings) -> Result<f64, String> {
    found.time(FLA, "forward", Some([8192, 1, 128]))
}

#[test]
fn a_time_counts_if_it_was_checked_and_is_right() {
    assert_eq!(
        fla(&found(&["  FLA 0.5 ms", "{ no JSON", RIGHT, TIME])),
        Ok(0.5)
    );
    assert!(fla(&found(&[TIME])).unwrap_err().contains("not checked"));
    let why = fla(&found(&[RIGHT, WRONG, TIME])).unwrap_err();
    assert!(why.contains("rms 0.3"), "{why}");
    assert!(fla(&found(&[RIGHT, &TIME.replace("0.5", "0")])).is_err());
}

#[test]
fn the_most_precise_reason_is_given_and_of_those_the_first() {
    let mut found = found(&[RIGHT]);
    assert!(
        fla(&found)
            .unwrap_err()
            .contains("nothing was said about FLA")
    );
    found.explain(FLA, None, "Python finds no torch");
    found.explain(FLA, None, "ended with 1");
    found.explain(FLA, Some(16_384), "too long");
    assert_eq!(fla(&found).unwrap_err(), "Python finds no torch");
    found.explain(FLA, Some(8192), "out of memory");
    assert_eq!(fla(&found).unwrap_err(), "out of memory");
}

#[test]
fn a_finding_with_a_hole_is_an_error_that_shows_it() {
    for line in [
        r#"{"kind":"time","what":"FLA","pass":"forward"}"#,
        r#"{"kind":"time","what":"FLA","pass":"forward","tokens":1,"ms":1.0}"#,
        r#"{"kind":"tmie"}"#,
        r#"{"what":"FLA"}"#,
    ] {
        let error = Findings::default().read(line, "").unwrap_err().to_string();
        assert!(error.contains(line), "{error}");
    }
}

/// Times that meet every criterion, one of them made `factor` times as long.
fn fast(slower: &str, factor: f64) -> Findings {
    let mut found = Findings::default();
    let mut add = |what: &str, pass: &str, size: Option<[u64; 3]>, ms: f64| {
        let ms = if what == slower { ms * factor } else { ms };
        let mut time = json!({ "kind": "time", "what": what, "pass": pass, "ms": ms });
        if let Some([tokens, states, width]) = size {
            time["tokens"] = tokens.into();
            time["states"] = states.into();
            time["width"] = width.into();
        }
        let check = json!({ "kind": "check", "what": what, "ok": true, "detail": "" });
        for line in [time, check] {
            found.read(&line.to_string(), "").unwrap();
        }
    };
    for pass in ["forward", "forward + backward"] {
        for (width, states) in [(64, 1), (64, 4), (128, 4)] {
            add(
                FUSED,
                pass,
                Some([8192, states, width]),
                0.7 + 0.3 * states as f64,
            );
        }
        for tokens in findings::LENGTHS {
            let (length, size) = (tokens as f64 / 8192.0, Some([tokens, 1, 128]));
            add(FUSED, pass, size, length);
            add(BURN, pass, size, 9.0 * length * length);
            add(TORCH, pass, size, 3.0 * length * length);
        }
        add(TENSORS, pass, Some([8192, 1, 128]), 6.0);
        add(FLA, pass, Some([8192, 1, 128]), 0.6);
    }
    for config in [findings::LARGE, findings::SMALL] {
        add(&format!("{config}: training f32"), "step", None, 200.0);
        add(
            &format!("{config}: training bf16-mixed"),
            "step",
            None,
            100.0,
        );
    }
    found
}

fn is_met((.., verdict): &findings::Row) -> Option<bool> {
    verdict.as_ref().ok().map(|(met, _)| *met)
}

fn count(found: &Findings, met: Option<bool>) -> usize {
    let rows = findings::rows(found);
    let is_it = |row: &&findings::Row| is_met(row) == met;
    rows.iter().filter(is_it).count()
}

#[test]
fn every_limit_is_broken_by_its_own_time() {
    assert_eq!(count(&fast("", 1.0), Some(false)), 0);
    assert_eq!(count(&fast("", 1.0), Some(true)), 2 + 2 + 14 + 4 + 1 + 4);
    // Every factor just breaks one kind of criterion.
    for (slower, factor, rows) in [
        (TENSORS, 0.8, 2),
        (BURN, 1.0 / 9.0, 4),
        (TORCH, 0.5, 2),
        (FLA, 0.8, 2),
        ("novels-large: training f32", 0.85, 1),
        ("novels-large: training bf16-mixed", 1.2, 1),
    ] {
        assert_eq!(count(&fast(slower, factor), Some(false)), rows, "{slower}");
    }
}

#[test]
fn what_is_learned_is_held_to_the_cpus_loss() {
    for (loss, met) in [(1.5199, true), (1.5201, false), (1.4999, false)] {
        let mut found = fast("", 1.0);
        for line in [
            json!({ "kind": "check", "what": findings::LEARNED, "ok": true, "detail": "" }),
            json!({ "kind": "time", "what": findings::LEARNED, "pass": "loss", "ms": loss }),
        ] {
            found.read(&line.to_string(), "").unwrap();
        }
        let rows = findings::rows(&found);
        let row = rows.iter().find(|row| row.0.contains("validation loss"));
        assert_eq!(is_met(row.unwrap()), Some(met), "{loss}");
    }
}

#[test]
fn words_are_read_and_a_mistake_is_answered_with_the_way_out() {
    let read = options("cuda --pack p --only peers,scan --python py --seconds 60").unwrap();
    assert_eq!((read.dtype(), read.pack), ("bf16", Some("p".into())));
    assert_eq!(read.parts, ["peers", "scan"]);
    assert_eq!(read.seconds, Some(60));
    let again = options("cuda --only tests,scan --only scan").unwrap();
    assert_eq!(again.parts, ["scan"], "what run.sh says is overridden");
    for (line, said) in [
        ("", "Usage: cargo xtask gpu"),
        ("cdua", "cuda, rocm, metal, vulkan, wgpu"),
        ("cuda --python", "a value is required for '--python <PATH>'"),
        ("cuda --pyton x", "--pyton"),
        ("cuda --only scan,pears", "'pears'"),
        (
            "cuda --fla no/such",
            "'no/such' for '--fla <FOLDER>': no such folder",
        ),
        ("cuda --rounds 0", "'0' for '--rounds <N>': 0 is not in 1.."),
        ("cuda --seconds soon", "'soon' for '--seconds <N>'"),
        (
            "cuda --text no/such",
            "'no/such' for '--text <FILE>': no such file",
        ),
        ("cuda --compile-only --tools no/such", "no bin/ptxas there"),
        ("cuda --compile-only --pack a", "cannot be used with"),
        ("cuda --pack a --unpacked b", "cannot be used with"),
    ] {
        let error = options(line).unwrap_err().to_string();
        assert!(error.contains(said), "{line}: {error}");
    }
    let args = ["wgpu", "--compile-only"].map(str::to_owned);
    let error = run(Path::new("."), &args).unwrap_err().to_string();
    assert!(error.contains("--compile-only: of cuda"), "{error}");
}

#[test]
fn one_command_builds_what_was_asked_for_and_no_more() {
    let line = plan::command(&options("cuda --only tests,scan").unwrap()).unwrap();
    assert!(line.contains("infinity-kernels/cuda,infinity-model/cuda,infinity-train/cuda"));
    assert!(
        line.ends_with("--test kernels --test training --bench memory_scan"),
        "{line}"
    );
    let folder = tempfile::tempdir().unwrap();
    let peers = Programs::build(folder.path(), &options("cuda --only peers").unwrap());
    assert!(
        !peers.unwrap().0.contains_key("kernels"),
        "no call of Cargo"
    );
}

#[test]
fn every_row_is_measured_by_some_step() {
    let folder = tempfile::tempdir().unwrap();
    let options = options("cuda").unwrap();
    let programs = Programs::unpacked(folder.path(), &options).unwrap();
    let steps = plan::steps(&options, &programs);
    let mut found = Findings::default();
    for step in &steps {
        for what in &step.whats {
            found.explain(what, step.tokens, "a reason");
        }
    }
    for (name, _, verdict) in findings::rows(&found) {
        assert_eq!(verdict, Err("a reason".to_owned()), "{name}");
    }
}

#[cfg(unix)]
mod programs {
    use super::*;

    const PASSES: &str = "echo 'test result: ok. 2 passed; 0 failed'";

    /// A folder as `--pack` writes one, with scripts for executables.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new(programs: &[(&str, &str)]) -> Self {
            use std::os::unix::fs::PermissionsExt;
            let folder = tempfile::tempdir().expect("a folder");
            fs::write(folder.path().join("peers.py"), "").expect("written");
            for (name, script) in programs {
                let path = folder.path().join(name);
                fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&path, mode).expect("executable");
            }
            Fake(folder)
        }

        /// The table and the findings that the command wrote; not everything is met.
        fn run(&self, flags: &str) -> (String, String) {
            let folder = self.0.path().display();
            let line = format!("cuda --unpacked {folder} --python {folder}/python {flags}");
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let error = run(Path::new("."), &args).expect_err("not everything is met");
            assert!(
                error.to_string().contains("criteria are not met"),
                "{error}"
            );
            let read = |name| fs::read_to_string(self.0.path().join("out").join(name));
            (read("table.txt").unwrap(), read("findings.jsonl").unwrap())
        }
    }

    /// A row of the table.
    fn row<'a>(table: &'a str, name: &str) -> &'a str {
        let found = table.lines().find(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("no row {name}:\n{table}"))
    }

    #[test]
    fn findings_become_verdicts() {
        let scan = format!(
            "echo '{}'\necho '{}'",
            RIGHT.replace(FLA, FUSED),
            TIME.replace(FLA, FUSED)
        );
        let python = format!(
            r#"case "$*" in *fla*) echo '{RIGHT}'; echo '{}';;
*attention*) echo '{{"kind":"missing","what":"PyTorch attention","why":"no kernel for this card"}}';; esac"#,
            TIME.replace("0.5", "0.2")
        );
        let fake = Fake::new(&[
            ("kernels", PASSES),
            ("training", PASSES),
            ("memory_scan", &scan),
            ("python", &python),
        ]);
        let (table, findings) = fake.run("");
        assert!(row(&table, SCAN_TESTS).contains("met"), "{table}");
        let slow = row(&table, "forward: time over FLA");
        assert!(
            slow.contains("NOT MET") && slow.contains("2.50 x"),
            "{slow}"
        );
        let missing = row(&table, "forward, T 8192: faster than PyTorch");
        assert!(missing.contains("no kernel for this card"), "{missing}");
        assert!(row(&table, "novels-large").contains("`model_throughput` is not in this pack"));
        assert!(findings.contains(r#""what":"FLA""#) && findings.contains(r#""kind":"tests""#));
    }

    #[test]
    fn only_the_fused_kernels_own_tests_keep_it_from_being_timed() {
        let fails = |filter: &str| {
            format!(
                r#"case "$*" in {filter}) echo 'test result: FAILED. 2 passed; 1 failed'; exit 101;; *) {PASSES};; esac"#
            )
        };
        let scan = r#"touch ran; case "$*" in *16384*) exit 9;; esac"#;
        let fake = Fake::new(&[
            ("kernels", &fails("memory_scan*")),
            ("training", PASSES),
            ("memory_scan", scan),
        ]);
        let (table, _) = fake.run("");
        assert!(row(&table, SCAN_TESTS).contains("NOT MET"), "{table}");
        assert!(row(&table, LEARNING).contains("  met"), "{table}");
        assert!(
            table.contains("memory_scan's tests did not pass, so it is not timed"),
            "{table}"
        );
        assert!(!fake.0.path().join("out/ran").exists());
        let fake = Fake::new(&[("kernels", &fails("cuda*")), ("memory_scan", scan)]);
        let (table, _) = fake.run("");
        assert!(fake.0.path().join("out/ran").exists());
        let broken = row(&table, "forward, T 16384: faster than Burn");
        assert!(
            broken.contains("memory_scan") && broken.contains('9'),
            "{broken}"
        );
    }

    #[test]
    fn tests_that_match_nothing_and_time_that_is_up_are_seen() {
        let fake = Fake::new(&[(
            "kernels",
            "echo 'test result: ok. 0 passed; 0 failed; 40 filtered out'",
        )]);
        let (table, _) = fake.run("--only tests");
        let kernels = row(&table, SCAN_TESTS);
        assert!(
            kernels.contains("not measured") && kernels.contains("ran no test"),
            "{kernels}"
        );
        assert!(row(&table, "forward: time over FLA").contains("--only leaves out"));
        let (table, _) = fake.run("--only tests --seconds 1");
        assert!(table.contains("no time was left of --seconds"), "{table}");
    }

    #[test]
    fn launches_are_lines_by_step() {
        let bench = r#"for i in 1 2 3 4 5 6; do echo kernel >> launches.log; done; echo '{"kind":"time","what":"x","pass":"step","ms":1.0,"steps":2}'"#;
        let fake = Fake::new(&[("model_throughput", bench)]);
        fs::write(fake.0.path().join("shakespeare-char.toml"), "").unwrap();
        let (table, _) = fake.run("--only training");
        let launches = row(&table, "shakespeare-char: launches");
        assert!(launches.contains("3.00 kernels"), "{launches}");
    }

    /// What the bench says of the text that the pack has, or why it says nothing.
    #[test]
    fn a_text_is_learned_where_there_is_one() {
        let bench = r#"case "$*" in *--learn*text.txt) echo '{"kind":"check","what":"learning","ok":true,"detail":"x"}'
echo '{"kind":"time","what":"learning","pass":"loss","ms":1.515}';; esac"#;
        let fake = Fake::new(&[("model_throughput", bench)]);
        fs::write(fake.0.path().join("shakespeare-char.toml"), "").unwrap();
        let name = "shakespeare-char: validation loss";
        let (table, _) = fake.run("--only training");
        assert!(row(&table, name).contains("--text named no text"));
        fs::write(fake.0.path().join("text.txt"), "").unwrap();
        let (table, _) = fake.run("--only training");
        assert!(
            row(&table, name).contains("  met           1.5150 nats"),
            "{table}"
        );
    }

    /// On a machine that has none of Vulkan, what the pack brings is found; where all is there, nothing is.
    #[test]
    fn loaders_travel_along_and_stand_in_for_what_is_lacking() {
        let say = r#"echo "$LD_LIBRARY_PATH"; ls "$(dirname "$0")/lacking""#;
        let fake = Fake::new(&[("xtask", say)]);
        let folder = fake.0.path();
        pack::pack_loaders(&folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libvulkan.so.1"), "").unwrap();
        fs::write(
            folder.join("run.sh"),
            pack::script(&options("wgpu").unwrap()),
        )
        .unwrap();
        for (known, carried) in [("", true), ("\tlibvulkan.so.1 (libc6) => /lib/x", false)] {
            let _ = fs::remove_dir_all(folder.join("lacking"));
            let tools = folder.join("tools");
            fs::create_dir_all(&tools).unwrap();
            fs::write(
                tools.join("ldconfig"),
                format!("#!/bin/sh\nprintf '%b' '{known}'\n"),
            )
            .unwrap();
            let status = std::process::Command::new("chmod")
                .arg("+x")
                .arg(tools.join("ldconfig"))
                .status();
            assert!(status.unwrap().success());
            let path = std::env::var("PATH").unwrap_or_default();
            let output = std::process::Command::new("bash")
                .arg(folder.join("run.sh"))
                .env("PATH", format!("{}:{path}", tools.display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("/lacking"), "{said}");
            assert_eq!(said.contains("libvulkan.so.1"), carried, "{said}");
        }
    }

    /// The first start finds no caches, the second those of the first; an earlier call's are gone.
    #[test]
    fn starts_have_caches_of_their_own() {
        let bench = r#"case "$*" in *--first*) n=3; [ -e cache/kept ] && n=1; mkdir -p cache; touch cache/kept
echo '{"kind":"check","what":"first step","ok":true,"detail":"x"}'
echo '{"kind":"time","what":"first step","pass":"step","ms":'$n'000}';; esac"#;
        let fake = Fake::new(&[("model_throughput", bench)]);
        fs::write(fake.0.path().join("shakespeare-char.toml"), "").unwrap();
        for _ in 0..2 {
            let (table, _) = fake.run("--only training");
            let said = |caches| row(&table, &format!("shakespeare-char, {caches}")).to_owned();
            assert!(said("empty caches").contains("3.00 s"), "{table}");
            assert!(said("warm caches").contains("1.00 s"), "{table}");
        }
    }

    #[test]
    fn a_pack_is_new_and_its_script_hands_its_arguments_on() {
        let fake = Fake::new(&[("xtask", "echo \"$@\"")]);
        let error = pack::is_empty(fake.0.path()).unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        assert!(pack::is_empty(&fake.0.path().join("new")).is_ok());
        let path = fake.0.path().join("run.sh");
        fs::write(
            &path,
            pack::script(&options("cuda --only scan,peers").unwrap()),
        )
        .unwrap();
        let mut command = std::process::Command::new("bash");
        let output = command
            .arg(&path)
            .args(["--python", "a b"])
            .output()
            .unwrap();
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(line.starts_with("gpu cuda --unpacked "), "{line}");
        assert!(line.contains("--only scan,peers --python a b\n"), "{line}");
    }
}
