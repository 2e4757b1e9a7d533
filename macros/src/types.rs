//! What the name of a parameter type says. The macro sees no more of a type than its path.

use proc_macro2::Ident;
use syn::{GenericArgument, PathArguments, Type};

use crate::address::Kind;
use crate::service::Handle;

/// The handles, known by the last segment of their path.
const HANDLES: &[(&str, Handle)] = &[
    ("Shutdown", Handle::Other),
    ("Ready", Handle::Ready),
    ("Upgrader", Handle::Other),
    ("Listeners", Handle::Listeners),
    ("Inherited", Handle::Other),
];

pub(crate) fn handle(ty: &Type) -> Option<Handle> {
    let name = last_segment(ty)?;
    HANDLES.iter().find(|(known, _)| name == known).map(|(_, handle)| *handle)
}

/// `TcpListener` of `tableflip::net::TcpListener`.
pub(crate) fn last_segment(ty: &Type) -> Option<&Ident> {
    match plain_type(ty) {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}

/// The type without the invisible group that a `macro_rules!` puts around its `$t:ty`.
pub(crate) fn plain_type(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => plain_type(&group.elem),
        Type::Paren(paren) => plain_type(&paren.elem),
        ty => ty,
    }
}

/// Whether the name of the type is that of a listener. `Option<TcpListener>` is one too.
pub(crate) fn is_listener(ty: &Type) -> bool {
    let Type::Path(path) = plain_type(ty) else { return false };
    let Some(segment) = path.path.segments.last() else { return false };
    match &segment.arguments {
        PathArguments::AngleBracketed(arguments) if segment.ident == "Option" => arguments
            .args
            .iter()
            .any(|argument| matches!(argument, GenericArgument::Type(ty) if is_listener(ty))),
        _ => Kind::ALL.iter().any(|kind| segment.ident == usual_type(*kind)),
    }
}

/// The name of the usual type for a listener of this kind.
pub(crate) fn usual_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "TcpListener",
        Kind::Udp => "UdpSocket",
        Kind::Unix => "UnixListener",
        Kind::UnixDatagram => "UnixDatagram",
        Kind::UnixSeqpacket => "OwnedFd",
    }
}

/// Whether the name is that of the usual type for some kind of listener.
pub(crate) fn is_usual_type(ty: &Type) -> bool {
    let kinds = [Kind::Tcp, Kind::Udp, Kind::Unix, Kind::UnixDatagram];
    kinds.into_iter().any(|kind| last_segment(ty).is_some_and(|name| name == usual_type(kind)))
}

/// The form of the usual address for a listener of this type.
pub(crate) fn usual_address(ty: &Type) -> &'static str {
    let is = |kind| last_segment(ty).is_some_and(|name| name == usual_type(kind));
    if is(Kind::Udp) {
        "udp://HOST:PORT"
    } else if is(Kind::Unix) {
        "unix:///PATH"
    } else if is(Kind::UnixDatagram) {
        "unix-dgram:///PATH"
    } else {
        "tcp://HOST:PORT"
    }
}
