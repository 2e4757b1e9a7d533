//! Tests with real processes; `harness.rs` says how to write one.

mod attribute;
mod deaths;
mod drain;
mod failures;
mod harness;
mod promises;
mod signals;
mod stop;
mod upgrader;
