//! The types that the methods of `Service` take for an address, a control socket and a duration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::address::{Address, ParseAddressError};

/// An address, or a text that does not parse and the reason. The start reports the reason.
pub(super) type DeclaredAddress = Result<Address, (String, ParseAddressError)>;

/// What [`Service::listen`](crate::Service::listen) takes: an [`Address`], or a text that the start parses.
pub trait IntoAddress {
    #[doc(hidden)]
    fn into_address(self) -> DeclaredAddress;
}

impl IntoAddress for Address {
    fn into_address(self) -> DeclaredAddress {
        Ok(self)
    }
}

impl IntoAddress for &str {
    fn into_address(self) -> DeclaredAddress {
        self.parse().map_err(|error| (self.to_owned(), error))
    }
}

impl IntoAddress for String {
    fn into_address(self) -> DeclaredAddress {
        self.as_str().into_address()
    }
}

/// What [`Service::control`](crate::Service::control) takes: a path, or `false`.
pub trait IntoControl {
    #[doc(hidden)]
    fn into_control(self) -> Result<OsString, String>;
}

impl IntoControl for bool {
    fn into_control(self) -> Result<OsString, String> {
        if self { Err("expected a path, or `false`".to_owned()) } else { Ok("false".into()) }
    }
}

macro_rules! path_of_control {
    ($($path:ty),+) => {$(
        impl IntoControl for $path {
            fn into_control(self) -> Result<OsString, String> {
                Ok(self.into())
            }
        }
    )+};
}

path_of_control!(&str, String, &Path, PathBuf);

/// A duration: a [`Duration`], or a text such as `"500ms"`, `"30s"` or `"2m"`.
pub trait IntoDuration {
    #[doc(hidden)]
    fn into_duration(self) -> Result<Duration, String>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, String> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, String> {
        parse_duration(self).map_err(|problem| format!("`{self}` is {problem}"))
    }
}

/// Parses a duration. The error says what is expected instead.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = |error| format!("not a duration such as `500ms`, `30s` or `2m`: {error}");
    humantime::parse_duration(text).map_err(expected)
}
