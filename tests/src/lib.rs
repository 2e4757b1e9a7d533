//! Tests of tableflip with real processes.
//!
//! The services that are started and replaced are the binaries in `src/bin`; the tests and their harness are in
//! `tests/it`, which says how to write one. `ui` holds the tests of what the compiler says about the attribute.

pub mod channel;

/// Compiles the examples of the reference, and runs those that can be.
#[cfg(doctest)]
#[doc = include_str!("../../docs/reference.md")]
pub struct Reference;
