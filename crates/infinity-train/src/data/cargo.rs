//! Text that every machine which built this project already has: the sources of its dependencies.
//!
//! The workspace's `Cargo.lock` says which version of a crate is meant, and `cargo metadata` where
//! Cargo keeps its sources. Only `.rs` files are read, crate after crate and path after path, so
//! the same lock file gives the same text everywhere; a fingerprint of it is reported.

use super::error::DataError;
use super::formats::SourceFile;
use super::sources::{Sources, Walk};
use infinity_files::{Fingerprint, nearest};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::env;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// A crate, as `Cargo.lock` or `cargo metadata` names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Absent for the workspace's own members.
    source: Option<String>,
    /// Known to `cargo metadata` alone.
    #[serde(default)]
    manifest_path: PathBuf,
}

impl Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

#[derive(Deserialize)]
struct Packages {
    #[serde(rename = "package", alias = "packages")]
    packages: Vec<Package>,
}

/// A Cargo workspace and where its dependencies' sources are.
#[derive(Debug)]
pub(super) struct CargoWorkspace {
    root: PathBuf,
    locked: Vec<Package>,
    /// What `cargo metadata` named, or why it named none.
    packages: Result<Vec<Package>, String>,
}

impl CargoWorkspace {
    /// The workspace that `start` is in: the nearest directory upward that has a `Cargo.lock`.
    pub(super) fn find(start: &Path) -> Result<Self, DataError> {
        let mut above = start.ancestors();
        let root = above
            .find(|directory| directory.join("Cargo.lock").is_file())
            .ok_or_else(|| {
                DataError::Unusable(format!(
                    "`data.source = \"cargo-registry\"` reads the dependencies of a Cargo workspace, but there is no \
                     Cargo.lock in {} or above it; run this inside the workspace, or name a text of your own with \
                     `--train-file`",
                    start.display()
                ))
            })?;
        let path = root.join("Cargo.lock");
        let text = fs::read_to_string(&path).map_err(DataError::read(&path))?;
        let lock = toml::from_str(&text).map_err(io::Error::other);
        let Packages {
            packages: mut locked,
        } = lock.map_err(DataError::read(&path))?;
        locked.retain(|package| package.source.is_some());
        Ok(Self {
            root: root.to_path_buf(),
            locked,
            packages: packages(root),
        })
    }

    /// The `.rs` files of the crates in `names` (`name` or `name@version`), sorted by crate and path, and the crates as
    /// `name version`; `key` is blamed in messages. The fingerprint of names, versions, paths and contents is the same
    /// on every machine.
    pub(super) fn sources(
        &self,
        key: &str,
        names: &[String],
    ) -> Result<(Sources, Vec<String>), DataError> {
        let chosen = names.iter().map(|name| self.locked(key, name));
        let chosen = chosen.collect::<Result<BTreeSet<_>, _>>()?;
        let (mut files, mut skipped) = (Vec::new(), Vec::new());
        let mut hash = Fingerprint::default();
        for package in &chosen {
            let before = files.len();
            let directory = self.directory(package)?;
            hash.field(&package.name).field(&package.version);
            Walk::default().directory(&directory, &mut |path| {
                if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
                    match rust_file(path, &directory, &mut hash)? {
                        Some(file) => files.push(file),
                        None => skipped.push(path.to_path_buf()),
                    }
                }
                Ok(())
            })?;
            if files.len() == before {
                return Err(DataError::Unusable(format!(
                    "`{key}`: the sources of {} hold no UTF-8 .rs file",
                    package.name
                )));
            }
        }
        let sources = Sources {
            root: self.root.join("Cargo.lock"),
            files,
            known: Some(hash.hex()),
            skipped,
            ..Sources::default()
        };
        Ok((sources, chosen.iter().map(ToString::to_string).collect()))
    }

    fn locked(&self, key: &str, wanted: &str) -> Result<&Package, DataError> {
        let (name, version) = wanted.split_once('@').unzip();
        let name = name.unwrap_or(wanted);
        let named = self.locked.iter().filter(|package| package.name == name);
        let candidates: Vec<&Package> = named
            .filter(|package| version.is_none_or(|version| package.version == version))
            .collect();
        let wrong = match candidates.as_slice() {
            [one] => return Ok(one),
            [] => {
                let mut all = self.locked.iter();
                let names = all.clone().map(|package| &*package.name);
                let hint = match (
                    all.find(|package| package.name == name),
                    nearest(name, names),
                ) {
                    (Some(package), _) => format!("; it has {package}"),
                    (None, Some(near)) => format!("; did you mean `{near}`?"),
                    (None, None) => String::new(),
                };
                format!("no crate `{wanted}`{hint}")
            }
            [first, ..] => {
                let versions = candidates.iter().map(|package| package.version.as_str());
                let versions = versions.collect::<Vec<_>>().join(", ");
                let one = &first.version;
                format!(
                    "several versions of `{name}` ({versions}); write one of them as `{name}@{one}`"
                )
            }
        };
        let lock = self.root.join("Cargo.lock");
        Err(DataError::Unusable(format!(
            "`{key}`: {} has {wrong}",
            lock.display()
        )))
    }

    fn directory(&self, package: &Package) -> Result<PathBuf, DataError> {
        let same =
            |found: &&Package| (&found.name, &found.version) == (&package.name, &package.version);
        let known = self.packages.iter().flatten().find(same);
        let directory = known.and_then(|found| found.manifest_path.parent());
        let directory = directory
            .map(Path::to_path_buf)
            .or_else(|| in_registry(package))
            .filter(|directory| directory.is_dir());
        directory.ok_or_else(|| {
            let said = self.packages.as_ref().err();
            let detail = said.map_or_else(String::new, |said| format!(" (cargo: {said})"));
            DataError::Unusable(format!(
                "the sources of {package} are not on this machine; run `cargo fetch --locked` in {}{detail}",
                self.root.display()
            ))
        })
    }
}

/// What `cargo metadata` knows of the workspace, without using the network.
///
/// It answers only when *every* dependency of every member is there, also those that building the
/// binary does not need; therefore its refusal is kept as text, not returned as the error.
fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let version = cargo(root, &["-vV"]).unwrap_or_default();
    let version = String::from_utf8_lossy(&version);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let mut arguments = vec!["metadata", "--format-version", "1", "--locked", "--offline"];
    // Dependencies of other systems are not downloaded by a build on this one.
    arguments.extend(
        host.map(|host| ["--filter-platform", host])
            .iter()
            .flatten(),
    );
    let read = serde_json::from_slice::<Packages>(&cargo(root, &arguments)?);
    read.map(|found| found.packages)
        .map_err(|error| error.to_string())
}

/// What Cargo answers, or the first line of its refusal.
fn cargo(root: &Path, arguments: &[&str]) -> Result<Vec<u8>, String> {
    // Cargo sets this for what it runs; it is the one that built this program.
    let program = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(&program);
    let output = command.args(arguments).current_dir(root).output();
    let output = output.map_err(|error| {
        let program = program.display();
        format!(
            "cannot run `{program}`: {error}; Cargo is needed to find the sources of dependencies"
        )
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(said.lines().next().unwrap_or_default().trim().to_owned()),
    }
}

/// The place where Cargo unpacks a registry's crates: `$CARGO_HOME/registry/src/INDEX/NAME-VERSION`.
fn in_registry(Package { name, version, .. }: &Package) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    let indices = fs::read_dir(home.join("registry/src")).ok()?.flatten();
    let places = indices.map(|index| index.path().join(format!("{name}-{version}")));
    places.filter(|directory| directory.is_dir()).min()
}

/// Describes one source file below `directory` and adds it to `hash`; nothing if it is not UTF-8 text.
fn rust_file(
    path: &Path,
    directory: &Path,
    hash: &mut Fingerprint,
) -> Result<Option<SourceFile>, DataError> {
    let content = fs::read(path).map_err(DataError::read(path))?;
    if std::str::from_utf8(&content).is_err() || content.contains(&0) {
        return Ok(None);
    }
    // One spelling of the path on every system.
    let relative = path.strip_prefix(directory).unwrap_or(path);
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    hash.field(parts.join("/")).field(&content);
    SourceFile::new(path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> CargoWorkspace {
        CargoWorkspace::find(&std::env::current_dir().unwrap()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn dependencies_are_found_in_a_fixed_order() {
        let workspace = here();
        let (found, crates) = workspace
            .sources("data.train_crates", &names(&["memmap2", "csv"]))
            .unwrap();
        assert!(crates[0].starts_with("csv ") && crates[1].starts_with("memmap2 "));
        let paths: Vec<&Path> = found.files.iter().map(|file| file.path.as_path()).collect();
        assert!(paths.iter().all(|path| path.extension().unwrap() == "rs"));
        assert!(paths.iter().any(|path| path.ends_with("src/lib.rs")));
        let (again, _) = workspace
            .sources("data.train_crates", &names(&["csv", "memmap2", "csv"]))
            .unwrap();
        assert_eq!(found, again);
        let (other, _) = workspace
            .sources("data.train_crates", &names(&["csv"]))
            .unwrap();
        assert_ne!(found.known, other.known);
    }

    #[test]
    fn the_registry_is_searched_when_cargo_metadata_refuses() {
        let mut workspace = here();
        let (found, _) = workspace
            .sources("data.train_crates", &names(&["csv"]))
            .unwrap();
        workspace.packages = Err("failed to download".to_owned());
        // Sources that are vendored are only known to Cargo; then there is nothing to compare.
        if found.files[0]
            .path
            .components()
            .any(|part| part.as_os_str() == "registry")
        {
            let (searched, _) = workspace
                .sources("data.train_crates", &names(&["csv"]))
                .unwrap();
            assert_eq!(found.known, searched.known);
        }
        workspace.locked[0] = Package {
            name: "never-published-crate".to_owned(),
            version: "0.0.0".to_owned(),
            source: Some("registry+x".to_owned()),
            manifest_path: PathBuf::new(),
        };
        let message = workspace
            .sources("data.train_crates", &names(&["never-published-crate"]))
            .unwrap_err();
        let message = message.to_string();
        assert!(
            message.contains("cargo fetch") && message.contains("failed to download"),
            "{message}"
        );
    }

    #[test]
    fn crates_that_are_not_locked_are_refused_with_a_suggestion() {
        let mut workspace = here();
        let message = |workspace: &CargoWorkspace, name: &str| {
            workspace
                .sources("data.train_crates", &names(&[name]))
                .unwrap_err()
                .to_string()
        };
        let misspelt = message(&workspace, "memap2");
        assert!(
            misspelt.contains("memmap2") && misspelt.contains("data.train_crates"),
            "{misspelt}"
        );
        assert!(message(&workspace, "csv@0.0.1").contains("it has csv 1."));
        // The workspace's own members have no source in the lock file: they are not dependencies.
        assert!(message(&workspace, "infinity-train").contains("has no crate"));
        let source = Some("registry+x".to_owned());
        workspace.locked.push(Package {
            name: "csv".to_owned(),
            version: "0.9.0".to_owned(),
            source,
            manifest_path: PathBuf::new(),
        });
        let several = message(&workspace, "csv");
        assert!(
            several.contains("0.9.0") && several.contains("csv@"),
            "{several}"
        );
        assert!(
            workspace
                .sources("data.train_crates", &names(&["csv@0.9.0"]))
                .is_err()
        );
    }

    #[test]
    fn a_place_without_a_workspace_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = CargoWorkspace::find(dir.path()).unwrap_err().to_string();
        assert!(message.contains("no Cargo.lock"), "{message}");
        fs::write(dir.path().join("Cargo.lock"), "package = 3").unwrap();
        let message = CargoWorkspace::find(dir.path()).unwrap_err().to_string();
        assert!(message.starts_with("cannot read "), "{message}");
    }
}
