//! A listener of the name `moving`: each line is answered with the generation, the process, the number of the line in its
//! connection, and the line. Its connections move to the successor. One that stays hears `bye` with the generation and the process
//! at a drain, and is closed.
//!
//! The plan of a process says at `move` what it does with the connections of its predecessor: `nothing` (it has nobody who waits for
//! them), `kind KIND` (it waits for another kind), `hang` (it never looks at one), `refuse`, or `gate NAME` (with the first, before it
//! takes it). Otherwise it takes them, and says so: `taken PORT`.

use std::io;
use std::process;
use std::sync::Arc;

use tableflip::Session;
use tableflip::net::{Offer, Resumed, TcpListener, TcpStream};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::select;

use crate::Victim;
use crate::plan::Plan;

const KIND: &str = "lines/1";

/// What waits for the connections of the predecessor.
pub(crate) fn resumed(plan: &Plan, listener: &TcpListener) -> Option<Resumed<TcpStream>> {
    match plan.at("move").next().map(|verb| verb.split_once(' ').unwrap_or((verb, ""))) {
        Some(("nothing", _)) => None,
        Some(("kind", kind)) => Some(listener.resumed([kind])),
        _ => Some(listener.resumed([KIND])),
    }
}

pub(crate) async fn serve(
    victim: Arc<Victim>,
    listener: TcpListener,
    mut resumed: Option<Resumed<TcpStream>>,
) {
    let mut does = Plan::of_this_process().at("move").next().unwrap_or_default();
    if does == "hang" {
        // It is there, and nobody asks it.
        std::mem::forget(resumed.take());
    }
    loop {
        let offer = async {
            match &mut resumed {
                Some(resumed) => resumed.next().await,
                None => std::future::pending().await,
            }
        };
        select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap_or_else(|error| panic!("accept failed: {error}"));
                tokio::spawn(converse(victim.clone(), stream, 0));
            }
            offer = offer => {
                take(&victim, does, offer).await;
                if does.starts_with("gate ") {
                    does = "";
                }
            }
        }
    }
}

async fn take(victim: &Arc<Victim>, does: &str, offer: Offer<TcpStream>) {
    let (port, state) = (offer.peer_addr().map(|peer| peer.port()), offer.state().to_vec());
    match does {
        "refuse" => return,
        "" => {}
        gate => {
            let (victim, gate) = (victim.clone(), gate.to_owned());
            tokio::task::spawn_blocking(move || victim.act(&gate)).await.expect("it does not panic");
        }
    }
    let count = u64::from_le_bytes(state.try_into().expect("eight bytes"));
    match offer.take().await {
        Ok(stream) => {
            victim.say("taken", port.expect("it is known of each"));
            tokio::spawn(converse(victim.clone(), stream, count));
        }
        Err(error) => victim.say("not-taken", error),
    }
}

async fn converse(victim: Arc<Victim>, stream: TcpStream, mut count: u64) -> io::Result<()> {
    let mut shutdown = victim.shutdown.clone();
    let me = format!("{} {}", victim.upgrader.generation(), process::id());
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        select! {
            biased;
            () = &mut shutdown => break,
            read = stream.read_until(b'\n', &mut line) => if read? == 0 { return Ok(()) },
        }
        count += 1;
        let answer = [format!("{me} {count} ").as_bytes(), &line].concat();
        line.clear();
        stream.get_mut().write_all(&answer).await?;
    }
    let unread = [&line[..], stream.buffer()].concat();
    let session = Session::new(KIND).state(count.to_le_bytes()).unread(unread);
    match stream.into_inner().hand_over(session).await {
        Ok(()) => Ok(()),
        Err(mut stream) => stream.write_all(format!("bye {me}\n").as_bytes()).await,
    }
}
