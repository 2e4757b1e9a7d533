//! The server of the control socket. It has its own thread, so that a slow client delays neither the service nor an upgrade.

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
use crate::between::note::{Note, Order};
use crate::between::shared::Shared;
use crate::config::settings::check_command;
use crate::outside::sockets;
use crate::outside::spawner::Image;
use crate::sys::poll;
use crate::sys::wake::Wake;

/// The greatest number of clients.
const MAX_CLIENTS: usize = 32;
/// The most news that wait for the thread. Beyond that the phases are dropped; an outcome never is.
const MAX_NEWS: usize = 64;
/// The time between two replies to `watch` if nothing changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The pause of accepts after one that failed because the system is short of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The engine's side of the control socket.
pub(crate) struct Control {
    link: Arc<ControlShared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The state that the engine and the thread share.
struct ControlShared {
    gate: Gate<OwnedFd>,
    wake: Wake,
    /// In the order of the events.
    news: Mutex<VecDeque<News>>,
    ended: AtomicBool,
}

impl Control {
    /// Starts the thread that serves this socket. The gate is closed at first.
    pub(crate) fn start(shared: Arc<Shared>, socket: OwnedFd) -> io::Result<Arc<Self>> {
        let link = Arc::new(ControlShared {
            gate: Gate::new(CONTROL_SOCKET.to_owned(), shared.clone(), Arc::new(socket)),
            wake: Wake::new()?,
            news: Mutex::new(VecDeque::new()),
            ended: AtomicBool::new(false),
        });
        let server = Server {
            link: link.clone(),
            shared,
            clients: Vec::new(),
            status: None,
            watchers_served: None,
            backoff: None,
            cannot_wait: RateLimit::default(),
        };
        let builder = thread::Builder::new().name("tableflip-control".to_owned());
        let thread = builder.spawn(|| server.run()).map_err(no_thread)?;
        Ok(Arc::new(Self { link, thread: Mutex::new(Some(thread)) }))
    }
}

impl ControlSocket for Control {
    fn as_gate(self: Arc<Self>) -> Arc<dyn GateControl> {
        self
    }

    fn tell(&self, news: News) {
        let mut queue = self.link.news.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == MAX_NEWS {
            queue.clear();
            queue.push_back(News::Outcome);
        }
        queue.push_back(news);
    }

    fn wake(&self) {
        self.link.wake.wake();
    }

    fn end(&self) {
        self.link.ended.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The panic hook has printed a panic of the thread.
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

/// The gate of the control socket. Every change wakes the thread, which polls the socket only while the gate is open.
impl GateControl for Control {
    fn name(&self) -> &str {
        CONTROL_SOCKET
    }

    fn open(&self) {
        self.link.gate.open();
        self.wake();
    }

    fn close(&self, deadline: Instant) -> bool {
        let closed = self.link.gate.close(deadline);
        self.wake();
        closed
    }

    fn settle(&self, deadline: Instant) -> bool {
        let settled = self.link.gate.settle(deadline);
        self.wake();
        settled
    }

    fn retire(&self, deadline: Instant) -> bool {
        let is_empty = self.link.gate.retire(deadline);
        self.wake();
        is_empty
    }

    /// Always true, because readiness does not wait for the control socket.
    fn asked(&self) -> bool {
        true
    }

    fn taken(&self) -> u64 {
        self.link.gate.taken()
    }

    /// The engine gives connections only to listeners of the body.
    fn inject(&self, connection: OwnedFd) {
        drop(connection);
    }
}

/// The thread of the control socket.
struct Server {
    link: Arc<ControlShared>,
    shared: Arc<Shared>,
    clients: Vec<Client>,
    /// The status that the server has asked the engine for.
    status: Option<Arc<Latch<Status>>>,
    /// The time at which the watching clients last became due for a status.
    watchers_served: Option<Instant>,
    /// The end of the pause of accepts.
    backoff: Option<Instant>,
    cannot_wait: RateLimit,
}

impl Server {
    fn run(mut self) {
        while !self.link.ended.load(Ordering::Acquire) {
            let can_accept = self.wait().unwrap_or_else(|error| {
                // poll(2) fails only if the system is short of memory.
                if self.cannot_wait.is_due() {
                    complain!(self.shared, "the control socket cannot wait: {error}");
                }
                thread::sleep(ACCEPT_BACKOFF);
                false
            });
            self.round(can_accept);
        }
        // Sends what the engine set before the end, such as the outcome of an upgrade.
        self.answer();
        self.clients.iter_mut().for_each(Client::flush);
    }

    fn round(&mut self, can_accept: bool) {
        self.link.wake.clear();
        if can_accept {
            self.accept();
        }
        // One request of each client, so that no client delays another.
        for client in &mut self.clients {
            if let Some(request) = client.request() {
                serve(client, request, &self.shared);
            }
        }
        self.answer();
        self.clients.iter_mut().for_each(Client::flush);
        self.clients.retain(|client| !client.is_done());
    }

    /// Waits for something to do. Returns whether a client waits to be accepted: without one, accept(2) would also fail if
    /// the process is short of descriptors.
    fn wait(&mut self) -> io::Result<bool> {
        self.backoff = self.backoff.filter(|until| Instant::now() < *until);
        let mut fds = vec![PollFd::new(self.link.wake.as_fd(), PollFlags::POLLIN)];
        let listener = match self.link.gate.state() {
            GateState::Open(listener) if self.backoff.is_none() => Some(listener),
            _ => None,
        };
        fds.extend(listener.as_ref().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        let before = fds.len();
        fds.extend(self.clients.iter().map(|client| PollFd::new(client.as_fd(), client.interest())));
        let watched = self.clients.iter().any(|client| client.watches);
        let next = self.watchers_served.filter(|_| watched).map(|served| served + WATCH_INTERVAL);
        let at_once = self.clients.iter().any(Client::has_request).then(Instant::now);
        poll::until(&mut fds, next.into_iter().chain(self.backoff).chain(at_once).min())?;
        let hung_up =
            |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        let can_accept = fds[1..before].iter().any(|fd| fd.any().unwrap_or(true));
        let hung_up: Vec<bool> = fds[before..].iter().map(hung_up).collect();
        self.clients
            .iter_mut()
            .zip(hung_up)
            .filter(|(_, hung_up)| *hung_up)
            .for_each(|(client, _)| client.hung_up());
        Ok(can_accept)
    }

    fn accept(&mut self) {
        let take = |listener: &OwnedFd| sockets::accept_nonblocking(listener.as_fd());
        // At most so many at once: the other clients are served in between.
        for _ in 0..MAX_CLIENTS {
            let gate = &self.link.gate;
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

    /// Adds a client, or refuses it. If there are too many clients, the oldest idle one is dropped for the new one.
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

    /// Sends the news and the statuses that are there, and asks the engine for a status if a client is due for one.
    fn answer(&mut self) {
        let news = std::mem::take(&mut *self.link.news.lock().unwrap_or_else(PoisonError::into_inner));
        for news in &news {
            for client in &mut self.clients {
                match news {
                    News::Phase(change) => client.send_phase(*change),
                    News::Outcome => client.send_outcome(),
                    News::Drained(drain) => {
                        client.send_drained(drain);
                        if (drain.generation, drain.pid) == (self.shared.generation, self.shared.pid) {
                            client.end_statuses();
                        }
                    }
                }
            }
        }

        let now = Instant::now();
        let is_over = |served| now >= served + WATCH_INTERVAL;
        let is_due = !news.is_empty() || self.watchers_served.is_none_or(is_over);
        if is_due && self.clients.iter().any(|client| client.watches) {
            self.watchers_served = Some(now);
            self.clients
                .iter_mut()
                .filter(|client| client.watches)
                .for_each(|client| client.wants_status = true);
        }
        if let Some(status) = self.status.as_ref().and_then(|status| status.get()) {
            let reply = Reply::Status { protocol: PROTOCOL, status: Box::new(status.clone()) };
            for client in self.clients.iter_mut().filter(|client| client.asked_status) {
                client.asked_status = false;
                client.send(&reply);
            }
            self.status = None;
        }
        // One request to the engine at a time, for all clients that are due for a status.
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

fn begin_upgrade(client: &mut Client, order: Order, shared: &Shared) {
    if let Some(reply) = client.begin_upgrade() {
        shared.post(Note::Upgrade { reply, order });
    }
}

fn serve(client: &mut Client, request: Result<Request, String>, shared: &Shared) {
    match request {
        Ok(Request::Status) => client.wants_status = true,
        Ok(Request::Watch) => client.begin_watch(),
        Ok(Request::Upgrade { no_move, verify }) => {
            let checked = verify.as_ref().map(|command| check_command(command.into())).transpose();
            if let Err(problem) = checked {
                client.send(&Reply::error(Code::BadRequest, format!("`verify`: {problem}")));
                return;
            }
            let order = Order { no_move, verify, ..Order::by(client.requester()) };
            begin_upgrade(client, order, shared);
        }
        Ok(Request::Rollback) => {
            let order = Order { image: Image::Previous, ..Order::by(client.requester()) };
            begin_upgrade(client, order, shared);
        }
        Ok(Request::Revert) => {
            if let Some(reply) = client.begin_revert() {
                shared.post(Note::Revert(reply));
            }
        }
        Ok(Request::Stop) => {
            client.begin_stop();
            shared.post(Note::StopService);
        }
        Err(problem) => client.send(&Reply::error(Code::BadRequest, problem)),
    }
}
