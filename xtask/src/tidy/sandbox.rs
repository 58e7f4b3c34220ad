//! A workspace of a dozen files that keeps every rule.

use std::path::Path;

use super::tree::Tree;

const FILES: [(&str, &str); 15] = [
    (
        "README.md",
        "# Sandbox\n\n```tree\ncrates/\n  infinity-cli/  the binary\n```\n",
    ),
    (
        "ARCHITECTURE.md",
        "infinity-kernels infinity-model infinity-train infinity-cli\n\
         The operator: `crates/infinity-kernels/src/memory_scan/`.\n",
    ),
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

pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let sandbox = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        FILES
            .iter()
            .for_each(|(path, text)| sandbox.write(path, text));
        sandbox
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::read(self.root()).expect("the sandbox can be read")
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().expect("inside the sandbox")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_file(self.root().join(path)).expect("the file was there");
    }

    /// Writes one file, runs one rule and returns what it says.
    pub(crate) fn findings_after(
        &self,
        path: &str,
        text: &str,
        rule: fn(&Tree) -> Vec<super::Finding>,
    ) -> Vec<String> {
        self.write(path, text);
        rule(&self.tree()).iter().map(ToString::to_string).collect()
    }
}
