//! The wings of the runtime: each file imports only from its own wing and from those above it, and no imports form a cycle.
//! docs/ARCHITECTURE.md describes the wings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The wings in their order. A wing uses itself and the wings above it. The last ones stand side by side.
const WINGS: &[&[&str]] = &[
    &["sys"],
    &["base"],
    &["lifecycle"],
    &["config"],
    &["outside"],
    &["moving"],
    &["between"],
    &["control"],
    &["engine"],
    &["net"],
    &["blocking"],
    &["http", "axum"],
    &["websocket"],
    &["run"],
    &["testing"],
    &["program"],
    &["private"],
];

/// A module by its path, and the code of its file.
type Modules = BTreeMap<Vec<String>, String>;

fn runtime() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src")
}

/// The files below a folder, without comments and without their tests.
fn modules(folder: &Path) -> Modules {
    let mut found = Modules::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).expect("the folder can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(folder).expect("it is below").with_extension("");
                let parts = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                found.insert(parts, code(&fs::read_to_string(&path).expect("a file")));
            }
        }
    }
    // These declare all others.
    found.retain(|module, _| *module != ["lib"] && *module != ["main"]);
    found
}

fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let lines: Vec<_> = lines.collect();
    let is_test = |at: usize| {
        let next =
            || lines.iter().skip(at + 1).find(|line| !line.starts_with("#[")).copied().unwrap_or_default();
        lines[at].starts_with("#[cfg(")
            && lines[at].contains("test")
            && next().contains("mod ")
            && next().ends_with('{')
    };
    let end = (0..lines.len()).find(|at| is_test(*at)).unwrap_or(lines.len());
    lines[..end].join("\n")
}

/// The two halves of the runtime. The files of `portable/` stand in the place of others on a platform that cannot upgrade.
fn halves() -> [(&'static str, Modules); 2] {
    let all = modules(&runtime());
    let (portable, linux): (Modules, Modules) = all
        .into_iter()
        .filter(|(module, _)| module[0] != "bin")
        .partition(|(module, _)| module[0] == "portable");
    let mut other = linux.clone();
    other.extend(portable.into_iter().map(|(module, code)| (module[1..].to_vec(), code)));
    [("Linux", linux), ("the other platforms", other)]
}

/// `a::{b, c::{d}}` as a list of paths.
fn expand(tree: &str) -> Vec<String> {
    let (mut depth, mut parts, mut start) = (0, Vec::new(), 0);
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match part.split_once('{') {
            Some((head, rest)) => {
                let inner = rest.rsplit_once('}').expect("a brace is closed").0;
                expand(inner).into_iter().map(|path| format!("{head}{path}")).collect()
            }
            None => vec![part.split(" as ").next().unwrap_or_default().to_owned()],
        })
        .collect()
}

/// The paths that a file names: in `use`, and anywhere else where they begin with `crate` or `super`.
fn paths(code: &str) -> Vec<String> {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let statement = ["", "pub ", "pub(crate) ", "pub(super) "]
            .iter()
            .find_map(|visibility| line.trim_start().strip_prefix(visibility)?.strip_prefix("use "));
        match statement {
            Some(statement) => {
                let mut statement = statement.to_owned();
                while !statement.contains(';') {
                    statement.push_str(lines.next().expect("a statement ends"));
                }
                uses.extend(expand(statement.split(';').next().unwrap_or_default()));
            }
            None => rest.extend([line, "\n"]),
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(start) {
            let path = rest[at..].split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next();
            uses.extend(path.map(str::to_owned));
        }
    }
    uses
}

/// The modules of this crate that a file imports.
fn imports(modules: &Modules, me: &[String], code: &str) -> BTreeSet<Vec<String>> {
    let target = |path: String| {
        let mut parts: Vec<String> =
            path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
        let mut base = me.to_vec();
        match parts.first().map(String::as_str)? {
            "crate" => base.clear(),
            "self" => {}
            "super" => _ = base.pop(),
            _ => return None,
        }
        parts.remove(0);
        while parts.first().is_some_and(|part| part == "super") {
            parts.remove(0);
            base.pop();
        }
        base.extend(parts);
        while !base.is_empty() && !modules.contains_key(&base) {
            base.pop();
        }
        (!base.is_empty() && base != me).then_some(base)
    };
    paths(code).into_iter().filter_map(target).collect()
}

fn wing(module: &[String]) -> Option<usize> {
    WINGS.iter().position(|wings| wings.contains(&module[0].as_str()))
}

/// What is wrong with the imports of these modules.
fn problems(modules: &Modules) -> Vec<String> {
    let imported: BTreeMap<_, _> =
        modules.iter().map(|(me, code)| (me.clone(), imports(modules, me, code))).collect();
    let mut problems = Vec::new();
    for (me, others) in &imported {
        for other in others {
            match (wing(me), wing(other)) {
                (Some(mine), Some(theirs)) if theirs <= mine => {}
                (Some(_), Some(_)) => {
                    problems.push(format!(
                        "{} imports {}, which is in a later wing",
                        me.join("::"),
                        other.join("::")
                    ));
                }
                _ => problems.push(format!("{} or {} is in no wing", me.join("::"), other.join("::"))),
            }
        }
    }
    problems.extend(cycles(&imported));
    problems
}

/// The modules that reach themselves by imports.
fn cycles(imported: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let is_in_a_cycle = |start: &Vec<String>| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = imported[start].iter().collect();
        while let Some(module) = next.pop() {
            if module == start {
                return true;
            }
            if seen.insert(module) {
                next.extend(imported.get(module).into_iter().flatten());
            }
        }
        false
    };
    let in_cycles = imported.keys().filter(|module| is_in_a_cycle(module));
    in_cycles.map(|module| format!("the imports of {} lead back to it", module.join("::"))).collect()
}

#[test]
fn no_import_runs_up_the_wings_and_none_forms_a_cycle() {
    for (half, modules) in halves() {
        assert!(modules.len() > 60, "{half}: {} files", modules.len());
        let problems = problems(&modules);
        assert!(problems.is_empty(), "{half}:\n{}", problems.join("\n"));
    }
}

/// The check itself finds what it is for.
#[test]
fn an_import_that_is_put_in_is_found() {
    let (_, sound) = &halves()[0];
    let with = |module: &str, line: &str| {
        let mut modules = sound.clone();
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        modules.get_mut(&module).expect("there is such a file").push_str(&code(line));
        problems(&modules)
    };
    for (module, line) in [
        ("sys::poll", "\nuse crate::engine::core::Engine;\n"),
        ("base::report", "\nuse crate::{\n    base::sync,\n    between::{gate::Gate, shared},\n};\n"),
        ("outside::sockets", "\nfn f() { crate::between::shared::f() }\n"),
        ("outside::pidfile", "\npub(crate) use super::super::control::server;\n"),
        // Within one wing.
        ("outside::inherited", "\nuse crate::outside::systemd::Passed;\n"),
    ] {
        assert!(!with(module, line).is_empty(), "{module}: {line}");
    }
    assert_eq!(with("sys::poll", "\n// use crate::engine::core::Engine;\n"), [""; 0]);
}

/// Every file of the runtime and of the macro has its place in the map, and the map names no other.
#[test]
fn the_map_names_every_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let map = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the map");
    let words: BTreeSet<_> = map.split('`').skip(1).step_by(2).collect();
    let mut files = BTreeSet::new();
    for folder in ["runtime/src", "macros/src"] {
        for module in modules(&root.join(folder)).into_keys() {
            files.insert(module.join("/") + ".rs");
        }
    }
    // A file is named by its path, or in the row of the folder that it is in.
    let rows: Vec<_> = map.lines().filter(|line| line.starts_with("| `")).collect();
    let is_in_row = |file: &str, at: usize| {
        let (folder, rest) = file.split_at(at + 1);
        let next = rest.split_inclusive('/').next().unwrap_or_default();
        let has = |text: &str, word: &str| text.contains(&format!("`{word}`"));
        rows.iter().any(|row| has(row, folder) && has(row, next))
    };
    let is_named = |file: &str| {
        let has_name = |word: &&str| word.rsplit('/').next() == Some(file);
        words.contains(file)
            || words.contains(file.replace(".rs", "/").as_str())
            || !file.contains('/') && words.iter().any(has_name)
            || file.match_indices('/').any(|(at, _)| is_in_row(file, at))
    };
    let unnamed: Vec<_> = files.iter().filter(|file| !is_named(file)).collect();
    assert!(unnamed.is_empty(), "in no table: {unnamed:?}");
    // Of a path that names a wing, the file exists.
    let wings: Vec<_> = WINGS.iter().flat_map(|wings| wings.iter()).map(|wing| format!("{wing}/")).collect();
    let is_path =
        |word: &&&str| word.ends_with(".rs") && wings.iter().any(|wing| word.starts_with(wing.as_str()));
    let gone: Vec<_> = words.iter().filter(is_path).filter(|word| !files.contains(**word)).collect();
    assert!(gone.is_empty(), "there is no such file: {gone:?}");
}
