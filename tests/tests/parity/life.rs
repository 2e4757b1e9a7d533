//! The life of a process: `New`, `Ready`, `Exit`, `Stop`, `Upgrade`, `HasParent`, `WaitForParent`.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use tableflip::testing::{self, Running};
use tableflip::{Failure, Ready, Service, Start, UpgradeError, blocking, net};
use tests::client::wait_until_refused;
use tokio::io::AsyncWriteExt;

use crate::{body, declared, gate};

/// A service with a listener, whose clients are told the generation.
fn listening() -> Service {
    declared().listen("hello", "tcp://localhost:0")
}

fn hello(start: &mut Start) -> Result<Box<dyn FnOnce() + Send>, Failure> {
    let listener: blocking::TcpListener = start.listener("hello")?;
    let generation = start.handle::<tableflip::Upgrader>()?.generation();
    Ok(Box::new(move || {
        for stream in listener.incoming() {
            write!(stream.unwrap(), "{generation}").unwrap();
        }
    }))
}

fn ask(address: SocketAddr) -> String {
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    answer
}

/// Go: `TestUpgraderReady`, `TestChildReady`; and the first example of package `testing`.
#[test]
fn a_service_is_ready_when_its_listener_is_asked_for_a_connection() {
    let old = testing::start_blocking(listening(), hello).unwrap();
    let address = old.address("hello").unwrap();
    let (gate, pass) = gate();
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| {
            old.replace_blocking(listening(), move |start| {
                let serve = hello(start)?;
                Ok(move || {
                    pass();
                    serve();
                })
            })
        });
        // It initialises, and the old one serves.
        gate.wait_until_somebody_is_there();
        assert_eq!(ask(address), "1");
        assert!(!upgrade.is_finished());
        gate.open();
        let new = upgrade.join().unwrap().unwrap();
        assert_eq!(ask(address), "2");
        new.stop();
    });
    old.wait();
}

/// The twin for an `async` body.
#[test]
fn an_async_service_is_ready_when_its_listener_is_asked_for_a_connection() {
    let serve = |start: &mut Start| {
        let listener: net::TcpListener = start.listener("hello")?;
        let generation = start.handle::<tableflip::Upgrader>()?.generation();
        Ok(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(generation.to_string().as_bytes()).await.unwrap();
            }
        })
    };
    let old = testing::start(listening(), serve).unwrap();
    let address = old.address("hello").unwrap();
    assert_eq!(ask(address), "1");
    let new: Running<()> = old.replace(listening(), serve).unwrap();
    assert_eq!(ask(address), "2");
    old.wait();
    new.stop();
    wait_until_refused(address);
}

/// Go: `TestUpgraderReady`, with `Ready::notify`. What `Exit()` tells is told by `Shutdown`.
#[test]
fn a_body_that_takes_ready_decides_itself_and_the_old_one_is_told_to_finish() {
    let old = testing::start_blocking(declared(), body(|kit| kit.shutdown.clone())).unwrap();
    let (send, receive) = mpsc::channel();
    let first = old.upgrader();
    let (gate, pass) = gate();
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| {
            old.replace_blocking(
                declared(),
                body(move |kit| {
                    send.send(kit.shutdown.clone()).unwrap();
                    pass();
                }),
            )
        });
        gate.wait_until_somebody_is_there();
        assert_eq!(first.upgrade_blocking(), Err(UpgradeError::InProgress));
        gate.open();
        let new = upgrade.join().unwrap().unwrap();
        assert!(!receive.recv().unwrap().is_raised());
        new.stop();
    });
    assert!(old.wait().unwrap().is_raised());
}

/// Go: `TestChildNotReady`.
#[test]
fn dropping_ready_is_no_notify() {
    let drops = |start: &mut Start| {
        let ready: Ready = start.handle()?;
        Ok(move || {
            drop(ready);
            thread::park();
        })
    };
    let reason = "not ready: the service ended before it served";
    assert_eq!(testing::start_blocking(declared(), drops).unwrap_err().to_string(), reason);

    let old = testing::start_blocking(declared(), body(|_| ())).unwrap();
    let reason = "the successor could not start: the body dropped `Ready` without `notify`";
    assert_eq!(old.replace_blocking(declared(), drops).unwrap_err().to_string(), reason);
    old.stop();
}

/// Go: `TestUpgraderCleanExit`, `TestChildExit`.
#[test]
fn a_successor_that_exits_cleanly_before_it_is_ready_has_failed() {
    let old = testing::start_blocking(listening(), hello).unwrap();
    let failed = old.replace_blocking(listening(), |start| {
        let _listener: blocking::TcpListener = start.listener("hello")?;
        Ok(|| ())
    });
    let reason = "the successor could not start: the body returned before it was ready";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    assert_eq!(ask(old.address("hello").unwrap()), "1");
    old.stop();
}

/// Go: `TestUpgraderUncleanExit`.
#[test]
fn a_successor_that_fails_before_it_is_ready_has_failed() {
    let old = testing::start_blocking(listening(), hello).unwrap();
    let serves_on = || assert_eq!(ask(old.address("hello").unwrap()), "1");

    let failed = old.replace_blocking(listening(), |start| {
        let _listener: blocking::TcpListener = start.listener("hello")?;
        Ok(|| Err::<(), _>("no database"))
    });
    let reason = "the successor could not start: the body returned before it was ready";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    serves_on();

    let failed = old.replace_blocking(listening(), |start| {
        let _listener: blocking::TcpListener = start.listener("hello")?;
        Ok(|| -> () { panic!("no database") })
    });
    let reason = "the successor could not start: the body panicked: no database";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    serves_on();

    let failed = old.replace_blocking(listening().listen("other", "tcp://nowhere"), |_| Ok(|| ()));
    let reason = "the successor could not start: listener `other`: `tcp://nowhere` is no address: the port is missing; expected \
                  `tcp://HOST:PORT`, with port 0 for any free one";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    serves_on();
    old.stop();
}

/// Go: `TestUpgraderTimeout`, `TestChildKill`.
#[test]
fn a_successor_that_is_not_ready_in_time_is_killed() {
    // Long enough for the successor to come to its body on a busy machine: before that it has not said anything.
    let old = testing::start_blocking(listening().upgrade_timeout("2s"), hello).unwrap();
    let (gate, pass) = gate();
    let failed = old.replace_blocking(listening(), |start| {
        let _listener: blocking::TcpListener = start.listener("hello")?;
        Ok(pass)
    });
    let reason = "the successor was not ready within 2s: its body has not asked for a connection of `hello`";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    drop(gate);
    // One that could take it at run time and does not.
    let (gate, pass) = crate::gate();
    let failed = old.replace_blocking(listening(), |start| {
        let listeners: tableflip::Listeners = start.handle()?;
        Ok(move || {
            pass();
            drop(listeners);
        })
    });
    assert_eq!(failed.unwrap_err().to_string(), reason);
    assert_eq!(ask(old.address("hello").unwrap()), "1");
    drop(gate);

    let old_too = testing::start_blocking(declared().upgrade_timeout("2s"), body(|_| ())).unwrap();
    let (gate, pass) = crate::gate();
    let failed = old_too.replace_blocking(declared(), body(move |_| pass()));
    let reason = "the successor was not ready within 2s: its body has not called `Ready::notify`";
    assert_eq!(failed.unwrap_err().to_string(), reason);
    drop(gate);
    old.stop();
    old_too.stop();
}

/// Go: `TestUpgraderConcurrentUpgrade`; and `TestUpgraderOnOS`, which upgrades before it is ready.
#[test]
fn an_upgrade_that_comes_too_early_or_too_late_is_refused() {
    let (send, receive) = mpsc::channel();
    let (early, late) = gate();
    let starting = thread::spawn(move || {
        testing::start_blocking(
            declared(),
            body(move |kit| {
                send.send(kit.upgrader.upgrade_blocking()).unwrap();
                late();
            }),
        )
    });
    early.wait_until_somebody_is_there();
    assert_eq!(receive.recv().unwrap(), Err(UpgradeError::NotReady));
    early.open();
    let old = starting.join().unwrap().unwrap();

    let (gate, pass) = gate();
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| old.replace_blocking(declared(), body(|_| pass())));
        gate.wait_until_somebody_is_there();
        assert_eq!(old.upgrader().upgrade_blocking(), Err(UpgradeError::InProgress));
        gate.open();
        // The refusal has done the one under way no harm.
        upgrade.join().unwrap().unwrap().stop();
    });
    old.wait();
}

/// Go: `TestHasParent`.
#[test]
fn a_first_process_has_no_predecessor() {
    let first = testing::start_blocking(declared(), body(|_| ())).unwrap();
    assert!(!first.upgrader().has_predecessor());
    assert_eq!(first.upgrader().generation(), 1);
    // Nobody to wait for.
    first.upgrader().predecessor_gone_blocking();
    assert!(is_ready(first.upgrader().predecessor_gone()));
    first.stop();
}

/// P8. Go: `TestUpgraderWaitForParent`; and `TestUpgraderReady`, which looks at the same from the other side.
#[test]
fn a_successor_can_wait_until_its_predecessor_is_gone() {
    let (send, receive) = mpsc::channel();
    let old = testing::start_blocking(
        declared(),
        body(move |kit| {
            send.send(kit.shutdown.guard()).unwrap();
        }),
    )
    .unwrap();
    // Something that it finishes first.
    let guard = receive.recv().unwrap();
    let new = old.replace_blocking(declared(), body(|_| ())).unwrap();
    let upgrader = new.upgrader();
    assert!(upgrader.has_predecessor());
    assert_eq!(upgrader.generation(), 2);
    assert!(!is_ready(upgrader.predecessor_gone()));
    let refused = new.replace_blocking(declared(), body(|_| ()));
    assert_eq!(refused.unwrap_err(), UpgradeError::PredecessorDraining);

    drop(guard);
    upgrader.predecessor_gone_blocking();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(upgrader.predecessor_gone());
    old.wait();
    new.replace_blocking(declared(), body(|_| ())).unwrap().stop();
    new.wait();
}

fn is_ready(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Go: `TestUpgraderShutdownCancelsUpgrade`.
#[test]
fn stop_cancels_an_upgrade_and_none_comes_after_it() {
    let old = testing::start_blocking(declared(), body(|_| ())).unwrap();
    let upgrader = old.upgrader();
    let (gate, pass) = gate();
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| old.replace_blocking(declared(), body(|_| pass())));
        gate.wait_until_somebody_is_there();
        upgrader.stop();
        let failed = upgrade.join().unwrap().unwrap_err();
        assert_eq!(failed.to_string(), "the service was told to stop");
    });
    old.wait();
    drop(gate);
}

/// The second half of it: while the service drains there is somebody to refuse.
#[test]
fn a_service_that_stops_refuses_an_upgrade() {
    let (send, receive) = mpsc::channel();
    let service = testing::start_blocking(
        declared(),
        body(move |kit| {
            send.send(kit.shutdown.guard()).unwrap();
        }),
    )
    .unwrap();
    let guard = receive.recv().unwrap();
    let upgrader = service.upgrader();
    upgrader.stop();
    assert_eq!(upgrader.upgrade_blocking(), Err(UpgradeError::Terminating));
    drop(guard);
    service.wait();
}

/// Go: `New` with `Options`. An option that is no good stops the start.
#[test]
fn options_that_are_no_good_stop_the_start() {
    let problem = |service: Service| testing::start_blocking(service, |_| Ok(|| ())).unwrap_err().to_string();
    assert_eq!(
        problem(Service::new().probation("soon")),
        "option `probation`: `soon` is not a duration such as `500ms`, `30s` or `2m`: expected number at 0"
    );
    assert_eq!(
        problem(Service::new().upgrade_signal("SIGKILL")),
        "option `upgrade_signal`: `SIGKILL`: expected one of SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT, SIGWINCH"
    );
    assert_eq!(
        problem(Service::new().pidfile("/run/..")),
        "option `pidfile`: \"/run/..\" does not name a file"
    );
    let no_threads = testing::start(Service::new().worker_threads(0), |_| Ok(async {}));
    assert_eq!(no_threads.unwrap_err().to_string(), "option `worker_threads`: expected at least 1");
}

/// Go: `Options.UpgradeTimeout`, any `time.Duration`. "For ever" is a duration too.
#[test]
fn a_duration_may_be_as_long_as_there_is() {
    let patient = |probation| {
        Service::new().upgrade_timeout(Duration::MAX).probation(probation).drain_timeout(Duration::MAX)
    };
    let old = testing::start_blocking(patient(Duration::MAX), body(|_| ())).unwrap();
    loop {
        let failed = old.replace_blocking(patient(Duration::ZERO), |start| {
            let ready: Ready = start.handle()?;
            Ok(move || {
                ready.notify();
                panic!("too soon");
            })
        });
        let failed: Result<Running<()>, _> = failed;
        // Sometimes it is too soon for a probation.
        if failed.unwrap_err().to_string().contains(" in its probation: ") {
            break;
        }
    }
    old.stop().expect("its body returned");
}
