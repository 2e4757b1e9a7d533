//! Where the sockets of a start come from, where a process cannot be upgraded: every listener is bound.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::error::StartError;
use crate::base::unadopted::Unadopted;
use crate::between::note::Inheritance;
use crate::between::shared::Shared;
use crate::outside::sockets::{self, BoundSocket};
use crate::sys::fd::OwnedFd;

pub(super) struct SocketSources;

impl SocketSources {
    #[expect(clippy::unnecessary_wraps, reason = "its twin adopts sockets")]
    pub(super) fn adopt(&mut self, _declared: &[(String, Address)]) -> Result<(), StartError> {
        Ok(())
    }

    pub(super) fn adopted_or_bound(
        &mut self,
        name: &str,
        address: &Address,
    ) -> Result<BoundSocket, StartError> {
        sockets::bind(name, address)
    }

    #[expect(clippy::unnecessary_wraps, reason = "its twin binds a socket")]
    pub(super) fn open_control(
        &mut self,
        _sockets: &[BoundSocket],
        _shared: &Arc<Shared>,
    ) -> Result<(), StartError> {
        Ok(())
    }

    pub(super) fn left_over(&mut self) -> (VecDeque<Unadopted>, Vec<(String, OwnedFd)>) {
        Default::default()
    }

    pub(super) fn finish(self, _unadopted: VecDeque<Unadopted>, _shared: &Shared) -> Inheritance {
        Inheritance
    }
}
