//! The declaration of a service, and the environment that overrides it.

pub(crate) mod choices;
pub(crate) mod convert;
pub(crate) mod environment;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod text;
