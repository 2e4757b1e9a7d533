//! The public interface of `tableflip` is docs/interface.txt: a change of the interface is a change of that file, which a review sees.
//!
//! `UPDATE_EXPECT=1 SLOW_TESTS=1 cargo test -p tests --test interface` writes the file. The listing has all features of the library,
//! on Linux. It leaves out what is `#[doc(hidden)]`, and implementations that every type has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;
use public_api::Builder;
use tests::package;

/// The format of rustdoc's JSON that the crate `public-api` of this version reads: that of Rust 1.95 to 1.97.
const FORMAT: u64 = 57;

/// The crates whose types are part of the interface. A new major version of one of these is a new major version of `tableflip`.
const IN_THE_INTERFACE: [&str; 12] = [
    "alloc",
    "axum",
    "clap_builder",
    "core",
    "futures_core",
    "http",
    "serde_core",
    "std",
    "tableflip",
    "tokio",
    "tokio_tungstenite",
    "tungstenite",
];

/// Writes the interface as JSON. A target directory of its own, because `RUSTC_BOOTSTRAP` is set for every crate.
fn json() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interface");
    let mut rustdoc = Command::new(env!("CARGO"));
    rustdoc.args([
        "rustdoc",
        "--quiet",
        "--locked",
        "-p",
        "tableflip",
        "--lib",
        "--features",
        "axum-08,cli,futures-03,http,websocket",
    ]);
    rustdoc.arg("--target-dir").arg(&target).current_dir(package::workspace());
    // The output as JSON is not stable. Warnings are those of `cargo doc`.
    rustdoc.args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"]);
    let status = rustdoc.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTDOCFLAGS").status();
    assert!(status.expect("cargo runs").success(), "cargo rustdoc");
    target.join("doc/tableflip.json")
}

/// The first segments of the paths in a line.
fn crates(line: &str) -> impl Iterator<Item = &str> {
    let paths = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let roots = paths.filter_map(|path| path.trim_start_matches(':').split_once("::")).map(|(root, _)| root);
    roots.filter(|root| root.starts_with(|c: char| c.is_ascii_lowercase()))
}

#[test]
fn the_public_interface_is_the_committed_listing() {
    if !processes::is_slow_wanted() {
        return processes::skip("SLOW_TESTS=1 lists the public interface");
    }
    let json = json();
    let text = fs::read_to_string(&json).expect("rustdoc has written it");
    let format = text.rsplit("\"format_version\":").next().expect("the last part");
    let format: String = format.chars().take_while(char::is_ascii_digit).collect();
    if format.parse() != Ok(FORMAT) {
        return processes::skip(&format!(
            "this compiler writes format {format} of rustdoc's JSON, not {FORMAT}"
        ));
    }
    let interface = Builder::from_rustdoc_json(&json).omit_blanket_impls(true).omit_auto_trait_impls(true);
    let interface = interface.build().expect("it is JSON of rustdoc");
    let listing: String = interface.items().map(|item| format!("{item}\n")).collect();
    assert!(listing.contains("\npub fn tableflip::Service::pidfile(self"), "{listing}");

    let leaks = |line: &&str| crates(line).any(|root| !IN_THE_INTERFACE.contains(&root));
    let leaked: Vec<_> = listing.lines().filter(leaks).collect();
    assert!(leaked.is_empty(), "types of other crates than {IN_THE_INTERFACE:?}:\n{}", leaked.join("\n"));
    let found: BTreeSet<_> = listing.lines().flat_map(crates).collect();
    assert_eq!(found, IN_THE_INTERFACE.into(), "each of them is in the interface");

    expect_file!["../../docs/interface.txt"].assert_eq(&listing);
}

#[test]
fn a_type_of_a_private_dependency_is_found() {
    let line = "pub fn tableflip::Status::raw(&self) -> core::option::Option<&nix::sys::stat::FileStat>";
    assert_eq!(crates(line).collect::<Vec<_>>(), ["tableflip", "core", "nix"]);
    let line =
        "impl<T: std::fmt::Debug> core::convert::From<T> for tableflip::Host where T::Error: socket2::Domain";
    assert_eq!(crates(line).collect::<Vec<_>>(), ["std", "core", "tableflip", "socket2"]);
}
