//! A package outside of the workspace, as a user of `tableflip` has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes a package of this name with these lines under `[dependencies]`. The versions are those of the lock file of the workspace.
pub fn write(dir: &Path, name: &str, dependencies: &str, main: &str) {
    let manifest = format!(
        "[package]\nname = {name:?}\nedition = \"2024\"\n[workspace]\n[dependencies]\n{dependencies}\n\
         [profile.dev]\ndebug = false\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest).expect("it can be written");
    fs::create_dir_all(dir.join("src")).expect("it can be made");
    fs::write(dir.join("src/main.rs"), main).expect("it can be written");
    fs::copy(workspace().join("Cargo.lock"), dir.join("Cargo.lock")).expect("it can be copied");
}

/// `cargo COMMAND` in that package. The target directory is kept, so that the dependencies are compiled once.
pub fn cargo(dir: &Path, command: &str, target: &Path) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([command, "--quiet", "--offline", "--color=never", "--target-dir"])
        .arg(target)
        .current_dir(dir);
    cargo
}

/// The directory of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the workspace").to_owned()
}
