//! The sockets that a service manager has passed, sd_listen_fds(3): which one belongs to a listener, and how it is
//! adopted.

use std::os::fd::AsFd;
use std::path::Path;

use socket2::SockRef;

use super::{Manager, Passed};
use crate::base::address::{Address, Place};
use crate::base::error::StartError;
use crate::base::report::{Who, complain, printable};
use crate::base::unadopted::{Source, Unadopted};
use crate::outside::sockets::{BoundSocket, adopt_socket, describe_socket, inode_of, verify};

/// Takes the socket of this name, or else the socket of this address. The manager need not set names, and promises no
/// order (M4). For port 0 the name must match, as in `unadopted::take_offered`.
///
/// A stored socket whose listener has another address by now is left.
pub(crate) fn take_passed(passed: &mut Vec<Passed>, name: &str, address: &Address) -> Option<Passed> {
    let fits = |passed: &Passed| verify(address, passed.fd.as_fd()).is_ok();
    let is_one = !matches!(address.place(), Place::Ip { port: 0, .. });
    let named = passed.iter().position(|it| it.name == name && (!it.stored || fits(it)));
    let same = || passed.iter().position(|it| is_one && fits(it));
    Some(passed.remove(named.or_else(same)?))
}

/// Whether clients can still reach a passed socket.
pub(crate) fn is_reachable(passed: &Passed) -> bool {
    let bound = SockRef::from(&passed.fd).local_addr();
    let path = bound.ok().and_then(|bound| bound.as_pathname().map(Path::to_owned));
    !passed.stored || path.is_none_or(|path| inode_of(&path).is_ok())
}

/// Adopts a socket of the service manager after checking that it matches `address`. The service removes the path of a
/// stored socket, as of one that it has bound. The path of a socket unit belongs to the manager.
pub(crate) fn adopt_passed(name: &str, address: &Address, passed: Passed) -> Result<BoundSocket, StartError> {
    let bound = adopt_socket(name.to_owned(), address, passed.fd, "passed by the service manager")?;
    let inode = address.path().filter(|_| passed.stored).and_then(|path| inode_of(path).ok());
    Ok(BoundSocket { inode, created: false, activated: !passed.stored, ..bound })
}

/// The identity of a passed socket, as in an offer. `None` if it has no address of that form.
pub(crate) fn describe_passed(passed: &Passed) -> Option<String> {
    describe_socket(SockRef::from(&passed.fd))
}

/// Closes the passed sockets that no listener has adopted.
pub(crate) fn close_unadopted(
    unadopted: impl IntoIterator<Item = Unadopted>,
    who: Who,
    mut manager: Option<&mut Manager>,
) {
    for Unadopted { entry, .. } in unadopted.into_iter().filter(|it| it.source == Source::ServiceManager) {
        if entry.activated {
            let (name, address) = (printable(&entry.name), &entry.address);
            complain!(
                who,
                WARN,
                "socket `{name}` ({address}) of the service manager is not served: no listener has its name or address; \
                 declare one, or take it out of the socket unit, where its clients wait for nobody"
            );
        } else if let Some(manager) = &mut manager {
            manager.forget(&entry.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn passed(name: &str, fd: impl Into<OwnedFd>, stored: bool) -> Passed {
        Passed { name: name.to_owned(), fd: fd.into(), stored }
    }

    #[test]
    fn m4_a_name_goes_before_an_address_and_a_stored_socket_has_to_fit() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = (listen(), listen());
        let address = |of: &std::net::TcpListener| -> Address {
            format!("tcp://{}", of.local_addr().unwrap()).parse().unwrap()
        };
        let (at_one, at_other) = (address(&one), address(&other));
        let of = |a: &std::net::TcpListener, name, stored| passed(name, a.try_clone().unwrap(), stored);
        let take = |mut passed: Vec<Passed>, at: &Address| {
            let taken = take_passed(&mut passed, "http", at)?;
            Some((taken.name, SockRef::from(&taken.fd).local_addr().unwrap().as_socket().unwrap()))
        };
        let bound = |of: &std::net::TcpListener| of.local_addr().unwrap();

        let both = || vec![of(&one, "unknown", false), of(&other, "http", false)];
        assert_eq!(
            take(both(), &at_one),
            Some(("http".to_owned(), bound(&other))),
            "whatever it is bound to"
        );
        let unnamed = vec![of(&one, "unknown", false), of(&other, "unknown", false)];
        assert_eq!(take(unnamed, &at_other), Some(("unknown".to_owned(), bound(&other))));
        let any: Address = "tcp://127.0.0.1:0".parse().unwrap();
        assert_eq!(take(vec![of(&one, "unknown", false)], &any), None, "there may be any number of them");
        assert_eq!(
            take(vec![of(&one, "http", true)], &at_other),
            None,
            "what was stored is for another address"
        );
        assert_eq!(take(vec![of(&one, "http", true)], &any), Some(("http".to_owned(), bound(&one))));
    }

    /// The path of a socket unit belongs to the manager, the path of a stored socket to the service.
    #[test]
    fn a_path_is_removed_by_whom_it_belongs_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let address: Address = format!("unix://{}", path.display()).parse().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let passed = |stored| passed("http", listener.try_clone().unwrap(), stored);
        let identity = Some(address.identity());
        assert_eq!(describe_passed(&passed(false)), identity);

        let bound = adopt_passed("http", &address, passed(false)).unwrap();
        assert!(bound.activated && bound.entry().activated);
        bound.unlink().unwrap();
        assert!(path.exists());
        let bound = adopt_passed("http", &address, passed(true)).unwrap();
        assert!(!bound.activated && is_reachable(&passed(true)));
        bound.unlink().unwrap();
        assert!(!path.exists() && !is_reachable(&passed(true)), "no client comes to it any more");
        assert!(is_reachable(&passed(false)), "that is the manager's business");
    }
}
