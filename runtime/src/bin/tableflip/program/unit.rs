//! The unit for systemd.

use std::env;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::args;
use super::output::{Failure, Output};

/// The first version that waits for the end of a reload by itself: `Type=notify-reload`.
const NOTIFY_RELOAD: u32 = 253;
/// The first version that tells a service how many descriptors it keeps, `FDSTORE`.
const FDSTORE: u32 = 254;
/// What a stop and a reload may take beside the drain and the initialisation: the handover, the probation, the exit.
const MARGIN: Duration = Duration::from_secs(15);

pub(crate) fn print(args: &args::Unit, output: &Output) -> Result<(), Failure> {
    let version = match args.systemd_version {
        Some(version) => version,
        None => installed_version().ok_or_else(|| {
            Failure::usage(
                "there is no systemd on this machine; say which version the unit is for, --systemd-version"
                    .to_owned(),
            )
        })?,
    };
    let binary = std::path::absolute(&args.binary)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.binary.display())))?;
    let program = env::current_exe()
        .map_err(|error| Failure::refused("failed", format!("cannot find this program: {error}")))?;
    let unit = unit(&binary, &args.arguments, version, args.notify_reload, args.drain_timeout, &program)?;
    output.line(&json!({"reply": "unit", "systemd_version": version, "unit": unit}));
    output.say(unit.trim_end());
    Ok(())
}

/// What `systemctl --version` says: `systemd 257 (257.9-1)`.
fn installed_version() -> Option<u32> {
    let output = Command::new("systemctl").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let digits: String = text.split_whitespace().nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn unit(
    binary: &Path,
    arguments: &[String],
    version: u32,
    notify_reload: bool,
    drain_timeout: Duration,
    program: &Path,
) -> Result<String, Failure> {
    let text = |path: &Path| {
        path.to_str().map(quoted).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))
    };
    let name = binary.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) {
        let problem = format!("`{name}` cannot name a directory in /run: rename the binary or link to it");
        return Err(Failure::usage(problem));
    }
    let start: Vec<_> =
        [text(binary)?].into_iter().chain(arguments.iter().map(|word| quoted(word))).collect();
    if notify_reload && version < NOTIFY_RELOAD {
        let problem = format!(
            "--notify-reload is of systemd {NOTIFY_RELOAD}, and this unit for {version}: leave it out"
        );
        return Err(Failure::usage(problem));
    }
    let reload = if notify_reload {
        "\
# A reload is an upgrade, by SIGHUP, and is waited for. Whether it failed `systemctl status` says.
Type=notify-reload
"
        .to_owned()
    } else {
        format!(
            "\
# A reload is an upgrade: it is waited for, and fails with the reason if the new release does.
Type=notify
ExecReload={} upgrade %t/{name}/{name}.pid
",
            text(program)?,
        )
    };
    let fdstore = if version < FDSTORE { "Environment=FDSTORE=64\n" } else { "" };
    let stop = seconds_of_systemd(drain_timeout.checked_add(MARGIN)).ok_or_else(|| {
        Failure::usage("--drain-timeout is longer than systemd can wait: say a shorter one".to_owned())
    })?;
    let drain = humantime::format_duration(drain_timeout);
    let mut unit = String::new();
    // A `String` takes whatever is written to it.
    _ = write!(
        unit,
        "\
# /etc/systemd/system/{name}.service, for systemd {version}
[Unit]
Description={name}
After=network-online.target
Wants=network-online.target

[Service]
{reload}\
ExecStart={start}
# The old process announces the new one.
NotifyAccess=main
# Whom to follow if the old one is killed before. Where User= is added this has to go: systemd does not trust that file.
PIDFile=%t/{name}/{name}.pid
RuntimeDirectory={name}
# A restart after a crash finds the Unix sockets that are in the descriptor store.
RuntimeDirectoryPreserve=restart
Environment=TABLEFLIP_PIDFILE=%t/{name}/{name}.pid TABLEFLIP_CONTROL=%t/{name}/{name}.control
Environment=\"TABLEFLIP_DRAIN_TIMEOUT={drain}\"
# Each process drains. With `mixed` the death of the one that serves would be a SIGKILL for the one that still drains.
KillMode=control-group
# More than the drain takes.
TimeoutStopSec={stop}
# More than upgrade_timeout and the probation, for a start as for a reload.
TimeoutStartSec=90
Restart=on-failure
# The listeners survive a crash, with those who wait in their queues.
FileDescriptorStoreMax=64
{fdstore}
[Install]
WantedBy=multi-user.target
",
        start = start.join(" "),
    );
    Ok(unit)
}

/// Whole seconds, if systemd, which counts in microseconds, can count them.
fn seconds_of_systemd(time: Option<Duration>) -> Option<u64> {
    let time = time?;
    let seconds = time.as_secs().checked_add(u64::from(time.subsec_nanos() > 0))?;
    // The last of its numbers is `infinity`.
    seconds.checked_mul(1_000_000).filter(|microseconds| *microseconds < u64::MAX)?;
    Some(seconds)
}

/// A word of a command line, systemd.service(5): `%` and `$` stand for themselves.
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:=@+,%".contains(c);
    if !word.is_empty() && escaped.chars().all(plain) { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: u32, notify_reload: bool, drain_timeout: Duration) -> Result<String, Failure> {
        let arguments = ["--greeting".to_owned(), "50% \"off\" $HOME".to_owned()];
        let (binary, program) = (Path::new("/srv/echo/current/echo"), Path::new("/usr/bin/tableflip"));
        unit(binary, &arguments, version, notify_reload, drain_timeout, program)
    }

    const DRAIN: Duration = Duration::from_secs(60);

    #[test]
    fn the_unit_is_right_for_the_version() {
        for (version, tells) in [(247, false), (253, false), (254, true), (257, true)] {
            let unit = of(version, false, DRAIN).unwrap();
            let command = "\nType=notify\nExecReload=/usr/bin/tableflip upgrade %t/echo/echo.pid\n";
            assert!(unit.contains(command), "{unit}");
            assert_eq!(!unit.contains("\nEnvironment=FDSTORE=64\n"), tells, "{unit}");
        }
        for version in [253, 257] {
            let unit = of(version, true, DRAIN).unwrap();
            // Both at once would be two upgrades.
            assert!(unit.contains("\nType=notify-reload\n") && !unit.contains("ExecReload="), "{unit}");
        }
        assert!(of(252, true, DRAIN).is_err(), "it would not know that type");
    }

    #[test]
    fn a_stop_is_waited_for_longer_than_the_drain_takes() {
        let unit = of(257, false, DRAIN).unwrap();
        assert!(
            unit.contains("TABLEFLIP_DRAIN_TIMEOUT=1m\"\n") && unit.contains("\nTimeoutStopSec=75\n"),
            "{unit}"
        );
        for line in [
            "NotifyAccess=main",
            "PIDFile=%t/echo/echo.pid",
            "KillMode=control-group",
            "Restart=on-failure",
            "RuntimeDirectory=echo",
        ] {
            assert!(unit.contains(&format!("\n{line}\n")), "{line}: {unit}");
        }
        let start = r#"ExecStart=/srv/echo/current/echo --greeting "50%% \"off\" $$HOME""#;
        assert!(unit.contains(start), "{unit}");
        assert!(of(257, false, Duration::from_millis(1)).unwrap().contains("\nTimeoutStopSec=16\n"));
        // 2^64 microseconds are the end of systemd's time.
        let longest = Duration::from_secs(u64::MAX / 1_000_000) - MARGIN;
        assert!(of(257, false, longest).unwrap().contains("\nTimeoutStopSec=18446744073709\n"));
        for too_long in [longest + Duration::from_secs(1), Duration::from_secs(u64::MAX - 3), Duration::MAX] {
            assert!(of(257, false, too_long).is_err(), "{too_long:?}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_a_directory_is_refused() {
        let refused =
            unit(Path::new("/srv/a b"), &[], 257, false, Duration::ZERO, Path::new("/bin/tableflip"));
        assert!(refused.is_err());
    }
}
