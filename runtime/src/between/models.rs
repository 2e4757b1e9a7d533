//! Models for loom: the code in which the order of two threads' steps matters. A model runs in every order, with every value
//! that the memory model allows a thread to see. The models are compiled with `--cfg loom` alone; `.ci/run` has the command.
//!
//! `event-listener`, the lock and the atomics are loom's here. An eventfd is not: a model looks at it after all threads have
//! ended.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use event_listener::listener;
use loom::future::block_on;
use loom::model::Builder;
use loom::sync::atomic::AtomicUsize;
use loom::thread;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::base::sync::primitives::now;
use crate::base::sync::{Latch, Pulse};
use crate::between::drain::Shutdown;
use crate::between::gate::{Gate, GateState};
use crate::between::gate_control::GateControl;
use crate::between::shared::Shared;

/// The most switches away from a thread that could continue, in one order. Known bugs need at most two.
const PREEMPTIONS: usize = 3;

fn check(model: impl Fn() + Send + Sync + 'static) {
    check_with(PREEMPTIONS, model);
}

fn check_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(1, false, Duration::ZERO).unwrap())
}

#[test]
fn c3_a_task_that_waits_for_a_latch_is_woken_whenever_it_is_set() {
    check(|| {
        let latch = Arc::new(Latch::new());
        let setter = thread::spawn({
            let latch = latch.clone();
            move || latch.set(7)
        });
        assert_eq!(*block_on(latch.wait()), 7);
        setter.join().unwrap();
    });
}

#[test]
fn c3_a_thread_that_waits_for_a_latch_is_woken_whenever_it_is_set() {
    check(|| {
        let latch = Arc::new(Latch::new());
        let setter = thread::spawn({
            let latch = latch.clone();
            move || latch.set(7)
        });
        assert_eq!(*latch.wait_blocking(), 7);
        setter.join().unwrap();
    });
}

#[test]
fn c3_all_who_wait_for_a_latch_are_woken_by_the_first_value() {
    // Three threads have very many orders. A waiter that is not woken shows without any switch.
    check_with(1, || {
        let latch = Arc::new(Latch::new());
        let waiters = [(); 2].map(|()| {
            let latch = latch.clone();
            thread::spawn(move || *block_on(latch.wait()))
        });
        let setter = thread::spawn({
            let latch = latch.clone();
            move || {
                latch.set(7);
                latch.set(8);
            }
        });
        setter.join().unwrap();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), 7);
        }
    });
}

#[test]
fn c3_shutdown_wakes_who_awaits_it() {
    check(|| {
        let shared = shared();
        let engine = thread::spawn({
            let shared = shared.clone();
            move || shared.start_draining()
        });
        block_on(Shutdown::new(shared.clone()));
        engine.join().unwrap();
        // Dropped last: loom does not know that the last owner of an `Arc` of std is dropped after all others.
        drop(shared);
    });
}

#[test]
fn c3_a_pulse_that_is_asked_for_is_taken() {
    check(|| {
        let pulse = Arc::new(Pulse::new());
        let engine = thread::spawn({
            let pulse = pulse.clone();
            move || pulse.ask()
        });
        block_on(pulse.taken());
        engine.join().unwrap();
        assert!(pulse.ask());
    });
}

/// The engine sets the flag of the drain and reads the count. The last `Counted` lowers the count and reads the flag. One of the
/// two sees what the other did.
#[test]
fn c3_the_last_that_is_counted_is_seen_by_the_engine_or_wakes_it() {
    check(|| {
        let shared = shared();
        let dropped = [shared.count(), shared.count()].map(|counted| thread::spawn(move || drop(counted)));
        shared.start_draining();
        let left = shared.counted();
        for thread in dropped {
            thread.join().unwrap();
        }
        assert_eq!(shared.counted(), 0);
        let mut waker = [PollFd::new(shared.waker().as_fd(), PollFlags::POLLIN)];
        let is_woken = poll(&mut waker, PollTimeout::ZERO).unwrap() == 1;
        assert!(left == 0 || is_woken, "{left} were left, and nothing has woken the engine");
    });
}

/// Longer than any model sleeps.
fn by_then() -> Instant {
    now() + Duration::from_secs(3600)
}

fn gate() -> Arc<Gate<()>> {
    Arc::new(Gate::new("echo".to_owned(), shared(), Arc::new(())))
}

/// The loop of the managed listeners. Returns true after an attempt, and false once the gate is retired.
fn take(gate: &Gate<()>, mut attempt: impl FnMut()) -> bool {
    block_on(async {
        loop {
            if gate.pass(|()| attempt()).is_some() {
                return true;
            }
            listener!(gate.changed() => changed);
            match gate.state() {
                GateState::Open(_) => {}
                GateState::Closed => changed.await,
                GateState::Retired => return false,
            }
        }
    })
}

const OLD: usize = 0;
const NEW: usize = 1;

/// While the successor serves no thread is inside. A thread that was turned away passes when the gate opens again.
#[test]
fn c3_a_gate_that_is_closed_has_nobody_inside_until_it_opens() {
    check(|| {
        let (gate, server) = (gate(), Arc::new(AtomicUsize::new(OLD)));
        gate.open();
        let taker = thread::spawn({
            let (gate, server) = (gate.clone(), server.clone());
            move || {
                take(&gate, || {
                    assert_eq!(server.load(Ordering::Relaxed), OLD, "it passes while the successor serves");
                    thread::yield_now();
                    assert_eq!(
                        server.load(Ordering::Relaxed),
                        OLD,
                        "it is inside while the successor serves"
                    );
                })
            }
        });
        assert!(gate.close(by_then()));
        server.store(NEW, Ordering::Relaxed);
        server.store(OLD, Ordering::Relaxed);
        gate.open();
        assert!(taker.join().unwrap());
    });
}

/// A gate that settles is as it was. A thread that was turned away meanwhile passes without another change.
#[test]
fn c3_a_gate_that_settles_turns_nobody_away_for_good() {
    check(|| {
        let gate = gate();
        gate.open();
        let taker = thread::spawn({
            let gate = gate.clone();
            move || take(&gate, || ())
        });
        assert!(gate.settle(by_then()));
        assert!(taker.join().unwrap());
    });
}

/// A thread that waits at a gate that was never open learns of its end.
#[test]
fn c3_a_gate_that_is_retired_lets_nobody_wait() {
    check(|| {
        let gate = gate();
        let taker = thread::spawn({
            let gate = gate.clone();
            move || take(&gate, || ())
        });
        gate.retire(by_then());
        assert!(!taker.join().unwrap());
        assert!(gate.io().is_none());
    });
}

/// A thread sleeps inside until after the deadline. The gate stays open, or is retired for all other threads. It is still
/// retired once the thread is awake.
#[test]
fn c3_a_gate_whose_thread_is_asleep_is_given_up_and_retired_for_the_others() {
    check(|| {
        let (gate, awake) = (gate(), Arc::new(Latch::new()));
        gate.open();
        let sleeper = thread::spawn({
            let (gate, awake) = (gate.clone(), awake.clone());
            move || gate.pass(|()| *awake.wait_blocking()).is_some()
        });
        let closed = gate.close(now());
        if !closed {
            assert!(matches!(gate.state(), GateState::Open(_)), "the gate is as it was");
        }
        gate.retire(now());
        assert!(matches!(gate.state(), GateState::Retired));
        assert!(gate.pass(|()| ()).is_none());
        awake.set(());
        let slept = sleeper.join().unwrap();
        assert!(slept || gate.io().is_none());
        assert!(matches!(gate.state(), GateState::Retired));
        gate.settle(by_then());
        assert!(matches!(gate.state(), GateState::Retired));
    });
}
