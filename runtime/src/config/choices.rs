//! The options whose value is one of a few words: the types, and the words.

use std::fmt;
use std::str::FromStr;

use crate::base::error::ParseOptionError;
use crate::base::probe::Probe;
use crate::lifecycle::Overlap;
use crate::sys::signals::{self, Signal};

/// Whether the first process stays as the supervisor of the generations. As text: `auto`, `always` or `never`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Supervise {
    /// Only as PID 1, as in a container.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The signal that starts an upgrade. As text: its name, such as `SIGUSR2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UpgradeSignal {
    /// SIGHUP.
    #[default]
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
    /// SIGQUIT.
    Quit,
    /// SIGWINCH.
    WindowChange,
}

/// The kind of tokio runtime that an `async fn main` runs on. As text: `multi_thread` or `current_thread`.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Flavor {
    /// A pool of threads, one for each core or as many as `worker_threads` says.
    #[default]
    MultiThread,
    /// The thread of `main` alone.
    CurrentThread,
}

impl UpgradeSignal {
    pub(crate) fn number(self) -> Signal {
        let (_, signal) = signals::UPGRADE_SIGNALS[self as usize];
        signal
    }
}

/// An option with a few values, each with its word.
pub(super) trait Choice: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

macro_rules! choices {
    ($($type:ident: $($word:literal = $variant:ident),+;)+) => {$(
        impl Choice for $type {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl FromStr for $type {
            type Err = ParseOptionError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                choose(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $word),+
                })
            }
        }
    )+};
}

choices! {
    Overlap: "refuse" = Refuse, "wait" = Wait, "hasten" = Hasten;
    Supervise: "auto" = Auto, "always" = Always, "never" = Never;
    UpgradeSignal: "SIGHUP" = Hangup, "SIGUSR1" = User1, "SIGUSR2" = User2, "SIGQUIT" = Quit, "SIGWINCH" = WindowChange;
}

#[cfg(feature = "tokio")]
choices! {
    Flavor: "multi_thread" = MultiThread, "current_thread" = CurrentThread;
}

impl FromStr for Probe {
    type Err = ParseOptionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).map_err(ParseOptionError::new)
    }
}

fn choose<T: Choice>(text: &str) -> Result<T, ParseOptionError> {
    match T::WORDS.iter().find(|(word, _)| *word == text) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
            Err(ParseOptionError::new(format!("expected one of {}", words.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_word_is_its_choice<
        T: Choice + FromStr<Err = ParseOptionError> + ToString + PartialEq + fmt::Debug,
    >() {
        for (word, choice) in T::WORDS {
            assert_eq!(word.parse().as_ref(), Ok(choice));
            assert_eq!(choice.to_string(), *word);
        }
    }

    #[test]
    fn each_choice_has_its_word() {
        each_word_is_its_choice::<Overlap>();
        each_word_is_its_choice::<Supervise>();
        each_word_is_its_choice::<UpgradeSignal>();
        #[cfg(feature = "tokio")]
        each_word_is_its_choice::<Flavor>();
        let error = "SIGINT".parse::<UpgradeSignal>().unwrap_err();
        assert_eq!(error.to_string(), "expected one of SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT, SIGWINCH");
    }

    #[test]
    fn each_signal_is_the_one_of_its_name() {
        for ((word, choice), (name, signal)) in UpgradeSignal::WORDS.iter().zip(signals::UPGRADE_SIGNALS) {
            assert_eq!((*word, choice.number()), (name, signal));
        }
    }
}
