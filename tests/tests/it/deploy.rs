//! What a deployment does to the files of a service that runs: its executable, the directory of its start, its arguments and
//! its environment.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::{Command, Dir, Exit, Process, Service, Signal, skip};
use crate::look;

/// An upgrade to the executable that is there by now.
fn upgrade(service: &Service, old: &Process) -> Process {
    let new = service.upgrade(old);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    service.assert_serves(&new);
    new
}

/// An upgrade that cannot even start a successor; returns the reason.
fn refused(service: &Service, old: &Process) -> String {
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(old);
    assert!(reason.ends_with("; this process serves on"), "{reason}");
    service.assert_serves(old);
    assert_eq!(look::children(old), [0_u32; 0]);
    reason
}

/// A program under its path in a shell script.
fn in_shell<'d>(command: Command<'d>, script: &str) -> Command<'d> {
    command.binary("/bin/sh").arg("-c").arg(script)
}

/// Something else at `svc`, by `cp`: see [`Dir::copy`].
fn put_executable(dir: &Dir, content: &[u8]) {
    let aside = dir.join("content");
    fs::write(&aside, content).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    dir.copy(&aside, "svc");
}

/// A service whose executable is a copy, for the test to replace; and the path of the copy.
fn serve_copy(dir: &Dir) -> (PathBuf, Service, Process) {
    let path = dir.copy_of_victim("svc");
    let (service, old) = dir.victim().binary(&path).serve();
    (path, service, old)
}

/// P3: it is found by its name, and not by the file that it was.
#[test]
fn the_executable_is_removed_and_copied_anew() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    fs::remove_file(&path).unwrap();
    dir.copy_of_victim("svc");
    assert!(!look::runs(&old, &path), "another file is there");

    let new = upgrade(&service, &old);
    assert!(look::runs(&new, &path));
}

#[test]
fn another_executable_is_renamed_over_it() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let (service, mut old) = dir.victim().binary(&path).serve();
    // More than once: from the second on it is a process that was started by an upgrade which finds the path.
    for _ in 0..3 {
        let next = dir.copy_of_victim("svc.next");
        fs::rename(next, &path).unwrap();
        let new = upgrade(&service, &old);
        assert!(look::runs(&new, &path));
        assert!(!service.has_said(&new, "error"));
        old = new;
    }
}

/// M18, H14: a start that fails leaves nothing, and the next one is tried afresh.
#[test]
fn m18_the_executable_is_missing_at_one_upgrade() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    let aside = dir.join("aside");
    fs::rename(&path, &aside).unwrap();
    for _ in 0..2 {
        let reason = refused(&service, &old);
        assert!(reason.contains(path.to_str().unwrap()), "{reason}");
        assert!(reason.contains("No such file or directory"), "{reason}");
        // H14: an exec that failed leaves nothing for the next child to inherit.
        assert_eq!(look::inheritable(&old), [""; 0]);
    }

    fs::rename(&aside, &path).unwrap();
    let new = upgrade(&service, &old);
    // The successor as well, that has never been started from a path which was missing.
    fs::remove_file(&path).unwrap();
    refused(&service, &new);
    dir.copy_of_victim("svc");
    upgrade(&service, &new);
}

#[test]
fn the_executable_may_not_be_executed() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let reason = refused(&service, &old);
    assert!(reason.contains(path.to_str().unwrap()) && reason.contains("Permission denied"), "{reason}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    upgrade(&service, &old);
}

#[test]
fn the_executable_is_replaced_by_what_is_none() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    let put = |content: &[u8]| {
        fs::remove_file(&path).unwrap();
        put_executable(&dir, content);
    };

    // A shell would run such a file as a script of its own; a service is not to be replaced by that.
    put(b"echo garbage\n");
    let reason = refused(&service, &old);
    assert!(reason.contains(path.to_str().unwrap()) && reason.contains("Exec format error"), "{reason}");
    put(b"");
    assert!(refused(&service, &old).contains("Exec format error"));
    put(b"#!/nowhere/interpreter\n");
    assert!(refused(&service, &old).contains(path.to_str().unwrap()));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused(&service, &old).contains("Permission denied"));

    fs::remove_dir(&path).unwrap();
    dir.copy_of_victim("svc");
    upgrade(&service, &old);
}

#[test]
fn the_executable_is_still_being_copied() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    // The beginning of an executable, which the kernel starts and which then dies of what is missing.
    let complete = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    put_executable(&dir, &complete[..16 * 1024]);
    let reason = refused(&service, &old);
    assert!(reason.contains("was killed by SIG") || reason.contains("exited with status"), "{reason}");

    // Whoever copies it has it open.
    let writer = fs::File::options().append(true).open(&path).unwrap();
    let reason = refused(&service, &old);
    assert!(reason.contains("Text file busy"), "{reason}");
    drop(writer);

    fs::remove_file(&path).unwrap();
    dir.copy_of_victim("svc");
    upgrade(&service, &old);
}

/// A directory for each release, and a link to the current one.
struct Releases<'d> {
    dir: &'d Dir,
}

impl<'d> Releases<'d> {
    fn new(dir: &'d Dir) -> Self {
        for release in ["releases/1", "releases/2"] {
            fs::create_dir_all(dir.join(release)).unwrap();
            dir.copy_of_victim(format!("{release}/svc"));
        }
        symlink("releases/1", dir.join("current")).unwrap();
        Self { dir }
    }

    fn switch(&self, release: &str) {
        // As `ln -sfn` and `mv -T` do it: the link is always there.
        symlink(release, self.dir.join("next")).unwrap();
        fs::rename(self.dir.join("next"), self.dir.join("current")).unwrap();
    }

    fn path(&self, release: &str) -> PathBuf {
        // The directory for temporary files may be reached through a link as well.
        fs::canonicalize(self.dir.join(release)).unwrap()
    }
}

#[test]
fn a_current_link_is_moved_to_another_release() {
    let dir = Dir::new();
    let releases = Releases::new(&dir);
    let (service, first) = dir.victim().binary(dir.join("current/svc")).serve();
    assert_eq!(look::executable(&first), releases.path("releases/1/svc"));

    releases.switch("releases/2");
    let second = upgrade(&service, &first);
    assert_eq!(look::executable(&second), releases.path("releases/2/svc"));

    // The way back, by a process that was started by an upgrade.
    releases.switch("releases/1");
    let third = upgrade(&service, &second);
    assert_eq!(look::executable(&third), releases.path("releases/1/svc"));

    // What is old is cleaned up.
    releases.switch("releases/2");
    fs::remove_dir_all(dir.join("releases/1")).unwrap();
    let fourth = upgrade(&service, &third);
    assert_eq!(look::executable(&fourth), releases.path("releases/2/svc"));
}

#[test]
fn a_link_to_the_executable_itself_is_moved() {
    let dir = Dir::new();
    let (one, two) = (dir.copy_of_victim("svc-1"), dir.copy_of_victim("svc-2"));
    symlink(&one, dir.join("svc")).unwrap();
    let (service, first) = dir.victim().binary(dir.join("svc")).serve();
    assert!(look::runs(&first, &one));
    symlink(&two, dir.join("next")).unwrap();
    fs::rename(dir.join("next"), dir.join("svc")).unwrap();
    let second = upgrade(&service, &first);
    assert!(look::runs(&second, &two));
}

#[test]
fn a_current_link_is_the_working_directory() {
    let dir = Dir::new();
    let releases = Releases::new(&dir);
    // The shell says in PWD by which name it went there.
    let (service, first) = in_shell(dir.victim(), "cd current && exec ./svc").serve();
    assert_eq!(look::working_directory(&first), releases.path("releases/1"));

    releases.switch("releases/2");
    let second = upgrade(&service, &first);
    assert_eq!(look::executable(&second), releases.path("releases/2/svc"));
    assert_eq!(look::working_directory(&second), releases.path("releases/2"));
}

#[test]
fn the_executable_is_found_through_path() {
    let dir = Dir::new();
    fs::create_dir(dir.join("bin")).unwrap();
    let path = dir.copy_of_victim("bin/svc");
    // A relative entry of PATH is relative to the first working directory, which the service has left.
    for search in
        [format!("/nowhere:{}:/usr/bin:/bin", dir.join("bin").display()), "bin:/usr/bin:/bin".to_owned()]
    {
        let command = in_shell(dir.victim(), "exec svc").env("PATH", search);
        let (service, first) = command.plan("serve chdir /").plan("serve chdir /").serve();
        assert_eq!(look::arguments(&first), [b"svc".to_vec()]);
        let next = dir.copy_of_victim("svc.next");
        fs::rename(next, &path).unwrap();
        let second = upgrade(&service, &first);
        assert!(look::runs(&second, &path));
        assert_eq!(look::arguments(&second), [b"svc".to_vec()]);
        upgrade(&service, &second);
    }
}

#[test]
fn h10_everything_relative_is_relative_to_the_first_working_directory() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("work/run")).unwrap();
    let path = dir.copy_of_victim("svc");
    let command = in_shell(dir.victim(), "cd work && exec ../svc").env("TABLEFLIP_PIDFILE", "run/../../pid");
    let (service, mut old) = command.plan("serve chdir /").plan("serve chdir /").serve();
    let work = fs::canonicalize(dir.join("work")).unwrap();
    for _ in 0..3 {
        let next = dir.copy_of_victim("svc.next");
        fs::rename(next, &path).unwrap();
        let new = upgrade(&service, &old);
        assert!(look::runs(&new, &path));
        assert_eq!(look::arguments(&new)[0], b"../svc");
        old = new;
    }
    // The last one has no plan that makes it leave.
    assert_eq!(look::working_directory(&old), work);
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.pidfile(), None);
}

#[test]
fn the_first_working_directory_is_deleted() {
    let dir = Dir::new();
    let work = dir.join("work");
    fs::create_dir(&work).unwrap();
    dir.copy_of_victim("svc");
    let (service, old) = in_shell(dir.victim(), "cd work && exec ../svc").serve();
    fs::remove_dir(&work).unwrap();
    let reason = refused(&service, &old);
    assert!(
        reason.contains(work.to_str().unwrap()) && reason.contains("No such file or directory"),
        "{reason}"
    );
    fs::write(&work, "").unwrap();
    assert!(refused(&service, &old).contains("Not a directory"));

    fs::remove_file(&work).unwrap();
    fs::create_dir(&work).unwrap();
    let new = upgrade(&service, &old);
    assert_eq!(look::working_directory(&new), fs::canonicalize(&work).unwrap());
}

#[test]
fn h10_arguments_arrive_as_they_are() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    let odd = [&b"\xff\xfe not UTF-8"[..], b"", b"two\nlines", b"--flag=\xe2\x82", b" "];
    let mut command = dir.victim().binary(&path);
    for arg in odd {
        command = command.arg(OsString::from_vec(arg.to_vec()));
    }
    let (service, mut old) = command.serve();
    let expected: Vec<_> = [path.as_os_str().as_bytes()].into_iter().chain(odd).map(<[u8]>::to_vec).collect();
    assert_eq!(look::arguments(&old), expected);
    for _ in 0..3 {
        let new = upgrade(&service, &old);
        assert_eq!(look::arguments(&new), expected);
        old = new;
    }
}

/// P3: argv[0] is what somebody has set it to.
#[test]
fn a_name_that_is_no_path_is_not_believed() {
    let dir = Dir::new();
    let path = dir.copy_of_victim("svc");
    // Login shells and daemons put anything into argv[0]; a file of that name is another program.
    fs::write(dir.join("other"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("other"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["-svc", "./other", "svc: master", ""] {
        let (service, old) = dir.victim().binary(&path).arg0(name).serve();
        let new = upgrade(&service, &old);
        assert!(look::runs(&new, &path));
        assert_eq!(look::arguments(&new), [name.as_bytes().to_vec()]);
    }
}

#[test]
fn a_path_that_is_not_utf_8() {
    let dir = Dir::new();
    let name = OsString::from_vec(b"release-\xff".to_vec());
    fs::create_dir(dir.join(&name)).unwrap();
    let path = dir.copy_of_victim(Path::new(&name).join("svc"));
    let (service, mut old) = dir.victim().binary(&path).serve();
    for _ in 0..3 {
        let next = dir.copy_of_victim("svc.next");
        fs::rename(next, &path).unwrap();
        let new = upgrade(&service, &old);
        assert!(look::runs(&new, &path));
        old = new;
    }
}

/// B1: what a process sets in its own environment, or removes from it, is its own.
#[test]
fn h15_the_environment_of_the_first_start_is_passed_on() {
    let dir = Dir::new();
    let mut command =
        dir.victim().probation("10ms").env("PLAIN", "as it is").env("EMPTY", "").env("TWO", "lines\nof it");
    let not_utf_8 = OsString::from_vec(b"\xff".to_vec());
    command = command.env("BYTES", not_utf_8).env("LARGE", "x".repeat(100_000));
    for generation in 1..=21 {
        command = command.plan(&format!(
            "main setenv SET_BY_THE_SERVICE {generation}; main setenv PLAIN no; main unsetenv EMPTY"
        ));
    }
    let (service, first) = command.serve();
    let before = look::environment(&first);
    assert!(before.contains(&"PLAIN=as it is".to_owned()) && before.contains(&"EMPTY=".to_owned()));
    let mut old = first;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let new = upgrade(&service, &old);
        seen.push(look::environment(&new));
        old = new;
    }
    for environment in seen {
        assert_eq!(environment, before);
    }
}

#[test]
fn h15_what_belongs_to_one_process_is_not_passed_on() {
    let dir = Dir::new();
    let mut command = dir.victim();
    for name in ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command = command.env(name, "1");
    }
    let (service, first) = command.env("NOTIFY_SOCKET", "").serve();
    assert_eq!(look::variable(&first, "LISTEN_FDS"), ["1"]);
    let second = upgrade(&service, &first);
    for line in look::environment(&second) {
        assert!(!line.starts_with("LISTEN_"), "{line}");
    }
    // What only begins like one of them is the service's own.
    assert_eq!(look::variable(&second, "VICTIM_LISTEN").len(), 1);
}

#[test]
fn the_variable_of_the_handover_is_gone_before_the_body_runs() {
    let dir = Dir::new();
    let (service, first) = dir.victim().serve();
    service.plan("init run at-init env");
    let second = upgrade(&service, &first);
    service.wait_for(&second, "ran", "at-init");
    assert_eq!(service.connect().ask("do run later env"), "done");
    // In mid-upgrade as well, from the side that sets it for the other.
    let gate = dir.gate("init");
    service.plan("init gate init");
    let third = service.start_upgrade(&second);
    service.wait(&third, "gate");
    assert_eq!(service.connect().ask("do run meanwhile env"), "done");
    gate.open();
    service.wait(&third, "serving");

    for file in ["at-init", "later", "meanwhile"] {
        let environment = fs::read_to_string(dir.join(file)).unwrap();
        assert!(environment.contains("TABLEFLIP_PIDFILE="), "{environment}");
        assert!(!environment.contains("TABLEFLIP_HANDOVER"), "{environment}");
    }
}

/// M20, P4: what is started in the place of a dead release is not whatever lies at its path by now.
#[test]
fn m20_the_image_that_worked_is_started_though_its_file_is_deleted() {
    let dir = Dir::new();
    let (path, service, old) = serve_copy(&dir);
    let inode = fs::metadata(&path).unwrap().ino();
    let mut before = service.connect();
    assert_eq!(before.who().0, 1);
    let new = service.upgrade(&old);
    service.wait_for(&old, "draining", "open=1");

    fs::remove_file(&path).unwrap();
    new.kill();
    let rescued = service.next_process();
    service.wait(&rescued, "serving");
    service.assert_serves(&rescued);
    assert_eq!(fs::metadata(rescued.proc("exe")).unwrap().ino(), inode);
    assert_eq!(before.ask("still there?"), "echo still there?");
    drop(before);
    assert_eq!(old.exit(), Exit::Status(0));

    // It knows the path that upgrades execute, though its own file has none.
    service.wait(&rescued, "alone");
    assert!(refused(&service, &rescued).contains(path.to_str().unwrap()));
    dir.copy_of_victim("svc");
    let last = upgrade(&service, &rescued);
    assert!(look::runs(&last, &path));
}

/// B6. /proc/self/exe is the loader, ld.so(8).
#[test]
fn b6_a_service_that_was_started_through_the_loader() {
    let Some(loader) = loader() else {
        return skip("the loader of this machine is not found");
    };
    for options in [&[][..], &["--argv0", "another"], &["--library-path", "/usr/lib"]] {
        let dir = Dir::new();
        let path = dir.copy_of_victim("svc");
        let command = dir.victim().binary(&path).started_by(&loader, options);
        let (service, first) = command.arg("an argument").serve();
        let arguments = look::arguments(&first);
        let second = upgrade(&service, &first);
        assert_eq!(look::arguments(&second), arguments);
        // A new release at the path is what the next process runs.
        fs::remove_file(&path).unwrap();
        first_error(&service, &second, &path);
        dir.copy_of_victim("next");
        fs::rename(dir.join("next"), &path).unwrap();
        let third = upgrade(&service, &second);
        let maps = fs::read_to_string(third.proc("maps")).unwrap();
        assert!(maps.contains(path.to_str().unwrap()) && !maps.contains("(deleted)"), "{maps}");
        assert_eq!(service.served_by(), third.pid());
    }
}

/// The release is not there: the reason names it.
fn first_error(service: &Service, old: &Process, path: &Path) {
    old.signal(Signal::HUP);
    let reason = service.wait_for_failure(old);
    assert!(reason.contains(path.to_str().unwrap()) && reason.contains("No such file"), "{reason}");
}

/// The dynamic loader that the kernel starts for the programs of this machine.
fn loader() -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let is_loader = |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"));
    maps.lines().filter_map(|line| line.split(' ').next_back()).find(is_loader).map(str::to_owned)
}
