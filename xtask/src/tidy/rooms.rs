//! Rules about folders and modules: what an operator's room holds, and that imports run one way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Finding, Tree, is_test_file, lines};

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
pub(super) fn operators(tree: &Tree) -> Vec<Finding> {
    let mut operators = operator_names(tree);
    operators.insert(FIRST);
    let mut found: Vec<Finding> = operators
        .iter()
        .flat_map(|name| operator(tree, name))
        .collect();
    let main = tree.text(&format!("{TESTS}/main.rs")).unwrap_or_default();
    let named = |name: &str| main.lines().any(|line| line == format!("mod {name};"));
    for path in tree.files() {
        let file = path.strip_prefix(TESTS).and_then(|p| p.strip_prefix('/'));
        let Some(name) = file.and_then(|file| file.strip_suffix(".rs")) else {
            continue;
        };
        if name != "main" && !name.contains('/') && !named(name) {
            let message = format!("never runs: `mod {name};` is missing in {TESTS}/main.rs");
            found.push(Finding::in_file(path, message));
        }
    }
    found
}

/// The operators there are.
pub(super) fn operator_names(tree: &Tree) -> BTreeSet<&str> {
    let mut names = tree.folders_in(SOURCES);
    names.retain(|name| !SHARED.contains(name));
    names
}

fn operator(tree: &Tree, name: &str) -> Vec<Finding> {
    let folder = format!("{SOURCES}/{name}/");
    let contract = format!("{folder}mod.rs");
    let files = tree.files().iter();
    let files = files.filter_map(|path| path.strip_prefix(&folder));
    let sources: BTreeSet<&str> = files.filter(|file| file.ends_with(".rs")).collect();
    if name != FIRST && sources.iter().eq(["mod.rs"].iter()) {
        let text = tree.text(&contract).unwrap_or_default();
        let message = "an operator in one file has its tests in it";
        let untested = !text.contains("#[cfg(test)]");
        return Vec::from_iter(untested.then(|| Finding::in_file(&contract, message)));
    }
    let mut needed = vec![
        contract,
        format!("{folder}reference.rs"),
        format!("{TESTS}/{name}.rs"),
    ];
    let forms = sources
        .iter()
        .filter(|file| !["mod.rs", "reference.rs"].contains(file));
    if name == FIRST || forms.count() > 0 {
        needed.push(format!("{folder}README.md"));
    }
    needed.retain(|path| !tree.has(path));
    let missing = |path: &String| Finding::in_file(path, format!("operator `{name}` needs it"));
    needed.iter().map(missing).collect()
}

/// The names that a library's root hands out: its public modules and re-exports.
pub(super) fn public_names(tree: &Tree, library: &str) -> BTreeSet<String> {
    let mut root = Module::default();
    root.parse(
        &tree
            .text(&format!("crates/{library}/src/lib.rs"))
            .unwrap_or_default(),
    );
    let uses = root.uses.into_iter().filter(|one| one.public);
    // A prelude names what has been named before.
    let uses = uses.filter(|one| one.path.first().is_none_or(|first| first != "crate"));
    uses.map(|one| one.name)
        .chain(root.public_modules)
        .collect()
}

/// No circle of imports between the modules of a crate, a module being a file.
///
/// An arrow runs from a file to the file whose item it names, through `use` or with a path in its code;
/// a re-export is followed to where the item stands. `mod` and `pub use` of what lies below a file are no
/// arrows, and tests draw none.
pub(super) fn circles(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let crates = tree.folders_in("crates").into_iter();
    let crates = crates.map(|name| format!("crates/{name}/src/"));
    for sources in crates.chain(["xtask/src/".to_owned()]) {
        let graph = Graph::read(tree, &sources);
        found.extend(graph.circles().iter().map(|circle| {
            let (first, size) = (graph.arrows_around(circle), circle.len());
            let path = format!("{sources}{}", graph.modules[circle[0].as_slice()].file);
            Finding::in_file(&path, format!("a circle of {size} modules: {first}"))
        }));
    }
    found
}

/// A module by its names from the crate's root.
type Path = Vec<String>;

/// A `use` of one name.
struct Use {
    path: Path,
    /// What it is called here.
    name: String,
    public: bool,
}

#[derive(Default)]
struct Module {
    file: String,
    uses: Vec<Use>,
    /// Paths in its code.
    paths: Vec<Path>,
    public_modules: Vec<String>,
}

/// The modules of a crate and what each imports.
struct Graph {
    modules: BTreeMap<Path, Module>,
    arrows: BTreeMap<Path, BTreeSet<Path>>,
}

impl Graph {
    fn read(tree: &Tree, sources: &str) -> Self {
        let mut modules = BTreeMap::new();
        for path in tree.rust_files().filter(|path| !is_test_file(path)) {
            let Some(file) = path.strip_prefix(sources) else {
                continue;
            };
            let mut names: Path = file
                .trim_end_matches(".rs")
                .split('/')
                .map(str::to_owned)
                .collect();
            names.pop_if(|last| last == "mod");
            if names == ["lib"] || names == ["main"] {
                names.clear();
            }
            let text = tree.text(path).unwrap_or_default();
            let mut module = Module {
                file: file.to_owned(),
                ..Module::default()
            };
            module.parse(&text);
            modules.insert(names, module);
        }
        let mut graph = Graph {
            modules,
            arrows: BTreeMap::new(),
        };
        let arrows = graph.modules.iter().map(|(from, module)| {
            let uses = module.uses.iter().filter_map(|one| {
                let to = graph.home(from, &one.path, 0)?;
                (!(one.public && to.starts_with(from))).then_some(to)
            });
            let inline = module.paths.iter();
            let inline = inline.filter_map(|path| graph.home(from, path, 0));
            let to = uses.chain(inline).filter(|to| to != from);
            (from.clone(), to.collect())
        });
        graph.arrows = arrows.collect();
        graph
    }

    /// The module that holds the item which `path` names in `from`, if that is one of this crate.
    fn home(&self, from: &Path, path: &[String], depth: usize) -> Option<Path> {
        let module = self.modules.get(from)?;
        let supers = path.iter().take_while(|name| *name == "super").count();
        let child = |name: &String| [&from[..], std::slice::from_ref(name)].concat();
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Path::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => (
                from[..from.len().checked_sub(supers)?].to_vec(),
                &path[supers..],
            ),
            _ if self.modules.contains_key(&child(&path[0])) => (from.clone(), path),
            name => {
                let used = module
                    .uses
                    .iter()
                    .find(|one| one.name == name && one.path != path);
                let through = [&used?.path[..], &path[1..]].concat();
                return (depth < 8).then(|| self.home(from, &through, depth + 1))?;
            }
        };
        while let Some((name, others)) = rest.split_first() {
            let below = [&at[..], std::slice::from_ref(name)].concat();
            if !self.modules.contains_key(&below) {
                break;
            }
            (at, rest) = (below, others);
        }
        let here = self.modules.get(&at)?;
        let through = rest.first().and_then(|name| {
            let used = here
                .uses
                .iter()
                .find(|one| one.name == *name && one.path != path)?;
            let through = [&used.path[..], &rest[1..]].concat();
            (depth < 8).then(|| self.home(&at, &through, depth + 1))?
        });
        Some(through.unwrap_or(at))
    }

    /// Modules that reach each other, in groups.
    fn circles(&self) -> Vec<Vec<Path>> {
        let reached: BTreeMap<&Path, BTreeSet<&Path>> = self
            .arrows
            .keys()
            .map(|from| (from, self.reached(from)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for (from, there) in &reached {
            let both = |to: &&&Path| reached.get(**to).is_some_and(|back| back.contains(from));
            let circle: Vec<Path> = there.iter().filter(both).map(|to| (*to).clone()).collect();
            if !circle.is_empty() && seen.insert(circle[0].clone()) {
                circles.push(circle);
            }
        }
        circles
    }

    /// Everything that arrows lead to from `from`; itself only around a circle.
    fn reached<'a>(&'a self, from: &'a Path) -> BTreeSet<&'a Path> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            let next = self.arrows.get(at).into_iter().flatten();
            open.extend(next.filter(|to| reached.insert(*to)));
        }
        reached
    }

    /// The shortest way from the first module of a circle back to it, for a reader.
    fn arrows_around(&self, circle: &[Path]) -> String {
        let start = &circle[0];
        let mut open = VecDeque::from([vec![start]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = open.pop_front() {
            for to in self.arrows.get(way[way.len() - 1]).into_iter().flatten() {
                let longer = [&way[..], &[to]].concat();
                if to == start {
                    let names = longer.iter().map(|path| match path.is_empty() {
                        true => "the crate's root".to_owned(),
                        false => path.join("::"),
                    });
                    return names.collect::<Vec<_>>().join(" → ");
                }
                if seen.insert(to) {
                    open.push_back(longer);
                }
            }
        }
        String::new()
    }
}

impl Module {
    /// Takes what the code of `text` names.
    fn parse(&mut self, text: &str) {
        let code: Vec<String> = lines(text)
            .into_iter()
            .filter(|line| !line.is_test)
            .map(|line| line.code)
            .collect();
        let code = code.join("\n");
        let tokens = tokens(&code);
        let public = tokens
            .windows(4)
            .filter(|four| four[..2] == ["pub", "mod"] && four[3] == ";");
        self.public_modules = public.map(|four| four[2].to_owned()).collect();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                let end = tokens[at..].iter().position(|token| *token == ";");
                let end = end.map_or(tokens.len(), |length| at + length);
                // `pub use`, `pub(crate) use`.
                let public = at > 0 && matches!(tokens[at - 1], "pub" | ")");
                self.add_uses(&[], &tokens[at + 1..end], public);
                at = end;
            } else if is_name(tokens[at])
                && !matches!(tokens[..at], [.., "::" | "."] | [.., "(", "in"])
            {
                let mut path = vec![tokens[at].to_owned()];
                while tokens.get(at + 1) == Some(&"::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(next))
                {
                    path.push(tokens[at + 2].to_owned());
                    at += 2;
                }
                if path.len() > 1 {
                    self.paths.push(path);
                }
            }
            at += 1;
        }
    }

    /// The names that a tree of `use` brings, below `prefix`.
    fn add_uses(&mut self, prefix: &[String], tree: &[&str], public: bool) {
        let names = |tokens: &[&str]| -> Path {
            let names = tokens.iter().filter(|token| **token != "::");
            prefix
                .iter()
                .cloned()
                .chain(names.map(|name| (*name).to_owned()))
                .collect()
        };
        if let Some(open) = tree.iter().position(|token| *token == "{") {
            let prefix = names(&tree[..open]);
            let (mut depth, mut start) = (0, open + 1);
            for (at, token) in tree.iter().enumerate().skip(open + 1) {
                match *token {
                    "{" => depth += 1,
                    "}" if depth > 0 => depth -= 1,
                    "}" | "," if depth == 0 => {
                        self.add_uses(&prefix, &tree[start..at], public);
                        start = at + 1;
                    }
                    _ => {}
                }
            }
        } else if !tree.is_empty() {
            let renamed = tree.iter().position(|token| *token == "as");
            let path = names(&tree[..renamed.unwrap_or(tree.len())]);
            let name = renamed
                .and_then(|at| tree.get(at + 1))
                .map(|name| (*name).to_owned());
            let name = name.or_else(|| path.iter().rfind(|name| *name != "self").cloned());
            self.uses.push(Use {
                name: name.unwrap_or_default(),
                path,
                public,
            });
        }
    }
}

/// Names, `::` and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if is_name(&rest[..first.len_utf8()]) => {
                let part = |c: char| c.is_alphanumeric() || c == '_';
                rest.find(|c| !part(c)).unwrap_or(rest.len())
            }
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
