//! The engine's part in a probe: in the predecessor the client, in the successor the connection for the body.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Type};

use crate::base::address::Kind;
use crate::base::report::{complain, printable, tell};
use crate::engine::core::{Engine, HANDOVER_TIMEOUT};
use crate::lifecycle::{Event, Phase, Timer};
use crate::outside::handover::message::Message;
use crate::outside::probe::ProbeClient;

/// How long the end of the channel may take after that of a connection: a process that dies closes its descriptors one by one.
const UNTIL_END_OF_CHANNEL: Duration = Duration::from_millis(20);

impl Engine {
    /// Begins the probe of the successor, if the option is set.
    pub(super) fn probe(&mut self) -> Option<Event> {
        let Some(at) = &self.settings.probe else { return Some(Event::Probed) };
        let socket = self.listeners.sockets.iter().find(|socket| socket.name == at.listener);
        let begun = match socket {
            Some(socket) => ProbeClient::begin(socket.fd.as_fd(), &at.probe)
                .map_err(|error| format!("cannot make a connection on the loopback interface: {error}")),
            None => Err(format!("listener `{}` is closed", at.listener)),
        };
        match begun {
            Ok(client) => {
                let (successor, probe) = (self.successor_pid(), at.probe.to_string());
                tell!(self.shared, INFO, phase = "probing", successor, probe, "the successor is probed");
                self.neighbours.upgrade.probe = Some(client);
                None
            }
            Err(reason) => {
                self.reason = Some(reason);
                Some(Event::ProbeFailed)
            }
        }
    }

    /// Ends the probe. A deadline that has passed gets its reason.
    pub(super) fn end_probe(&mut self) {
        if let Some(client) = self.neighbours.upgrade.probe.take() {
            self.reason.get_or_insert_with(|| client.is_missing());
        }
    }

    /// Goes on with the probe. Returns whether it has ended.
    pub(super) fn take_from_probe(&mut self) -> bool {
        let Some(client) = &mut self.neighbours.upgrade.probe else { return false };
        let ended = client.go_on();
        let has_status = client.has_status();
        if let Some(server) = client.take_server() {
            self.send_probe(server);
        }
        let Some(ended) = ended else { return false };
        if ended.is_err() && !has_status {
            if let Some(successor) = &self.neighbours.successor {
                successor.channel.ends_by(Instant::now() + UNTIL_END_OF_CHANNEL);
            }
        }
        // What the successor has said before it closed the connection has arrived by now, and says more: that it does not know the
        // message, or that it is dead. The result stays as it is.
        if self.take_from_successor() {
            return true;
        }
        self.neighbours.upgrade.probe = None;
        match ended {
            Ok(()) => {
                tell!(self.shared, INFO, phase = "probing", "the successor passed the probe");
                self.feed(Event::Probed);
            }
            Err(reason) => {
                self.reason = Some(reason);
                self.feed(Event::ProbeFailed);
            }
        }
        true
    }

    /// Gives the successor its end of the connection.
    fn send_probe(&mut self, server: OwnedFd) {
        let (Some(at), Some(successor)) = (&self.settings.probe, &mut self.neighbours.successor) else {
            return;
        };
        let is_adopted = successor.adopted.contains(&at.listener);
        let place = self.listeners.sockets.iter().position(|socket| socket.name == at.listener);
        let until = self.timers.get(&Timer::Upgrade);
        let within = until.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        let message = Message::Probe {
            listener: place.filter(|_| is_adopted),
            name: at.listener.clone(),
            within_ms: within.as_millis().try_into().unwrap_or(u64::MAX),
        };
        // The next read notices that the successor is gone.
        match successor.channel.send_with(&message, vec![Arc::new(server)]) {
            Ok(()) | Err(_) => {}
        }
    }

    /// The successor is of a release of this crate that has no probes.
    pub(super) fn hear_that_it_cannot_be_probed(&mut self) -> Option<Event> {
        self.neighbours.upgrade.probe.take()?;
        complain!(
            self.shared,
            WARN,
            "the successor has a release of tableflip that cannot be probed; the upgrade goes on without the probe"
        );
        Some(Event::Probed)
    }

    /// The successor has no body that takes connections from the listener.
    pub(super) fn hear_unprobed(&mut self, reason: &str) -> Option<Event> {
        self.neighbours.upgrade.probe.take()?;
        self.reason = Some(printable(reason));
        Some(Event::ProbeFailed)
    }

    /// Gives the body the connection by which the predecessor probes this process.
    pub(super) fn hear_probe(
        &mut self,
        place: Option<usize>,
        name: String,
        within: Duration,
        fds: Vec<OwnedFd>,
    ) {
        let Some(connection) = fds.into_iter().next().filter(|_| self.state.phase == Phase::Prepared) else {
            return;
        };
        // `COMMIT` comes after the answer.
        if let Some(at) = Instant::now().checked_add(within.saturating_add(HANDOVER_TIMEOUT)) {
            self.timers.insert(Timer::Handover, at);
        } else {
            self.timers.remove(&Timer::Handover);
        }
        let adopted = self.neighbours.predecessor.as_ref().and_then(|predecessor| {
            let (_, here) = predecessor.adopted.iter().find(|(at, _)| Some(*at) == place)?;
            Some(here.clone())
        });
        if let Err(reason) = self.inject(&adopted.unwrap_or(name), connection) {
            self.send_to_predecessor(&Message::Unprobed { reason });
        }
    }

    fn inject(&self, name: &str, connection: OwnedFd) -> Result<(), String> {
        let Some(socket) = self.listeners.sockets.iter().find(|socket| socket.name == name) else {
            return Err(format!("it has no listener `{}`", printable(name)));
        };
        let kind = socket.address.kind();
        let peer = SockRef::from(&connection);
        let fits = match (kind, peer.domain()) {
            (Kind::Tcp, Ok(domain)) => [Domain::IPV4, Domain::IPV6].contains(&domain),
            (Kind::Unix, Ok(domain)) => domain == Domain::UNIX,
            _ => false,
        };
        if !fits || !peer.r#type().is_ok_and(|r#type| r#type == Type::STREAM) {
            return Err(format!("its listener `{name}` has the address {}", socket.address));
        }
        match self.listeners.gates.iter().find(|gate| gate.name() == name) {
            Some(gate) => gate.inject(connection),
            None => return Err(format!("its listener `{name}` is of a raw type, which no probe reaches")),
        }
        Ok(())
    }
}
