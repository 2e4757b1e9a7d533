//! What else a plan can make a victim do: to its own process, for tests of what a successor is started with.
#![allow(unsafe_code)]

use std::env;
use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::plan::directory;
use crate::say::say;

/// Does one thing; `false` if there is no such verb.
pub(crate) fn act(generation: u64, verb: &str, argument: &str) -> bool {
    match verb {
        "chdir" => env::set_current_dir(argument).expect("a directory"),
        "setenv" => {
            let (name, value) = argument.split_once(' ').expect("a name and a value");
            set_variable(name, value);
        }
        // So many KiB of address space are left to this process.
        "memory" => {
            let status = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
            let pages: u64 = status.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number");
            let left: u64 = argument.parse().expect("a number");
            let limit = Some(pages * rustix::param::page_size() as u64 + left * 1024);
            setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).expect("less is allowed");
        }
        // Runs a program, whose output goes to a file.
        "run" => {
            let (file, command) = argument.split_once(' ').expect("a file and a command");
            let mut words = command.split(' ');
            let output = File::create(directory().join(file)).expect("a file");
            let status = Command::new(words.next().expect("a program")).args(words).stdout(output).status();
            assert!(status.expect("a program").success());
            say(generation, "ran", file);
        }
        // Starts a program again and again for as long as this process lives, in both ways that std has: with a
        // PATH of its own a child is forked, without it is spawned.
        "breed" => {
            for forked in [false, true] {
                let mut command = Command::new(argument);
                command.stdin(Stdio::null()).stdout(Stdio::null());
                if forked {
                    command.env("PATH", "/");
                }
                thread::spawn(move || {
                    loop {
                        assert!(command.status().expect("a program").success());
                    }
                });
            }
        }
        _ => return false,
    }
    true
}

fn set_variable(name: &str, value: &str) {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted").count();
    assert_eq!(tasks, 1, "a variable is set at the point `main`");
    // SAFETY: this process has one thread, so nobody else reads or writes the environment.
    unsafe { env::set_var(name, value) };
}
