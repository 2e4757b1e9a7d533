//! Where the sockets of a start come from: the offer of the predecessor, the service manager, or a bind.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::base::address::{Address, Host, Place};
use crate::base::error::{StartError, chain};
use crate::base::report::printable;
use crate::base::unadopted::{self, Entry, Source, Unadopted};
use crate::between::gate_control::CONTROL_SOCKET;
use crate::between::note::{Inheritance, Note};
use crate::between::shared::Shared;
use crate::config::settings::ControlAt;
use crate::control::server::Control;
use crate::outside::sockets::{self, BindError, BoundSocket, SameAddress};
use crate::outside::systemd::{self, Manager, Passed};

/// How long a service manager may take to close a stored socket.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two attempts to bind the address of a stored socket.
const STORE_PAUSE: Duration = Duration::from_millis(2);

pub(super) struct SocketSources {
    /// The sockets of the predecessor's offer that no listener has adopted.
    offered: VecDeque<Unadopted>,
    /// The sockets of the service manager that no listener has adopted.
    passed: Vec<Passed>,
    manager: Option<Manager>,
    /// The adopted sockets, by the names of their listeners, until the listener is opened.
    adopted: HashMap<String, BoundSocket>,
    /// The places of the adopted sockets in the offer, and the names of their listeners here.
    places: Vec<(usize, String)>,
    /// The names and addresses of the predecessor's listeners, which it may have had stored.
    stored: Vec<(String, String)>,
    pub(super) control: Option<ControlAt>,
    pub(super) files: Vec<(String, OwnedFd)>,
    /// Why the sockets that the service manager has passed are not used: one of them may have an address that this process
    /// cannot bind.
    pub(super) not_ours: Option<String>,
    pub(super) warnings: Vec<String>,
}

impl SocketSources {
    pub(super) fn new(offered: Vec<(Entry, OwnedFd)>, passed: Vec<Passed>, manager: Option<Manager>) -> Self {
        // The predecessor stores neither its control socket, nor the sockets of a socket unit.
        let stored = offered.iter().map(|(entry, _)| entry);
        let stored = stored.filter(|entry| !entry.activated && entry.name != CONTROL_SOCKET);
        let stored = stored.map(|entry| (entry.name.clone(), entry.address.clone())).collect();
        let unadopted = |(place, (entry, fd))| Unadopted { source: Source::Predecessor(place), entry, fd };
        Self {
            offered: offered.into_iter().enumerate().map(unadopted).collect(),
            passed,
            manager,
            adopted: HashMap::new(),
            places: Vec::new(),
            stored,
            control: None,
            files: Vec::new(),
            not_ours: None,
            warnings: Vec::new(),
        }
    }

    /// Adopts the existing sockets of the declared listeners.
    pub(super) fn adopt(&mut self, declared: &[(String, Address)]) -> Result<(), StartError> {
        // The path of a stored socket may have been removed with its directory: no client would reach it.
        self.close_stored(|stored| !systemd::is_reachable(stored));
        for (name, address) in declared {
            if let Some(socket) = self.adopt_one(name, address)? {
                self.adopted.insert(name.clone(), socket);
            }
        }
        // A socket belongs to the listener that spells its address as the predecessor does, before any other.
        for (name, address) in declared {
            if self.adopted.contains_key(name) || self.offered.is_empty() {
                continue;
            }
            let same = SameAddress::of(address).find(&self.offered, name);
            if let Some(found) = same.and_then(|at| unadopted::take_at(&mut self.offered, at, name)) {
                let socket = self.adopt_offered(address, found)?;
                self.adopted.insert(name.clone(), socket);
            }
        }
        Ok(())
    }

    fn adopt_offered(&mut self, address: &Address, found: Unadopted) -> Result<BoundSocket, StartError> {
        let place = found.source.place();
        let socket = sockets::adopt(address, found.entry, found.fd)?;
        self.places.extend(place.map(|place| (place, socket.name.clone())));
        Ok(socket)
    }

    /// The socket of a declared listener: [adopted](Self::adopt), or bound now.
    pub(super) fn adopted_or_bound(
        &mut self,
        name: &str,
        address: &Address,
    ) -> Result<BoundSocket, StartError> {
        match self.adopted.remove(name) {
            Some(socket) => Ok(socket),
            None => self.bind(name, address),
        }
    }

    /// Adopts the existing socket of this name and address.
    fn adopt_one(&mut self, name: &str, address: &Address) -> Result<Option<BoundSocket>, StartError> {
        if let Some(found) = unadopted::take_offered(&mut self.offered, name, address) {
            return self.adopt_offered(address, found).map(Some);
        }
        let passed = systemd::take_passed(&mut self.passed, name, address);
        passed.map(|passed| systemd::adopt_passed(name, address, passed)).transpose()
    }

    fn bind(&mut self, name: &str, address: &Address) -> Result<BoundSocket, StartError> {
        let is_in_use =
            |result: &Result<BoundSocket, BindError>| result.as_ref().is_err_and(BindError::is_in_use);
        let try_bind = || sockets::try_bind(name, address);
        let mut bound = try_bind();
        // A socket that was stored for a listener whose declaration has changed is in the way while it is open.
        if is_in_use(&bound) && self.close_stored(|stored| is_in_the_way(stored, address)) {
            // systemd closes it in a thread of its own, and does not say when.
            let deadline = Instant::now() + STORE_TIMEOUT;
            bound = try_bind();
            while is_in_use(&bound) && Instant::now() < deadline {
                thread::sleep(STORE_PAUSE);
                bound = try_bind();
            }
        }
        // The reason behind an error is looked for once, at the end.
        let why = if is_in_use(&bound) { self.in_the_way(address).or(self.not_ours.clone()) } else { None };
        bound.map_err(|error| error.explained_by(why.as_deref()))
    }

    /// Says which listener of the predecessor has a part of an address that is in use.
    fn in_the_way(&self, address: &Address) -> Option<String> {
        let is_one = |it: &&Unadopted| {
            let bound = sockets::describe_socket(SockRef::from(&it.fd));
            bound.and_then(|bound| bound.parse().ok()).is_some_and(|bound| overlap(&bound, address))
        };
        let Unadopted { entry, .. } = self.offered.iter().find(is_one)?;
        Some(format!(
            "the predecessor serves `{}` at {}, which overlaps: to move it in an upgrade, give both addresses `reuse_port=true`, \
             first in a release with the old address; or stop and start the service",
            printable(&entry.name),
            printable(&entry.address),
        ))
    }

    /// Closes the unwanted sockets that an earlier process has had stored, here and at the manager. Returns whether there were
    /// any.
    fn close_stored(&mut self, is_unwanted: impl Fn(&Passed) -> bool) -> bool {
        let (unwanted, others): (Vec<_>, _) =
            mem::take(&mut self.passed).into_iter().partition(|it| it.stored && is_unwanted(it));
        self.passed = others;
        let Some(manager) = self.manager.as_mut().filter(|_| !unwanted.is_empty()) else { return false };
        unwanted.iter().for_each(|it| manager.forget(&it.name));
        drop(unwanted);
        manager.wait_until_heard(STORE_TIMEOUT);
        true
    }

    /// Opens the control socket, which is no listener of the body, and starts to serve it. Then it looks for listeners that no
    /// client finds.
    pub(super) fn open_control(
        &mut self,
        sockets: &[BoundSocket],
        shared: &Arc<Shared>,
    ) -> Result<(), StartError> {
        if let Some(control) = self.control.take() {
            self.open_control_at(control, shared)?;
        }
        self.warnings.extend(sockets.iter().filter(|socket| socket.is_cut_off()).map(cut_off));
        Ok(())
    }

    /// If the service has not asked for the control socket, it does without one that cannot be opened. Only another process that
    /// serves it is an error: that process is the service which has this pid file.
    fn open_control_at(&mut self, control: ControlAt, shared: &Arc<Shared>) -> Result<(), StartError> {
        let (address, is_asked_for) = match control {
            ControlAt::Asked(address) => (address, true),
            ControlAt::Beside(Ok(address)) => (address, false),
            ControlAt::Beside(Err(problem)) => {
                self.warnings.push(no_control(&problem));
                return Ok(());
            }
        };
        let _binding = shared.binding(&address);
        let bind = || sockets::bind(CONTROL_SOCKET, &address);
        let opened = self.adopt_one(CONTROL_SOCKET, &address);
        let socket = match opened.and_then(|adopted| adopted.map_or_else(bind, Ok)) {
            // Another program has removed the file: no client reaches the inherited socket.
            Ok(socket) if socket.is_cut_off() => match bind() {
                Ok(socket) => socket,
                Err(error) => {
                    self.warnings.push(chain(&error));
                    return Ok(());
                }
            },
            Ok(socket) => socket,
            Err(StartError::Bind { source, .. })
                if !is_asked_for && source.kind() != io::ErrorKind::AddrInUse =>
            {
                self.warnings.push(no_control(&source));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let control = socket.duplicate().and_then(|fd| Control::start(shared.clone(), fd));
        let control = control
            .inspect_err(|_| sockets::forget(slice::from_ref(&socket), shared.who()))
            .map_err(StartError::system("serve the control socket"))?;
        shared.post(Note::Control { socket: Box::new(socket), control });
        Ok(())
    }

    /// The sockets and the files that the body may take.
    pub(super) fn left_over(&mut self) -> (VecDeque<Unadopted>, Vec<(String, OwnedFd)>) {
        let passed = self.passed.drain(..).map(offered_by_manager);
        (self.offered.drain(..).chain(passed).collect(), mem::take(&mut self.files))
    }

    /// Closes the sockets that the body has not taken. The rest goes to the engine.
    pub(super) fn finish(mut self, unadopted: VecDeque<Unadopted>, shared: &Shared) -> Inheritance {
        systemd::close_unadopted(unadopted, shared.who(), self.manager.as_mut());
        let Self { places, manager, stored, warnings, .. } = self;
        Inheritance { adopted: places, manager, stored, warnings }
    }
}

fn no_control(problem: &dyn fmt::Display) -> String {
    format!("there is no control socket beside the pid file: {problem}")
}

fn cut_off(socket: &BoundSocket) -> String {
    let (name, address) = (&socket.name, &socket.address);
    format!(
        "listener `{name}`: no client finds {address}: the file was removed or replaced; stop and start the service"
    )
}

/// Whether an address cannot be bound while this socket is open.
fn is_in_the_way(passed: &Passed, address: &Address) -> bool {
    let bound = systemd::describe_passed(passed).and_then(|bound| bound.parse::<Address>().ok());
    bound.is_some_and(|bound| overlap(&bound, address))
}

/// Whether two sockets cannot be bound to these addresses at the same time.
fn overlap(bound: &Address, address: &Address) -> bool {
    let ip = |host: &Host| match host {
        Host::V4(ip) => Some(IpAddr::V4(*ip)),
        Host::V6(ip) | Host::V6Scoped { ip, .. } => Some(IpAddr::V6(*ip).to_canonical()),
        Host::Name(_) => None,
    };
    match (bound.place(), address.place()) {
        (Place::Ip { host: theirs, port }, Place::Ip { host: ours, port: wanted }) => {
            let overlap = match (ip(theirs), ip(ours)) {
                (Some(theirs), Some(ours)) => {
                    theirs == ours || theirs.is_unspecified() || ours.is_unspecified()
                }
                // The bind resolves a name, to any address.
                _ => true,
            };
            bound.kind() == address.kind() && port == wanted && overlap
        }
        (theirs, ours) => theirs == ours,
    }
}

/// A passed socket that no declared listener has taken, for a body that binds at run time.
fn offered_by_manager(passed: Passed) -> Unadopted {
    let address = systemd::describe_passed(&passed).unwrap_or_else(|| "no address".to_owned());
    let activated = !passed.stored;
    let entry = Entry { name: passed.name, address, inode: None, activated };
    Unadopted { source: Source::ServiceManager, entry, fd: passed.fd }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;
    use crate::run::begin::open_listeners;

    fn stored(name: &str, fd: impl Into<OwnedFd>) -> Passed {
        Passed { name: name.to_owned(), fd: fd.into(), stored: true }
    }

    fn declared(name: &str, address: impl fmt::Display) -> (String, Address) {
        (name.to_owned(), address.to_string().parse().unwrap())
    }

    /// The clients in the queue of another listener stay, although the address of one listener has changed.
    #[test]
    fn a_changed_address_costs_the_stored_socket_that_is_in_the_way_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let manager = Manager::at(&at);
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, other, late) = (listen(), listen(), listen());
        let (port, other_at) = (http.local_addr().unwrap().port(), other.local_addr().unwrap());
        let client = TcpStream::connect(other_at).unwrap();
        // As a manager does it: it closes what it has kept after it has heard all.
        let kept = http.try_clone().unwrap();
        let heard = thread::spawn(move || {
            let mut heard = Vec::new();
            let mut buffer = [0; 256];
            while heard.last().is_none_or(|last| last != "BARRIER=1") {
                let length = at.recv(&mut buffer).unwrap();
                heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            drop(kept);
            heard
        });
        let passed = vec![stored("http", http), stored("other", other), stored("late", late)];
        let wanted = vec![
            declared("http", format!("tcp://0.0.0.0:{port}")),
            declared("other", format!("tcp://{other_at}")),
        ];
        let mut sources = SocketSources::new(Vec::new(), passed, Some(manager));
        let opened = open_listeners(wanted, &mut sources, &shared()).unwrap();
        let bound: Vec<_> = opened.iter().map(|it| (it.name.as_str(), it.created)).collect();
        assert_eq!(bound, [("http", true), ("other", false)]);
        assert_eq!(sources.passed.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["late"]);
        assert_eq!(heard.join().unwrap(), ["FDSTOREREMOVE=1\nFDNAME=tableflip.http", "BARRIER=1"]);
        assert!(sockets::accept(opened[1].fd.as_fd()).is_ok(), "{client:?} is there still");
    }

    fn shared() -> Shared {
        Shared::new(1, false, Duration::ZERO).unwrap()
    }

    #[test]
    fn for_an_address_that_another_process_has_nothing_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        at.set_nonblocking(true).unwrap();
        let manager = Manager::at(&at);
        let late = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = late.local_addr().unwrap().port();
        let foreign = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let path = dir.path().join("late");
        let passed = vec![stored("late", late), stored("unix", UnixListener::bind(path).unwrap())];
        let wanted = vec![declared("http", format!("tcp://{}", foreign.local_addr().unwrap()))];
        let mut sources = SocketSources::new(Vec::new(), passed, Some(manager));
        let error = chain(&open_listeners(wanted, &mut sources, &shared()).err().unwrap());
        assert!(error.contains("in use"), "{error}");
        let holder = std::process::id().to_string();
        assert!(error.contains(&holder), "who has it is said: {error}");
        assert_eq!(at.recv(&mut [0; 256]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn what_is_in_the_way_of_an_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let passed = stored("http", listener);
        for (address, is_one) in [
            (format!("tcp://127.0.0.1:{port}"), true),
            (format!("tcp://0.0.0.0:{port}"), true),
            (format!("tcp://[::]:{port}"), true),
            (format!("tcp://localhost:{port}"), true),
            (format!("tcp://127.0.0.2:{port}"), false),
            (format!("tcp://[::1]:{port}"), false),
            (format!("udp://127.0.0.1:{port}"), false),
            ("tcp://127.0.0.1:1".to_owned(), false),
            ("unix:///run/http".to_owned(), false),
        ] {
            assert_eq!(is_in_the_way(&passed, &address.parse().unwrap()), is_one, "{address}");
        }
    }
}
