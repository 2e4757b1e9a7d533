//! A task that runs in one process only, over upgrades and a crash.

use std::collections::BTreeSet;
use std::fs;

use load::{Command, Lines, Service};

/// The task that leads, or is to lead, has a guard.
fn command() -> Command {
    Service::of(env!("CARGO_BIN_EXE_leader")).listen("status", "tcp://127.0.0.1:0").guards(1)
}

/// What each process did, one after the other, and how many of them there were. None works while another one leads.
fn check(journal: &str) -> usize {
    let mut leader = None;
    let mut leaders = BTreeSet::new();
    for line in journal.lines() {
        let (pid, deed) = line.split_once(' ').expect("a process and what it did");
        match deed {
            "leads" => assert_eq!(leader.replace(pid), None, "{pid} leads beside another one:\n{journal}"),
            "works" => assert_eq!(leader, Some(pid), "{pid} works and does not lead:\n{journal}"),
            "retires" => assert_eq!(leader.take(), Some(pid), "{pid} retires:\n{journal}"),
            _ => panic!("{line}"),
        }
        leaders.insert(pid);
    }
    leaders.len()
}

#[test]
fn one_process_leads_at_a_time() {
    let mut service = command().start();
    let client = Lines::tcp(service.address("status"), "who\n", "a process of this service\n").stays();
    let run = load::across_upgrades(&mut service, || client.clone());
    let journal = service.path("leader.journal");
    let last = format!("{} works", service.pid());
    load::wait_until("the last one works", || {
        fs::read_to_string(&journal).expect("a journal").contains(&last)
    });
    service.stop();
    let leaders = check(&fs::read_to_string(&journal).expect("a journal"));
    println!("leader: {leaders} processes led, one after the other");
    // One that was replaced at once may not have come to it; and the end of the test has an upgrade of its own, or three.
    assert!((2..=run.upgrades as usize + 4).contains(&leaders));
}

#[test]
fn a_process_that_cannot_lead_replaces_none() {
    // For as long as it may take to notice it.
    let mut service = command().env("TABLEFLIP_PROBATION", "20s").start();
    let (pid, journal) = (service.pid(), service.path("leader.journal"));
    let leads = format!("{pid} leads");
    load::wait_until("it leads", || fs::read_to_string(&journal).is_ok_and(|text| text.contains(&leads)));
    fs::remove_file(&journal).expect("it is there");
    fs::create_dir(&journal).expect("nothing is there");
    let refusal = service.refused_upgrade();
    assert!(!refusal.is_empty() && service.pid() == pid, "{refusal}");
    assert!(service.log().contains("Is a directory"), "{}", service.log());
    service.stop_with_what_is_open();
}
