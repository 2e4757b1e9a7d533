//! The variable that names its process.

use std::os::fd::RawFd;

use nix::libc;

/// The variable of a process that names it as the addressee: `NAME=NUMBER:PID`. Only the clone knows the process ID, and
/// writes it.
pub(super) struct OwnVariable {
    text: Vec<u8>,
    pid_at: usize,
}

impl OwnVariable {
    pub(super) fn new(name: &str, number: RawFd) -> Self {
        let mut text = format!("{name}={number}:").into_bytes();
        let pid_at = text.len();
        text.resize(pid_at + MAX_PID + 1, 0);
        Self { text, pid_at }
    }

    /// The variable of the process of this ID. It allocates nothing.
    pub(super) fn of(&mut self, mut pid: u32) -> *mut libc::c_char {
        let mut digits = [0; MAX_PID];
        let mut first = MAX_PID;
        while pid > 0 && first > 0 {
            first -= 1;
            digits[first] = b'0' + (pid % 10) as u8;
            pid /= 10;
        }
        for (to, digit) in self.text[self.pid_at..].iter_mut().zip(&digits[first..]) {
            *to = *digit;
        }
        self.text.as_mut_ptr().cast()
    }
}

/// The digits of the greatest process ID.
const MAX_PID: usize = 10;
