//! `docs/operations.md`: every block is run, in the order of the page, against a service like that of the page.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};

use crate::harness::find;
use crate::harness::{Dir, Exit, Process, Service};
use crate::look;

/// The blocks of commands.
fn blocks() -> Vec<String> {
    let page = include_str!("../../../docs/operations.md");
    page.split("\n```sh\n")
        .skip(1)
        .map(|rest| rest.split("\n```\n").next().expect("it ends").to_owned())
        .collect()
}

/// A block with the places of the page in this directory.
fn here(dir: &Dir, block: &str) -> String {
    [("/srv/echo", dir.join("srv")), ("/run/echo", dir.join("run"))].iter().fold(
        block.to_owned(),
        |script, (place, here)| {
            script.replace(place, here.to_str().expect("temporary directories are UTF-8"))
        },
    )
}

/// A shell that runs this, with the program in its path. What hangs is ended, and fails.
fn shell(dir: &Dir, script: &str) -> Command {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("timeout");
    shell.args(["60", "sh", "-euc", script]).env("PATH", path).current_dir(dir.path()).stdin(Stdio::null());
    shell
}

/// The places of the page, with these releases, each an `echo`, of which the first is linked.
fn places(dir: &Dir, releases: &[&str]) {
    for at in ["bin", "run", "srv", "srv/releases"] {
        fs::create_dir(dir.join(at)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_tableflip-program"), dir.join("bin/tableflip")).unwrap();
    for release in releases {
        fs::create_dir(dir.join("srv/releases").join(release)).unwrap();
        dir.copy_of_victim(format!("srv/releases/{release}/echo"));
    }
    symlink(format!("releases/{}", releases[0]), dir.join("srv/current")).unwrap();
}

/// A release that is this script.
fn release(dir: &Dir, name: &str, script: &str) {
    let directory = dir.join("srv/releases").join(name);
    fs::create_dir(&directory).unwrap();
    let path = directory.join("echo");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn serve(dir: &Dir) -> (Service, Process) {
    let command = dir.victim().binary(dir.join("srv/current/echo"));
    let command = command.env("TABLEFLIP_PIDFILE", dir.join("run/echo.pid"));
    command.env("TABLEFLIP_CONTROL", dir.join("run/echo.control")).serve()
}

#[test]
fn every_command_of_the_page_works() {
    let dir = Dir::new();
    places(&dir, &["1", "2"]);
    release(&dir, "3-bad", "echo 'no configuration' >&2\nexit 7");
    let current = dir.join("srv/current");
    let (service, first) = serve(&dir);

    let mut said = String::new();
    let blocks = blocks();
    for block in &blocks {
        let output = shell(&dir, &here(&dir, block)).output().expect("there is a shell");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{block}\n{out}{err}");
        said += &format!("$ {block}\n{out}{err}");
    }
    println!("{said}");
    assert_eq!(blocks.len(), 11, "the page has another scenario by now");

    assert_eq!(first.exit(), Exit::Status(0));
    for expected in [
        format!("generation 1, process {}: serving", first.pid()),
        r#"{"reply":"status","protocol":1,"#.to_owned(),
        "upgraded to generation 2, process ".to_owned(),
        "upgraded to generation 3, process ".to_owned(),
        "tableflip: the successor exited with status 7 before it served; it was process ".to_owned(),
        "release 3-bad is not deployed (status 1); releases/2 serves on\n".to_owned(),
        "deploy.sh: 1\nreleases/2\n".to_owned(),
        "upgraded to generation 4, process ".to_owned(),
        "stop: 3\n".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected:?} is missing:\n{said}");
    }
    assert_eq!(fs::read_link(&current).unwrap().to_str(), Some("releases/1"));
    let metrics = fs::read_to_string(dir.join("srv/echo.prom")).unwrap();
    for name in ["upgrades_failed_total", "waiting{", "backlog{", "generation_open{"] {
        assert!(metrics.contains(&format!("\ntableflip_{name}")), "{metrics}");
    }
    assert!(fs::read_to_string(dir.join("srv/echo.service")).unwrap().contains("\nType=notify\nExecReload="));
    service.wait_until_all_are_gone();
}

/// A deploy that fails moves the link back, and so the next one waits for its end: it would upgrade to what that one has put
/// there, and call it done.
#[test]
fn two_deploys_at_once_are_one_after_the_other() {
    let dir = Dir::new();
    places(&dir, &["1", "3"]);
    let gate = dir.gate("bad");
    release(&dir, "2-bad", &format!("head -c 1 <{}\nexit 7", dir.join("gate-bad").display()));
    let (service, first) = serve(&dir);
    let blocks = blocks();
    let script =
        blocks.iter().find(|block| block.contains("> /srv/echo/deploy.sh ")).expect("the page has it");
    assert!(shell(&dir, &here(&dir, script)).status().expect("there is a shell").success());
    let deploy = |release: &str| -> Child {
        let mut shell = shell(&dir, &format!("exec {} {release}", dir.join("srv/deploy.sh").display()));
        shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("there is a shell")
    };

    let bad = deploy("2-bad");
    service.wait(&first, "upgrading");
    let good = deploy("3");
    // As proc_locks(5) shows one that waits.
    let waits = |line: &str| line.contains("-> FLOCK");
    let lock = format!(":{} ", fs::metadata(dir.join("srv/deploy.lock")).unwrap().ino());
    find("deploy that waits", || {
        let locks = fs::read_to_string("/proc/locks").expect("/proc is mounted");
        locks.lines().any(|line| waits(line) && line.contains(&lock)).then_some(())
    });
    gate.open();
    let bad = bad.wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(1), "{err}");
    assert!(err.ends_with("release 2-bad is not deployed (status 1); releases/1 serves on\n"), "{err}");
    let good = good.wait_with_output().expect("it ends");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(fs::read_link(dir.join("srv/current")).unwrap().to_str(), Some("releases/3"));
    let new = service.next_process();
    assert!(look::runs(&new, &dir.join("srv/releases/3/echo")), "what was deployed serves");

    // Where nothing runs nothing serves on.
    assert_eq!(first.exit(), Exit::Status(0));
    let stopped = shell(&dir, "tableflip stop run/echo.pid").output().expect("there is a shell");
    assert!(stopped.status.success());
    let none = deploy("1").wait_with_output().expect("it ends");
    let err = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(3), "{err}");
    assert!(err.ends_with("(status 3); nothing runs, and releases/3 is what a start would run\n"), "{err}");
    service.wait_until_all_are_gone();
}
