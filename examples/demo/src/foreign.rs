//! The interface of the clients that the package `demo-clients` adds.

use std::{ffi::OsString, fmt, future::Future, io, net::SocketAddr, path::Path, pin::Pin, sync::Arc};

/// A client of another protocol. It keeps its connection by itself, as long as the protocol lets it.
pub trait Foreign: Send {
    /// One request, up to its whole answer. The kind of the error says how it was lost.
    fn ask(&mut self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>>;

    /// How many connections it has asked for so far.
    fn connections(&self) -> u32;
}

/// Makes a client that has no connection yet.
pub type Make = Arc<dyn Fn() -> Box<dyn Foreign> + Send + Sync>;

/// Prepares the service of this name, which is going to run in this directory and to be asked at this address.
pub type Prepare = fn(&str, &Path, SocketAddr) -> io::Result<Setting>;

/// What surrounds a service: its environment, its clients, and a proxy in front of it.
#[derive(Default)]
pub struct Setting {
    pub(crate) variables: Vec<(String, OsString)>,
    pub(crate) client: Option<Make>,
    pub(crate) proxy: Option<Box<dyn Send + Sync>>,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Setting {
    /// The address of a listener that the service declares.
    pub fn listen(mut self, name: &str, address: impl Into<OsString>) -> Self {
        self.variables.push((format!("TABLEFLIP_LISTEN_{}", name.to_uppercase()), address.into()));
        self
    }

    /// It is asked by such clients, and not by the demo's own.
    pub fn asked_by(mut self, make: Make) -> Self {
        self.client = Some(make);
        self
    }

    /// It is asked through this proxy, which is dropped when the service has ended. Its connections do not say which
    /// process serves them.
    pub fn behind(mut self, proxy: impl Send + Sync + 'static) -> Self {
        self.proxy = Some(Box::new(proxy));
        self
    }
}
