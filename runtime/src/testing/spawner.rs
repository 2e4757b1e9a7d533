//! Starts a successor on a thread of the same test.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::successor::{Next, ThreadChild};
use crate::config::environment;
use crate::outside::preflight::Check;
use crate::outside::spawner::{Child, Image, Spawner};

impl Spawner for Next {
    fn spawn(&mut self, _image: Image, channel: OwnedFd) -> Result<Box<dyn Child>, String> {
        match self.take() {
            Some(job) => Ok(Box::new(Shareable(job(channel)))),
            None => Err("in a test a service is upgraded with `Running::replace`".to_owned()),
        }
    }

    fn executable(&self) -> Option<&Path> {
        None
    }

    fn check(&self, _image: Image, command: &OsStr, variables: &[(OsString, OsString)]) -> io::Result<Check> {
        let mut environment = environment::passed_on(env::vars_os());
        environment.extend_from_slice(variables);
        Check::start(command, Path::new("sh"), &[], Path::new("/"), &environment, None)
    }
}

struct Shareable(Arc<ThreadChild>);

impl AsFd for Shareable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.ended.as_fd()
    }
}

impl Child for Shareable {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn kill(&self) {
        self.0.kill();
    }

    fn reap(&self) -> Option<String> {
        self.0.ended.read().ok().map(|_| "ended".to_owned())
    }

    fn may_fork(&self) -> bool {
        false
    }
}
