//! The items that the expansion of the attribute uses beyond the public interface. None of them is stable.
//!
//! The compiler evaluates the `const` functions: a panic is a compile error at the user's type.

#![allow(missing_docs, reason = "it is no public interface")]

use std::fmt;
use std::marker::PhantomData;

use crate::base::address::Kind;
use crate::base::returned::ReturnedWithError;
use crate::between::params::{BodyKind, FromListener};

/// Has the constants of [`FromListener`] for any type. For a `FromListener` the inherent constants win over those of
/// [`NotAListener`].
#[derive(Debug)]
pub struct Type<T>(PhantomData<T>);

impl<T: FromListener> Type<T> {
    pub const MANAGED: bool = T::MANAGED;
    pub const KINDS: &'static [Kind] = T::KINDS;
    pub const IN_ASYNC_FN: bool = !matches!(T::BODY, BodyKind::Blocking);
    pub const IN_PLAIN_FN: bool = !matches!(T::BODY, BodyKind::Async);
}

/// The constants of a type that is not a [`FromListener`]. They pass every check here, because the compiler reports that
/// type elsewhere.
pub trait NotAListener {
    const MANAGED: bool = true;
    const KINDS: &'static [Kind] =
        &[Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram, Kind::UnixSeqpacket];
    const IN_ASYNC_FN: bool = true;
    const IN_PLAIN_FN: bool = true;
}

impl<T> NotAListener for Type<T> {}

/// Fails to compile unless this type can be the listener of an address of this kind.
///
/// A type that is not a [`FromListener`] passes, because `Start::listener` reports it and one error is enough. So this
/// reads the constants of [`Type`], which every type has while [`NotAListener`] is in scope.
#[doc(hidden)]
#[macro_export]
macro_rules! __takes {
    ($type:ty, $kind:ident) => {
        const _: () = {
            use $crate::__private::NotAListener as _;
            $crate::__private::check_kinds(
                <$crate::__private::Type<$type>>::KINDS,
                $crate::address::Kind::$kind,
            )
        };
    };
}

/// Fails to compile unless each of these types is for this body. The error is one of a trait, so that it stands at the tokens of
/// the type: a panic would stand at the call of this macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __fits {
    (async $($type:ty),*) => {
        const _: () = {
            use $crate::__private::NotAListener as _;
            $($crate::__private::in_async_fn::<$type, { <$crate::__private::Type<$type>>::IN_ASYNC_FN }>();)*
        };
    };
    (plain $($type:ty),*) => {
        const _: () = {
            use $crate::__private::NotAListener as _;
            $($crate::__private::in_plain_fn::<$type, { <$crate::__private::Type<$type>>::IN_PLAIN_FN }>();)*
        };
    };
}

/// Fails to compile if these types are all raw, in a body that takes no `Ready`, and if one of them is not for this body.
#[doc(hidden)]
#[macro_export]
macro_rules! __readiness {
    ($body:tt $($type:ty),*) => {
        $crate::__private::fits!($body $($type),*);
        const _: () = {
            use $crate::__private::NotAListener as _;
            $crate::__private::check_readiness([$(<$crate::__private::Type<$type>>::MANAGED),*])
        };
    };
}

/// Every type, if `FITS`.
#[diagnostic::on_unimplemented(
    message = "an `async fn` cannot take a listener as `{Self}`",
    label = "blocks the thread of the runtime",
    note = "take the type of the same name of `tableflip::net`, or make the function a plain `fn`"
)]
pub trait InAsyncFn<const FITS: bool> {}

#[diagnostic::do_not_recommend]
impl<T> InAsyncFn<true> for T {}

pub const fn in_async_fn<T: InAsyncFn<FITS>, const FITS: bool>() {}

/// Every type, if `FITS`.
#[diagnostic::on_unimplemented(
    message = "a plain `fn` cannot take a listener as `{Self}`",
    label = "needs the runtime of tokio",
    note = "make the function an `async fn`, or take the type of the same name of `tableflip::blocking`"
)]
pub trait InPlainFn<const FITS: bool> {}

#[diagnostic::do_not_recommend]
impl<T> InPlainFn<true> for T {}

pub const fn in_plain_fn<T: InPlainFn<FITS>, const FITS: bool>() {}

/// The package and the binary of the caller. An example has the name of a binary as well; a test and a library have none.
#[doc(hidden)]
#[macro_export]
macro_rules! __package {
    () => {
        $crate::__private::Package {
            version: ::core::option_env!("CARGO_PKG_VERSION"),
            binary: ::core::option_env!("CARGO_BIN_NAME"),
            name: ::core::option_env!("CARGO_PKG_NAME"),
        }
    };
}

/// Finds the error in the value that a body has returned, of any type. For a `Result` with an error that is `Debug` the
/// inherent method wins over that of [`NoError`].
#[derive(Debug)]
pub struct Probe<'a, T>(pub &'a T);

impl<T, E: fmt::Debug> Probe<'_, Result<T, E>> {
    pub fn error(&self) -> Option<String> {
        self.0.as_ref().err().map(|error| format!("{error:?}"))
    }
}

/// The answer for a value that is not visibly a `Result`.
pub trait NoError {
    fn error(&self) -> Option<String> {
        None
    }
}

impl<T> NoError for Probe<'_, T> {}

/// Joins the value that a body has returned and its error. There is no bound `Termination` here, so that the compiler reports
/// a missing one only once, where the body runs.
pub fn told<T>(returned: T, error: Option<String>) -> ReturnedWithError<T> {
    ReturnedWithError::new(returned, error)
}

pub use {__fits as fits, __package as package, __readiness as readiness, __takes as takes};

pub use crate::config::service::Package;

/// Fails unless a type with these kinds can be the listener of an address of this kind.
#[track_caller]
pub const fn check_kinds(kinds: &[Kind], kind: Kind) {
    let mut at = 0;
    while at < kinds.len() {
        if kinds[at] as u8 == kind as u8 {
            return;
        }
        at += 1;
    }
    match kind {
        Kind::Tcp => panic!("this type is not for a `tcp://` address"),
        Kind::Udp => panic!("this type is not for a `udp://` address"),
        Kind::Unix => panic!("this type is not for a `unix://` address"),
        Kind::UnixDatagram => panic!("this type is not for a `unix-dgram://` address"),
        Kind::UnixSeqpacket => panic!("this type is not for a `unix-seqpacket://` address"),
    }
}

/// Fails if all of these listeners are raw. Called for a body without a `Ready`.
#[track_caller]
pub const fn check_readiness<const N: usize>(managed: [bool; N]) {
    let mut at = 0;
    while at < N {
        if managed[at] {
            return;
        }
        at += 1;
    }
    panic!(
        "nobody can tell when this service is ready, because all of its listeners are raw; take one of them as a \
         managed type such as `tableflip::net::TcpListener`, or take a `tableflip::Ready` and call `notify`"
    );
}
