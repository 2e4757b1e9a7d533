//! The predecessor's side of the link: it offers connections to the successor, and keeps what the successor does not take.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use crate::base::sync::{Latch, lock};
use crate::lifecycle::moving::{Giver, GiverAction, GiverEvent};
use crate::moving::session::Session;
use crate::outside::handover::link::{
    self, Entry, Head, Id, MAX_INLINE, MAX_OFFERS, MAX_PACKET, MAX_PAYLOAD, Received, Sent,
};
use crate::sys::memfd;
use crate::sys::outgoing::SHORTAGE_PAUSE;
use crate::sys::poll;
use crate::sys::wake::Wake;

/// How long an offer may be without an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How much later than asked for a wait may end while the machine runs.
const STANDSTILL: Duration = Duration::from_millis(50);
/// How many offers may be without an answer. Each of them is a descriptor in both processes.
const MAX_UNANSWERED: usize = 256;
/// The room in the socket for the last packet of a giver, socket(7). The offers before it have the default, which is half of it.
const SPACE_TO_WITHDRAW: usize = 208 * 1024;
/// How much of a packet is left for one entry of its head.
const ENTRY_SPACE: usize = 256;

/// A stream that is offered. It stays open here until the successor owns it.
pub(crate) type Io = Arc<dyn AsFd + Send + Sync>;

/// The answer to an offer: whether the successor owns the connection.
pub(crate) type Verdict = Arc<Latch<bool>>;

/// The connections of this process, which may move to its successor.
#[derive(Default)]
pub(crate) struct Giving {
    /// A successor takes connections. Then `state` says which.
    is_known: AtomicBool,
    state: Mutex<State>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct State {
    /// The link, until the drain begins.
    link: Option<OwnedFd>,
    /// What the successor takes, by the names of the listeners here.
    takes: HashMap<String, Takes>,
    /// The offers for the thread, once the drain has begun.
    desk: Option<Arc<Desk>>,
}

/// What the successor takes of one listener.
#[derive(Debug)]
pub(crate) struct Takes {
    /// The place of the listener in the offer of the sockets.
    pub(crate) place: usize,
    pub(crate) kinds: Vec<String>,
}

#[derive(Debug, Default)]
struct Counts {
    /// How many connections the successor has taken.
    moved: AtomicU64,
    /// How many offered connections have stayed.
    stayed: AtomicU64,
    going: Mutex<Going>,
}

/// The connections that this process counts as open, and does not own or is about not to own.
#[derive(Default)]
struct Going {
    /// The peers of the offers that are in the link and have no answer. If this process ends now, the successor has them.
    unanswered: HashMap<Id, Option<SocketAddr>>,
    /// The connections that the successor has taken, and their peers. The task of each drops its stream soon.
    taken: VecDeque<(Weak<dyn AsFd + Send + Sync>, Option<SocketAddr>)>,
}

impl Going {
    fn peers(&self) -> impl Iterator<Item = Option<SocketAddr>> {
        let taken = self.taken.iter().filter(|(stream, _)| stream.strong_count() > 0);
        self.unanswered.values().copied().chain(taken.map(|(_, peer)| *peer))
    }
}

impl fmt::Debug for Going {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unanswered, taken } = self;
        f.debug_struct("Going").field("unanswered", &unanswered.len()).field("taken", &taken.len()).finish()
    }
}

/// What the tasks and the engine hand to the thread.
struct Desk {
    wake: Wake,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    offers: VecDeque<Offer>,
    /// Take back what has no answer.
    keeps: bool,
    /// The service of a test is dropped: close the link without a word, as the end of a process does.
    ends: bool,
    /// The thread takes no offer any more.
    is_closed: bool,
}

struct Offer {
    io: Io,
    listener: usize,
    session: Session,
    peer: Option<SocketAddr>,
    /// The bytes of the session, if they are too long for a packet, until they are sent.
    memfd: Option<OwnedFd>,
    verdict: Verdict,
}

impl Giving {
    /// Notes what a successor takes, which says so before it is ready.
    pub(crate) fn expect(&self, link: OwnedFd, takes: HashMap<String, Takes>) {
        *lock(&self.state) = State { link: Some(link), takes, desk: None };
        self.is_known.store(true, Ordering::Release);
    }

    /// A successor takes this kind of one listener, in a test. Nothing is at the other end of its link.
    #[cfg(all(test, feature = "http"))]
    pub(crate) fn expect_kind(&self, listener: &str, kind: &str) {
        let takes = Takes { place: 0, kinds: vec![kind.to_owned()] };
        self.expect(link::pair().unwrap().0, HashMap::from([(listener.to_owned(), takes)]));
    }

    /// The successor is gone. Nothing was offered to it, or all of it has an answer.
    pub(crate) fn forget(&self) {
        self.keep();
        self.is_known.store(false, Ordering::Release);
        *lock(&self.state) = State::default();
    }

    /// Whether the successor takes connections of this kind of this listener, now or once the drain begins.
    #[cfg(any(feature = "http", feature = "websocket"))]
    pub(crate) fn will_take(&self, listener: &str, kind: &str) -> bool {
        self.is_known.load(Ordering::Acquire) && {
            let state = lock(&self.state);
            let is_open = state.desk.as_ref().is_none_or(|desk| !lock(&desk.inner).is_closed);
            is_open && state.place(listener, kind).is_some()
        }
    }

    /// Begins to move connections.
    ///
    /// # Errors
    ///
    /// There is no thread for it: every connection stays.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let Some(link) = state.link.take() else { return Ok(()) };
        let begun = Desk::open(link, self.counts.clone());
        self.is_known.store(begun.is_ok(), Ordering::Release);
        begun.map(|desk| state.desk = Some(desk))
    }

    /// From now on every connection stays. What is offered and has no answer is taken back.
    pub(crate) fn keep(&self) {
        self.is_known.store(false, Ordering::Release);
        if let Some(desk) = &lock(&self.state).desk {
            desk.order(|inner| inner.keeps = true);
        }
    }

    /// The service of a test has ended: its thread ends too.
    pub(crate) fn end(&self) {
        self.is_known.store(false, Ordering::Release);
        if let Some(desk) = mem::take(&mut *lock(&self.state)).desk {
            desk.order(|inner| inner.ends = true);
        }
    }

    /// Offers a connection. `None` if it stays at once. The caller keeps its own handle, and touches the connection only
    /// once the verdict is that it stays.
    pub(crate) fn offer(
        &self,
        listener: &str,
        io: Io,
        session: Session,
        peer: Option<SocketAddr>,
    ) -> Option<Verdict> {
        if !self.is_known.load(Ordering::Acquire) {
            return None;
        }
        let state = lock(&self.state);
        let listener = state.place(listener, &session.kind)?;
        let verdict = Verdict::new(Latch::new());
        let offer = Offer { io, listener, session, peer, memfd: None, verdict: verdict.clone() };
        state.desk.as_ref()?.put(offer).then_some(verdict)
    }

    /// How many connections the successor has taken, and how many of those that were offered have stayed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let Counts { moved, stayed, .. } = &*self.counts;
        (moved.load(Ordering::Relaxed), stayed.load(Ordering::Relaxed))
    }

    /// How many open connections the successor has, or gets if this process ends now.
    pub(crate) fn going(&self) -> u64 {
        u64::try_from(lock(&self.counts.going).peers().count()).unwrap_or(u64::MAX)
    }

    /// The TCP clients of these connections.
    pub(crate) fn going_peers(&self) -> Vec<SocketAddr> {
        lock(&self.counts.going).peers().flatten().collect()
    }
}

impl State {
    fn place(&self, listener: &str, kind: &str) -> Option<usize> {
        let takes = self.takes.get(listener)?;
        takes.kinds.iter().any(|taken| taken == kind).then_some(takes.place)
    }
}

impl fmt::Debug for Giving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Giving").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Desk {
    fn open(link: OwnedFd, counts: Arc<Counts>) -> io::Result<Arc<Self>> {
        let desk = Arc::new(Self { wake: Wake::new()?, inner: Mutex::default() });
        let worker = Worker::new(link, desk.clone(), counts);
        thread::Builder::new().name("tableflip-gives".to_owned()).spawn(move || worker.run())?;
        Ok(desk)
    }

    fn order(&self, order: impl FnOnce(&mut Inner)) {
        order(&mut lock(&self.inner));
        self.wake.wake();
    }

    fn put(&self, offer: Offer) -> bool {
        let mut inner = lock(&self.inner);
        if inner.is_closed || inner.keeps {
            return false;
        }
        inner.offers.push_back(offer);
        drop(inner);
        self.wake.wake();
        true
    }
}

/// The thread of the giver.
struct Worker {
    link: Option<OwnedFd>,
    desk: Arc<Desk>,
    counts: Arc<Counts>,
    giver: Giver,
    next_id: Id,
    /// The offers without an answer, by their numbers.
    offers: HashMap<Id, Offer>,
    /// Those that are not sent yet, in order.
    unsent: VecDeque<Id>,
    /// Those that were sent, in order, with the deadline of the answer. Some of them have their answer.
    sent: VecDeque<(Id, Instant)>,
    /// How much longer the answers may take because the machine stands still.
    patience: Duration,
    /// The socket had no room for the next packet.
    is_full: bool,
    buffer: Vec<u8>,
}

impl Worker {
    fn new(link: OwnedFd, desk: Arc<Desk>, counts: Arc<Counts>) -> Self {
        Self {
            link: Some(link),
            desk,
            counts,
            giver: Giver::new(),
            next_id: 0,
            offers: HashMap::new(),
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            patience: ANSWER_TIMEOUT,
            is_full: false,
            buffer: vec![0; MAX_PACKET],
        }
    }

    fn run(mut self) {
        while self.link.is_some() {
            self.take_orders();
            if !self.receive() {
                thread::sleep(SHORTAGE_PAUSE);
            }
            self.send();
            self.look_at_deadline();
            if self.link.is_some() {
                self.wait();
            }
        }
        // What came meanwhile stays as well.
        lock(&self.desk.inner).is_closed = true;
        self.take_orders();
    }

    fn take_orders(&mut self) {
        let (offers, keeps, ends) = {
            let mut inner = lock(&self.desk.inner);
            (mem::take(&mut inner.offers), inner.keeps, inner.ends)
        };
        for offer in offers {
            let id = self.next_id;
            self.next_id += 1;
            self.offers.insert(id, offer);
            self.feed(GiverEvent::Offer(id));
        }
        if self.link.is_none() {
            return;
        }
        if ends {
            self.link = None;
            self.feed(GiverEvent::Closed);
        } else if keeps {
            self.take_back();
        }
    }

    fn feed(&mut self, event: GiverEvent) {
        for action in self.giver.step(event) {
            match action {
                GiverAction::SendOffer(id) => self.unsent.push_back(id),
                GiverAction::ShutDown => self.shut_down(),
                GiverAction::SendWithdrawn(ids) => self.send_withdrawn(ids),
                GiverAction::Keep(id) => self.settle(id, false),
                GiverAction::LetGo(id) => self.settle(id, true),
            }
        }
    }

    fn settle(&mut self, id: Id, is_moved: bool) {
        let Some(offer) = self.offers.remove(&id) else { return };
        let count = if is_moved { &self.counts.moved } else { &self.counts.stayed };
        count.fetch_add(1, Ordering::Relaxed);
        let Offer { io, peer, verdict, .. } = offer;
        let mut going = lock(&self.counts.going);
        going.unanswered.remove(&id);
        if is_moved {
            while going.taken.front().is_some_and(|(stream, _)| stream.strong_count() == 0) {
                going.taken.pop_front();
            }
            going.taken.push_back((Arc::downgrade(&io), peer));
        }
        drop(going);
        // Whoever waits for the verdict has the only handle then.
        drop(io);
        verdict.set(is_moved);
    }

    /// Takes back what has no answer: no answer can be sent from now on, those that were sent are read, and then the taker learns
    /// what it does not get.
    fn take_back(&mut self) {
        self.feed(GiverEvent::Deadline);
        while !self.receive() {
            thread::sleep(SHORTAGE_PAUSE);
        }
        if self.link.is_some() {
            // The end is known: nobody can send.
            self.feed(GiverEvent::End);
            self.link = None;
        }
    }

    fn shut_down(&mut self) {
        if let Some(link) = &self.link {
            // An error would say that the other end is closed, and then nobody can send either.
            match shutdown(link.as_raw_fd(), Shutdown::Read) {
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn send_withdrawn(&mut self, ids: Vec<Id>) {
        let Some(link) = &self.link else { return };
        let unsent: HashSet<_> = self.unsent.drain(..).collect();
        let ids: Vec<_> = ids.into_iter().filter(|id| !unsent.contains(id)).collect();
        // A taker that is stopped has read nothing, and offers fill the socket. It may hold more than they needed.
        let _the_default_has_room_as_a_rule = setsockopt(link, sockopt::SndBuf, &SPACE_TO_WITHDRAW);
        let packet = link::encode(&Head::Withdrawn { ids });
        // No connection is touched before this is in the link, or the other end is closed.
        while let Sent::Later { is_shortage } = link::send(link, &packet, &NOTHING) {
            pause(link, is_shortage);
        }
    }

    /// Reads what is in the link. Returns false if the system is short of memory: then something may be left.
    fn receive(&mut self) -> bool {
        while let Some(link) = &self.link {
            match link::receive(link, &mut self.buffer) {
                Received::Packet(packet) => match packet.head {
                    Head::Taken { ids } => ids.into_iter().for_each(|id| self.feed(GiverEvent::Taken(id))),
                    Head::Refused { ids } => {
                        ids.into_iter().for_each(|id| self.feed(GiverEvent::Refused(id)));
                    }
                    // A giver says this, and no taker.
                    Head::Offers { .. } | Head::Withdrawn { .. } => {}
                },
                // The offers that it may have answered are taken back at their deadline.
                Received::Useless => {}
                Received::Nothing => return true,
                Received::Shortage => return false,
                Received::End => {
                    self.feed(GiverEvent::End);
                    self.link = None;
                }
            }
        }
        true
    }

    /// Sends what the bounds and the socket allow.
    fn send(&mut self) {
        self.is_full = false;
        while !self.unsent.is_empty() && self.link.is_some() {
            let unanswered = self.offers.len() - self.unsent.len();
            let room = MAX_UNANSWERED.saturating_sub(unanswered).min(MAX_OFFERS);
            if room == 0 {
                return;
            }
            self.prepare(room);
            let Some(link) = &self.link else { return };
            let batch = self.batch(room);
            let sent = match batch.count {
                0 => return,
                _ => link::send(link, &batch.data, &batch.fds),
            };
            let count = batch.count;
            match sent {
                Sent::Done => {
                    let mut going = lock(&self.counts.going);
                    let by = Instant::now() + ANSWER_TIMEOUT;
                    for id in self.unsent.drain(..count) {
                        self.sent.push_back((id, by));
                        if let Some(offer) = self.offers.get_mut(&id) {
                            offer.memfd = None;
                            going.unanswered.insert(id, offer.peer);
                        }
                    }
                }
                Sent::Later { is_shortage } => {
                    self.is_full = true;
                    if is_shortage {
                        thread::sleep(SHORTAGE_PAUSE);
                    }
                    return;
                }
                // The other end is closed, or takes no such packets.
                Sent::Never => return self.take_back(),
            }
        }
    }

    /// Makes the memfds of the next offers that need one. A connection whose memfd cannot be made stays.
    fn prepare(&mut self, most: usize) {
        let next: Vec<_> = self.unsent.iter().take(most).copied().collect();
        for id in next {
            if self.offers.get_mut(&id).is_some_and(|offer| offer.prepare().is_err()) {
                self.unsent.retain(|unsent| *unsent != id);
                self.feed(GiverEvent::NotSent(id));
            }
        }
    }

    /// The next packet, of at most `most` offers.
    fn batch(&self, most: usize) -> Batch<'_> {
        let mut batch = Batch { data: Vec::new(), fds: Vec::new(), count: 0 };
        let (mut entries, mut payload) = (Vec::new(), Vec::new());
        for id in self.unsent.iter().take(most) {
            let Some(offer) = self.offers.get(id) else { break };
            let Session { kind, state, unread } = &offer.session;
            let inline = if offer.memfd.is_some() { &[][..] } else { &[state, unread] };
            let size = (entries.len() + 1) * ENTRY_SPACE
                + payload.len()
                + inline.iter().map(|it| it.len()).sum::<usize>();
            if !entries.is_empty() && size > MAX_PACKET {
                break;
            }
            inline.iter().for_each(|bytes| payload.extend_from_slice(bytes));
            entries.push(Entry {
                id: *id,
                listener: offer.listener,
                kind: kind.clone(),
                peer: offer.peer,
                state: state.len(),
                unread: unread.len(),
                memfd: offer.memfd.is_some(),
            });
            batch.fds.push(offer.io.as_fd());
            batch.fds.extend(offer.memfd.as_ref().map(AsFd::as_fd));
            batch.count += 1;
        }
        batch.data = link::encode(&Head::Offers { offers: entries });
        batch.data.append(&mut payload);
        batch
    }

    fn look_at_deadline(&mut self) {
        while self.sent.front().is_some_and(|(id, _)| !self.offers.contains_key(id)) {
            self.sent.pop_front();
        }
        if self.link.is_some() && self.sent.front().is_some_and(|(_, by)| *by <= Instant::now()) {
            self.take_back();
        }
    }

    fn wait(&mut self) {
        let Some(link) = &self.link else { return };
        let wanted = if self.is_full { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds =
            [PollFd::new(link.as_fd(), wanted), PollFd::new(self.desk.wake.as_fd(), PollFlags::POLLIN)];
        let deadline = self.sent.front().map(|(_, by)| *by);
        if poll::until(&mut fds, deadline).is_err() {
            thread::sleep(SHORTAGE_PAUSE);
        }
        self.desk.wake.clear();
        // A wait that is much too long is a machine that stood still. The successor stood still as well, and gets that time.
        let late = deadline.map_or(Duration::ZERO, |deadline| deadline.elapsed()).min(self.patience);
        if late > STANDSTILL {
            self.patience -= late;
            self.sent.iter_mut().for_each(|(_, by)| *by += late);
        }
    }
}

const NOTHING: [&OwnedFd; 0] = [];

/// Waits for room in the link.
fn pause(link: &OwnedFd, is_shortage: bool) {
    let mut fds = [PollFd::new(link.as_fd(), PollFlags::POLLOUT)];
    if is_shortage || poll::until(&mut fds, Some(Instant::now() + SHORTAGE_PAUSE)).is_err() {
        thread::sleep(SHORTAGE_PAUSE);
    }
}

impl Offer {
    /// Puts what is too long for a packet into a memfd.
    fn prepare(&mut self) -> io::Result<()> {
        let Session { state, unread, .. } = &self.session;
        match state.len() + unread.len() {
            0..=MAX_INLINE => {}
            length if length > MAX_PAYLOAD => return Err(io::ErrorKind::FileTooLarge.into()),
            _ if self.memfd.is_some() => {}
            _ => self.memfd = Some(memfd::sealed(&[state, unread])?),
        }
        Ok(())
    }
}

struct Batch<'a> {
    data: Vec<u8>,
    fds: Vec<BorrowedFd<'a>>,
    count: usize,
}
