//! Tests of tableflip with real processes.
//!
//! The services that are started and replaced are the binaries in `src/bin`. The tests are in `tests`, most of them in `tests/it`:
//! its `harness.rs` shows how to write one. `ui` has the tests of the compiler's errors about the attribute. This library has what
//! several binaries of tests share: the client, one end of a handover channel, and a package outside of the workspace.

pub mod channel;
pub mod client;
pub mod package;

/// Compiles the examples of the reference, and runs those that can be.
#[cfg(doctest)]
#[doc = include_str!("../../docs/reference.md")]
pub struct Reference;

/// Compiles the examples of the page on frameworks.
#[cfg(doctest)]
#[doc = include_str!("../../docs/frameworks.md")]
pub struct Frameworks;

/// Compiles the examples of the page on configurations, and runs those that can be.
#[cfg(doctest)]
#[doc = include_str!("../../docs/configuration.md")]
pub struct Configuration;

/// Compiles the examples of the page on connections.
#[cfg(doctest)]
#[doc = include_str!("../../docs/connections.md")]
pub struct Connections;
