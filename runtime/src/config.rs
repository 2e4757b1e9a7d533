//! What a service declares, and what its environment overrides.

pub(crate) mod convert;
pub(crate) mod environment;
pub(crate) mod service;
pub(crate) mod settings;
