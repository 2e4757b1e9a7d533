//! Writes the descriptors that it was started with: one line in the file `witness` of the directory of the test, with the
//! number and the target of each.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

fn main() {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let mut numbers: Vec<u32> = entries
        .map(|entry| {
            entry.expect("an entry").file_name().to_str().expect("a number").parse().expect("a number")
        })
        .collect();
    numbers.sort_unstable();
    let mut line = String::new();
    for number in numbers {
        // The one that is gone by now was that of the directory.
        if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
            // A formatter that is given a `String` does not fail.
            _ = write!(line, "{number}={} ", target.display());
        }
    }
    line.push('\n');
    let directory =
        PathBuf::from(env::var_os("VICTIM_DIR").expect("VICTIM_DIR names the directory of the test"));
    let mut file = File::options().append(true).create(true).open(directory.join("witness")).expect("a file");
    file.write_all(line.as_bytes()).expect("a file that can be written");
}
