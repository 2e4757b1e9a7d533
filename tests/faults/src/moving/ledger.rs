//! Who owns each connection of an upgrade, by what both processes send over the link, `docs/protocol.md`.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::libc;
use serde_json::Value;

use crate::errors;
use crate::tracer::{Call, bytes_of};

/// The owner of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The old process, which has not offered it.
    Giver,
    /// It is offered: the old process's if the successor dies, the successor's if the old process dies.
    Offered,
    /// The successor: `taken` is in the link.
    Taker(i32),
    /// The old process: the successor has refused it, or the old process has withdrawn it.
    Back { is_refused: bool },
    /// A process was killed in the system call that decides it.
    Undecided,
}

/// A packet of the link.
#[derive(Clone, Debug)]
enum Word {
    /// Numbers, each with the port of the client.
    Offers(Vec<(u64, u16)>),
    Taken(Vec<u64>),
    Refused(Vec<u64>),
    Withdrawn(Vec<u64>),
}

#[derive(Clone, Default)]
pub(crate) struct Ledger {
    old: i32,
    /// The old process has asked for the sign of life after which it drains.
    has_begun: bool,
    /// The old process has asked its successor to give the service back.
    is_recalled: bool,
    /// The thread that tells the giver that a successor serves, and whether it has.
    activating: Option<i32>,
    is_active: bool,
    /// The thread of the giver that has read a message since. Once it finds nothing more, it has acted on that one too.
    reading: Option<i32>,
    is_known_active: bool,
    /// The ports of the clients by the numbers of their connections in the link.
    ports: HashMap<u64, u16>,
    owners: HashMap<u16, Owner>,
    /// What each thread sends at this moment.
    sending: HashMap<i32, (i32, Word)>,
    /// The listener whose connections are counted, as /proc links to it.
    listener: Option<PathBuf>,
    /// The threads that are about to accept a connection of it.
    accepting: HashSet<i32>,
    /// The processes that have accepted a connection of it, in order. One that has accepted several in a row is there once.
    accepted: Vec<i32>,
    /// How often each system call was begun since then, by the old process and by its successor.
    calls: HashMap<(bool, i64), usize>,
}

impl Ledger {
    pub(crate) fn of(old: i32) -> Self {
        Self { old, ..Self::default() }
    }

    /// The ledger of a revert: the successor gives its connections to the old process.
    pub(crate) fn of_revert(successor: i32, listener: PathBuf) -> Self {
        Self { has_begun: true, listener: Some(listener), ..Self::of(successor) }
    }

    /// The processes that have accepted connections in a revert, in order.
    pub(crate) fn accepted(&self) -> &[i32] {
        &self.accepted
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether a process has asked its successor to give the service back.
    pub(crate) fn is_recalled(&self) -> bool {
        self.is_recalled
    }

    /// Whether the giver knows that a successor of its own serves.
    pub(crate) fn is_known_active(&self) -> bool {
        self.is_known_active
    }

    /// Whether the giver has taken back a connection.
    pub(crate) fn has_withdrawn(&self) -> bool {
        self.owners.values().any(|owner| *owner == Owner::Back { is_refused: false })
    }

    /// How often a system call was begun, by the old process or by the successor.
    pub(crate) fn calls(&self, of_old: bool, number: i64) -> usize {
        self.calls.get(&(of_old, number)).copied().unwrap_or(0)
    }

    /// The owner of the connection of a client. What a process was about to send when it was killed may be sent.
    pub(crate) fn owner(&self, port: u16, killed: Option<i32>) -> Owner {
        let may_decide =
            |(process, word): &(i32, Word)| killed == Some(*process) && self.ports_of(word).contains(&port);
        match self.owners.get(&port) {
            _ if self.sending.values().any(may_decide) => Owner::Undecided,
            owner => owner.copied().unwrap_or(Owner::Giver),
        }
    }

    pub(crate) fn hear(&mut self, call: &Call) {
        match *call {
            Call::Exit { process, thread, number: libc::SYS_accept4, result } => {
                let has_accepted = self.accepting.remove(&thread) && result >= 0;
                if has_accepted && self.accepted.last() != Some(&process) {
                    self.accepted.push(process);
                }
            }
            Call::Entry { process, thread, number, arguments } => {
                if number == libc::SYS_accept4 && self.is_listener(process, arguments[0]) {
                    self.accepting.insert(thread);
                }
                if number == libc::SYS_sendmsg {
                    self.hear_send(process, thread, &bytes_of(process, arguments[1]));
                }
                if self.has_begun {
                    *self.calls.entry((process == self.old, number)).or_default() += 1;
                }
            }
            Call::Exit { process, thread, number: libc::SYS_recvmsg, result } if process == self.old => {
                if self.is_active && result > 0 {
                    self.reading = Some(thread);
                }
                let is_empty = result == -i64::from(libc::EAGAIN);
                self.is_known_active |= is_empty && self.reading == Some(thread);
            }
            Call::Exit { thread, number: libc::SYS_sendmsg, result, .. } => {
                self.is_active |= self.activating.take_if(|it| *it == thread).is_some() && result > 0;
                let sent = self.sending.remove(&thread).filter(|_| result >= 0);
                if let Some((process, word)) = sent {
                    self.note(process, word);
                }
            }
            _ => {}
        }
    }

    fn is_listener(&self, process: i32, fd: u64) -> bool {
        self.listener.as_ref().is_some_and(|listener| {
            fs::read_link(format!("/proc/{process}/fd/{fd}")).is_ok_and(|link| link == *listener)
        })
    }

    fn hear_send(&mut self, process: i32, thread: i32, packet: &[u8]) {
        self.has_begun |= process == self.old && is_a(packet, "ping");
        self.is_recalled |= is_a(packet, "recall");
        if process != self.old && is_a(packet, "active") {
            self.activating = Some(thread);
        }
        let is_possible = |word: &Word| {
            let of_giver = matches!(word, Word::Offers(_) | Word::Withdrawn(_));
            of_giver == (process == self.old)
        };
        if let Some(word) = Word::parse(packet).filter(is_possible) {
            self.sending.insert(thread, (process, word));
        }
    }

    /// A system call that a fault keeps from being made.
    pub(crate) fn is_not_made(&mut self, call: &Call) {
        if let Call::Entry { thread, .. } = call {
            self.sending.remove(thread);
        }
    }

    fn note(&mut self, process: i32, word: Word) {
        if let Word::Offers(offers) = &word {
            self.ports.extend(offers.iter().copied());
        }
        let owner = match word {
            Word::Offers(_) => Owner::Offered,
            Word::Taken(_) => Owner::Taker(process),
            Word::Refused(_) => Owner::Back { is_refused: true },
            Word::Withdrawn(_) => Owner::Back { is_refused: false },
        };
        for port in self.ports_of(&word) {
            self.owners.insert(port, owner);
        }
    }

    fn ports_of(&self, word: &Word) -> Vec<u16> {
        match word {
            Word::Offers(offers) => offers.iter().map(|(_, port)| *port).collect(),
            Word::Taken(ids) | Word::Refused(ids) | Word::Withdrawn(ids) => {
                ids.iter().filter_map(|id| self.ports.get(id).copied()).collect()
            }
        }
    }
}

/// Whether a packet is a message of this type.
fn is_a(packet: &[u8], name: &str) -> bool {
    serde_json::from_slice::<Value>(packet).is_ok_and(|message| message["type"] == name)
}

impl Word {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (length, rest) = packet.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let head: Value = serde_json::from_slice(rest.get(..length)?).ok()?;
        let ids = || head["ids"].as_array()?.iter().map(Value::as_u64).collect::<Option<_>>();
        match head["type"].as_str()? {
            "offers" => {
                let offer = |offer: &Value| {
                    let port = offer["peer"].as_str()?.rsplit(':').next()?.parse().ok()?;
                    Some((offer["id"].as_u64()?, port))
                };
                Some(Self::Offers(head["offers"].as_array()?.iter().map(offer).collect::<Option<_>>()?))
            }
            "taken" => Some(Self::Taken(ids()?)),
            "refused" => Some(Self::Refused(ids()?)),
            "withdrawn" => Some(Self::Withdrawn(ids()?)),
            _ => None,
        }
    }
}

/// The system calls of a transfer, with the errors that each can return.
pub(crate) fn calls_of_a_move() -> impl Iterator<Item = (i64, Errno)> {
    const CALLS: [i64; 10] = [
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        libc::SYS_clone3,
        libc::SYS_clone,
        libc::SYS_eventfd2,
        libc::SYS_epoll_ctl,
        libc::SYS_poll,
        libc::SYS_memfd_create,
        libc::SYS_prlimit64,
        libc::SYS_getsockopt,
    ];
    errors::all().filter(|(call, _)| CALLS.contains(call))
}
