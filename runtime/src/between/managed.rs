//! What every managed type has, of `net` and of `blocking`.

#[cfg(any(feature = "tokio", not(upgrades)))]
use std::sync::Arc;

#[cfg(any(feature = "tokio", not(upgrades)))]
use crate::between::{gate::Gate, params::ListenerSocket};

/// The gate of a listener, which the engine controls from now on.
#[cfg(any(feature = "tokio", not(upgrades)))]
pub(crate) fn gated<T: Send + Sync + 'static>(socket: ListenerSocket<'_>, io: Arc<T>) -> Arc<Gate<T>> {
    let gate = Arc::new(Gate::new(socket.name().to_owned(), socket.shared().clone(), io));
    socket.register(gate.clone());
    gate
}

/// A type that a body takes as a listener. `$part` does the work: it is made of a [`ListenerSocket`], and has a `local_addr`.
/// The module above has the constant `BODY`.
///
/// [`ListenerSocket`]: crate::between::params::ListenerSocket
macro_rules! managed_type {
    (
        $(#[$doc:meta])* $name:ident, $kind:ident, $part:ident: $type:ty, $address:ty,
        $(#[$error:meta])*
    ) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            $part: std::sync::Arc<$type>,
        }

        impl $name {
            /// getsockname(2): the address that it is bound to.
            ///
            /// # Errors
            ///
            $(#[$error])*
            pub fn local_addr(&self) -> std::io::Result<$address> {
                self.$part.local_addr()
            }
        }

        impl crate::between::params::FromListener for $name {
            const MANAGED: bool = true;
            const KINDS: &'static [crate::base::address::Kind] = &[crate::base::address::Kind::$kind];
            const BODY: crate::between::params::BodyKind = super::BODY;

            fn from_listener(socket: crate::between::params::ListenerSocket<'_>) -> std::io::Result<Self> {
                Ok(Self { $part: std::sync::Arc::new(<$type>::new(socket)?) })
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("local_addr", &self.local_addr().ok()).finish()
            }
        }
    };
}

pub(crate) use managed_type;
