//! Makes a module of each service that the pages and the documentation of the crates show.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What no test can do as it is shown.
const CHANGED: [(&str, &str); 1] = [
    // The one address without a name, which no variable can replace.
    ("\"udp://127.0.0.1:53\"", "\"udp://127.0.0.1:0\""),
];
/// What is left out, by a word in it.
const LEFT_OUT: [&str; 5] = [
    // It shows all there is: it writes to /var/log, takes port 80 and upgrades itself for as long as it is there.
    "File::create(\"/var/log/all\")",
    // It reads its configuration from a file that this machine does not have.
    "(\"/etc/",
    // It reads its configuration from variables that this machine does not have.
    "env::var(\"",
    // Its arguments are those of a test, which is another program.
    "clap::",
    // It is a test by itself.
    "Program::new(",
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md")];
    for (directory, extension) in [("docs", "md"), ("runtime/src", "rs"), ("macros/src", "rs")] {
        println!("cargo::rerun-if-changed={}", root.join(directory).display());
        find(&root.join(directory), extension, &mut pages);
    }
    println!("cargo::rerun-if-changed={}", pages[0].display());
    pages.sort();

    let (mut modules, mut table, mut seen, mut left_out) =
        (String::new(), String::new(), BTreeSet::new(), BTreeSet::new());
    for page in pages {
        let text = fs::read_to_string(&page).expect("it is there");
        let is_source = page.extension().is_some_and(|extension| extension == "rs");
        for (line, block) in blocks(&text, is_source) {
            let is_service = block.contains("tableflip::main(") || block.contains("fn main() -> ExitCode");
            // Of one without a body there is nothing to be seen.
            let is_service = is_service && !block.contains("/* … */");
            if !is_service || !seen.insert(block.clone()) {
                continue;
            }
            if let Some(word) = LEFT_OUT.iter().find(|word| block.contains(**word)) {
                left_out.insert(word);
                continue;
            }
            let block = CHANGED.iter().fold(block, |block, (from, to)| block.replace(from, to));
            let number = seen.len();
            let page = page.strip_prefix(&root).expect("it is in the workspace").display().to_string();
            let listeners = listeners(&block);
            writeln!(
                modules,
                "#[allow(warnings, clippy::all)]\nmod body_{number} {{\n{block}\n\
                 pub(super) fn run() -> std::process::ExitCode {{ main() }}\n}}"
            )
            .expect("memory");
            writeln!(
                table,
                "Shown {{ page: {page:?}, line: {line}, listeners: &{listeners:?}, run: body_{number}::run }},"
            )
            .expect("memory");
        }
    }
    assert_eq!(left_out.len(), LEFT_OUT.len(), "one of these is not shown any more: {LEFT_OUT:?}");
    let all = format!("{modules}\npub(crate) const SHOWN: &[Shown] = &[\n{table}];\n");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("shown.rs");
    fs::write(target, all).expect("it can be written");
}

fn find(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find(&path, extension, found);
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

/// The blocks of Rust in a page, or in the comments of a source file, with the line of each.
fn blocks(text: &str, is_source: bool) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<(usize, bool, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let comment = line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).filter(|_| is_source);
        let line = comment.map_or(line, |comment| comment.strip_prefix(' ').unwrap_or(comment));
        match (&mut block, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let is_rust = ["", "no_run", "ignore", "rust", "rust,no_run"].contains(&language);
                block = Some((at + 1, is_rust, String::new()));
            }
            (Some(_), Some(_)) => {
                let (line, is_rust, text) = block.take().expect("it has begun");
                if is_rust {
                    found.push((line, text));
                }
            }
            (Some((_, _, text)), None) => {
                // A line that the documentation hides.
                text.push_str(line.strip_prefix("# ").unwrap_or(line));
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// The names of the listeners that it declares, and the schemes of their addresses.
fn listeners(block: &str) -> Vec<(String, &'static str)> {
    let by_builder = block.split(".listen(\"").skip(1).filter_map(|rest| {
        let mut parts = rest.split('"');
        Some((parts.next()?.to_owned(), parts.nth(1)?))
    });
    let list = block.split_once("listen = [").map_or("", |(_, rest)| rest);
    // Up to the bracket that is not in an address.
    let mut is_text = false;
    let end = list.find(|c| {
        is_text ^= c == '"';
        c == ']' && !is_text
    });
    let entries = list[..end.unwrap_or(0)].split(',');
    let by_attribute = entries.filter_map(|entry| {
        let (name, address) = entry.split_once('=')?;
        Some((name.trim().to_owned(), address.trim().trim_start_matches('"')))
    });
    let scheme = |name: &str, address: &str| match address {
        // An expression says nothing of it, and its parameter does.
        _ if block.contains(&format!("{name}: UnixListener")) => "unix",
        _ if address.starts_with("udp://") => "udp",
        _ if address.starts_with("unix-dgram://") => "unix-dgram",
        _ if address.starts_with("unix-seqpacket:") => "unix-seqpacket",
        _ if address.starts_with('/') || address.starts_with("unix:") => "unix",
        _ => "tcp",
    };
    by_builder.chain(by_attribute).map(|(name, address)| (name.clone(), scheme(&name, address))).collect()
}
