//! The value that every check of the second step adds to.

use proc_macro2::Ident;
use syn::ext::IdentExt as _;
use syn::{Expr, Path};

use crate::address::Address;
use crate::attr::Errors;
use crate::service::{Config, Setting, Value};

/// The longest name of a listener, and of a service, in bytes; the runtime has the same limit.
pub(super) const MAX_NAME: usize = 64;

/// The service as far as it is understood, with every mistake found so far.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) errors: Errors,
    pub(super) runtime: Option<Path>,
    pub(super) config: Option<Config>,
    pub(super) entries: Vec<Entry>,
    /// Set when an entry could not be read. Its name is unknown, so any parameter may be its listener.
    pub(super) listen_in_doubt: bool,
    pub(super) settings: Vec<Setting>,
    /// The listener that a literal of `probe` names, and that literal.
    pub(super) probe: Option<(String, Expr)>,
}

/// An entry of `listen`.
pub(super) struct Entry {
    pub(super) option: Ident,
    pub(super) name: Option<Ident>,
    pub(super) address: Expr,
    /// `None` if the address is wrong, or is an expression, which only the start of the service evaluates.
    pub(super) literal: Option<Address>,
}

impl Draft {
    pub(super) fn set(&mut self, option: &Ident, value: Value) {
        self.settings.push(Setting { option: option.clone(), value });
    }

    /// The index of the entry of this name.
    pub(super) fn named(&self, name: &Ident) -> Option<usize> {
        let name = plain_name(name);
        self.entries.iter().position(|entry| entry.name.as_ref().map(plain_name).as_ref() == Some(&name))
    }
}

/// `type` for `r#type`.
pub(super) fn plain_name(name: &Ident) -> String {
    name.unraw().to_string()
}
