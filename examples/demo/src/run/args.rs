//! The command line.

use std::{ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use lexopt::{Arg, Parser, ValueExt};

pub(crate) const HELP: &str = "\
Upgrades a real service while 2,000 requests a second reach it, and counts what its clients lose.

Usage: demo [options]

  --upgrades N       how often to upgrade the service (5)
  --every DURATION   from one upgrade to the next, at least; the next one waits until the predecessor of the
                     last one is gone (2s)
  --rate N           requests a second (2000)
  --connections N    keep-alive connections, half of them idle for longer than a second at a time (64)
  --patience TIME    how long a request may take before it counts as lost (5s)
  --probation TIME   how long a process stands by after its successor took over (200ms)
  --service NAME     which of the examples to upgrade (hello): hello, axum, hyper, poem, actix, tls, tonic,
                     websocket, dns, redis, leader, threads, echo or nginx
  --binary PATH      upgrade this program, which must answer as the example does, and do not build it
  --log PATH         write the log of the service there; RUST_LOG=tableflip=debug makes it talk
  --report FILE.svg  draw the run: each request by time and latency, in the colour of the process that answered
  --bad-release KIND upgrade hello once, to a release that should never have been deployed, and count the bad
                     answers: crash (it dies right after it is ready), hang (it does not become ready) or
                     status-500 (it answers 500 to everything)
  --probe REQUEST    a request that the new process must answer before it serves, such as 'GET /'
  --verify COMMAND   a command that checks the new process while the old one stands by
  --json             print the report as JSON
  --help             print this

Exit status: 0 if nothing was lost and every upgrade succeeded, 1 if not, 2 if the command line is wrong. With
--bad-release the upgrade may fail: the status is 0 if the clients did not notice.
";

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) upgrades: u32,
    pub(crate) every: Duration,
    pub(crate) rate: NonZeroU32,
    pub(crate) connections: usize,
    pub(crate) patience: Duration,
    pub(crate) probation: Duration,
    pub(crate) service: Example,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) log: Option<PathBuf>,
    pub(crate) report: Option<PathBuf>,
    pub(crate) bad_release: Option<BadRelease>,
    pub(crate) probe: Option<String>,
    pub(crate) verify: Option<String>,
    pub(crate) json: bool,
    pub(crate) help: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            upgrades: 5,
            every: Duration::from_secs(2),
            rate: NonZeroU32::new(2000).unwrap_or(NonZeroU32::MIN),
            connections: 64,
            patience: Duration::from_secs(5),
            probation: Duration::from_millis(200),
            service: Example::HELLO,
            binary: None,
            log: None,
            report: None,
            bad_release: None,
            probe: None,
            verify: None,
            json: false,
            help: false,
        }
    }
}

impl Args {
    /// Reads the arguments, which do not include the name of the program.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString, IntoIter: 'static>,
    ) -> Result<Self, lexopt::Error> {
        let mut args = Self::default();
        let mut upgrades = None;
        let mut parser = Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("upgrades") => upgrades = Some(parser.value()?.parse()?),
                Arg::Long("every") => args.every = duration(&mut parser)?,
                Arg::Long("rate") => args.rate = parser.value()?.parse()?,
                Arg::Long("connections") => args.connections = parser.value()?.parse()?,
                Arg::Long("patience") => args.patience = duration(&mut parser)?,
                Arg::Long("probation") => args.probation = duration(&mut parser)?,
                Arg::Long("service") => args.service = parser.value()?.parse_with(Example::named)?,
                Arg::Long("binary") => args.binary = Some(parser.value()?.into()),
                Arg::Long("log") => args.log = Some(parser.value()?.into()),
                Arg::Long("report") => args.report = Some(parser.value()?.into()),
                Arg::Long("bad-release") => {
                    args.bad_release = Some(parser.value()?.parse_with(BadRelease::named)?);
                }
                Arg::Long("probe") => args.probe = Some(parser.value()?.string()?),
                Arg::Long("verify") => args.verify = Some(parser.value()?.string()?),
                Arg::Long("json") => args.json = true,
                Arg::Short('h') | Arg::Long("help") => args.help = true,
                _ => return Err(argument.unexpected()),
            }
        }
        if args.bad_release.is_some() {
            if upgrades.is_some_and(|upgrades| upgrades != 1) {
                return Err("--bad-release upgrades once; leave out --upgrades".into());
            }
            if args.service != Example::HELLO {
                return Err("--bad-release is for the service hello; leave out --service".into());
            }
            upgrades = Some(1);
        }
        args.upgrades = upgrades.unwrap_or(args.upgrades);
        Ok(args)
    }
}

impl Args {
    /// What tries a new process, as variables of the service.
    pub(crate) fn checks(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let probe = self.probe.as_deref().map(|request| ("TABLEFLIP_PROBE", request));
        let verify = self.verify.as_deref().map(|command| ("TABLEFLIP_VERIFY", command));
        probe.into_iter().chain(verify)
    }

    /// The same in words.
    pub(crate) fn checks_in_words(&self) -> String {
        match (&self.probe, &self.verify) {
            (None, None) => "nothing".to_owned(),
            (Some(probe), None) => format!("the probe `{probe}`"),
            (None, Some(verify)) => format!("the command `{verify}`"),
            (Some(probe), Some(verify)) => format!("the probe `{probe}` and the command `{verify}`"),
        }
    }
}

/// How the release of `examples/bad` is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRelease {
    /// As on the command line, and as the release reads it from its environment.
    pub(crate) name: &'static str,
    /// What it does, as a clause without its subject.
    pub(crate) does: &'static str,
}

impl BadRelease {
    /// The package, and its program.
    pub(crate) const PACKAGE: &'static str = "bad";

    pub(crate) const ALL: [Self; 3] = [
        Self { name: "crash", does: "dies right after it is ready" },
        Self { name: "hang", does: "does not become ready" },
        Self { name: "status-500", does: "answers 500 to everything" },
    ];

    fn named(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|release| release.name).join(", ");
        let found = Self::ALL.into_iter().find(|release| release.name == name);
        found.ok_or_else(|| format!("no bad release `{name}`; expected one of {}", known()))
    }
}

/// A package in `examples`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Example {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    /// What it is asked by, as a URL begins.
    pub(crate) scheme: &'static str,
    /// Its answers say which process gives them, and `/slow` takes its time. Of the others the pid file says it.
    pub(crate) tells: bool,
    /// It takes more than the demo has of itself: a client of its protocol, or another program.
    pub(crate) is_foreign: bool,
}

impl Example {
    pub(crate) const HELLO: Self = Self { tells: true, ..Self::http("hello", "hello") };

    const ALL: [Self; 14] = [
        Self::HELLO,
        Self::http("axum", "axum-hello"),
        Self::http("hyper", "hyper-hello"),
        Self::http("poem", "poem-hello"),
        Self::http("actix", "actix-hello"),
        Self::foreign("tls", "tls", "https"),
        Self::foreign("tonic", "tonic-hello", "http"),
        Self::foreign("websocket", "websocket", "ws"),
        Self::foreign("dns", "dns", "udp"),
        Self::foreign("redis", "redis-line", "redis"),
        Self::foreign("leader", "leader", "tcp"),
        Self::foreign("threads", "threads", "tcp"),
        Self::foreign("echo", "echo", "tcp"),
        Self::foreign("nginx", "behind-nginx", "http"),
    ];

    const fn http(name: &'static str, package: &'static str) -> Self {
        Self { name, package, scheme: "http", tells: false, is_foreign: false }
    }

    const fn foreign(name: &'static str, package: &'static str, scheme: &'static str) -> Self {
        Self { name, package, scheme, tells: false, is_foreign: true }
    }

    fn named(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|example| example.name).join(", ");
        let found = Self::ALL.into_iter().find(|example| example.name == name);
        found.ok_or_else(|| format!("no service `{name}`; expected one of {}", known()))
    }
}

fn duration(parser: &mut Parser) -> Result<Duration, lexopt::Error> {
    parser.value()?.parse_with(humantime::parse_duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Args, String> {
        Args::parse(arguments.iter().map(OsString::from).collect::<Vec<_>>())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_is_read() {
        let given = "--upgrades 100 --every=500ms --rate 50 --connections=8 --patience 1m --probation 1s --service axum --binary /b --log /l \
                     --report /r --probe=/p --verify false --json";
        let args = parse(&given.split_whitespace().collect::<Vec<_>>());
        let expected = Args {
            upgrades: 100,
            every: Duration::from_millis(500),
            rate: NonZeroU32::new(50).expect("not zero"),
            connections: 8,
            patience: Duration::from_secs(60),
            probation: Duration::from_secs(1),
            service: Example::http("axum", "axum-hello"),
            binary: Some(PathBuf::from("/b")),
            log: Some(PathBuf::from("/l")),
            report: Some(PathBuf::from("/r")),
            bad_release: None,
            probe: Some("/p".to_owned()),
            verify: Some("false".to_owned()),
            json: true,
            help: false,
        };
        assert_eq!(args, Ok(expected));
        assert_eq!(parse(&[]), Ok(Args::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, named) in [
            (&["--upgrade", "5"][..], "--upgrade"),
            (&["--upgrades", "many"], "many"),
            (&["--rate", "0"], "zero"),
            (&["--every", "soon"], "soon"),
            (&["--binary"], "--binary"),
            (&["hello"], "hello"),
            (&["--report"], "--report"),
            (&["--bad-release", "slow"], "`slow`; expected one of crash, hang, status-500"),
            (&["--bad-release", "hang", "--upgrades", "2"], "leave out --upgrades"),
            (&["--service", "axum", "--bad-release", "hang"], "leave out --service"),
        ] {
            let error = parse(wrong).expect_err("this is no command line");
            assert!(error.contains(named), "{wrong:?}: {error}");
        }
        let error = parse(&["--service", "apache"]).expect_err("there is none");
        let all = "`apache`; expected one of hello, axum, hyper, poem, actix, tls, tonic, websocket, dns, redis, leader, \
                   threads, echo, nginx";
        assert!(error.ends_with(all), "{error}");
    }

    #[test]
    fn a_bad_release_is_upgraded_to_once() {
        for arguments in [&["--bad-release", "hang"][..], &["--upgrades", "1", "--bad-release", "hang"]] {
            let args = parse(arguments).expect("a command line");
            assert_eq!((args.upgrades, args.bad_release.map(|release| release.name)), (1, Some("hang")));
        }
        for release in BadRelease::ALL {
            assert!(HELP.contains(&format!("{} (it {})", release.name, release.does)), "{}", release.name);
        }
    }

    /// This program, the examples that show what is around a service and serve the protocols of others, and `chat`: its answer to
    /// one line depends on the lines before. `bad` is a release of `hello`.
    const SURROUNDINGS: [&str; 9] =
        ["demo", "admin", "bad", "builder", "chat", "config", "ctl", "errors", "library"];

    #[test]
    fn every_example_is_a_service_and_is_in_the_help() {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let mut count = 0;
        for entry in std::fs::read_dir(examples).expect("a directory") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if !SURROUNDINGS.contains(&&*name) {
                let example = Example::named(&name).expect("the demo takes it");
                let manifest = std::fs::read_to_string(format!("{examples}/{name}/Cargo.toml"));
                let package = format!("name = \"{}\"", example.package);
                assert!(manifest.expect("a package").contains(&package), "{name}");
                assert!(HELP.contains(&format!(" {name}")), "{name}");
                count += 1;
            }
        }
        assert_eq!(count, Example::ALL.len());
    }

    #[test]
    fn the_help_names_every_option_and_the_defaults() {
        let default = Args::default();
        for text in [
            format!("--upgrades N       how often to upgrade the service ({})", default.upgrades),
            format!("last one is gone ({})", humantime::format_duration(default.every)),
            format!("requests a second ({})", default.rate),
            format!("at a time ({})", default.connections),
            format!("counts as lost ({})", humantime::format_duration(default.patience)),
            format!("took over ({})", humantime::format_duration(default.probation)),
        ] {
            assert!(HELP.contains(&text), "{text}");
        }
    }
}
