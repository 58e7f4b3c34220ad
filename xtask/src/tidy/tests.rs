//! Every rule is broken in one place of a small workspace that keeps all, and has to see it.

use super::source::{Token, tokens};
use super::*;

const FILES: [(&str, &str); 19] = [
    (
        "README.md",
        "# Sandbox\n\n```tree\ncrates/\n  infinity-cli/  the binary\n```\n",
    ),
    (
        "ARCHITECTURE.md",
        "infinity-kernels infinity-model infinity-train infinity-cli\n\
         The operator: `crates/infinity-kernels/src/memory_scan/`.\n",
    ),
    ("crates/infinity-kernels/README.md", "# kernels\n"),
    ("crates/infinity-model/README.md", "# model\n"),
    ("crates/infinity-train/README.md", "# train\n"),
    ("crates/infinity-cli/README.md", "# cli\n"),
    (
        "crates/infinity-kernels/Cargo.toml",
        "[dependencies]\nburn = \"1\"\nburn-flex = \"1\"\n",
    ),
    ("crates/infinity-kernels/src/lib.rs", "//! Kernels.\n"),
    (
        "crates/infinity-kernels/src/memory_scan/mod.rs",
        "//! Scan.\n",
    ),
    (
        "crates/infinity-kernels/src/memory_scan/reference.rs",
        "//! Reference.\n",
    ),
    (
        "crates/infinity-kernels/src/memory_scan/README.md",
        "# Scan\n",
    ),
    (
        "crates/infinity-kernels/tests/memory_scan.rs",
        "//! Forms against the reference.\n",
    ),
    (
        "crates/infinity-kernels/tests/main.rs",
        "//! All tests.\n\nmod memory_scan;\n",
    ),
    (
        "crates/infinity-model/Cargo.toml",
        "[dependencies]\ninfinity-kernels.workspace = true\n",
    ),
    ("crates/infinity-model/src/lib.rs", "//! Model.\n"),
    (
        "crates/infinity-train/Cargo.toml",
        "[dependencies]\ninfinity-model.workspace = true\n",
    ),
    ("crates/infinity-train/src/lib.rs", "//! Training.\n"),
    (
        "crates/infinity-cli/Cargo.toml",
        "[dependencies]\nanyhow = \"1\"\nclap = \"4\"\ninfinity-train.workspace = true\n",
    ),
    (
        "crates/infinity-cli/src/main.rs",
        "//! Command line.\nfn main() {\n    println!();\n}\n",
    ),
];

struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        FILES
            .iter()
            .for_each(|(path, text)| sandbox.write(path, text));
        sandbox
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn tree(&self) -> Tree {
        Tree::read(self.root()).expect("the sandbox can be read")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().expect("inside the sandbox")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.root().join(path)).expect("the file was there");
    }

    fn findings(&self, rule: Rule) -> Vec<String> {
        let mut found = Vec::new();
        rule(&self.tree(), &mut found);
        found
    }

    /// Writes one file, runs one rule and returns what it says.
    fn findings_after(&self, path: &str, text: &str, rule: Rule) -> Vec<String> {
        self.write(path, text);
        self.findings(rule)
    }
}

#[test]
fn this_workspace_is_tidy() {
    let tree = Tree::read(&crate::workspace::root()).expect("the workspace can be read");
    let findings = findings(&tree);
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Without this the tests that break the sandbox could pass for the wrong reason.
#[test]
fn the_sandbox_is_tidy() {
    let sandbox = Sandbox::new();
    for (rule, check) in RULES {
        let findings = sandbox.findings(check);
        assert!(findings.is_empty(), "{rule}: {findings:?}");
    }
}

#[test]
fn run_fails_when_a_rule_is_broken() {
    let sandbox = Sandbox::new();
    assert!(run(sandbox.root()).is_ok());
    sandbox.write("crates/infinity-model/src/lib.rs", "pub fn no_head() {}\n");
    assert_eq!(
        run(sandbox.root()).expect_err("one finding").to_string(),
        "findings: 1"
    );
}

mod source {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r##"//! unsafe
let a = "unsafe // \" no"; // unsafe
    let b = r#"unsafe " no"#; /* unsafe /* unsafe */
    unsafe */ let c: &'a str = x; let d = '"'; let e = '\''; f("\
    unsafe"); #[doc = "unsafe"]
    for r in a::b {} /// unsafe
    unsafe_op(); my_unsafe; unsafe { x }"##;
        let tokens = tokens(text);
        let is_unsafe = |token: &&Token| token.text == "unsafe";
        let lines: Vec<usize> = tokens
            .iter()
            .filter(is_unsafe)
            .map(|token| token.line)
            .collect();
        assert_eq!(lines, [7], "whole words only");
        let line = |number: usize| {
            let line = tokens.iter().filter(|token| token.line == number);
            line.map(|token| &*token.text).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line(1), "");
        assert_eq!(line(2), "let a = \"\" ;");
        assert_eq!(
            line(4),
            "let c : & ' a str = x ; let d = \"\" ; let e = \"\" ; f ( \"\""
        );
        assert_eq!(line(5), ") ;");
        assert_eq!(line(6), "for r in a :: b { }");
    }

    #[test]
    fn tests_are_marked_to_their_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        let marked = tokens(text).into_iter().filter(|token| token.is_test);
        let mut lines: Vec<usize> = marked.map(|token| token.line).collect();
        lines.dedup();
        assert_eq!(lines, [2, 3, 4, 5, 7, 8]);
    }

    #[test]
    fn ignored_and_built_files_are_not_listed() {
        let sandbox = Sandbox::new();
        sandbox.write(".gitignore", "/runs\n");
        sandbox.write("runs/a/train.log", "");
        sandbox.write("examples/app/target/release/app.rs", "");
        let tree = sandbox.tree();
        assert!(!tree.has("runs") && !tree.has("examples"));
        assert!(tree.has("crates/infinity-kernels/") && tree.has("README.md"));
        assert!(
            !tree.has("crates/infinity"),
            "a prefix of a name is not a folder"
        );
    }
}

mod head {
    use super::*;

    #[test]
    fn a_file_without_a_head_is_found() {
        for text in ["", "use std::fmt;\n", "// A comment.\n", "//!\n"] {
            let found = Sandbox::new().findings_after(
                "crates/infinity-model/src/new.rs",
                text,
                files::heads,
            );
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert!(found[0].starts_with("crates/infinity-model/src/new.rs: "));
        }
    }
}

mod budget {
    use super::*;

    const PATH: &str = "crates/infinity-model/src/long.rs";

    fn source(head: &str, code_lines: usize) -> String {
        format!(
            "//! Long.\n{head}{}",
            "// Not code.\n\nfn a() {}\n".repeat(code_lines)
        )
    }

    #[test]
    fn a_long_file_is_found_unless_it_says_why() {
        let sandbox = Sandbox::new();
        assert!(
            sandbox
                .findings_after(PATH, &source("", 600), files::budgets)
                .is_empty()
        );
        assert_eq!(
            sandbox
                .findings_after(PATH, &source("", 601), files::budgets)
                .len(),
            1
        );
        assert_eq!(
            sandbox
                .findings_after(PATH, &source("//! Size:\n", 601), files::budgets)
                .len(),
            1
        );
        let reason = source("//! Size: one table.\n", 601);
        assert!(
            sandbox
                .findings_after(PATH, &reason, files::budgets)
                .is_empty()
        );
    }

    #[test]
    fn tests_are_apart() {
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    fn a() {}\n".repeat(700)
        );
        let sandbox = Sandbox::new();
        let text = format!("{}{tests}", source("", 600));
        assert!(
            sandbox
                .findings_after(PATH, &text, files::budgets)
                .is_empty()
        );
        let file = "crates/infinity-model/tests/long.rs";
        assert!(
            sandbox
                .findings_after(file, &source("", 700), files::budgets)
                .is_empty()
        );
    }

    #[test]
    fn a_long_map_and_a_large_file_are_found() {
        let found =
            Sandbox::new().findings_after("ARCHITECTURE.md", &"line\n".repeat(301), files::budgets);
        assert_eq!(found.len(), 1, "{found:?}");
        let found = Sandbox::new().findings_after("data.bin", &"x".repeat(300_001), files::budgets);
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

mod machine {
    use super::*;
    use crate::tidy::files::{MACHINE_PATHS, PACKAGE_HOSTS};

    #[test]
    fn machine_paths_and_package_hosts_are_found() {
        for what in MACHINE_PATHS.iter().chain(&PACKAGE_HOSTS) {
            let text = format!("# Sandbox\n\nSee `{what}/x`.\n");
            let found = Sandbox::new().findings_after("NOTES.md", &text, files::hygiene);
            assert_eq!(found.len(), 1, "{what}: {found:?}");
            assert!(found[0].starts_with("NOTES.md:3: "), "{found:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_rust_is_found() {
        let path = "crates/infinity-model/src/new.rs";
        let found = Sandbox::new().findings_after(path, "fn a() { \"open }\n", files::hygiene);
        assert!(found[0].contains("cannot be read as Rust"), "{found:?}");
        let found = Sandbox::new().findings_after(path, "//! Only words.\n", files::hygiene);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_folder_of_that_name_elsewhere_is_fine() {
        let text = format!("my{0} ../net{0} https://example.com{0}\n", MACHINE_PATHS[1]);
        assert!(
            Sandbox::new()
                .findings_after("NOTES.md", &text, files::hygiene)
                .is_empty()
        );
    }
}

mod unsafety {
    use super::*;
    use crate::tidy::files::UNSAFE;

    const BARE: &str = "//! Head.\nfn a() {\n    unsafe { b() }\n}\n";
    const EXPLAINED: &str = "//! Head.\nfn a() {\n    // SAFETY: `b` has no\n    // conditions.\n    unsafe { b() }\n}\n";

    #[test]
    fn unsafe_outside_its_places_is_found() {
        for path in [
            "crates/infinity-model/src/new.rs",
            "crates/infinity-train/src/data/new.rs",
        ] {
            let found = Sandbox::new().findings_after(path, EXPLAINED, files::unsafe_code);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("{path}:5: ")));
        }
    }

    #[test]
    fn a_reason_may_stand_above_a_statement_of_several_lines() {
        let path = format!("{}src/a.rs", UNSAFE[0]);
        let found = |above: &str| {
            let text = format!(
                "//! Head.\nfn a() {{\n    // SAFETY: full.\n    {above}\n        .map(|x| unsafe {{ b(x) }});\n}}\n"
            );
            Sandbox::new()
                .findings_after(&path, &text, files::unsafe_code)
                .len()
        };
        assert_eq!(found("let c = d\n        .iter()"), 0);
        assert_eq!(found("let c = e();\n    let d = f"), 1);
    }

    #[test]
    fn unsafe_without_its_reason_is_found() {
        let path = format!("{}src/a.rs", UNSAFE[0]);
        let found = |text| Sandbox::new().findings_after(&path, text, files::unsafe_code);
        assert_eq!(found(BARE).len(), 1);
        assert!(found(EXPLAINED).is_empty());
    }
}

mod layers {
    use super::*;
    use crate::tidy::layering::{BACKENDS, FOR_PROGRAMS, PRINTS};

    fn manifest_findings(path: &str, text: &str) -> Vec<String> {
        Sandbox::new().findings_after(path, text, layering::check)
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        for (package, dependency) in [
            ("infinity-kernels", "infinity-model"),
            ("infinity-model", "infinity-train"),
            ("infinity-train", "infinity-cli"),
            ("infinity-serve", "infinity-train"),
            ("infinity-train", "infinity-serve"),
        ] {
            let path = format!("crates/{package}/Cargo.toml");
            for table in [
                "dependencies",
                "dev-dependencies",
                "target.'cfg(unix)'.dependencies",
            ] {
                let found = manifest_findings(&path, &format!("[{table}]\n{dependency} = \"1\"\n"));
                assert_eq!(
                    found.len(),
                    1,
                    "{package} → {dependency} in {table}: {found:?}"
                );
            }
            let renamed = format!("[dependencies]\nx = {{ package = \"{dependency}\" }}\n");
            assert_eq!(manifest_findings(&path, &renamed).len(), 1);
        }
    }

    #[test]
    fn a_crate_may_name_itself_for_its_tests() {
        let text = "[dev-dependencies]\ninfinity-model = { path = \".\", features = [\"flex\"] }\n";
        assert!(manifest_findings("crates/infinity-model/Cargo.toml", text).is_empty());
    }

    #[test]
    fn a_backend_outside_the_kernels_is_found() {
        for name in BACKENDS {
            let text = format!("[dependencies]\n{name} = \"1\"\n");
            assert_eq!(
                manifest_findings("crates/infinity-cli/Cargo.toml", &text).len(),
                1
            );
            let code = format!("//! Head.\nuse {}::Device;\n", name.replace('-', "_"));
            let found =
                Sandbox::new().findings_after("examples/app/src/main.rs", &code, layering::check);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("examples/app/src/main.rs:2: "));
        }
    }

    #[test]
    fn crates_for_programs_are_found_in_libraries() {
        for name in FOR_PROGRAMS {
            let text = format!("[dependencies]\n{name}.workspace = true\n");
            assert_eq!(
                manifest_findings("crates/infinity-train/Cargo.toml", &text).len(),
                1
            );
            assert!(manifest_findings("xtask/Cargo.toml", &text).is_empty());
        }
        assert_eq!(
            manifest_findings("xtask/Cargo.toml", "[dependencies]\nburn = \"1\"\n").len(),
            1
        );
    }

    #[test]
    fn printing_in_a_library_is_found() {
        let sandbox = Sandbox::new();
        let path = "crates/infinity-train/src/lib.rs";
        for print in PRINTS {
            let text = format!("//! Training.\nfn a() {{\n    {print}!(\"x\");\n}}\n");
            assert_eq!(
                sandbox.findings_after(path, &text, layering::check).len(),
                1,
                "{print}"
            );
            let test = format!("//! Training.\n#[cfg(test)]\nmod t {{\n    {print}!(\"x\");\n}}\n");
            assert!(
                sandbox
                    .findings_after(path, &test, layering::check)
                    .is_empty(),
                "{print}"
            );
        }
    }

    #[test]
    fn a_manifest_that_is_not_toml_is_found() {
        assert_eq!(
            manifest_findings("crates/infinity-cli/Cargo.toml", "[dependencies\n").len(),
            1
        );
    }
}

mod operator {
    use super::*;

    #[test]
    fn a_new_operator_without_its_files_is_found() {
        let sandbox = Sandbox::new();
        let contract = "crates/infinity-kernels/src/new_scan/mod.rs";
        assert_eq!(
            sandbox
                .findings_after(contract, "//! New.\n", rooms::operators)
                .len(),
            1
        );
        let tested = "//! New.\n#[cfg(test)]\nmod tests {}\n";
        assert!(
            sandbox
                .findings_after(contract, tested, rooms::operators)
                .is_empty()
        );

        let form = "crates/infinity-kernels/src/new_scan/chunkwise.rs";
        let found = sandbox.findings_after(form, "//! A form.\n", rooms::operators);
        assert_eq!(
            found.len(),
            3,
            "a reference, a test, a derivation: {found:?}"
        );
    }

    #[test]
    fn a_lost_file_is_found() {
        for path in [
            "crates/infinity-kernels/src/memory_scan/README.md",
            "crates/infinity-kernels/src/memory_scan/reference.rs",
            "crates/infinity-kernels/tests/memory_scan.rs",
        ] {
            let sandbox = Sandbox::new();
            sandbox.remove(path);
            let found = sandbox.findings(rooms::operators);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(path), "{found:?}");
        }
    }

    #[test]
    fn a_test_that_nothing_runs_is_found() {
        let path = "crates/infinity-kernels/tests/new_scan.rs";
        let found = Sandbox::new().findings_after(path, "//! Never.\n", rooms::operators);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("mod new_scan;"), "{found:?}");
    }

    #[test]
    fn what_operators_share_is_no_operator() {
        let path = "crates/infinity-kernels/src/cpu/exp.rs";
        assert!(
            Sandbox::new()
                .findings_after(path, "//! Decay.\n", rooms::operators)
                .is_empty()
        );
    }
}

mod document {
    use super::*;

    #[test]
    fn a_path_that_is_gone_is_found() {
        for text in [
            "See `crates/infinity-model/src/gone.rs`.",
            "See [the log](LOG.md).",
            "```bash\ncargo run -- train configs/gone.toml\n```",
            "```tree\ncrates/\n  infinity-cli/  the binary\n    src/\n      gone.rs  gone\n```",
        ] {
            let found = Sandbox::new().findings_after("README.md", text, documents::check);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn paths_that_are_there_and_placeholders_pass() {
        let text = "`crates/infinity-model/src/lib.rs`, crates/infinity-train/. `crates/<name>/x.rs`\n\
                    [map](./ARCHITECTURE.md#flow) [web](https://example.com/docs/x) [here](#here)\n\
                    ```tree\ncrates/\n  infinity-cli/\n    src/\n      main.rs  entry\n  infinity-model/\n```\n";
        let found = Sandbox::new().findings_after("README.md", text, documents::check);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_crate_or_operator_missing_from_the_map_is_found() {
        let map = "infinity-kernels infinity-model infinity-train infinity-cli\n";
        let found = Sandbox::new().findings_after("ARCHITECTURE.md", map, documents::check);
        assert_eq!(found, ["ARCHITECTURE.md: does not name `memory_scan`"]);
        let map = "infinity-kernels infinity-model infinity-train memory_scan\n";
        let found = Sandbox::new().findings_after("ARCHITECTURE.md", map, documents::check);
        assert_eq!(found, ["ARCHITECTURE.md: does not name `infinity-cli`"]);
    }

    #[test]
    fn a_quote_that_differs_and_a_gap_are_found() {
        let sandbox = Sandbox::new();
        let quote = |code: &str| {
            format!("<!-- file: crates/infinity-cli/src/main.rs -->\n```rust\n{code}\n```\n")
        };
        let same = quote("fn main() {\n    println!();\n}");
        assert!(
            sandbox
                .findings_after("README.md", &same, documents::check)
                .is_empty()
        );
        for text in [
            quote("fn main() {\n}"),
            quote(""),
            "| speed | TODO |".to_owned(),
        ] {
            assert_eq!(
                sandbox
                    .findings_after("README.md", &text, documents::check)
                    .len(),
                1,
                "{text}"
            );
        }
    }

    #[test]
    fn a_public_item_that_is_not_listed_and_a_place_that_is_gone_are_found() {
        let sandbox = Sandbox::new();
        let map = "infinity-kernels infinity-train infinity-cli memory_scan\n### infinity-model\n`a`: `B`\n";
        let place = "1. `crates/infinity-model/src/lib.rs` `mod a`, `mod b`: `not looked for`\n";
        sandbox.write("ARCHITECTURE.md", &format!("{map}{place}"));
        let code = "//! Model.\npub mod a;\npub use a::{B, x::C};\nuse a::D;\nmod e;\n";
        let path = "crates/infinity-model/src/lib.rs";
        let found = sandbox.findings_after(path, code, documents::check);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].ends_with("the public items of infinity-model lack `C`"),
            "{found:?}"
        );
        assert!(
            found[1].ends_with(":4: `crates/infinity-model/src/lib.rs` holds no `mod b`"),
            "{found:?}"
        );
    }

    #[test]
    fn a_missing_document_is_found() {
        let sandbox = Sandbox::new();
        sandbox.remove("README.md");
        assert_eq!(sandbox.findings(documents::check).len(), 1);
    }
}

mod circle {
    use super::*;

    /// What the rule says after these files of the model were written.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sandbox = Sandbox::new();
        for (file, code) in files {
            let path = format!("crates/infinity-plot/src/{file}");
            sandbox.write(&path, &format!("//! Head.\n{code}\n"));
        }
        sandbox.findings(rooms::circles)
    }

    #[test]
    fn modules_that_import_each_other_are_found_with_the_way_around() {
        let there = ("a.rs", "use crate::b::c::{D, e as f};");
        for back in [
            "use super::super::a::X;",
            "fn f() {\n    crate::a::x();\n}",
            "use crate::{a, z};\nfn f() {\n    a::x();\n}",
            "use crate::*;\nuse crate::X;",
        ] {
            // The root hands `X` on from `a`: whoever takes it there takes it from `a`.
            let root = ("lib.rs", "mod a;\nmod b;\npub use a::X;");
            let found = found(&[root, there, ("b/mod.rs", "pub mod c;"), ("b/c.rs", back)]);
            assert_eq!(found.len(), 1, "{back}: {found:?}");
            assert!(found[0].contains("2 modules: a → b::c → a"), "{found:?}");
        }
    }

    #[test]
    fn a_room_whose_parts_take_what_its_own_file_defines_is_a_circle_if_that_calls_them() {
        let part = ("room/part.rs", "use super::Input;");
        let calls = ("room/mod.rs", "mod part;\nfn f() {\n    part::g();\n}");
        assert_eq!(found(&[part, calls]).len(), 1);
        let hands_on = ("room/mod.rs", "mod part;\npub(crate) use part::g;");
        assert!(found(&[part, hands_on]).is_empty());
    }

    #[test]
    fn one_way_tests_and_comments_are_no_circle() {
        let b = "// crate::a::x\nfn g() {}\n#[cfg(test)]\nmod tests {\n    use crate::a::x;\n}";
        let files = [("a.rs", "use crate::b::g;"), ("b.rs", b)];
        assert!(found(&files).is_empty());
        assert!(found(&[files[0], ("b.rs", "pub(in crate::a) fn g() {}")]).is_empty());
        let loops = "fn g() {\n    for x in crate::a::X {}\n}";
        assert_eq!(found(&[files[0], ("b.rs", loops)]).len(), 1);
        assert!(
            found(&[
                files[0],
                ("b.rs", "use std::a::x;\nfn a() {\n    y.a::<u8>();\n}")
            ])
            .is_empty()
        );
    }
}
