//! The offer of the predecessor: the sockets and files that come through the channel.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use crate::base::error::StartError;
use crate::base::identity::{Identity, PredecessorOffer};
use crate::base::report::printable;
use crate::base::unadopted::Entry;
use crate::config::environment::{HANDOVER, SUPERVISOR};
use crate::outside::handover::channel::{Channel, ChannelError, Received};
use crate::outside::handover::message::{MAX_DESCRIPTORS, Message, Speaker};
use crate::outside::inherited::{self, Numbers};
use crate::outside::spawn::EXECUTABLES;
use crate::outside::{supervise, systemd};

/// How long the offer of a predecessor may take: it is in the channel before this process exists.
pub(super) const OFFER_TIMEOUT: Duration = Duration::from_secs(10);

/// The offer of a predecessor.
pub(super) struct Offer {
    /// The process ID of the predecessor.
    pub(super) parent: u32,
    /// The service, as the predecessor describes it.
    identity: Identity,
    pidfile: Option<String>,
    probation: Option<Duration>,
    aborted: u64,
    /// The generation of this process, one more than the predecessor's.
    pub(super) generation: u64,
    pub(super) executable: Option<PathBuf>,
    /// The umask of the first start; an older release does not send it.
    pub(super) umask: Option<u32>,
    pub(super) sockets: Vec<(Entry, OwnedFd)>,
    pub(super) files: Vec<(String, OwnedFd)>,
}

impl Offer {
    pub(super) fn has_supervisor(&self) -> bool {
        self.files.iter().any(|(name, _)| name == supervise::NAME)
    }

    /// The executables of the predecessor, and of whatever ran before it.
    pub(super) fn take_executables(&mut self) -> Vec<OwnedFd> {
        let take = |name| {
            let at = self.files.iter().position(|(known, _)| known == name)?;
            Some(self.files.remove(at).1)
        };
        EXECUTABLES.into_iter().filter_map(take).collect()
    }

    /// The part that the engine compares with this process.
    pub(super) fn predecessor(&self) -> PredecessorOffer {
        let listener = |(entry, _): &(Entry, OwnedFd)| (printable(&entry.name), printable(&entry.address));
        PredecessorOffer {
            pid: self.parent,
            identity: self.identity.clone(),
            pidfile: self.pidfile.clone(),
            probation: self.probation,
            aborted: self.aborted,
            listeners: self.sockets.iter().map(listener).collect(),
        }
    }
}

/// Takes the socket that the variable names: one of a pair of Unix sockets of this service. The value is the number of the
/// descriptor, a colon and the process ID of the addressee.
///
/// `None` if the variable is for another process: a child of a service with several threads, which has left the variable
/// in its environment. The descriptor is closed in it. A release that is a script which waits for the service is the
/// addressee, and lets the service inherit the descriptor, so the process ID alone decides nothing.
pub(super) fn inherit_socket(
    numbers: &mut Numbers,
    variable: &'static str,
    value: &OsStr,
) -> Result<Option<OwnedFd>, StartError> {
    let bad_variable = |problem: &str| bad_variable(variable, value, problem);
    let (number, addressee) = parse(value).ok_or_else(|| bad_variable("not the number of a descriptor"))?;
    let is_channel = |fd: BorrowedFd<'_>| -> nix::Result<bool> {
        let kind = getsockopt(&fd, sockopt::SockType)?;
        let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        Ok(kind == SockType::SeqPacket && name.family() == Some(AddressFamily::Unix))
    };
    let is_wanted = |fd: BorrowedFd<'_>| match is_channel(fd) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the descriptor is not a handover channel".to_owned()),
        Err(errno) => Err(format!("the descriptor is not a handover channel: {}", io::Error::from(errno))),
    };
    match numbers.take(variable, number, is_wanted) {
        Ok(socket) => Ok(Some(socket)),
        Err(_) if addressee.is_some_and(|addressee| addressee != std::process::id()) => Ok(None),
        Err(problem) => Err(bad_variable(&problem)),
    }
}

/// The number of the descriptor, and the addressee.
fn parse(value: &OsStr) -> Option<(RawFd, Option<u32>)> {
    let text = value.to_str()?;
    let (number, addressee) = match text.split_once(':') {
        Some((number, addressee)) => (number, Some(addressee.parse().ok()?)),
        None => (text, None),
    };
    Some((number.parse().ok().filter(|number| *number >= 0)?, addressee))
}

/// Keeps the descriptors that this process was started with from the programs that it executes before its service runs. Such a
/// program would hold a channel or a listener open after the death of this process.
pub(super) fn keep_from_children() {
    let values = [HANDOVER, SUPERVISOR].into_iter().filter_map(std::env::var_os);
    values.filter_map(|value| parse(&value)).for_each(|(number, _)| inherited::close_on_exec(number));
    for number in systemd::passed_numbers() {
        inherited::close_on_exec(number);
    }
}

/// The error of an internal variable that no process of this service has set.
pub(super) fn bad_variable(variable: &str, value: &OsStr, problem: &str) -> StartError {
    StartError::Environment {
        variable: variable.to_owned(),
        problem: format!(
            "{value:?}: {problem}; it is set by a process for its successor, unset it to start the service"
        ),
    }
}

/// Takes the offer of the predecessor; `bad_variable` makes the error of a channel without a peer.
pub(super) fn take_offer(
    channel: &mut Channel,
    identity: &Identity,
    bad_variable: &dyn Fn(String) -> StartError,
) -> Result<Offer, StartError> {
    let deadline = Instant::now() + OFFER_TIMEOUT;
    let broken = |error: ChannelError| StartError::Handover(error.to_string());
    let (speaker, executable, umask, (pidfile, probation, aborted), socket_count, file_count) =
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(
                Message::Offer { speaker, sockets, files, executable, umask, pidfile, probation_ms, aborted },
                _,
            ) => (speaker, executable, umask, (pidfile, probation_ms, aborted), sockets, files),
            Received::Nothing => return Err(bad_variable("nothing is offered on it".to_owned())),
            Received::End => return Err(bad_variable("its other end is closed".to_owned())),
            Received::Message(..) | Received::Unknown(_) => {
                return Err(StartError::Handover("it did not begin with an offer".to_owned()));
            }
        };
    // Before the verdict on the predecessor's version, so that both sides can name the versions. It is sent with the next
    // message: alone it would only wake the predecessor.
    let generation = speaker.next_generation();
    let ours = Speaker::us(*generation.as_ref().unwrap_or(&speaker.generation), identity);
    let hello = Message::Hello { speaker: ours };
    channel.queue(&hello);
    speaker.understands_us().map_err(StartError::Handover)?;
    let generation = generation.map_err(StartError::Handover)?;
    let count = socket_count.saturating_add(file_count);
    if count > MAX_DESCRIPTORS {
        let problem = format!("it offers {count} descriptors; at most {MAX_DESCRIPTORS} are taken");
        return Err(StartError::Handover(problem));
    }
    let (mut sockets, mut files) = (Vec::new(), Vec::new());
    while sockets.len() < socket_count || files.len() < file_count {
        match channel.receive_by(deadline).map_err(broken)? {
            Received::Message(Message::Sockets { entries }, fds) => {
                sockets.extend(entries.into_iter().zip(fds));
                at_most(socket_count, sockets.len(), "sockets")?;
            }
            Received::Message(Message::Files { names }, fds) => {
                files.extend(names.into_iter().zip(fds));
                at_most(file_count, files.len(), "files")?;
            }
            // The predecessor was killed in the middle of its offer. The rest of the offer died with it.
            Received::End => break,
            // A peer that sends other messages without end is as late as a silent one.
            Received::Message(..) | Received::Unknown(_) if Instant::now() < deadline => {}
            Received::Nothing | Received::Message(..) | Received::Unknown(_) => {
                let got = sockets.len() + files.len();
                let problem = format!("it offered {count} descriptors and sent {got}");
                return Err(StartError::Handover(problem));
            }
        }
    }
    let probation = probation.map(Duration::from_millis);
    let (identity, pidfile) = (speaker.identity(), pidfile.as_deref().map(printable));
    Ok(Offer {
        parent: speaker.pid,
        identity,
        pidfile,
        probation,
        aborted,
        generation,
        executable,
        umask,
        sockets,
        files,
    })
}

/// More descriptors than announced are an error: their number passed no limit, and which of them the offer means is a guess.
fn at_most(offered: usize, sent: usize, what: &str) -> Result<(), StartError> {
    if sent <= offered {
        return Ok(());
    }
    Err(StartError::Handover(format!("it offered {offered} {what} and sent {sent}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process may have more descriptors than a port has numbers.
    #[test]
    fn a10_a_number_is_that_of_any_descriptor() {
        let refusal = |value: &str| {
            inherit_socket(&mut Numbers::default(), HANDOVER, value.as_ref()).unwrap_err().to_string()
        };
        for value in ["70000", "2147483647"] {
            let error = refusal(value);
            assert!(error.contains(&format!("\"{value}\": no such descriptor")), "{error}");
        }
        for value in ["-1", "2147483648", "x", "", "7:", ":7", "7:x", "7:1:1", "-1:1", "7:-1"] {
            let error = refusal(value);
            assert!(error.contains("not the number of a descriptor"), "{error}");
        }
    }

    #[test]
    fn b11_what_is_for_another_process_is_passed_over() {
        let inherit = |value: &str| inherit_socket(&mut Numbers::default(), HANDOVER, value.as_ref());
        assert!(inherit("70000:1").unwrap().is_none());
        assert!(inherit("0:1").unwrap().is_none());
        let ours = format!("70000:{}", std::process::id());
        let error = inherit(&ours).unwrap_err().to_string();
        assert!(error.contains(&format!("{ours:?}: no such descriptor")), "{error}");
    }
}
