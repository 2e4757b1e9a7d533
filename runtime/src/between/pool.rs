//! The listeners that the body may still take or adopt by `Listeners`.

use std::collections::VecDeque;

use crate::base::address::Address;
use crate::base::error::StartError;
use crate::base::unadopted::Unadopted;
use crate::outside::sockets::BoundSocket;

pub(crate) const NOT_DECLARED: &str = "it is not declared";
pub(crate) const TAKEN: &str = "it has been taken already";

/// The sockets that a body with `Listeners` may take or adopt until the service is ready.
#[derive(Default)]
pub(crate) struct Pool {
    /// The declared listeners that the body has not taken.
    pub(crate) declared: Vec<BoundSocket>,
    /// The names of the listeners that are declared without an address.
    pub(crate) unopened: Vec<String>,
    /// The sockets that came with this process and that no declared listener has adopted.
    pub(crate) unadopted: VecDeque<Unadopted>,
    /// The names and addresses in use.
    pub(crate) used: Vec<(String, Address)>,
}

impl Pool {
    /// The index in `declared` of the listener of this name.
    ///
    /// # Errors
    ///
    /// No listener of this name is declared, or the body has taken it.
    pub(crate) fn untaken(&self, name: &str) -> Result<usize, StartError> {
        let is_used = self.used.iter().any(|(used, _)| used == name);
        let problem = if is_used { TAKEN } else { NOT_DECLARED };
        self.declared
            .iter()
            .position(|socket| socket.name == name)
            .ok_or_else(|| StartError::Listener { listener: name.to_owned(), problem: problem.to_owned() })
    }
}
