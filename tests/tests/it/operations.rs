//! `docs/operations.md`: every block is run, in the order of the page, against a service like that of the page.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Client, Dir, Exit, Process, Root, Service, Signal, find, names_in, root_or_skip};
use crate::look;
use crate::program::run;

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
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
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
        if block.contains("tableflip rollback") {
            // The predecessor of the last upgrade would refuse it.
            dir.wait_until("the end of the predecessor", || {
                run(&dir, "status --json run/echo.pid").done().contains("\"predecessor\":null").then_some(())
            });
        }
        let output = shell(&dir, &here(&dir, block)).output().expect("there is a shell");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{block}\n{out}{err}");
        said += &format!("$ {block}\n{out}{err}");
    }
    println!("{said}");
    assert_eq!(blocks.len(), 17, "the page has another scenario by now");

    assert_eq!(first.exit(), Exit::Status(0));
    for expected in [
        format!("generation 1, process {}: serving", first.pid()),
        r#"{"reply":"status","protocol":1,"#.to_owned(),
        "upgraded to generation 2, process ".to_owned(),
        "$ tableflip history ".to_owned(),
        "no upgrade is known\n".to_owned(),
        "unchanged: generation 2, process ".to_owned(),
        "upgraded to generation 3, process ".to_owned(),
        "tableflip: the successor exited with status 7 before it served; it was process ".to_owned(),
        "release 3-bad is not deployed (status 1); releases/2 serves on\n".to_owned(),
        "deploy.sh: 1\nreleases/2\n".to_owned(),
        "tableflip: no process is on standby: there was no upgrade, its successor does not serve yet, or its probation is over\n".to_owned(),
        "revert: 1\n".to_owned(),
        "upgraded to generation 4, process ".to_owned(),
        "upgraded to generation 5, process ".to_owned(),
        "current/echo still names the release that was rolled back".to_owned(),
        "stop: 3\n".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected:?} is missing:\n{said}");
    }
    let page = fs::read_to_string(dir.join("srv/share/man/man1/tableflip-rollback.1")).unwrap();
    assert!(page.contains("wait\\-drained"), "{page}");
    let completions = names_in(&dir.join("srv/share/fish/vendor_completions.d"));
    assert_eq!(completions, ["tableflip.fish"]);
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

/// B14. Root binds, and the body becomes another user. Its directory has the files of the service.
#[test]
fn b14_a_service_that_drops_its_privileges_is_upgraded_and_leaves_nothing() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let executable = dir.copy_of_victim("service");
    let run = dir.join("run");
    fs::create_dir(&run).unwrap();
    chown(&run, Some(NOBODY), Some(NOBODY)).unwrap();
    let drops = format!("init drop-privileges nobody {}", run.display());
    let local = format!("unix://{}", run.join("local").display());
    let command = dir.victim().binary(executable).listen("local", &local);
    let command = with_control(command, &run);
    let (service, mut old) = command.plan(&drops).serve();
    for generation in 1..=3 {
        assert!(look::status(&old, "Uid").starts_with(&NOBODY.to_string()), "{generation}");
        assert_eq!(names_in(&run), ["local", "pid", "pid.control"]);
        assert_eq!(fs::read_to_string(run.join("pid")).unwrap().trim(), old.pid().to_string());
        let mut client = Client::unix(&run.join("local"));
        assert_eq!(client.who(), (generation, old.pid()));
        client.close();
        service.plan(&drops);
        // The next process is of that user, and takes its line out of the plan.
        fs::set_permissions(dir.join("plan"), Permissions::from_mode(0o666)).unwrap();
        let new = service.upgrade(&old);
        service.wait(&new, "alone");
        old = new;
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(names_in(&run).is_empty(), "{:?}", names_in(&run));
}

/// In root's directory the user could neither replace nor remove them. The body finds that as root: nothing is left.
#[test]
fn b14_a_body_that_may_not_drop_its_privileges_leaves_nothing() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let run = dir.join("run");
    fs::create_dir(&run).unwrap();
    let drops = format!("init drop-privileges nobody {}", run.display());
    let service = with_control(dir.victim(), &run).plan(&drops).start();
    assert_ne!(service.first().exit(), Exit::Status(0));
    assert!(service.log().contains("run does not belong to nobody"), "{}", service.log());
    assert!(names_in(&run).is_empty(), "{:?}", names_in(&run));
}

/// A body that does not look before: the reason says what is missing, and what stays behind is named.
#[test]
fn b14_privileges_that_are_dropped_too_early_are_the_reason_that_is_said() {
    let Some(Root) = root_or_skip() else { return };
    let dir = Dir::new();
    let (run, other) = (dir.join("run"), dir.join("other"));
    fs::create_dir(&run).unwrap();
    fs::create_dir(&other).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    chown(&other, Some(NOBODY), None).unwrap();
    let drops = format!("init drop-privileges nobody {}", other.display());
    let service = with_control(dir.victim(), &run).plan(&drops).start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    let reason = format!(
        "user {NOBODY} may not write to {}; it is of user 0; this process began as user 0: before it becomes another user, the \
         directory has to be that user's",
        run.display()
    );
    assert!(service.log().contains(&reason), "{}", service.log());
    let control = run.join("pid.control");
    let left = format!("cannot remove unix://{}", control.display());
    assert!(service.log().contains(&left) && control.exists(), "{}", service.log());
    drop(service);
    // The next start replaces it.
    chown(&run, Some(NOBODY), None).unwrap();
    let drops = format!("init drop-privileges nobody {}", run.display());
    let (service, process) = with_control(dir.victim(), &run).plan(&drops).serve();
    assert_eq!(service.served_by(), process.pid());
    process.signal(Signal::TERM);
    process.exit();
    assert!(names_in(&run).is_empty(), "{:?}", names_in(&run));
}

fn with_control<'d>(command: crate::harness::Command<'d>, run: &Path) -> crate::harness::Command<'d> {
    let command = command.env("TABLEFLIP_PIDFILE", run.join("pid"));
    command.env("TABLEFLIP_CONTROL", run.join("pid.control"))
}

/// The victim has the function of the page.
#[test]
fn b14_the_recipe_of_the_page_is_what_is_tested() {
    let victim = include_str!("../../src/bin/victim/deeds.rs");
    let (_, rest) = victim.split_once("fn become_user(").expect("a function");
    let (function, _) = rest.split_once("\n}\n").expect("its end");
    assert!(include_str!("../../../docs/operations.md").contains(function), "{function}");
}

/// The user that every Linux has.
const NOBODY: u32 = 65534;
