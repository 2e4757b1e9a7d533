//! The unit for systemd.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::args;
use super::output::{Failure, Output};

/// The first version of systemd with `Type=notify-reload`, which waits for the end of a reload by itself.
const NOTIFY_RELOAD: u32 = 253;
/// The first version of systemd that sets `FDSTORE`, the size of the descriptor store.
const FDSTORE: u32 = 254;
/// The time of a stop beside the drain: a handover under way, its probation, the exit.
const MARGIN: Duration = Duration::from_secs(15);

pub(crate) fn print(args: &args::Unit, output: &Output) -> Result<(), Failure> {
    let version = match args.systemd_version {
        Some(version) => version,
        None => installed_version().ok_or_else(|| {
            Failure::usage(
                "there is no systemd on this machine; give the version on the target machine with --systemd-version"
                    .to_owned(),
            )
        })?,
    };
    let binary = std::path::absolute(&args.binary)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.binary.display())))?;
    let program = env::current_exe()
        .map_err(|error| Failure::refused("failed", format!("cannot find this program: {error}")))?;
    let unit = Unit {
        binary: &binary,
        arguments: &args.arguments,
        version,
        notify_reload: args.notify_reload,
        drain_timeout: args.drain_timeout,
        program: &program,
    };
    let unit = unit.text()?;
    output.line(&json!({"reply": "unit", "systemd_version": version, "unit": unit}));
    output.say(unit.trim_end());
    Ok(())
}

/// The number in the first line of `systemctl --version`: `systemd 257 (257.9-1)`.
fn installed_version() -> Option<u32> {
    let output = Command::new("systemctl").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let digits: String = text.split_whitespace().nth(1)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The unit to print.
struct Unit<'a> {
    binary: &'a Path,
    arguments: &'a [String],
    /// The version of systemd.
    version: u32,
    notify_reload: bool,
    drain_timeout: Duration,
    /// The path of this program, for `ExecReload=`.
    program: &'a Path,
}

impl Unit<'_> {
    fn text(&self) -> Result<String, Failure> {
        let version = self.version;
        let name = self.name()?;
        let start = self.start()?;
        let reload = self.reload(name)?;
        let fdstore = if version < FDSTORE { "Environment=FDSTORE=64\n" } else { "" };
        let stop = seconds_of_systemd(self.drain_timeout.checked_add(MARGIN)).ok_or_else(|| {
            Failure::usage("--drain-timeout is longer than systemd can wait: give a shorter one".to_owned())
        })?;
        let drain = humantime::format_duration(self.drain_timeout);
        Ok(format!(
            "\
# /etc/systemd/system/{name}.service, for systemd {version}
[Unit]
Description={name}
After=network-online.target
Wants=network-online.target

[Service]
{reload}\
ExecStart={start}
# The old process announces the new process to systemd.
NotifyAccess=main
# If the old process is killed before that, systemd follows the pid file. Remove this line if you add User=: systemd does not trust
# the file then.
PIDFile=%t/{name}/{name}.pid
RuntimeDirectory={name}
# After a crash the restarted service finds the paths of the Unix sockets that are in the descriptor store.
RuntimeDirectoryPreserve=restart
Environment=TABLEFLIP_PIDFILE=%t/{name}/{name}.pid TABLEFLIP_CONTROL=%t/{name}/{name}.control
Environment=\"TABLEFLIP_DRAIN_TIMEOUT={drain}\"
# A stop signals the serving and the draining process, and both drain. With `mixed` the exit of the serving process would bring a
# SIGKILL for the draining process.
KillMode=control-group
# Longer than the drain.
TimeoutStopSec={stop}
# Longer than upgrade_timeout and the probation together, for a start and for a reload.
TimeoutStartSec=90
Restart=on-failure
# The listeners survive a crash, with the connections in their queues.
FileDescriptorStoreMax=64
{fdstore}
[Install]
WantedBy=multi-user.target
"
        ))
    }

    /// The name of the service: the unit and its directory in /run have this name.
    fn name(&self) -> Result<&str, Failure> {
        let name = self.binary.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(is_plain) {
            let problem =
                format!("`{name}` cannot name a directory in /run: rename the binary or link to it");
            return Err(Failure::usage(problem));
        }
        Ok(name)
    }

    /// The command line of the service.
    fn start(&self) -> Result<String, Failure> {
        let arguments = self.arguments.iter().map(|word| quoted(word));
        let words: Vec<_> = [quoted_path(self.binary)?].into_iter().chain(arguments).collect();
        Ok(words.join(" "))
    }

    fn reload(&self, name: &str) -> Result<String, Failure> {
        if !self.notify_reload {
            return Ok(format!(
                "\
# A reload is an upgrade: systemd waits for its end. If the new release fails, the reload fails with the reason.
Type=notify
ExecReload={} upgrade %t/{name}/{name}.pid
",
                quoted_path(self.program)?,
            ));
        }
        let version = self.version;
        if version < NOTIFY_RELOAD {
            let problem = format!(
                "--notify-reload needs systemd {NOTIFY_RELOAD}, and this unit is for {version}: leave it out"
            );
            return Err(Failure::usage(problem));
        }
        Ok("\
# A reload is an upgrade, by SIGHUP: systemd waits for its end. `systemctl status` shows whether it failed.
Type=notify-reload
"
        .to_owned())
    }
}

fn quoted_path(path: &Path) -> Result<String, Failure> {
    path.to_str().map(quoted).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", path.display())))
}

/// Whole seconds; `None` if systemd cannot represent the time: it counts microseconds in 64 bits.
fn seconds_of_systemd(time: Option<Duration>) -> Option<u64> {
    let time = time?;
    let seconds = time.as_secs().checked_add(u64::from(time.subsec_nanos() > 0))?;
    // The highest number means `infinity`.
    seconds.checked_mul(1_000_000).filter(|microseconds| *microseconds < u64::MAX)?;
    Some(seconds)
}

/// A word of a command line, systemd.service(5). The escapes make `%` and `$` literal.
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
        Unit { binary, arguments: &arguments, version, notify_reload, drain_timeout, program }.text()
    }

    const DRAIN: Duration = Duration::from_secs(60);

    #[test]
    fn the_unit_is_right_for_the_version() {
        for (version, sets_fdstore) in [(247, false), (253, false), (254, true), (257, true)] {
            let unit = of(version, false, DRAIN).unwrap();
            let command = "\nType=notify\nExecReload=/usr/bin/tableflip upgrade %t/echo/echo.pid\n";
            assert!(unit.contains(command), "{unit}");
            assert_eq!(!unit.contains("\nEnvironment=FDSTORE=64\n"), sets_fdstore, "{unit}");
        }
        for version in [253, 257] {
            let unit = of(version, true, DRAIN).unwrap();
            // With both lines a reload would be two upgrades.
            assert!(unit.contains("\nType=notify-reload\n") && !unit.contains("ExecReload="), "{unit}");
        }
        assert!(of(252, true, DRAIN).is_err(), "systemd 252 does not know that type");
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
        // systemd counts microseconds in 64 bits.
        let longest = Duration::from_secs(u64::MAX / 1_000_000) - MARGIN;
        assert!(of(257, false, longest).unwrap().contains("\nTimeoutStopSec=18446744073709\n"));
        for too_long in [longest + Duration::from_secs(1), Duration::from_secs(u64::MAX - 3), Duration::MAX] {
            assert!(of(257, false, too_long).is_err(), "{too_long:?}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_a_directory_is_refused() {
        let unit = Unit {
            binary: Path::new("/srv/a b"),
            arguments: &[],
            version: 257,
            notify_reload: false,
            drain_timeout: Duration::ZERO,
            program: Path::new("/bin/tableflip"),
        };
        assert!(unit.text().is_err());
    }
}
