//! The two kinds of runtime that a service can choose.

use std::str::FromStr;

use tokio::runtime::{Builder, Runtime};

/// That of a service which chooses none.
pub(crate) const DEFAULT: &str = Flavor::MultiThread.name();

/// As in `#[tokio::main]`; the names are those of its option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavor {
    MultiThread,
    CurrentThread,
}

impl Flavor {
    pub(crate) const ALL: [Self; 2] = [Self::MultiThread, Self::CurrentThread];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MultiThread => "multi_thread",
            Self::CurrentThread => "current_thread",
        }
    }

    /// What `#[tokio::main]` makes of it.
    pub(crate) fn runtime(self) -> std::io::Result<Runtime> {
        let mut builder = match self {
            Self::MultiThread => Builder::new_multi_thread(),
            Self::CurrentThread => Builder::new_current_thread(),
        };
        builder.enable_all().build()
    }
}

impl From<Flavor> for tableflip::Flavor {
    fn from(flavor: Flavor) -> Self {
        match flavor {
            Flavor::MultiThread => Self::MultiThread,
            Flavor::CurrentThread => Self::CurrentThread,
        }
    }
}

impl FromStr for Flavor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|flavor| flavor.name() == text);
        found.ok_or_else(|| format!("no such flavor: {text}"))
    }
}
