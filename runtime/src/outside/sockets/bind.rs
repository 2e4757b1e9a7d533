//! Binds the address of a listener.

use std::io;
use std::net::{SocketAddr, SocketAddrV6, ToSocketAddrs};
#[cfg(unix)]
use std::path::Path;

use socket2::Socket;

use super::bound::BoundSocket;
use super::create::{BIND, CreateError, bind_one, listen};
#[cfg(unix)]
use super::path::{bind_path, open_own_socket, set_permissions};
#[cfg(upgrades)]
use super::path_lock::PathLock;
use super::platform;
use crate::base::address::{Address, Host, Place};
use crate::base::error::StartError;
#[cfg(upgrades)]
use crate::outside::hint;
use crate::sys::fd::{self, OwnedFd};

/// Why an address could not be bound.
pub(crate) struct BindError {
    error: StartError,
    /// The addresses that bind(2) has refused; `None` if another call failed.
    #[cfg_attr(
        not(upgrades),
        expect(dead_code, reason = "only Linux is asked which process has an address")
    )]
    refused: Option<Vec<SocketAddr>>,
}

impl BindError {
    #[cfg(upgrades)]
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(&self.error, StartError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// As [`explained`](Self::explained), with a reason that the caller knows.
    #[cfg(upgrades)]
    pub(crate) fn explained_by(self, why: Option<&str>) -> StartError {
        match (self.explained(), why) {
            (StartError::Bind { listener, address, action, source }, Some(why)) => {
                let source = io::Error::new(source.kind(), format!("{source}; {why}"));
                StartError::Bind { listener, address, action, source }
            }
            (error, _) => error,
        }
    }

    /// Adds the reason behind an error of bind(2). This may look at every process.
    #[cfg(upgrades)]
    pub(crate) fn explained(self) -> StartError {
        match (self.error, self.refused) {
            (StartError::Bind { listener, address, action, source }, Some(refused)) => {
                let source = hint::bind(&address, &refused, source);
                StartError::Bind { listener, address, action, source }
            }
            (error, _) => error,
        }
    }

    /// Only Linux is asked which process has an address.
    #[cfg(not(upgrades))]
    fn explained(self) -> StartError {
        self.error
    }
}

impl From<StartError> for BindError {
    fn from(error: StartError) -> Self {
        Self { error, refused: None }
    }
}

/// Binds `address`. A socket whose kind accepts connections listens from now on.
pub(crate) fn bind(name: &str, address: &Address) -> Result<BoundSocket, StartError> {
    try_bind(name, address).map_err(BindError::explained)
}

/// As [`bind`], for a caller that may try again.
pub(crate) fn try_bind(name: &str, address: &Address) -> Result<BoundSocket, BindError> {
    let failed = |action| failed(name, address, action);
    let refused = |at, CreateError { action, source }| BindError {
        error: failed(action)(source),
        refused: (action == BIND).then_some(at),
    };
    let socket = match address.place() {
        Place::Ip { host, port } => {
            let candidates = resolve(host, *port).map_err(failed("resolve"))?;
            bind_first(address, &candidates).map_err(|source| refused(candidates, source))?
        }
        Place::Abstract(abstract_name) => platform::abstract_address(abstract_name)
            .map_err(CreateError::from)
            .and_then(|at| bind_one(address, &at))
            .map_err(|error| refused(Vec::new(), error))?,
        #[cfg(unix)]
        Place::Path(path) => {
            let path = Path::new(path);
            // Until the socket listens: before that a client is refused as at a stale path.
            #[cfg(upgrades)]
            let _lock = PathLock::take(path);
            let socket = bind_path(address, path).map_err(|source| refused(Vec::new(), source))?;
            return serve_path(name, address, path, socket.into()).map_err(BindError::from);
        }
        #[cfg(not(unix))]
        Place::Path(_) => return Err(failed("bind")(platform::unsupported("a Unix path")).into()),
    };
    let fd = OwnedFd::from(socket);
    listen(address, fd::borrow(&fd)).map_err(failed("listen on"))?;
    Ok(BoundSocket::new(name.to_owned(), address, fd))
}

/// The permissions of a path are set before the socket listens: before a client can connect.
#[cfg(unix)]
fn serve_path(name: &str, address: &Address, path: &Path, fd: OwnedFd) -> Result<BoundSocket, StartError> {
    let (file, inode) = open_own_socket(path).map_err(failed(name, address, "look at"))?;
    let socket = BoundSocket { inode: Some(inode), ..BoundSocket::new(name.to_owned(), address, fd) };
    let served = set_permissions(address, &file).and_then(|()| listen(address, fd::borrow(&socket.fd)));
    served.map(|()| socket.clone()).map_err(|error| match socket.unlink() {
        Ok(()) | Err(_) => failed(name, address, "set up")(error),
    })
}

fn failed(
    name: &str,
    address: &Address,
    action: &'static str,
) -> impl FnOnce(io::Error) -> StartError + use<> {
    let (listener, address) = (name.to_owned(), Box::new(address.clone()));
    move |source| StartError::Bind { listener, address, action, source }
}

pub(super) fn resolve(host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host {
        Host::V4(ip) => vec![(*ip, port).into()],
        Host::V6(ip) => vec![(*ip, port).into()],
        Host::V6Scoped { ip, scope } => vec![SocketAddrV6::new(*ip, port, 0, scope_id(scope)?).into()],
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.collect(),
    })
}

/// The number of a network interface, which may be given by its name, RFC 4007 section 11.2.
pub(super) fn scope_id(scope: &str) -> io::Result<u32> {
    match scope.parse() {
        Ok(number) => Ok(number),
        #[cfg(target_os = "linux")]
        Err(_) => Ok(nix::net::if_::if_nametoindex(scope)?),
        #[cfg(not(target_os = "linux"))]
        Err(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "on this platform the scope of an IPv6 address is the number of an interface, not its name",
        )),
    }
}

/// Binds the first of the addresses of a name that can be bound, as std and tokio do.
fn bind_first(address: &Address, candidates: &[SocketAddr]) -> Result<Socket, CreateError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address").into();
    for candidate in candidates {
        match bind_one(address, &(*candidate).into()) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(upgrades)]
#[cfg(test)]
mod tests {
    use std::thread;

    use socket2::{Domain, SockAddr};

    use super::super::create::socket_type;
    use super::*;

    #[test]
    fn b4_the_scope_of_an_address_is_a_name_or_a_number() {
        let at = |text: &str| match text.parse::<Address>().unwrap().place() {
            Place::Ip { host, port } => resolve(host, *port).map_err(|error| error.kind()),
            _ => unreachable!("it is an IP address"),
        };
        // The loopback interface is the first in each network namespace.
        let one = |ip: &str| Ok(vec![SocketAddrV6::new(ip.parse().unwrap(), 80, 0, 1).into()]);
        assert_eq!(at("[fe80::1%lo]:80"), one("fe80::1"));
        assert_eq!(at("udp://[fe80::1%1]:80"), one("fe80::1"));
        assert!(at("[fe80::1%no-such]:80").is_err());
        let address =
            Address::from(SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 1)));
        assert_eq!(address.to_string(), "tcp://[fe80::1%1]:80");
        assert_eq!(address.to_string().parse(), Ok(address));
    }

    /// Both start in one process, as close together as possible.
    #[test]
    fn a12_of_two_that_start_at_once_on_a_stale_path_one_serves_it() {
        for kind in ["unix", "unix-seqpacket", "unix-dgram"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sock");
            let address: Address = format!("{kind}://{}", path.display()).parse().unwrap();
            for round in 0..1000 {
                drop(bind_one(&address, &SockAddr::unix(&path).unwrap()).unwrap());
                let barrier = std::sync::Barrier::new(2);
                let start = || {
                    barrier.wait();
                    try_bind("sock", &address)
                };
                let [one, other] = thread::scope(|scope| {
                    [scope.spawn(start), scope.spawn(start)].map(|it| it.join().unwrap())
                });
                let (socket, refused) = match (one, other) {
                    (Ok(socket), Err(refused)) | (Err(refused), Ok(socket)) => (socket, refused),
                    (Ok(_), Ok(_)) => panic!("{kind}, {round}: both have bound it"),
                    (Err(one), Err(other)) => panic!("{kind}, {round}: {}, {}", one.error, other.error),
                };
                assert!(refused.is_in_use(), "{kind}, {round}: {}", refused.error);
                assert!(!socket.is_cut_off(), "{kind}, {round}");
                let client = Socket::new(Domain::UNIX, socket_type(address.kind()), None).unwrap();
                client.connect(&SockAddr::unix(&path).unwrap()).unwrap();
                socket.unlink().unwrap();
                assert!(!path.exists());
            }
        }
    }
}
