//! Connections do not move on this platform.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::sync::Latch;
use crate::moving::session::Session;
use crate::sys::fd::AsFd;

pub(crate) type Io = Arc<dyn AsFd + Send + Sync>;

pub(crate) type Verdict = Arc<Latch<bool>>;

/// There is no successor.
#[derive(Debug, Default)]
pub(crate) struct Giving;

#[expect(clippy::unused_self, reason = "its twin offers connections to a successor")]
impl Giving {
    #[cfg(any(feature = "http", feature = "websocket"))]
    pub(crate) fn will_take(&self, _listener: &str, _kind: &str) -> bool {
        false
    }

    pub(crate) fn end(&self) {}

    pub(crate) fn going(&self) -> u64 {
        0
    }

    pub(crate) fn going_peers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    pub(crate) fn offer(
        &self,
        _listener: &str,
        _io: Io,
        _session: Session,
        _peer: Option<SocketAddr>,
    ) -> Option<Verdict> {
        None
    }
}
