// The configuration in every option, and what an option may be of.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tableflip::net::{TcpListener, UnixListener};
use tableflip::{Flavor, Overlap, Supervise, UpgradeSignal};

const NAME: &str = "echo";

struct Config {
    listen: String,
    also: SocketAddr,
    admin: Option<SocketAddr>,
    sockets: [PathBuf; 1],
    pidfile: Option<PathBuf>,
    drain: Option<Duration>,
    probation: &'static str,
    signal: UpgradeSignal,
    overlap: Overlap,
    supervise: Cow<'static, str>,
    threads: NonZeroUsize,
    flavor: Flavor,
}

impl Config {
    fn load() -> std::io::Result<Self> {
        Ok(Self {
            listen: "tcp://127.0.0.1:0".to_owned(),
            also: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            sockets: [PathBuf::from("/run/echo.sock")],
            pidfile: Some("/run/echo.pid".into()),
            drain: None,
            probation: "1s",
            signal: UpgradeSignal::User2,
            overlap: Overlap::Wait,
            supervise: Supervise::Never.to_string().into(),
            threads: NonZeroUsize::MIN,
            flavor: Flavor::MultiThread,
        })
    }
}

mod program {
    use super::*;

    #[tableflip::main(
    name = NAME,
    config = Config::load()?,
    listen = [
        http = config.listen,
        also = config.also,
        admin = config.admin,
        local = config.sockets[0],
        any = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    ],
    pidfile = config.pidfile,
    control = config.pidfile.as_ref().map(|path| path.with_extension("sock")),
    upgrade_timeout = Duration::from_secs(5),
    probation = config.probation,
    drain_timeout = config.drain,
    upgrade_signal = config.signal,
    overlap = config.overlap,
    supervise = config.supervise,
    flavor = config.flavor,
    worker_threads = config.threads,
    runtime = |builder| { builder.thread_name("echo"); },
)]
    pub async fn main(
        http: TcpListener,
        also: TcpListener,
        admin: Option<TcpListener>,
        any: TcpListener,
        config: Config,
        local: UnixListener,
    ) {
        drop((http, also, admin, any, local));
        drop(config.listen);
    }
}

mod unused {
    // The body and the options need not use it.
    #[tableflip::main(config = std::env::args().count())]
    pub async fn service(shutdown: tableflip::Shutdown) {
        shutdown.await;
    }

    // Only an option uses the parameter.
    #[deny(unused_variables)]
    #[tableflip::main(drain_timeout = seconds.map(std::time::Duration::from_secs))]
    pub async fn of_its_own(seconds: Option<u64>, shutdown: tableflip::Shutdown) {
        shutdown.await;
    }
}

mod own {
    use super::*;

    pub struct Args {
        pub listen: String,
    }

    #[tableflip::main(listen = [http = args.listen], config = load(&args)?, drain_timeout = config)]
    pub fn serve(mut args: Args, http: tableflip::blocking::TcpListener, config: Duration, level: u8) {
        args.listen.clear();
        drop((args, http, config, level));
    }

    fn load(args: &Args) -> Result<Duration, String> {
        args.listen.is_empty().then_some(Duration::ZERO).ok_or_else(|| "no".to_owned())
    }
}

#[allow(dead_code)]
fn call() -> (ExitCode, ExitCode, ExitCode) {
    (program::main(), own::serve(own::Args { listen: String::new() }, 3), unused::service())
}

fn main() {}
