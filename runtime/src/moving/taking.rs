//! The successor's side of the link: it gives the offered connections to those that wait for them, and answers.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use event_listener::Event;
use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit};

use crate::base::sync::{Latch, lock};
use crate::lifecycle::moving::{Taker, TakerAction, TakerEvent};
use crate::moving::session::{self, State, StateError};
use crate::outside::handover::link::{self, Entry, Head, Id, MAX_IDS, MAX_PACKET, Received, Sent};
use crate::sys::memfd;
use crate::sys::outgoing::SHORTAGE_PAUSE;
use crate::sys::poll;
use crate::sys::wake::Wake;

/// How many descriptor numbers are left to the rest of the process.
const RESERVE: u64 = 64;

/// The connections that come from the predecessor.
#[derive(Default)]
pub(crate) struct Taking {
    inner: Mutex<Inner>,
    /// Notified when an offer has come, and when no offer comes any more.
    changed: Event,
    counts: Counts,
    /// This process drains, and takes nothing.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// The kinds that somebody waits for.
    awaited: Vec<Awaited>,
    /// The offers that nobody has looked at, in order.
    offers: VecDeque<Offered>,
    /// The thread, while the predecessor may offer connections.
    desk: Option<Arc<Desk>>,
}

/// A kind of connection of one listener.
struct Awaited {
    listener: String,
    kind: String,
    /// The number of consumers.
    consumers: usize,
}

impl Inner {
    fn awaited(&mut self, listener: &str, kind: &str) -> Option<&mut Awaited> {
        self.awaited.iter_mut().find(|awaited| awaited.listener == listener && awaited.kind == kind)
    }

    /// Takes out the offers that nobody waits for.
    fn unwanted(&mut self) -> Vec<Offered> {
        let offers = mem::take(&mut self.offers);
        let (wanted, unwanted): (Vec<_>, Vec<_>) =
            offers.into_iter().partition(|offer| self.awaited(&offer.listener, &offer.kind).is_some());
        self.offers = wanted.into();
        unwanted
    }
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    refused: AtomicU64,
    /// How many of the refused ones were refused for want of descriptors.
    short: AtomicU64,
}

/// What the consumers hand to the thread.
struct Desk {
    wake: Wake,
    orders: Mutex<Orders>,
}

#[derive(Default)]
struct Orders {
    wanted: Vec<Id>,
    refused: Vec<Id>,
    /// The service of a test is dropped.
    ends: bool,
}

/// A connection that was offered. The drop of an offer that was not taken refuses it.
pub(crate) struct Offered {
    listener: String,
    kind: String,
    peer: Option<SocketAddr>,
    state: Vec<u8>,
    unread: Vec<u8>,
    id: Id,
    held: Arc<Held>,
    desk: Arc<Desk>,
    taking: Weak<Taking>,
}

/// The descriptor of an offered connection.
struct Held {
    /// `None` once it is given to the body or closed.
    fd: Mutex<Option<OwnedFd>>,
    /// Whether this process owns the connection.
    verdict: Latch<bool>,
}

/// Waits for the offers of some kinds of one listener.
pub(crate) struct Consumer {
    taking: Arc<Taking>,
    listener: String,
    kinds: Vec<String>,
}

impl Taking {
    /// From now on offers of these kinds of this listener are taken.
    pub(crate) fn consumer(self: &Arc<Self>, listener: &str, kinds: Vec<String>) -> Consumer {
        let mut inner = lock(&self.inner);
        for kind in &kinds {
            match inner.awaited(listener, kind) {
                Some(awaited) => awaited.consumers += 1,
                None => {
                    let (listener, kind) = (listener.to_owned(), kind.clone());
                    inner.awaited.push(Awaited { listener, kind, consumers: 1 });
                }
            }
        }
        drop(inner);
        Consumer { taking: self.clone(), listener: listener.to_owned(), kinds }
    }

    /// The kinds that are taken of each listener.
    pub(crate) fn kinds(&self) -> Vec<(String, Vec<String>)> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for Awaited { listener, kind, .. } in &lock(&self.inner).awaited {
            match all.iter_mut().find(|(known, _)| known == listener) {
                Some((_, kinds)) => kinds.push(kind.clone()),
                None => all.push((listener.clone(), vec![kind.clone()])),
            }
        }
        all
    }

    /// Begins to take what the predecessor offers. `places` has the listeners of this process by their places in the
    /// predecessor's offer.
    ///
    /// # Errors
    ///
    /// There is no thread for it: the predecessor keeps its connections.
    pub(crate) fn begin(self: &Arc<Self>, link: OwnedFd, places: HashMap<usize, String>) -> io::Result<()> {
        let desk = Arc::new(Desk { wake: Wake::new()?, orders: Mutex::default() });
        let worker = Worker {
            link: Some(link),
            desk: desk.clone(),
            taking: Arc::downgrade(self),
            places,
            taker: Taker::new(),
            last_id: None,
            held: HashMap::new(),
            wanted: VecDeque::new(),
            refused: VecDeque::new(),
            is_full: false,
            buffer: vec![0; MAX_PACKET],
        };
        // With the lock: the thread that ends takes the desk away again.
        let mut inner = lock(&self.inner);
        thread::Builder::new().name("tableflip-takes".to_owned()).spawn(move || worker.run())?;
        inner.desk = Some(desk);
        Ok(())
    }

    /// This process drains: nothing is taken from now on, and every consumer is told.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.refuse_all();
    }

    /// The service of a test has ended: its thread ends too.
    pub(crate) fn end(&self) {
        self.close();
        if let Some(desk) = lock(&self.inner).desk.take() {
            desk.order(|orders| orders.ends = true);
        }
    }

    /// How many connections were taken, and how many were offered and not taken.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let Counts { taken, refused, .. } = &self.counts;
        (taken.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
    }

    /// How many connections were refused because this process had too few descriptors left.
    pub(crate) fn refused_for_shortage(&self) -> u64 {
        self.counts.short.load(Ordering::Relaxed)
    }

    fn refuse_all(&self) {
        let offers = mem::take(&mut lock(&self.inner).offers);
        drop(offers);
        self.changed.notify(usize::MAX);
    }

    /// Gives an offer to those that wait for it. Without any it is refused by its drop.
    fn put(&self, offered: Offered) {
        let mut inner = lock(&self.inner);
        let is_awaited = inner.awaited(&offered.listener, &offered.kind).is_some();
        if !is_awaited || self.is_closed.load(Ordering::SeqCst) {
            drop(inner);
            drop(offered);
            return;
        }
        inner.offers.push_back(offered);
        drop(inner);
        self.changed.notify(usize::MAX);
    }
}

impl fmt::Debug for Taking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taking").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Consumer {
    /// The next offer. It does not wait.
    pub(crate) fn try_next(&self) -> Option<Offered> {
        loop {
            let mut inner = lock(&self.taking.inner);
            let is_ours =
                |offer: &Offered| offer.listener == self.listener && self.kinds.contains(&offer.kind);
            let at = inner.offers.iter().position(is_ours)?;
            let offer = inner.offers.remove(at)?;
            drop(inner);
            // One that was taken back meanwhile is passed over.
            if offer.held.verdict.get() != Some(&false) {
                return Some(offer);
            }
        }
    }

    /// The event after which [`try_next`](Self::try_next) may have another result.
    pub(crate) fn changed(&self) -> &Event {
        &self.taking.changed
    }

    /// Whether this process drains, and takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.taking.is_closed.load(Ordering::SeqCst)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut inner = lock(&self.taking.inner);
        for kind in &self.kinds {
            if let Some(awaited) = inner.awaited(&self.listener, kind) {
                awaited.consumers -= 1;
            }
        }
        inner.awaited.retain(|awaited| awaited.consumers > 0);
        let unwanted = inner.unwanted();
        drop(inner);
        drop(unwanted);
    }
}

impl Offered {
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }

    pub(crate) fn decode<T: State>(&self) -> Result<T, StateError> {
        session::from_bytes(&self.state)
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        mem::take(&mut self.unread)
    }

    /// Takes the connection. `None` if the predecessor has taken it back.
    #[cfg(feature = "tokio")]
    pub(crate) async fn take(self) -> Option<OwnedFd> {
        self.ask();
        let is_ours = *self.held.verdict.wait().await;
        self.taken(is_ours)
    }

    /// [`take`](Self::take) for threads.
    pub(crate) fn take_blocking(self) -> Option<OwnedFd> {
        self.ask();
        let is_ours = *self.held.verdict.wait_blocking();
        self.taken(is_ours)
    }

    fn ask(&self) {
        if self.held.verdict.get().is_none() {
            self.desk.order(|orders| orders.wanted.push(self.id));
        }
    }

    fn taken(&self, is_ours: bool) -> Option<OwnedFd> {
        let fd = lock(&self.held.fd).take().filter(|_| is_ours)?;
        if let Some(taking) = self.taking.upgrade() {
            taking.counts.taken.fetch_add(1, Ordering::Relaxed);
        }
        Some(fd)
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        // One that is owned and was not taken is closed here, as every connection is that a body drops.
        if lock(&self.held.fd).is_some() && self.held.verdict.get().is_none() {
            self.desk.order(|orders| orders.refused.push(self.id));
        }
        let fd = self.held.verdict.get().and_then(|_| lock(&self.held.fd).take());
        drop(fd);
    }
}

impl fmt::Debug for Offered {
    /// Without the bytes, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offered")
            .field("listener", &self.listener)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Desk {
    fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut lock(&self.orders));
        self.wake.wake();
    }
}

/// The thread of the taker.
struct Worker {
    link: Option<OwnedFd>,
    desk: Arc<Desk>,
    taking: Weak<Taking>,
    places: HashMap<usize, String>,
    taker: Taker,
    /// The number of the last offer.
    last_id: Option<Id>,
    /// The connections that have arrived and have no owner here.
    held: HashMap<Id, Arc<Held>>,
    /// The answers that wait for room in the socket.
    wanted: VecDeque<Id>,
    refused: VecDeque<Id>,
    is_full: bool,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(mut self) {
        while self.link.is_some() {
            self.take_orders();
            self.send();
            self.receive();
            if self.link.is_some() {
                self.wait();
            }
        }
        // Nobody hands anything to this thread any more: the descriptor of its wake is closed with the last offer.
        if let Some(taking) = self.taking.upgrade() {
            let mut inner = lock(&taking.inner);
            inner.desk.take_if(|desk| Arc::ptr_eq(desk, &self.desk));
        }
    }

    fn take_orders(&mut self) {
        let (wanted, refused, ends) = {
            let mut orders = lock(&self.desk.orders);
            (mem::take(&mut orders.wanted), mem::take(&mut orders.refused), orders.ends)
        };
        if ends {
            self.link = None;
            return self.feed(TakerEvent::Closed);
        }
        wanted.into_iter().for_each(|id| self.feed(TakerEvent::Take(id)));
        refused.into_iter().for_each(|id| self.feed(TakerEvent::Refuse(id)));
    }

    fn feed(&mut self, event: TakerEvent) {
        for action in self.taker.step(event) {
            match action {
                TakerAction::SendTaken(id) => self.wanted.push_back(id),
                TakerAction::SendRefused(id) => self.refused.push_back(id),
                TakerAction::Own(id) => self.settle(id, true),
                TakerAction::Drop(id) => self.settle(id, false),
            }
        }
    }

    fn settle(&mut self, id: Id, is_ours: bool) {
        if let Some(taking) = self.taking.upgrade().filter(|_| !is_ours) {
            taking.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        let Some(held) = self.held.remove(&id) else { return };
        if !is_ours {
            // Before the verdict: nobody here keeps the connection open for whom it is not.
            drop(lock(&held.fd).take());
        }
        held.verdict.set(is_ours);
    }

    /// Sends the answers. The connections of an answer `taken` belong to this process once it is in the link.
    fn send(&mut self) {
        self.is_full = false;
        while let Some(link) = &self.link {
            let (queue, is_taken) =
                if self.refused.is_empty() { (&self.wanted, true) } else { (&self.refused, false) };
            let ids: Vec<_> = queue.iter().take(MAX_IDS).copied().collect();
            if ids.is_empty() {
                return;
            }
            let head =
                if is_taken { Head::Taken { ids: ids.clone() } } else { Head::Refused { ids: ids.clone() } };
            let nothing: [&OwnedFd; 0] = [];
            let sent = link::send(link, &link::encode(&head), &nothing);
            if let Sent::Later { is_shortage } = sent {
                self.is_full = true;
                if is_shortage {
                    thread::sleep(SHORTAGE_PAUSE);
                }
                return;
            }
            let queue = if is_taken { &mut self.wanted } else { &mut self.refused };
            queue.drain(..ids.len());
            if is_taken {
                let event = if sent == Sent::Done { TakerEvent::Sent } else { TakerEvent::NotSent };
                ids.into_iter().for_each(|id| self.feed(event(id)));
            }
        }
    }

    fn receive(&mut self) {
        while let Some(link) = &self.link {
            match link::receive(link, &mut self.buffer) {
                Received::Packet(packet) => match packet.head {
                    Head::Offers { offers } => self.arrive(offers, &packet.payload, packet.fds),
                    Head::Withdrawn { ids } => self.feed(TakerEvent::Withdrawn(ids)),
                    // A taker says this, and no giver.
                    Head::Taken { .. } | Head::Refused { .. } => {}
                },
                // The giver takes the connections back that get no answer.
                Received::Useless => {}
                Received::Nothing => return,
                Received::Shortage => thread::sleep(SHORTAGE_PAUSE),
                Received::End => {
                    self.feed(TakerEvent::End);
                    self.link = None;
                }
            }
        }
    }

    fn arrive(&mut self, entries: Vec<Entry>, mut payload: &[u8], fds: Vec<OwnedFd>) {
        let limit =
            getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft.saturating_sub(RESERVE));
        let mut fds = fds.into_iter();
        for entry in entries {
            if self.last_id.is_some_and(|last| entry.id <= last) {
                // A number that came before has its answer, or will have it. The giver takes back what else is in this packet.
                return;
            }
            self.last_id = Some(entry.id);
            let inline = if entry.memfd { 0 } else { entry.state + entry.unread };
            let (bytes, rest) = payload.split_at_checked(inline).unwrap_or_default();
            payload = rest;
            let fd = fds.next();
            let memfd = if entry.memfd { fds.next() } else { None };
            self.feed(TakerEvent::Arrived(entry.id));
            // It may be lost on the way, for want of a number.
            let fd = fd.filter(|fd| u64::try_from(fd.as_raw_fd()).is_ok_and(|number| number < limit));
            if let Some(taking) = self.taking.upgrade().filter(|_| fd.is_none()) {
                taking.counts.short.fetch_add(1, Ordering::Relaxed);
            }
            let offered = fd.and_then(|fd| self.offered(entry.clone(), bytes, fd, memfd));
            match (offered, self.taking.upgrade()) {
                (Some(offered), Some(taking)) => taking.put(offered),
                // It has no descriptor, nobody waits for it, or its memfd is no good.
                _ => self.feed(TakerEvent::Refuse(entry.id)),
            }
        }
    }

    fn offered(
        &mut self,
        entry: Entry,
        bytes: &[u8],
        fd: OwnedFd,
        memfd: Option<OwnedFd>,
    ) -> Option<Offered> {
        let listener = self.places.get(&entry.listener)?.clone();
        let mut state = match (entry.memfd, memfd) {
            (false, _) => bytes.to_vec(),
            (true, Some(memfd)) => memfd::read(memfd, entry.state + entry.unread).ok()?,
            (true, None) => return None,
        };
        let unread = state.split_off(entry.state);
        let held = Arc::new(Held { fd: Mutex::new(Some(fd)), verdict: Latch::new() });
        self.held.insert(entry.id, held.clone());
        let Entry { id, kind, peer, .. } = entry;
        let (desk, taking) = (self.desk.clone(), self.taking.clone());
        Some(Offered { listener, kind, peer, state, unread, id, held, desk, taking })
    }

    fn wait(&mut self) {
        let Some(link) = &self.link else { return };
        let wanted = if self.is_full { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds =
            [PollFd::new(link.as_fd(), wanted), PollFd::new(self.desk.wake.as_fd(), PollFlags::POLLIN)];
        if poll::until(&mut fds, None).is_err() {
            thread::sleep(SHORTAGE_PAUSE);
        }
        self.desk.wake.clear();
    }
}
