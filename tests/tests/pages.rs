//! The pages of `docs/` that name tests: each test exists, and `docs/field-bugs.md` has every bug.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace")
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).expect("the page")
}

/// Each test there is: the name of its file or directory, and its own; with the comment that it has.
fn tests() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<PathBuf> =
        ["tests/tests", "runtime/src", "runtime/tests"].map(|at| root().join(at)).into();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let text = fs::read_to_string(&path).expect("a source file");
            let parts: Vec<_> = text.split("#[test]").collect();
            for around in parts.windows(2) {
                let name = around[1].split("fn ").nth(1).and_then(|text| text.split('(').next());
                let above = around[0].trim_end().lines().rev().map(str::trim);
                let comment = above.map_while(|line| line.strip_prefix("///")).collect::<Vec<_>>().join("\n");
                found.insert(format!("{module}::{}", name.expect("a test is a function")), comment);
            }
        }
    }
    found
}

/// The tests that a text names.
fn named(text: &str) -> Vec<&str> {
    let is_word = |part: &str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_test =
        |text: &&str| text.contains("::") && text.split("::").all(is_word) && *text != "http::serve";
    text.split('`').skip(1).step_by(2).filter(is_test).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let tests = tests();
    for (name, at_least) in [
        ("field-bugs.md", 80),
        ("security.md", 16),
        ("reliability.md", 7),
        ("systemd.md", 1),
        ("operations.md", 16),
        ("containers.md", 5),
    ] {
        let page = page(name);
        let named = named(&page);
        assert!(named.len() >= at_least, "{name}: {named:?}");
        for test in named {
            assert!(tests.contains_key(test), "{name}: there is no test `{test}`");
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

/// A test that a number leads to leads back to the number, in its name or in its comment.
#[test]
fn every_bug_is_carried_by_a_test_that_it_names() {
    // What cannot happen here, by construction.
    const BY_CONSTRUCTION: [&str; 3] = ["M6", "K10", "K11"];
    let (page, tests) = (page("field-bugs.md"), tests());
    for row in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let number = row.split(' ').next().expect("split has a first");
        if !number.ends_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let named = named(row);
        let is_number = |word: &str| word.eq_ignore_ascii_case(number);
        let carries = |test: &&&str| {
            let words = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_number);
            words(test) || words(&tests[**test])
        };
        match BY_CONSTRUCTION.contains(&number) {
            true => assert!(named.is_empty(), "{number} has a test after all"),
            false => assert!(named.iter().any(|test| carries(&test)), "{number}: none of {named:?} has it"),
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

/// Each example is a complete small service; the demo is a program that drives them. Generated code is not counted: `greeter.rs` of
/// the example for tonic is what tonic-prost-build makes.
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
