//! The log of an upgrade, as somebody reads it who was not there: at `info`, from both processes, in the order of what happened.

use crate::harness::{Dir, Exit, Process, Service, Signal};

/// The lines of the harness at `info` and above, without times of day: numbers of processes have a name, and durations are `TIME`.
fn story(service: &Service, processes: &[(&Process, &str)]) -> Vec<String> {
    let log = service.log();
    let told = log.lines().filter_map(|line| {
        let (level, event) = line.split_once(' ')?.1.trim_start().split_once(" tableflip: ")?;
        (level != "DEBUG").then(|| format!("{level} {event}"))
    });
    told.map(|line| line.split(' ').map(|word| named(word, processes)).collect::<Vec<_>>().join(" "))
        .collect()
}

fn named(word: &str, processes: &[(&Process, &str)]) -> String {
    let Some((field, value)) = word.split_once('=') else { return word.to_owned() };
    let process = processes.iter().find(|(process, _)| process.pid().to_string() == value);
    match (field, process) {
        (_, Some((_, name))) => format!("{field}={name}"),
        ("check", None) => "check=CHECK".to_owned(),
        ("elapsed", None) => "elapsed=TIME".to_owned(),
        ("executable", None) => "executable=PATH".to_owned(),
        _ => word.to_owned(),
    }
}

fn assert_reads(told: &[String], expected: &[&str]) {
    println!("{}", told.join("\n"));
    assert_eq!(told, expected);
}

#[test]
fn an_upgrade_reads_as_a_story_of_both_processes() {
    let dir = Dir::new();
    let (service, old) = dir.victim().env("TABLEFLIP_PREFLIGHT", "echo fine").serve();
    let new = service.upgrade(&old);
    service.wait(&new, "alone");
    assert_eq!(old.exit(), Exit::Status(0));
    assert_reads(
        &story(&service, &[(&old, "OLD"), (&new, "NEW")]),
        &[
            r#"INFO serving generation=1 pid=OLD phase="serving" listeners=1 version="7.7.7""#,
            r#"INFO checking the release generation=1 pid=OLD phase="checking" check=CHECK command="echo fine""#,
            r#"INFO the release passed the check generation=1 pid=OLD phase="checking" output="fine""#,
            r#"INFO started a successor generation=1 pid=OLD phase="upgrading" successor=NEW executable=PATH"#,
            r#"INFO ready generation=2 pid=NEW phase="prepared""#,
            r#"INFO the successor is ready generation=1 pid=OLD phase="handing-over" successor=NEW"#,
            r#"INFO serving generation=2 pid=NEW phase="serving" listeners=1 version="7.7.7""#,
            r#"INFO the successor serves generation=1 pid=OLD phase="standby" successor=NEW elapsed=TIME"#,
            r#"INFO upgraded generation=1 pid=OLD phase="draining" successor=NEW elapsed=TIME"#,
            r#"INFO draining generation=1 pid=OLD phase="draining" open=0 timeout=1h"#,
            r#"INFO exiting generation=1 pid=OLD phase="ended""#,
            r#"INFO the predecessor is gone generation=2 pid=NEW predecessor=OLD phase="alone""#,
        ],
    );
}

/// The last word is what failed, why, and who serves.
#[test]
fn a_failure_ends_with_the_reason_and_with_who_serves() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    service.plan("init panic disk-is-full");
    old.signal(Signal::HUP);
    service.wait_for_failure(&old);
    let new = service.next_process();
    assert_reads(
        &story(&service, &[(&old, "OLD"), (&new, "NEW")])[1..],
        &[
            r#"INFO started a successor generation=1 pid=OLD phase="upgrading" successor=NEW executable=PATH"#,
            "ERROR cannot start: the body panicked: disk-is-full generation=2 pid=NEW",
            r#"INFO exiting generation=2 pid=NEW phase="ended""#,
            "ERROR upgrade failed: the successor could not start: the body panicked: disk-is-full; this process serves on \
             generation=1 pid=OLD",
        ],
    );

    // One that has served, and is killed on probation.
    let new = service.upgrade(&old);
    new.kill();
    service.wait_for_failure(&old);
    let told = story(&service, &[(&old, "OLD"), (&new, "NEW")]);
    let last = "ERROR upgrade failed: the successor was killed by SIGKILL in its probation; this process serves on \
                generation=1 pid=OLD";
    assert_eq!(told.last().unwrap(), last);
    // One that is refused.
    let new = service.upgrade(&old);
    old.signal(Signal::HUP);
    service.wait_for(&old, "error", "upgrade refused");
    let told = story(&service, &[(&old, "OLD"), (&new, "NEW")]);
    assert_eq!(told.last().unwrap(), "WARN upgrade refused: an upgrade is in progress generation=1 pid=OLD");
}
