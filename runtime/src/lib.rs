//! Replace a running network service by a new version of itself without one client noticing.

mod address;
mod drain;
mod engine;
mod environment;
mod error;
#[cfg_attr(not(feature = "tokio"), allow(dead_code, reason = "only managed types have gates"))]
mod gate;
mod handover;
#[cfg(feature = "http")]
pub mod http;
mod lifecycle;
#[cfg(feature = "tokio")]
pub mod net;
mod params;
mod pidfile;
mod poll;
mod private;
mod report;
mod service;
mod shared;
mod signals;
mod sockets;
mod spawn;
mod sync;

pub use address::{Address, Host, Kind, Options, ParseAddressError, Place};
pub use drain::{Guard, Shutdown};
pub use error::{StartError, UpgradeError};
pub use params::{FromHarness, FromListener, ListenerSocket, Ready, Start, Upgrader};
#[cfg(feature = "tokio")]
pub use service::Flavor;
pub use service::{IntoAddress, IntoDuration, Service};
pub use shared::Upgraded;
pub use tableflip_macros::main;

#[doc(hidden)]
pub mod __private {
    pub use crate::private::{NotAListener, Type, readiness, takes};
}
