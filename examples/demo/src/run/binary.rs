//! Builds the service, and the program with further clients where the service needs them.

use std::{
    env,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

/// Builds a package by cargo, in the profile that this program was built in, and says where it is.
///
/// It is not a dependency of this package, because cargo gives a package only the libraries of another one, and a
/// service inside this program would not be the thing that a reader is going to deploy.
pub(crate) fn build(package: &str) -> io::Result<PathBuf> {
    // `cargo run` says which cargo it is; somebody who starts the program by hand gets the one in PATH.
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--package", package, "--bin", package])
        .arg("--message-format=json-render-diagnostics")
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")])
        .stdout(Stdio::piped());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let mut cargo = command.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot start cargo to build {package}: {error}; --binary names a service that is built"),
        )
    })?;

    let mut executable = None;
    if let Some(messages) = cargo.stdout.take() {
        for line in BufReader::new(messages).lines() {
            executable = executable_in(&line?, package).or(executable);
        }
    }
    let status = cargo.wait()?;
    if !status.success() {
        return Err(io::Error::other(format!("cargo could not build {package} ({status})")));
    }
    executable.ok_or_else(|| io::Error::other(format!("cargo did not say where it put {package}")))
}

/// The executable of a package, if this line of cargo's messages names it.
fn executable_in(line: &str, package: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let wanted = message["reason"] == "compiler-artifact" && message["target"]["name"] == package;
    wanted.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_the_messages_of_cargo() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"hello"},"executable":null}"#;
        let other = r#"{"reason":"compiler-artifact","target":{"name":"demo"},"executable":"/t/demo"}"#;
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"hello"},"executable":"/t/hello"}"#;
        let end = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(
            [library, other, end, "warning: no JSON"].map(|line| executable_in(line, "hello")),
            [None, None, None, None]
        );
        assert_eq!(executable_in(binary, "hello"), Some(PathBuf::from("/t/hello")));
    }
}
