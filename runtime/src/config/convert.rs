//! What the methods of `Service` take as the value of an option.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::base::address::{Address, ParseAddressError};
use crate::base::error::{ParseOptionError, StartError};
use crate::base::probe::Probe;
#[cfg(feature = "tokio")]
use crate::config::choices::Flavor;
use crate::config::choices::{Supervise, UpgradeSignal};
use crate::lifecycle::Overlap;

/// A value for an option of [`Service`](crate::Service) whose type is `T`.
///
/// | `T` | values |
/// |---|---|
/// | [`Address`] | an `Address`, a text, a [`SocketAddr`], or the path of a Unix socket |
/// | [`Duration`] | a `Duration`, or a text such as `"500ms"`, `"30s"` or `"2m"` |
/// | [`Overlap`], [`Supervise`], [`UpgradeSignal`], `Flavor` | the enum, or its text |
/// | [`Probe`] | a `Probe`, or its text |
/// | [`PathBuf`], [`OsString`], `String`, `usize` | the type, and the types that it is usually made from |
/// | [`ControlPath`] | a path, or `false` for no control socket |
///
/// A reference to a value is a value. An [`Option`] is a value: `None` leaves the option as it is. The start reports a
/// text that does not parse.
///
/// The crate implements this trait for all of these types, and no other crate can.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value for an option of type `{T}`",
    label = "not a value for this option",
    note = "an option takes its type, a text, a reference to one of these, or an `Option`, in which `None` leaves the option as it is"
)]
pub trait Setting<T> {
    #[doc(hidden)]
    fn declare(self, seal: Seal) -> Declared<T>;
}

/// A method of a sealed trait takes this value. No other crate can name its type, so none can implement the trait or call the
/// method.
#[derive(Clone, Copy, Debug)]
pub struct Seal(pub(crate) ());

/// The declared value of an option. `None` leaves the option as it is.
pub(crate) type Declared<T> = Result<Option<T>, Unusable>;

/// A text that is no value of its option. The start reports it.
#[derive(Debug)]
pub struct Unusable {
    text: String,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Address(ParseAddressError),
    Other(String),
}

impl Unusable {
    pub(super) fn of_option(self, option: &'static str) -> StartError {
        let Self { text, problem } = self;
        let problem = match problem {
            Problem::Address(error) => format!("`{text}`: {error}"),
            Problem::Other(problem) => problem,
        };
        StartError::Option { option, problem }
    }

    pub(crate) fn of_listener(self, listener: String) -> StartError {
        let Self { text, problem } = self;
        match problem {
            Problem::Address(source) => StartError::Address { listener, text, source },
            Problem::Other(problem) => StartError::Listener { listener, problem },
        }
    }
}

/// Evaluates a value that a method of `Service` was given.
pub(crate) fn declared<T>(value: impl Setting<T>) -> Declared<T> {
    value.declare(Seal(()))
}

/// The path of the control socket, or none. See [`Service::control`](crate::Service::control).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlPath {
    /// The service has no control socket.
    Off,
    /// The path. A relative path is relative to the first working directory.
    At(PathBuf),
}

impl<T, S: Setting<T>> Setting<T> for Option<S> {
    fn declare(self, seal: Seal) -> Declared<T> {
        self.map_or(Ok(None), |value| value.declare(seal))
    }
}

impl<T, S: Setting<T> + Clone> Setting<T> for &S {
    fn declare(self, seal: Seal) -> Declared<T> {
        self.clone().declare(seal)
    }
}

/// Values that are always usable.
macro_rules! usable {
    ($($target:ty: $($value:ty),+ => $make:expr;)+) => {$($(
        impl Setting<$target> for $value {
            fn declare(self, _: Seal) -> Declared<$target> {
                Ok(Some($make(self)))
            }
        }
    )+)+};
}

usable! {
    Address: Address, SocketAddr => Address::from;
    Address: SocketAddrV4, SocketAddrV6, (IpAddr, u16) => |address| Address::from(SocketAddr::from(address));
    Duration: Duration => Duration::from;
    Overlap: Overlap => Overlap::from;
    Supervise: Supervise => Supervise::from;
    UpgradeSignal: UpgradeSignal => UpgradeSignal::from;
    Probe: Probe => Probe::from;
    ControlPath: ControlPath => ControlPath::from;
    ControlPath: PathBuf, &Path, OsString, &OsStr, String, &str => control_at;
    PathBuf: PathBuf, &Path, OsString, &OsStr, String, &str => PathBuf::from;
    OsString: PathBuf, &Path, OsString, &OsStr, String, &str => OsString::from;
    String: String, &str, Cow<'_, str> => String::from;
    usize: usize => usize::from;
    usize: NonZeroUsize => NonZeroUsize::get;
}

#[cfg(feature = "tokio")]
usable! {
    Flavor: Flavor => Flavor::from;
}

fn control_at(path: impl Into<PathBuf>) -> ControlPath {
    ControlPath::At(path.into())
}

/// Texts that are parsed.
macro_rules! parsed {
    ($($target:ty => $parse:expr;)+) => {$(
        parsed!($target: &str, String, Cow<'_, str> => $parse);
    )+};
    ($target:ty: $($text:ty),+ => $parse:expr) => {$(
        impl Setting<$target> for $text {
            fn declare(self, _: Seal) -> Declared<$target> {
                let text: &str = &self;
                $parse(text).map(Some).map_err(|problem| Unusable { text: text.to_owned(), problem })
            }
        }
    )+};
}

parsed! {
    Address => |text: &str| text.parse().map_err(Problem::Address);
    Duration => |text: &str| parse_duration(text).map_err(|problem| Problem::Other(format!("`{text}` is {problem}")));
    Overlap => choice;
    Supervise => choice;
    UpgradeSignal => choice;
    Probe => choice;
}

#[cfg(feature = "tokio")]
parsed! {
    Flavor => choice;
}

fn choice<T: FromStr<Err = ParseOptionError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error| Problem::Other(format!("`{text}`: {error}")))
}

/// The path of a Unix socket.
impl Setting<Address> for &Path {
    fn declare(self, seal: Seal) -> Declared<Address> {
        let text = self.to_string_lossy().into_owned();
        let problem = match self.to_str() {
            None => format!("{self:?} is not UTF-8"),
            Some(path) if path.contains('?') => has_question_mark(self),
            Some(path) => return format!("unix://{path}").declare(seal),
        };
        Err(Unusable { text, problem: Problem::Other(problem) })
    }
}

impl Setting<Address> for PathBuf {
    fn declare(self, seal: Seal) -> Declared<Address> {
        self.as_path().declare(seal)
    }
}

impl Setting<ControlPath> for bool {
    fn declare(self, _: Seal) -> Declared<ControlPath> {
        match self {
            false => Ok(Some(ControlPath::Off)),
            true => {
                let problem = Problem::Other("expected a path, or `false`".to_owned());
                Err(Unusable { text: "true".to_owned(), problem })
            }
        }
    }
}

pub(super) fn has_question_mark(path: &Path) -> String {
    format!("{path:?} has a `?`, which begins the options of an address")
}

/// Parses a duration. The error says what is expected instead.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = |error| format!("not a duration such as `500ms`, `30s` or `2m`: {error}");
    humantime::parse_duration(text).map_err(expected)
}
