//! A client that is another program, such as wrk, and counts its losses by itself.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use processes::skip;

use crate::{Service, upgrades};

/// The most work for a program, as a multiple of that for one run.
const MOST: u32 = 64;

/// A program and how it begins.
#[derive(Debug)]
pub struct Program<'a> {
    /// Which listener it asks.
    pub listener: &'a str,
    /// How many connections or datagrams it sends to it before it is at work.
    pub begun: u64,
}

impl Program<'_> {
    /// Runs the program while the service is upgraded. `command` and `check` get the number of upgrades that the program has to
    /// outlast, and `check` its output. A program that ends before the upgrades do, because the machine is fast or slow, runs again with
    /// twice as much to do.
    pub fn across_upgrades(
        self,
        service: &mut Service,
        command: impl Fn(u32) -> Command,
        mut upgrade: impl FnMut(&mut Service),
        check: impl Fn(u32, &str),
    ) {
        let mut times = upgrades();
        loop {
            let output = service.path("output");
            // Not a pipe: a full pipe would block the program.
            let stdout = File::create(&output).expect("a file for its output");
            let stderr = stdout.try_clone().expect("a descriptor");
            let taken = service.taken(self.listener);
            let mut child =
                command(times).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("it runs");
            crate::wait_until("the program asks", || service.taken(self.listener) >= taken + self.begun);
            upgrade(service);
            let is_at_work = child.try_wait().expect("it is a child").is_none();
            let status = child.wait().expect("it is a child");
            let text = fs::read_to_string(&output).expect("its output is text");
            assert!(status.success(), "{status}: {text}");
            check(times, &text);
            if is_at_work {
                return;
            }
            assert!(
                times < MOST * upgrades(),
                "it has ended before the upgrades have, given {times} times as much"
            );
            times *= 2;
        }
    }
}

/// Whether a program is there. If not, says that the test is skipped, for `.ci/run` to count.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        skip(&format!("there is no {program}"));
    }
    found
}
