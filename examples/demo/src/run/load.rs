//! The load: a fixed schedule of requests, carried out whether or not the earlier ones have been answered.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

use super::{
    client::Client,
    tally::{Kept, Tally},
};

/// The time between two requests on a keep-alive connection that is mostly idle. More than a second, so that an
/// upgrade finds connections on which nothing happens.
const IDLE: Duration = Duration::from_millis(1200);

/// How old the client's knowledge of a keep-alive connection is when it writes a request on it.
///
/// A server that closes an idle connection loses the requests that are on their way to it at that moment. Over
/// loopback there is hardly a moment: the client knows of the close at once. Over a network it learns of it when the
/// news has travelled, and until then sends requests into the void. So this client looks at a connection this long
/// before it uses it, and not again, as if its server were that far away.
const DISTANCE: Duration = Duration::from_millis(2);

/// How long a hesitant connection stands open before its request, as the ones do that a browser opens in advance. A
/// server that takes an accepted connection without a request for an idle one loses it.
const HESITATION: Duration = Duration::from_millis(50);

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// A new one, only for this request.
    New,
    /// This keep-alive connection. The first half of them is busy, the second mostly idle.
    KeepAlive(usize),
}

/// What is special about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Quick,
    /// Its answer takes a while, so that at any moment the server is at work on some.
    Slow,
    /// Its connection stands open for a while before it is sent.
    Hesitant,
}

/// One request of the schedule.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    due: Instant,
    manner: Manner,
}

impl Ticket {
    /// Says when the connection was opened, if the request was the first on it.
    async fn carry_out<C: Client>(
        self,
        client: &C,
        tally: &Tally,
        connection: &mut Option<C::Kept>,
        keep_alive: bool,
    ) -> Option<Instant> {
        if self.manner == Manner::Hesitant {
            open(client, tally, connection).await;
            sleep(HESITATION).await;
        }
        let exchange = client.exchange(connection, self.manner == Manner::Slow, keep_alive).await;
        let opened = exchange.opened;
        tally.record(self.due, self.manner == Manner::Quick, keep_alive, exchange);
        opened
    }
}

/// Opens a connection that is not needed yet. Where it cannot be opened, that is a loss already.
async fn open<C: Client>(client: &C, tally: &Tally, connection: &mut Option<C::Kept>) {
    if let Err(loss) = client.open(connection).await {
        tally.record_lost(loss);
    }
}

/// The orders to a keep-alive connection.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// See whether it is still open.
    Look,
    /// Send this request, whatever has happened since.
    Send(Ticket),
}

/// The endless schedule: `rate` requests a second, evenly. Each idle connection gets its share, and what remains
/// goes to new connections and busy ones by turns. A few requests on new and on idle connections are slow, and a few
/// on new ones hesitant.
#[derive(Clone, Debug)]
struct Schedule {
    rate: u32,
    busy: usize,
    idle: usize,
    /// Every how many requests it is the turn of an idle connection.
    idle_every: u64,
    next: u64,
    idle_turns: u64,
    other_turns: u64,
}

impl Schedule {
    fn new(rate: u32, connections: usize) -> Self {
        let idle = connections / 2;
        let turns = IDLE.as_secs_f64() * f64::from(rate) / idle.max(1) as f64;
        // At a low rate they are idle for longer, and the others still get every second request.
        let idle_every = (turns.ceil() as u64).max(2);
        Self { rate, busy: connections - idle, idle, idle_every, next: 0, idle_turns: 0, other_turns: 0 }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Route, Manner);

    fn next(&mut self) -> Option<Self::Item> {
        let due = Duration::from_secs_f64(self.next as f64 / f64::from(self.rate));
        let idle = self.idle > 0 && self.next % self.idle_every == 0;
        self.next += 1;
        if idle {
            let (round, index) =
                (self.idle_turns / self.idle as u64, (self.idle_turns % self.idle as u64) as usize);
            self.idle_turns += 1;
            // Another quarter of them in each round.
            let manner = if (index as u64 + round) % 4 == 0 { Manner::Slow } else { Manner::Quick };
            return Some((due, Route::KeepAlive(self.busy + index), manner));
        }
        let turn = self.other_turns / 2;
        let new = self.busy == 0 || self.other_turns % 2 == 0;
        self.other_turns += 1;
        Some(if new {
            let manner = match turn % 20 {
                0 => Manner::Slow,
                10 => Manner::Hesitant,
                _ => Manner::Quick,
            };
            (due, Route::New, manner)
        } else {
            (due, Route::KeepAlive((turn % self.busy as u64) as usize), Manner::Quick)
        })
    }
}

/// A load that is running. Dropping it ends it at once; [`Load::finish`] waits for the last answer.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    connections: JoinSet<()>,
}

impl Load {
    /// Begins to send `rate` requests a second, over `connections` keep-alive connections and new ones.
    pub(crate) fn start(
        client: &impl Client,
        tally: &Arc<Tally>,
        rate: u32,
        connections: usize,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let (new, tickets) = mpsc::unbounded_channel();
        tasks.spawn(new_connections(client.clone(), Arc::clone(tally), tickets));
        let mut kept = Vec::with_capacity(connections);
        for index in 0..connections {
            let (sender, turns) = mpsc::unbounded_channel();
            // Both occur: a pool that keeps a connection ready, and a pool that opens it when it is needed.
            let ready = index % 2 == 0;
            tasks.spawn(keep_alive(client.clone(), Arc::clone(tally), ready, turns));
            kept.push(sender);
        }

        // A thread of its own, because tokio's timers have a grain of one millisecond, and with two requests in
        // that time the grain would be most of the latency that is measured.
        let schedule = Schedule::new(rate, connections);
        let stopped = Arc::clone(&stop);
        thread::Builder::new()
            .name("schedule".to_owned())
            .spawn(move || pace(schedule, &stopped, &new, &kept))?;
        Ok(Self { stop, connections: tasks })
    }

    /// Sends no more, and waits until every request is answered or lost.
    pub(crate) async fn finish(mut self) -> Result<(), JoinError> {
        // The thread drops the senders when it sees this, and the tasks end when they have served what is left.
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.connections.join_next().await {
            ended?;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Hands out the requests when they are due, and to the keep-alive connections a look ahead.
fn pace(
    schedule: Schedule,
    stop: &AtomicBool,
    new: &mpsc::UnboundedSender<Ticket>,
    kept: &[mpsc::UnboundedSender<Turn>],
) {
    let start = Instant::now();
    let mut ahead = schedule.clone().peekable();
    for (offset, route, manner) in schedule {
        while let Some((_, route, _)) = ahead.next_if(|(later, ..)| *later <= offset + DISTANCE) {
            if let Route::KeepAlive(index) = route {
                if kept[index].send(Turn::Look).is_err() {
                    return;
                }
            }
        }
        let due = start + offset;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let ticket = Ticket { due, manner };
        let sent = match route {
            Route::New => new.send(ticket).is_ok(),
            Route::KeepAlive(index) => kept[index].send(Turn::Send(ticket)).is_ok(),
        };
        if !sent || stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Sends each request on a connection of its own, all at the same time if need be.
async fn new_connections(
    client: impl Client,
    tally: Arc<Tally>,
    mut tickets: mpsc::UnboundedReceiver<Ticket>,
) {
    let mut requests = JoinSet::new();
    while let Some(ticket) = tickets.recv().await {
        let (client, tally) = (client.clone(), Arc::clone(&tally));
        requests.spawn(async move {
            ticket.carry_out(&client, &tally, &mut None, false).await;
        });
        while let Some(ended) = requests.try_join_next() {
            resume_panic(ended);
        }
    }
    while let Some(ended) = requests.join_next().await {
        resume_panic(ended);
    }
}

/// Sends one request after the other on a connection. When the server has closed it, it opens another one: at once
/// if one is to be `ready`, so that an upgrade finds connections that have not carried a request yet, and else with
/// the next request.
async fn keep_alive(
    client: impl Client,
    tally: Arc<Tally>,
    ready: bool,
    mut turns: mpsc::UnboundedReceiver<Turn>,
) {
    let mut connection = None;
    // When the connection was opened, once it has carried a request.
    let mut since = None;
    let end = |since: &mut Option<Instant>| {
        if let Some(opened) = since.take() {
            tally.record_kept(Kept { opened, ended: Some(Instant::now()) });
        }
    };
    while let Some(turn) = turns.recv().await {
        match turn {
            Turn::Look => {
                if client.give_up_closed(&mut connection) {
                    tally.record_closed();
                    end(&mut since);
                }
            }
            Turn::Send(ticket) => {
                let opened = ticket.carry_out(&client, &tally, &mut connection, true).await;
                if opened.is_some() {
                    // A client of another protocol has found the one before closed by itself.
                    end(&mut since);
                    since = opened;
                }
                if connection.is_none() {
                    end(&mut since);
                }
            }
        }
        if ready && connection.is_none() {
            open(&client, &tally, &mut connection).await;
        }
    }
    if client.give_up_closed(&mut connection) {
        end(&mut since);
    }
    if let Some(opened) = since {
        tally.record_kept(Kept { opened, ended: None });
    }
}

/// A request whose task panicked was not counted: no report may be made of such a run.
fn resume_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        if error.is_panic() {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::client::{Answer, Exchange, Loss};

    #[test]
    fn the_schedule_keeps_its_rate_and_leaves_half_of_the_connections_idle_for_over_a_second() {
        let seconds = 12;
        let requests: Vec<_> =
            Schedule::new(2000, 64).take_while(|(due, ..)| *due < Duration::from_secs(seconds)).collect();
        assert_eq!(requests.len() as u64, 2000 * seconds);

        for connection in 0..64 {
            let times: Vec<_> = requests
                .iter()
                .filter(|(_, route, _)| *route == Route::KeepAlive(connection))
                .map(|(due, ..)| *due)
                .collect();
            let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let idle = connection >= 32;
            assert!(gaps.len() >= 8, "connection {connection} is hardly used");
            assert!(
                gaps.iter().all(|gap| (*gap > Duration::from_secs(1)) == idle),
                "connection {connection}: {gaps:?}"
            );
        }

        let new = requests.iter().filter(|(_, route, _)| *route == Route::New).count();
        assert!((11_000..12_000).contains(&new), "{new} of the requests are on new connections");
    }

    #[test]
    fn some_requests_on_new_and_on_idle_connections_are_slow_or_hesitant_and_none_on_busy_ones() {
        let requests: Vec<_> = Schedule::new(2000, 64).take(24_000).collect();
        let has = |route, manner| requests.iter().any(|(_, r, m)| (*r, *m) == (route, manner));
        assert!(has(Route::New, Manner::Slow) && has(Route::New, Manner::Hesitant));
        assert!((32..64).all(|idle| has(Route::KeepAlive(idle), Manner::Slow)));
        assert!((0..64).all(|kept| !has(Route::KeepAlive(kept), Manner::Hesitant)));
        assert!((0..32).all(|busy| !has(Route::KeepAlive(busy), Manner::Slow)));
    }

    /// Each third answer ends its connection.
    #[derive(Clone, Default)]
    struct Thrice(Arc<std::sync::atomic::AtomicU32>);

    impl Client for Thrice {
        type Kept = ();

        async fn open(&self, slot: &mut Option<()>) -> Result<(), Loss> {
            *slot = Some(());
            Ok(())
        }

        fn give_up_closed(&self, _slot: &mut Option<()>) -> bool {
            false
        }

        async fn exchange(&self, slot: &mut Option<()>, _slow: bool, _keep_alive: bool) -> Exchange {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            let close = asked % 3 == 2;
            *slot = (!close).then_some(());
            let opened = (asked % 3 == 0).then(Instant::now);
            Exchange { opened, result: Ok(Answer { generation: 1, pid: 1, close }) }
        }
    }

    #[tokio::test]
    async fn each_kept_connection_is_taken_down_with_its_end() {
        for ready in [false, true] {
            let tally = Arc::new(Tally::new());
            let (sender, turns) = mpsc::unbounded_channel();
            for _ in 0..7 {
                let ticket = Ticket { due: Instant::now(), manner: Manner::Quick };
                sender.send(Turn::Look).expect("it is received");
                sender.send(Turn::Send(ticket)).expect("it is received");
            }
            drop(sender);
            keep_alive(Thrice::default(), Arc::clone(&tally), ready, turns).await;
            let ended: Vec<_> = tally.take().kept.iter().map(|kept| kept.ended.is_some()).collect();
            assert_eq!(ended, [true, true, false]);
        }
    }

    #[test]
    fn a_low_rate_and_no_connections_still_make_a_schedule() {
        assert!(Schedule::new(100, 0).take(50).all(|(_, route, _)| route == Route::New));
        let few: Vec<_> = Schedule::new(1, 64).take(200).map(|(_, route, _)| route).collect();
        assert!(few.contains(&Route::New) && few.contains(&Route::KeepAlive(0)));
        assert!(few.contains(&Route::KeepAlive(63)));
    }
}
