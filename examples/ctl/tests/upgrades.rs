//! The executable of the service as the program of its operators.

use std::path::Path;
use std::process::{Command, Output};

use load::{Http, Service, Version};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ctl-hello");

/// What `ctl` prints on stdout, and its exit status.
fn ctl(dir: &Path, environment: &[(&str, &Path)], words: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(PROGRAM);
    command.current_dir(dir).arg("ctl").args(words.split_whitespace()).env_remove("TABLEFLIP_PIDFILE");
    let Output { status, stdout, stderr } =
        command.envs(environment.iter().copied()).output().expect("it is started");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_service_upgrades_itself_under_load() {
    let mut service = Service::of(PROGRAM).args(["serve"]).listen("http", "tcp://127.0.0.1:0").start();
    let client = Http::new(service.address("http"), Version::Http1);
    load::across_upgrades(&mut service, || client.clone());

    let (pid, control) = (service.pid(), service.path("control"));
    let dir = service.path("");
    // The environment of the service names the service, as in a container.
    let (status, out, err) =
        ctl(&dir, &[("TABLEFLIP_CONTROL", &control)], "upgrade --wait-drained --timeout 1m");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains(&format!("process {}, which served after ", service.pid())), "{out}");
    assert!(out.ends_with(&format!("process {pid} is gone\n")), "{out}");
    // The command line names it.
    let (status, out, err) = ctl(&dir, &[], "status --json control");
    assert_eq!(status, Some(0), "{out}{err}");
    assert!(out.contains(&format!("\"pid\":{},", service.pid())), "{out}");
    let (status, out, err) = ctl(&dir, &[("TABLEFLIP_CONTROL", &control)], "stop");
    assert_eq!(status, Some(0), "{out}{err}");
}

#[test]
fn the_service_names_its_own_pid_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (status, out, err) = ctl(dir.path(), &[], "status");
    assert_eq!((status, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("nothing is running there: ctl-hello.pid: No such file"), "{err}");
    // The variables that name it to the service come first.
    let other = Path::new("other.pid");
    for (environment, named) in [
        (&[("TABLEFLIP_PIDFILE", other)][..], "other.pid"),
        (&[("TABLEFLIP_PIDFILE", other), ("TABLEFLIP_CONTROL", Path::new("false"))], "other.pid"),
        (&[("TABLEFLIP_PIDFILE", other), ("TABLEFLIP_CONTROL", Path::new("other.control"))], "other.control"),
    ] {
        let (status, out, err) = ctl(dir.path(), environment, "status");
        assert_eq!((status, out.as_str()), (Some(3), ""), "{err}");
        assert!(err.contains(&format!("nothing is running there: {named}: No such file")), "{err}");
    }
    let (status, _, err) = ctl(dir.path(), &[], "dance");
    assert_eq!(status, Some(2), "{err}");
    let (status, help, _) = ctl(dir.path(), &[], "upgrade --help");
    assert!(status == Some(0) && help.contains("Usage: ctl-hello ctl upgrade"), "{help}");
    assert!(help.contains("[PIDFILE|CONTROL]"), "{help}");
}
