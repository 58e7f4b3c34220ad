//! Rules about folders and modules: what an operator's room holds, and that imports run one way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Token, Tree, is_test_file};

const SOURCES: &str = "crates/infinity-kernels/src";
const TESTS: &str = "crates/infinity-kernels/tests";
/// Folders of the kernels' sources that hold what operators share.
const SHARED: [&str; 4] = ["math", "cpu", "gpu", "testing"];
const FIRST: &str = "memory_scan";

/// Every operator can be judged.
///
/// An operator whose contract and formula fit into `mod.rs` has its tests there. One in more files has a
/// scalar reference and a test of its name, and one in several forms has the derivation that they share.
/// `tests/main.rs`, the one executable of all tests, names each: a file that it leaves out never runs.
pub(super) fn operators(tree: &Tree, found: &mut Vec<String>) {
    let mut operators = operator_names(tree);
    operators.insert(FIRST);
    for name in operators {
        operator(tree, name, found);
    }
    let main = tree.text(&format!("{TESTS}/main.rs"));
    for (path, _) in tree.files() {
        let file = path.strip_prefix(TESTS).and_then(|p| p.strip_prefix('/'));
        let name = file.and_then(|file| file.strip_suffix(".rs"));
        if let Some(name) = name.filter(|name| *name != "main" && !name.contains('/'))
            && let call = format!("mod {name};")
            && !main.lines().any(|line| line == call)
        {
            found.push(format!(
                "{path}: never runs: `{call}` is missing in {TESTS}/main.rs"
            ));
        }
    }
}

pub(super) fn operator_names(tree: &Tree) -> BTreeSet<&str> {
    let mut names = tree.folders_in(SOURCES);
    names.retain(|name| !SHARED.contains(name));
    names
}

fn operator(tree: &Tree, name: &str, found: &mut Vec<String>) {
    let folder = format!("{SOURCES}/{name}/");
    let contract = format!("{folder}mod.rs");
    let sources = tree.rust_files();
    let sources = sources.filter_map(|(path, _)| path.strip_prefix(&folder));
    let mut others = sources.filter(|file| *file != "mod.rs").peekable();
    if name != FIRST && others.peek().is_none() && tree.has(&contract) {
        if !tree.text(&contract).contains("#[cfg(test)]") {
            found.push(format!(
                "{contract}: an operator in one file has its tests in it"
            ));
        }
        return;
    }
    let mut needed = vec![
        contract,
        format!("{folder}reference.rs"),
        format!("{TESTS}/{name}.rs"),
    ];
    if name == FIRST || others.any(|file| file != "reference.rs") {
        needed.push(format!("{folder}README.md"));
    }
    needed.retain(|path| !tree.has(path));
    let missing = needed.iter();
    found.extend(missing.map(|path| format!("{path}: operator `{name}` needs it")));
}

/// The names that a library's root hands out: its public modules and re-exports.
pub(super) fn public_names(tree: &Tree, library: &str) -> BTreeSet<String> {
    let root = uses(tree.tokens(&format!("crates/{library}/src/lib.rs"))).into_iter();
    // A prelude names what has been named before.
    let names = root.filter(|one| one.public && one.path[0] != "crate");
    names.map(|one| one.name).collect()
}

/// No circle of imports between the modules of a crate, a module being a file.
///
/// An arrow runs from a file to the file whose item it names, through `use` or with a path in its code;
/// a re-export is followed to where the item stands. `mod` and `pub use` of what lies below a file are no
/// arrows, and tests draw none.
pub(super) fn circles(tree: &Tree, found: &mut Vec<String>) {
    let crates = tree.folders_in("crates").into_iter();
    let crates = crates.map(|name| format!("crates/{name}/src/"));
    for sources in crates.chain(["xtask/src/".to_owned()]) {
        let modules = Modules::read(tree, &sources);
        let arrows = modules.arrows();
        for (start, (file, _)) in &modules.0 {
            // Every circle once, from the first of its modules.
            let way = way_around(&arrows, start).filter(|way| way.iter().all(|at| *at >= start));
            if let Some(way) = way {
                let names = way.iter().map(|path| match path.is_empty() {
                    true => "the crate's root".to_owned(),
                    false => path.join("::"),
                });
                let (names, size) = (names.collect::<Vec<_>>().join(" → "), way.len() - 1);
                found.push(format!(
                    "{sources}{file}: a circle of {size} modules: {names}"
                ));
            }
        }
    }
}

/// A module by its names from the crate's root.
type Path = Vec<String>;

/// A path that a module names: in a `use`, for a `pub mod`, or in its code.
#[derive(Default)]
struct Use {
    path: Path,
    /// What it is called here from then on; empty for one in the code.
    name: String,
    public: bool,
}

/// The modules of a crate, each with its file and what it names.
struct Modules(BTreeMap<Path, (String, Vec<Use>)>);

impl Modules {
    fn read(tree: &Tree, sources: &str) -> Self {
        let files = tree.rust_files().filter(|(path, _)| !is_test_file(path));
        let modules = files.filter_map(|(path, source)| {
            let file = path.strip_prefix(sources)?;
            let names = file.trim_end_matches(".rs").split('/');
            let mut names: Path = names.map(str::to_owned).collect();
            names.pop_if(|last| last == "mod");
            if names == ["lib"] || names == ["main"] {
                names.clear();
            }
            Some((names, (file.to_owned(), uses(&source.tokens))))
        });
        Self(modules.collect())
    }

    fn arrows(&self) -> BTreeMap<&Path, BTreeSet<Path>> {
        let arrows = self.0.iter().map(|(from, (_, uses))| {
            let homes = uses.iter().filter_map(|one| {
                let to = self.home(from, &one.path, 0)?;
                let below = one.public && to.starts_with(from);
                (!below && to != *from).then_some(to)
            });
            (from, homes.collect())
        });
        arrows.collect()
    }

    /// The module that holds the item which `path` names in `from`, if that is one of this crate.
    fn home(&self, from: &Path, path: &[String], depth: usize) -> Option<Path> {
        let below = |at: &Path, name: &String| {
            let below = [&at[..], std::slice::from_ref(name)].concat();
            self.0.contains_key(&below).then_some(below)
        };
        let supers = path.iter().take_while(|name| *name == "super").count();
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Path::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let above = from.len().checked_sub(supers)?;
                (from[..above].to_vec(), &path[supers..])
            }
            _ if below(from, &path[0]).is_some() => (from.clone(), path),
            _ => return self.imported(from, path, depth),
        };
        while let Some((name, others)) = rest.split_first()
            && let Some(below) = below(&at, name)
        {
            (at, rest) = (below, others);
        }
        self.0.get(&at)?;
        Some(self.imported(&at, rest, depth).unwrap_or(at))
    }

    /// The same for a path whose first name a `use` in `at` brings.
    fn imported(&self, at: &Path, path: &[String], depth: usize) -> Option<Path> {
        let (name, others) = path.split_first()?;
        let (_, uses) = self.0.get(at)?;
        let used = uses.iter().find(|one| one.name == *name)?;
        let through = [&used.path[..], others].concat();
        // Two that bring each other's names would go on for ever.
        (depth < 8).then(|| self.home(at, &through, depth + 1))?
    }
}

/// The shortest way along `arrows` from a module back to it, its name at both ends.
fn way_around<'a>(
    arrows: &'a BTreeMap<&Path, BTreeSet<Path>>,
    start: &'a Path,
) -> Option<Vec<&'a Path>> {
    let mut open = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = open.pop_front() {
        for to in arrows.get(way[way.len() - 1]).into_iter().flatten() {
            let longer = [&way[..], &[to]].concat();
            if to == start {
                return Some(longer);
            }
            if seen.insert(to) {
                open.push_back(longer);
            }
        }
    }
    None
}

/// All that the code of a module names.
fn uses(tokens: &[Token]) -> Vec<Use> {
    let code = tokens.iter().filter(|token| !token.is_test);
    let code: Vec<&str> = code.map(|token| &*token.text).collect();
    let mut uses = Vec::new();
    let mut at = 0;
    while at < code.len() {
        match (&code[..at], code[at]) {
            // Not `use<'a>`.
            (before, "use") if code.get(at + 1) != Some(&"<") => {
                // `pub use`, `pub(crate) use`.
                let public = matches!(before, [.., "pub" | ")"]);
                at += add_tree(&mut uses, &code[at + 1..], public);
            }
            ([.., "pub"], "mod") if code.get(at + 2) == Some(&";") => {
                let name = code[at + 1].to_owned();
                let path = vec!["self".to_owned(), name.clone()];
                let public = true;
                uses.push(Use { path, name, public });
            }
            ([.., "::" | "."] | [.., "(", "in"], _) => {}
            (_, name) if is_name(name) => {
                let mut path = vec![name.to_owned()];
                while let ["::", next, ..] = code[at + 1..]
                    && is_name(next)
                {
                    path.push(next.to_owned());
                    at += 2;
                }
                if path.len() > 1 {
                    uses.push(Use {
                        path,
                        ..Use::default()
                    });
                }
            }
            _ => {}
        }
        at += 1;
    }
    uses
}

/// Adds the names that the tree of a `use` brings, and returns how many tokens it has.
fn add_tree(uses: &mut Vec<Use>, tree: &[&str], public: bool) -> usize {
    let mut above = vec![Path::new()];
    let mut path = Path::new();
    let mut name = None;
    for (at, token) in tree.iter().enumerate() {
        match *token {
            "::" => {}
            "{" => above.push(path.clone()),
            "as" => name = tree.get(at + 1).map(|name| (*name).to_owned()),
            "," | "}" | ";" => {
                if path.len() > above.last().map_or(0, Path::len) {
                    let last = path.iter().rfind(|name| *name != "self").cloned();
                    let name = name.take().or(last).unwrap_or_default();
                    uses.push(Use { path, name, public });
                }
                if *token == "}" {
                    above.pop();
                }
                path = above.last().cloned().unwrap_or_default();
                if *token == ";" {
                    return at + 1;
                }
            }
            word if name.is_none() => path.push(word.to_owned()),
            _ => {}
        }
    }
    tree.len()
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
