//! The service that most tests start, replace and mistreat.
//!
//! What it is: `VICTIM_LISTEN` has one listener a line, `NAME ADDRESS`; `VICTIM_READY`, `VICTIM_AWAIT` and
//! `VICTIM_CURRENT_THREAD`, where set, make its body take `Ready`, await `Shutdown`, and run on one thread;
//! `VICTIM_TOKIO_SIGNALS` makes it handle signals by tokio. All else is set by the variables of the crate under test. How it misbehaves: see `plan.rs`. What it says: see `say.rs`.
//!
//! A client sends lines, or datagrams that are one; [`answer`] has what can be asked for. A listener of the name `http` speaks
//! HTTP: `web.rs`; a client of any other that sends a request of HTTP gets one answer of HTTP; the connections of one of the name `moving` move to the successor: `moving.rs`. One that is for neither tasks nor lines, a datagram or seqpacket socket at a path, is held and not served.

mod deeds;
mod moving;
mod plan;
mod say;
mod web;

use std::env;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

use tableflip::net::{Resumed, TcpListener, TcpStream, UdpSocket, UnixListener};
use tableflip::{Flavor, Ready, Service, Shutdown, StartError, Upgrader};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use plan::{Plan, act};
use say::say;

fn main() -> ExitCode {
    say::install();
    let plan = Plan::take();
    say(0, "main", "");
    plan.carry_out(0, "main");

    let mut service = Service::new().version("7.7.7");
    let mut listeners = Vec::new();
    for line in declared(plan) {
        let (name, address) = line.split_once(' ').expect("a name and an address");
        service = service.listen(name, address);
        let scheme = address.split(':').next().unwrap_or_default();
        listeners.push((name.to_owned(), scheme.to_owned()));
    }
    for verb in plan.at("listen") {
        service = match verb.split_once(' ') {
            Some(("name", name)) => service.name(name),
            Some(("pidfile", path)) => service.pidfile(path),
            Some(("version", version)) => service.version(version),
            _ => service,
        };
    }
    if env::var_os("VICTIM_CURRENT_THREAD").is_some() {
        service = service.flavor(Flavor::CurrentThread);
    }
    let code = service.run(|start| {
        // Only now: until here the process is to have one thread.
        std::thread::spawn(|| plan::wait_for_the_end_of_the_test());
        plan.carry_out(0, "prepare");
        let ready = env::var_os("VICTIM_READY").map(|_| start.handle::<Ready>()).transpose()?;
        let (commands, orders) = mpsc::unbounded_channel();
        let service = Arc::new(Victim { upgrader: start.handle()?, shutdown: start.handle()?, commands });
        let listener = |(name, scheme): (String, String)| -> Result<_, StartError> {
            let listener = match scheme.as_str() {
                "unix" => Listener::Unix(start.listener(&name)?),
                "udp" => Listener::Udp(start.listener(&name)?),
                "unix-dgram" | "unix-seqpacket" => Listener::Held(start.listener(&name)?),
                _ if name == "moving" => {
                    let listener = start.listener(&name)?;
                    let resumed = moving::resumed(plan, &listener);
                    Listener::Moving(listener, resumed)
                }
                _ => Listener::Tcp(start.listener(&name)?),
            };
            Ok((name, listener))
        };
        let listeners = listeners.into_iter().map(listener).collect::<Result<Vec<_>, _>>()?;
        Ok(body(service, listeners, ready, orders))
    });
    plan.carry_out(0, "exit");
    code
}

/// The listeners, one a string: those of the environment, but for what this process alone leaves out or adds.
fn declared(plan: &Plan) -> Vec<String> {
    let mut declared: Vec<String> =
        env::var("VICTIM_LISTEN").unwrap_or_default().lines().map(str::to_owned).collect();
    for verb in plan.at("listen") {
        match verb.split_once(' ') {
            Some(("with", listener)) => declared.push(listener.to_owned()),
            Some(("without", name)) => declared.retain(|line| line.split(' ').next() != Some(name)),
            Some(("name" | "pidfile" | "version", _)) => {}
            _ => panic!("there is no verb `{verb}` here"),
        }
    }
    declared
}

struct Victim {
    upgrader: Upgrader,
    shutdown: Shutdown,
    /// Orders for the body, from a connection.
    commands: mpsc::UnboundedSender<String>,
}

impl Victim {
    fn say(&self, what: &str, text: impl std::fmt::Display) {
        say(self.upgrader.generation(), what, text);
    }

    fn act(&self, verb: &str) {
        act(self.upgrader.generation(), verb);
    }
}

enum Listener {
    Tcp(TcpListener),
    Moving(TcpListener, Option<Resumed<TcpStream>>),
    Unix(UnixListener),
    Udp(UdpSocket),
    Held(#[expect(dead_code, reason = "to hold it is all")] OwnedFd),
}

async fn body(
    victim: Arc<Victim>,
    listeners: Vec<(String, Listener)>,
    mut ready: Option<Ready>,
    mut orders: mpsc::UnboundedReceiver<String>,
) -> Result<ExitCode, String> {
    let plan = Plan::of_this_process();
    listeners.iter().for_each(|(name, listener)| say_address(&victim, name, listener));
    victim.say("init", "");
    if env::var_os("VICTIM_TOKIO_SIGNALS").is_some() {
        listen_to_signals(&victim).map_err(|error| error.to_string())?;
    }
    let mut skipped = Vec::new();
    for verb in plan.at("init") {
        match verb.split_once(' ').unwrap_or((verb, "")) {
            ("never", _) => pending().await,
            ("skip", name) => skipped.push(name),
            ("notify", _) => ready.take().expect("`Ready` is taken").notify(),
            ("upgrade", _) => victim.say("outcome", outcome(victim.upgrader.upgrade().await)),
            ("revert", _) => victim.say("outcome", reverted(victim.upgrader.revert().await)),
            ("drop-ready", _) => ready = None,
            ("return" | "fail", _) => return conclude(verb),
            _ => victim.act(verb),
        }
    }
    if let Some(ready) = ready {
        ready.notify();
    }
    for (name, listener) in listeners {
        match listener {
            _ if skipped.contains(&name.as_str()) => {}
            Listener::Tcp(listener) if ["http", "slow", "axum"].contains(&name.as_str()) => {
                tokio::spawn(web::serve(victim.clone(), name, listener));
            }
            Listener::Moving(listener, resumed) => {
                tokio::spawn(moving::serve(victim.clone(), listener, resumed));
            }
            listener => {
                tokio::spawn(serve(victim.clone(), listener));
            }
        }
    }
    let mut shutdown = victim.shutdown.clone();
    let awaits = env::var_os("VICTIM_AWAIT").is_some();
    if awaits {
        // In the first poll of the body: a stop may come at its end.
        poll_fn(|cx| Poll::Ready(_ = Pin::new(&mut shutdown).poll(cx))).await;
    }
    // Without any of its own, an order to the body is what it waits for; with one thread, the tasks above run first.
    tokio::task::yield_now().await;
    victim.say("serve", "");
    plan.carry_out(victim.upgrader.generation(), "serve");

    loop {
        tokio::select! {
            // A future that is never polled is one that nobody awaited.
            () = &mut shutdown, if awaits => {
                victim.say("shutdown", "");
                let mut end = "return 0";
                for verb in plan.at("shutdown") {
                    match verb.split_once(' ') {
                        Some(("return" | "fail", _)) => end = verb,
                        _ => victim.act(verb),
                    }
                }
                return conclude(end);
            }
            Some(order) = orders.recv() => match order.split_once(' ') {
                Some(("return" | "fail", _)) => return conclude(&order),
                _ => victim.act(&order),
            },
        }
    }
}

/// Says the address of a listener of IP.
fn say_address(victim: &Victim, name: &str, listener: &Listener) {
    let address = match listener {
        Listener::Tcp(listener) | Listener::Moving(listener, _) => listener.local_addr(),
        Listener::Udp(socket) => socket.local_addr(),
        Listener::Unix(_) | Listener::Held(_) => return,
    };
    // A process that is told to stop before its start has closed its listeners.
    if let Ok(address) = address {
        victim.say("listening", format_args!("{name} {address}"));
    }
}

/// Says each signal that tokio receives.
fn listen_to_signals(victim: &Arc<Victim>) -> io::Result<()> {
    for kind in [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signals, victim) = (signal(kind)?, victim.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                victim.say("tokio-signal", kind.as_raw_value());
            }
        });
    }
    Ok(())
}

/// `return STATUS` or `fail REASON`.
fn conclude(verb: &str) -> Result<ExitCode, String> {
    match verb.split_once(' ') {
        Some(("return", status)) => Ok(ExitCode::from(status.parse::<u8>().expect("a status"))),
        Some(("fail", reason)) => Err(reason.to_owned()),
        _ => unreachable!("the caller has looked"),
    }
}

async fn serve(victim: Arc<Victim>, listener: Listener) {
    loop {
        // What ends an accept for good is what a test wants to read, and the tasks of the runtime keep it quiet.
        let failed = |error| -> ! { panic!("accept failed: {error}") };
        match &listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await.unwrap_or_else(|error| failed(error));
                tokio::spawn(converse(victim.clone(), stream));
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await.unwrap_or_else(|error| failed(error));
                tokio::spawn(converse(victim.clone(), stream));
            }
            Listener::Udp(socket) => {
                let mut packet = [0; 512];
                let (length, from) =
                    socket.recv_from(&mut packet).await.unwrap_or_else(|error| failed(error));
                let line = String::from_utf8_lossy(&packet[..length]);
                let answer = answer(&victim, line.trim_end()).await;
                // A client that is gone has nothing to ask.
                match socket.send_to(answer.as_bytes(), from).await {
                    Ok(_) | Err(_) => {}
                }
            }
            Listener::Held(_) | Listener::Moving(..) => pending().await,
        }
    }
}

async fn converse(victim: Arc<Victim>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // A client that is gone, in whatever way, is one that has nothing to ask.
    while matches!(stream.read_line(&mut line).await, Ok(n) if n > 0) {
        if line.starts_with("GET ") {
            return web::answer_get(victim, stream).await;
        }
        let answer = answer(&victim, line.trim_end()).await + "\n";
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}

async fn answer(victim: &Arc<Victim>, line: &str) -> String {
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "who" => format!("{} {}", victim.upgrader.generation(), std::process::id()),
        // In this task, and so on a thread of the runtime.
        "do" => {
            victim.act(argument);
            "done".to_owned()
        }
        // In the body.
        "body" => {
            victim.commands.send(argument.to_owned()).expect("the body lives");
            "sent".to_owned()
        }
        // Makes the drain wait until the test opens a gate.
        "guard" => {
            let (guard, victim, gate) = (victim.shutdown.guard(), victim.clone(), format!("gate {argument}"));
            std::thread::spawn(move || {
                victim.act(&gate);
                drop(guard);
            });
            "guarded".to_owned()
        }
        // A clone of `Shutdown` that a task awaits from now on.
        "watch" => {
            let mut shutdown = victim.shutdown.clone();
            let is_raised = poll_fn(|cx| Poll::Ready(Pin::new(&mut shutdown).poll(cx).is_ready())).await;
            tokio::spawn(shutdown);
            format!("watched {is_raised}")
        }
        "upgrade" => outcome(victim.upgrader.upgrade().await),
        // Says so once it has asked, before the answer.
        "upgrade-said" => {
            let mut upgrade = pin!(victim.upgrader.upgrade());
            let mut asked = false;
            let upgraded = poll_fn(|cx| {
                let polled = upgrade.as_mut().poll(cx);
                if !std::mem::replace(&mut asked, true) {
                    victim.say("asked", "");
                }
                polled
            });
            outcome(upgraded.await)
        }
        "revert" => reverted(victim.upgrader.revert().await),
        "upgrade-blocking" => {
            let upgrader = victim.upgrader.clone();
            outcome(
                tokio::task::spawn_blocking(move || upgrader.upgrade_blocking())
                    .await
                    .expect("it does not panic"),
            )
        }
        "status" => serde_json::to_string(&victim.upgrader.status().await).expect("it is JSON"),
        // Passes a file on under a name, which may have any character but a line feed.
        "pass" => {
            let file = std::fs::File::open("/dev/null").expect("/dev is there");
            match victim.upgrader.pass_on(argument, file) {
                Ok(()) => "passed".to_owned(),
                Err(error) => format!("err {error}"),
            }
        }
        "withdraw" => format!("withdrawn {}", victim.upgrader.withdraw(argument)),
        "stop" => {
            victim.upgrader.stop();
            "stopping".to_owned()
        }
        "predecessor" => {
            victim.upgrader.predecessor_gone().await;
            format!("gone {}", victim.upgrader.has_predecessor())
        }
        _ => format!("echo {line}"),
    }
}

fn reverted(outcome: Result<tableflip::Reverted, tableflip::RevertError>) -> String {
    match outcome {
        Ok(reverted) => format!("reverted {} {}", reverted.generation, reverted.pid),
        Err(error) => format!("err {error:?}: {error}"),
    }
}

fn outcome(outcome: Result<tableflip::Upgraded, tableflip::UpgradeError>) -> String {
    match outcome {
        Ok(upgraded) => format!("ok {} {}", upgraded.generation, upgraded.pid),
        Err(error) => format!("err {error:?}: {error}"),
    }
}
