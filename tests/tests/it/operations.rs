//! `docs/operations.md`: every block of it is run, in the order of the page, against a service as it describes it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use crate::harness::{Dir, Exit};

/// The blocks of commands.
fn blocks() -> Vec<String> {
    let page = include_str!("../../../docs/operations.md");
    page.split("\n```sh\n")
        .skip(1)
        .map(|rest| rest.split("\n```\n").next().expect("it ends").to_owned())
        .collect()
}

#[test]
fn every_command_of_the_page_works() {
    let dir = Dir::new();
    for at in ["bin", "run", "srv", "srv/releases", "srv/releases/1", "srv/releases/2", "srv/releases/3-bad"]
    {
        fs::create_dir(dir.join(at)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_tableflip-program"), dir.join("bin/tableflip")).unwrap();
    dir.copy_of_victim("srv/releases/1/echo");
    dir.copy_of_victim("srv/releases/2/echo");
    let bad = dir.join("srv/releases/3-bad/echo");
    fs::write(&bad, "#!/bin/sh\necho 'no configuration' >&2\nexit 7\n").unwrap();
    fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
    let current = dir.join("srv/current");
    symlink("releases/1", &current).unwrap();
    let command = dir.victim().binary(current.join("echo"));
    let command = command.env("TABLEFLIP_PIDFILE", dir.join("run/echo.pid"));
    let (service, first) = command.env("TABLEFLIP_CONTROL", dir.join("run/echo.control")).serve();

    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let places = [("/srv/echo", dir.join("srv")), ("/run/echo", dir.join("run"))];
    let mut said = String::new();
    let blocks = blocks();
    for block in &blocks {
        let script = places.iter().fold(block.clone(), |script, (place, here)| {
            script.replace(place, here.to_str().expect("temporary directories are UTF-8"))
        });
        // What hangs is ended, and fails.
        let mut shell = Command::new("timeout");
        shell
            .args(["60", "sh", "-euc", &script])
            .env("PATH", &path)
            .current_dir(dir.path())
            .stdin(Stdio::null());
        let output = shell.output().expect("there is a shell");
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
        "tableflip: the successor exited with status 7 before it served\n".to_owned(),
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
    assert!(fs::read_to_string(dir.join("srv/echo.service")).unwrap().contains("\nType=notify-reload\n"));
    service.wait_until_all_are_gone();
}
