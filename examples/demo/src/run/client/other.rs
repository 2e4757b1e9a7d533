//! The clients of other protocols. A kept client asks again; a new connection is a new client that asks once.
//!
//! They keep their connection by themselves, and come back when the protocol has told them to. So nothing can be opened
//! in advance here, and nothing found closed.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Answer, CROSSING, Client, Exchange, Kind, Loss, Named, Place};
use crate::{Foreign, Make};

/// How such a client is made, and who serves it.
#[derive(Clone)]
pub(crate) struct Other {
    make: Make,
    named: Named,
    /// How long an answer may take, with the connection where one is needed.
    patience: Duration,
    crossing: Duration,
}

impl Other {
    pub(crate) fn new(make: Make, patience: Duration, named: Named) -> Self {
        Self { make, named, patience, crossing: CROSSING }
    }

    /// What it means for a request that it failed by this error, this long after it was begun.
    fn place(&self, kind: Kind, is_new: bool, since: Duration) -> Place {
        if is_new {
            Place::NewConnection
        } else if kind != Kind::Timeout && since < self.crossing {
            Place::CrossingClose
        } else {
            Place::InFlight
        }
    }
}

/// A client, and who answered when it last opened a connection.
pub(crate) struct Kept {
    client: Box<dyn Foreign>,
    server: Option<(u64, u32)>,
}

impl Client for Other {
    type Kept = Kept;

    async fn open(&self, _slot: &mut Option<Kept>) -> Result<(), Loss> {
        Ok(())
    }

    fn give_up_closed(&self, _slot: &mut Option<Kept>) -> bool {
        false
    }

    async fn exchange(&self, slot: &mut Option<Kept>, _slow: bool, keep_alive: bool) -> Exchange {
        let mut kept = slot.take().unwrap_or_else(|| Kept { client: (self.make)(), server: None });
        let connections = kept.client.connections();
        let began = Instant::now();
        // Behind the time, as in `http`.
        let serving = self.named.get();
        let asked = timeout(self.patience, kept.client.ask()).await.unwrap_or_else(|late| Err(late.into()));
        let is_new = kept.client.connections() > connections;
        let before = if is_new { kept.server.replace(serving) } else { kept.server };
        let result = match asked {
            Ok(()) => {
                let (generation, pid) = kept.server.unwrap_or(serving);
                if keep_alive {
                    *slot = Some(kept);
                }
                Ok(Answer { generation, pid, close: false })
            }
            Err(error) => {
                let (kind, since) = (Kind::of(&error), began.elapsed());
                Err(Loss {
                    kind,
                    place: self.place(kind, is_new, since),
                    detail: format!("{error}, {:.1} ms after it was asked", since.as_secs_f64() * 1e3),
                    last_pid: before.map(|(_, pid)| pid),
                })
            }
        };
        Exchange { opened: is_new.then_some(began), result }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, pending, ready},
        io,
        pin::Pin,
        sync::Arc,
    };

    use super::*;

    /// What a client does when it is asked, one after the other.
    #[derive(Clone, Copy)]
    enum Step {
        /// It is answered on the connection that it has.
        Answered,
        /// It opens another one, on which it is answered.
        ComesBack,
        Fails(io::ErrorKind),
        FailsOnANewOne(io::ErrorKind),
        Hangs,
    }
    use Step::{Answered, ComesBack, Fails, FailsOnANewOne, Hangs};

    struct Script {
        steps: std::vec::IntoIter<Step>,
        connections: u32,
    }

    impl Foreign for Script {
        fn connections(&self) -> u32 {
            self.connections
        }

        fn ask(&mut self) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> {
            let step = self.steps.next().expect("there is a step");
            self.connections += u32::from(matches!(step, ComesBack | FailsOnANewOne(_)));
            match step {
                Answered | ComesBack => Box::pin(ready(Ok(()))),
                Fails(kind) | FailsOnANewOne(kind) => Box::pin(ready(Err(kind.into()))),
                Hangs => Box::pin(pending()),
            }
        }
    }

    fn client(steps: Vec<Step>) -> Other {
        let make = move || Box::new(Script { steps: steps.clone().into_iter(), connections: 0 }) as _;
        let mut client = Other::new(Arc::new(make), Duration::from_millis(30), Named::new(100));
        client.crossing = Duration::from_secs(60);
        client
    }

    async fn pid(client: &Other, slot: &mut Option<Kept>) -> (u64, u32, bool) {
        let exchange = client.exchange(slot, false, true).await;
        let answer = exchange.result.expect("an answer");
        (answer.generation, answer.pid, exchange.opened.is_some())
    }

    #[tokio::test]
    async fn an_answer_is_of_who_served_when_its_connection_was_opened() {
        let client = client(vec![ComesBack, Answered, ComesBack]);
        let mut slot = None;
        assert_eq!(pid(&client, &mut slot).await, (1, 100, true));
        client.named.set(2, 200);
        assert_eq!(pid(&client, &mut slot).await, (1, 100, false));
        assert_eq!(pid(&client, &mut slot).await, (2, 200, true));
    }

    #[tokio::test]
    async fn a_new_connection_is_a_client_that_asks_once() {
        let client = client(vec![ComesBack]);
        for _ in 0..2 {
            let mut slot = None;
            let exchange = client.exchange(&mut slot, true, false).await;
            assert!(exchange.result.is_ok() && exchange.opened.is_some() && slot.is_none());
        }
    }

    #[tokio::test]
    async fn a_loss_has_its_kind_and_place_and_costs_the_client() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, InvalidData, UnexpectedEof};
        for (step, last_pid, expected) in [
            (FailsOnANewOne(ConnectionRefused), Some(100), (Kind::Refused, Place::NewConnection)),
            (FailsOnANewOne(InvalidData), Some(100), (Kind::BadAnswer, Place::NewConnection)),
            (Fails(ConnectionReset), Some(100), (Kind::Reset, Place::CrossingClose)),
            (Fails(UnexpectedEof), Some(100), (Kind::EndOfFile, Place::CrossingClose)),
            (Hangs, Some(100), (Kind::Timeout, Place::InFlight)),
        ] {
            let client = client(vec![ComesBack, step]);
            let mut slot = None;
            pid(&client, &mut slot).await;
            let exchange = client.exchange(&mut slot, false, true).await;
            let loss = exchange.result.expect_err("there is no answer");
            assert_eq!((loss.kind, loss.place), expected, "{loss:?}");
            assert!(loss.last_pid == last_pid && slot.is_none(), "{loss:?}");
        }
    }

    #[tokio::test]
    async fn what_fails_long_after_it_was_asked_was_in_flight() {
        let mut client = client(vec![ComesBack, Fails(io::ErrorKind::UnexpectedEof)]);
        client.crossing = Duration::ZERO;
        let mut slot = None;
        pid(&client, &mut slot).await;
        let loss = client.exchange(&mut slot, false, true).await.result.expect_err("there is no answer");
        assert_eq!(loss.place, Place::InFlight);
    }
}
