//! The pages that say which test shows what: they name only tests that exist, and `docs/field-bugs.md` every bug.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("the page")
}

/// Each test there is: the name of its file or directory, and its own.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<PathBuf> =
        ["tests/tests", "runtime/src", "runtime/tests"].map(|at| root().join(at)).into();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let text = fs::read_to_string(&path).expect("a source file");
            for after in text.split("#[test]").skip(1) {
                let name = after.split("fn ").nth(1).and_then(|text| text.split('(').next());
                found.insert(format!("{module}::{}", name.expect("a test is a function")));
            }
        }
    }
    found
}

#[test]
fn every_test_that_is_named_exists() {
    let is_word = |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_test =
        |text: &&str| text.contains("::") && text.split("::").all(is_word) && *text != "http::serve";
    let tests = tests();
    for (name, at_least) in
        [("field-bugs.md", 80), ("security.md", 16), ("reliability.md", 7), ("systemd.md", 1)]
    {
        let page = page(name);
        let named: Vec<_> = page.split('`').skip(1).step_by(2).filter(is_test).collect();
        assert!(named.len() >= at_least, "{name}: {named:?}");
        for test in named {
            assert!(tests.contains(test), "{name}: there is no test `{test}`");
        }
    }
}

#[test]
fn every_bug_stands_on_its_page_once() {
    let page = page("field-bugs.md");
    let numbers: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).collect();
    for (letter, last) in [('M', 20), ('S', 15), ('H', 15), ('K', 11), ('D', 9), ('P', 12)] {
        for number in (1..=last).map(|number| format!("{letter}{number}")) {
            let rows = numbers.iter().filter(|found| **found == number).count();
            assert_eq!(rows, 1, "{number}");
        }
    }
}

#[test]
fn no_page_has_a_conflict_in_it() {
    let docs = fs::read_dir(root().join("docs")).expect("a directory");
    let pages = docs.map(|entry| entry.expect("an entry").path());
    for path in pages.chain(["README.md", "CHANGELOG.md"].map(|name| root().join(name))) {
        let text = fs::read_to_string(&path).expect("a page");
        let marker =
            text.lines().find(|line| ["<<<<<<<", "=======", ">>>>>>>"].iter().any(|it| line.starts_with(it)));
        assert_eq!(marker, None, "{}", path.display());
    }
}

/// Each example is a complete small service; the demo is a program that drives them.
#[test]
fn an_example_has_at_most_sixty_lines() {
    let examples = fs::read_dir(root().join("examples")).expect("a directory");
    let mut count = 0;
    for entry in examples.map(|entry| entry.expect("an entry")).filter(|entry| entry.file_name() != "demo") {
        let text = fs::read_to_string(entry.path().join("src/main.rs")).expect("a source file");
        // Without the documentation at its top.
        let lines = text.lines().filter(|line| !line.starts_with("//!")).count();
        assert!(lines <= 60, "{:?} has {lines} lines", entry.file_name());
        count += 1;
    }
    assert!(count >= 12, "{count}");
}
