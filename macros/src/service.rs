//! The value between validation and expansion: a service that is correct by construction.

use proc_macro2::Ident;
use syn::{Expr, Path, Type};

use crate::address::Kind;

/// Everything the expansion needs, without anything that could be wrong.
pub(crate) struct Service {
    /// The path of the runtime crate.
    pub(crate) runtime: Path,
    pub(crate) config: Option<Config>,
    pub(crate) listeners: Vec<Listener>,
    /// In the order in which the user wrote them.
    pub(crate) settings: Vec<Setting>,
    /// In the order of the signature.
    pub(crate) parameters: Vec<Parameter>,
}

/// The configuration: it is loaded first, and every option may use it by the name of the option.
pub(crate) struct Config {
    pub(crate) option: Ident,
    pub(crate) value: Expr,
}

/// One call `.listen(name, address)`.
pub(crate) struct Listener {
    pub(crate) option: Ident,
    pub(crate) name: String,
    pub(crate) address: Expr,
    /// `None` unless the address is a literal.
    pub(crate) kind: Option<Kind>,
}

/// One call `.option(value)`.
pub(crate) struct Setting {
    pub(crate) option: Ident,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    Expr(Expr),
    /// A variant of the runtime's `Flavor`.
    Flavor(&'static str),
}

/// One parameter of the body.
pub(crate) struct Parameter {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    pub(crate) role: Role,
}

/// What the body receives as a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The index of the listener.
    Listener(usize),
    Handle(Handle),
    /// The configuration.
    Config,
    /// A parameter of the function's own: the generated function has it too.
    Own,
}

/// A type of the runtime that is no listener. `Other` needs no treatment of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    Ready,
    Listeners,
    Other,
}
