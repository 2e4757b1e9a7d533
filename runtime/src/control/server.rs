//! Serves the control socket, on a thread of its own, so that no client delays the service or an upgrade, whatever it sends
//! and however slowly it reads.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use super::client::Client;
use super::{Code, PROTOCOL, Reply, Request};
use crate::base::limits::no_thread;
use crate::base::report::{RateLimit, complain};
use crate::base::status::Status;
use crate::base::sync::Latch;
use crate::between::gate::{Gate, GateState};
use crate::between::gate_control::{CONTROL_SOCKET, ControlSocket, GateControl, News};
use crate::between::shared::{Note, Shared};
use crate::outside::sockets;
use crate::sys::poll;
use crate::sys::wake::Wake;

/// How many clients are served at once.
const MAX_CLIENTS: usize = 32;
/// How much news is kept for a thread that has not come to tell it yet; of more than that only the outcomes are.
const MAX_NEWS: usize = 64;
/// How often whoever watches is told how things stand, if nothing else happens.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is accepted for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The engine's side of it.
pub(crate) struct Control {
    shared_with_engine: Arc<ControlShared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the engine and the thread share.
struct ControlShared {
    gate: Gate<OwnedFd>,
    wake: Wake,
    /// In the order in which it happened.
    news: Mutex<VecDeque<News>>,
    ended: AtomicBool,
}

impl Control {
    /// Serves this socket. Its gate is closed.
    pub(crate) fn start(shared: Arc<Shared>, socket: OwnedFd) -> io::Result<Arc<Self>> {
        let shared_with_engine = Arc::new(ControlShared {
            gate: Gate::new(CONTROL_SOCKET.to_owned(), shared.clone(), Arc::new(socket)),
            wake: Wake::new()?,
            news: Mutex::new(VecDeque::new()),
            ended: AtomicBool::new(false),
        });
        let server = Server {
            shared_with_engine: shared_with_engine.clone(),
            shared,
            clients: Vec::new(),
            status: None,
            told: None,
            backoff: None,
            cannot_wait: RateLimit::default(),
        };
        let builder = thread::Builder::new().name("tableflip-control".to_owned());
        let thread = builder.spawn(|| server.run()).map_err(no_thread)?;
        Ok(Arc::new(Self { shared_with_engine, thread: Mutex::new(Some(thread)) }))
    }
}

impl ControlSocket for Control {
    fn as_gate(self: Arc<Self>) -> Arc<dyn GateControl> {
        self
    }

    fn tell(&self, news: News) {
        let mut kept = self.shared_with_engine.news.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == MAX_NEWS {
            kept.clear();
            kept.push_back(News::Outcome);
        }
        kept.push_back(news);
    }

    fn wake(&self) {
        self.shared_with_engine.wake.wake();
    }

    fn end(&self) {
        self.shared_with_engine.ended.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of it has been printed; there is nothing else to learn of it.
            match thread.join() {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// The gate of the socket, as that of every listener; whoever opens and closes it wakes the thread.
impl GateControl for Control {
    fn name(&self) -> &str {
        CONTROL_SOCKET
    }

    fn open(&self) {
        self.shared_with_engine.gate.open();
        self.wake();
    }

    fn close(&self, deadline: Instant) -> bool {
        let closed = self.shared_with_engine.gate.close(deadline);
        self.wake();
        closed
    }

    fn settle(&self, deadline: Instant) -> bool {
        let settled = self.shared_with_engine.gate.settle(deadline);
        self.wake();
        settled
    }

    fn retire(&self, deadline: Instant) -> bool {
        let is_empty = self.shared_with_engine.gate.retire(deadline);
        self.wake();
        is_empty
    }

    /// No body serves it.
    fn asked(&self) -> bool {
        true
    }

    fn taken(&self) -> u64 {
        self.shared_with_engine.gate.taken()
    }
}

/// The thread.
struct Server {
    shared_with_engine: Arc<ControlShared>,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    /// What the engine has been asked for.
    status: Option<Arc<Latch<Status>>>,
    /// When those who watch were told last.
    told: Option<Instant>,
    /// Until when nothing is accepted.
    backoff: Option<Instant>,
    cannot_wait: RateLimit,
}

impl Server {
    fn run(mut self) {
        while !self.shared_with_engine.ended.load(Ordering::Acquire) {
            let calls = self.wait().unwrap_or_else(|error| {
                // poll(2) fails for want of memory only.
                if self.cannot_wait.is_due() {
                    complain!(self.shared, "the control socket cannot wait: {error}");
                }
                thread::sleep(ACCEPT_BACKOFF);
                false
            });
            self.round(calls);
        }
        // Whatever was set before the end, such as the outcome of an upgrade, is there now.
        self.answer();
        self.clients.iter_mut().for_each(Client::flush);
    }

    fn round(&mut self, calls: bool) {
        self.shared_with_engine.wake.clear();
        if calls {
            self.accept();
        }
        // One request of each, so that no client keeps another waiting.
        for client in &mut self.clients {
            if let Some(request) = client.request() {
                serve(client, request, &self.shared);
            }
        }
        self.answer();
        self.clients.iter_mut().for_each(Client::flush);
        self.clients.retain(|client| !client.is_done());
    }

    /// Whether somebody calls. An accept(2) where nobody does fails for want of descriptors all the same.
    fn wait(&mut self) -> io::Result<bool> {
        self.backoff = self.backoff.filter(|until| Instant::now() < *until);
        let mut fds = vec![PollFd::new(self.shared_with_engine.wake.as_fd(), PollFlags::POLLIN)];
        let listener = match self.shared_with_engine.gate.state() {
            GateState::Open(listener) if self.backoff.is_none() => Some(listener),
            _ => None,
        };
        fds.extend(listener.as_ref().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        let before = fds.len();
        fds.extend(self.clients.iter().map(|client| PollFd::new(client.as_fd(), client.wanted())));
        let watched = self.clients.iter().any(|client| client.watches);
        let next = self.told.filter(|_| watched).map(|told| told + WATCH_INTERVAL);
        let at_once = self.clients.iter().any(Client::has_request).then(Instant::now);
        poll::until(&mut fds, next.into_iter().chain(self.backoff).chain(at_once).min())?;
        let hung_up =
            |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        let calls = fds[1..before].iter().any(|fd| fd.any().unwrap_or(true));
        let hung_up: Vec<bool> = fds[before..].iter().map(hung_up).collect();
        self.clients
            .iter_mut()
            .zip(hung_up)
            .filter(|(_, hung_up)| *hung_up)
            .for_each(|(client, _)| client.hung_up());
        Ok(calls)
    }

    fn accept(&mut self) {
        let take = |listener: &OwnedFd| sockets::accept_nonblocking(listener.as_fd());
        // Not all of a crowd at once: those who are there are served in between.
        for _ in 0..MAX_CLIENTS {
            let gate = &self.shared_with_engine.gate;
            match gate.pass(|listener| gate.attempt(listener, take)) {
                None => return,
                Some(Ok((fd, _))) => self.admit(Client::new(fd)),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return,
                Some(Err(error)) => {
                    gate.complain(&error);
                    self.backoff = Some(Instant::now() + ACCEPT_BACKOFF);
                    return;
                }
            }
        }
    }

    /// Whoever says nothing makes room for whoever comes, the longest there first.
    fn admit(&mut self, mut client: Client) {
        if !client.is_allowed() {
            client.refuse(&Reply::error(Code::Denied, "the process at the other end is of another user"));
            return;
        }
        if self.clients.len() == MAX_CLIENTS {
            match self.clients.iter().position(Client::is_idle) {
                Some(idle) => _ = self.clients.remove(idle),
                None => {
                    client.refuse(&Reply::error(
                        Code::Busy,
                        format!("{MAX_CLIENTS} clients are served already"),
                    ));
                    return;
                }
            }
        }
        self.clients.push(client);
    }

    /// Says what there is to say by now.
    fn answer(&mut self) {
        let news =
            std::mem::take(&mut *self.shared_with_engine.news.lock().unwrap_or_else(PoisonError::into_inner));
        for news in &news {
            for client in &mut self.clients {
                match news {
                    News::Phase(change) => client.tell(*change),
                    News::Outcome => client.tell_outcome(),
                }
            }
        }

        let now = Instant::now();
        let is_due = !news.is_empty() || self.told.is_none_or(|told| now >= told + WATCH_INTERVAL);
        if is_due && self.clients.iter().any(|client| client.watches) {
            self.told = Some(now);
            self.clients
                .iter_mut()
                .filter(|client| client.watches)
                .for_each(|client| client.wants_status = true);
        }
        if let Some(status) = self.status.as_ref().and_then(|status| status.get()) {
            let reply = Reply::Status {
                protocol: PROTOCOL,
                release: env!("CARGO_PKG_VERSION").to_owned(),
                status: Box::new(status.clone()),
            };
            for client in self.clients.iter_mut().filter(|client| client.asked_status) {
                client.asked_status = false;
                client.say(&reply);
            }
            self.status = None;
        }
        // One question at a time, for everybody who has one, whatever their number.
        if self.status.is_none() && self.clients.iter().any(|client| client.wants_status) {
            for client in &mut self.clients {
                client.asked_status |= std::mem::take(&mut client.wants_status);
            }
            let status = Arc::new(Latch::new());
            self.status = Some(status.clone());
            self.shared.post(Note::Status(status));
        }
    }
}

fn serve(client: &mut Client, request: Result<Request, String>, shared: &Shared) {
    match request {
        Ok(Request::Status) => client.wants_status = true,
        Ok(Request::Watch) => {
            client.watches = true;
            client.wants_status = true;
        }
        Ok(Request::Upgrade) => {
            if let Some(reply) = client.begin_upgrade() {
                shared.post(Note::Upgrade(reply));
            }
        }
        Ok(Request::Stop) => {
            client.begin_stop();
            shared.post(Note::StopService);
        }
        Err(problem) => client.say(&Reply::error(Code::BadRequest, problem)),
    }
}
