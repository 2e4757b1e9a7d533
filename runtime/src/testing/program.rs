//! A service as it stands: its `main`, called on a thread of the test.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::process::{ExitCode, Termination};

use super::{OnThread, Running};
use crate::base::error::StartError;
use crate::config::environment::Environment;
use crate::run::host::{self, Ended, ServiceHost};

/// A service as it stands, for a test: the `main` that the attribute has written, or any function that calls
/// [`Service::run`](crate::Service::run).
///
/// Each declared IP listener gets a free port of its host, so tests run side by side.
/// [`Running::address`] has the port. A Unix listener has its own path: give it another one by
/// [`variable`](Self::variable). The service ignores the pid file, the environment and the signals of the process.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::{Read, Write};
/// use tableflip::{blocking::TcpListener, testing};
///
/// struct Config {
///     greeting: String,
/// }
///
/// impl Config {
///     fn load() -> std::io::Result<Self> {
///         Ok(Self { greeting: std::fs::read_to_string("/etc/greet.conf")? })
///     }
/// }
///
/// #[tableflip::main(config = Config::load()?, pidfile = "/run/greet.pid", listen = [greet = "127.0.0.1:7000"])]
/// fn service(config: Config, greet: TcpListener) -> std::io::Result<()> {
///     for stream in greet.incoming() {
///         stream?.write_all(config.greeting.as_bytes())?;
///     }
///     Ok(())
/// }
///
/// // In the test:
/// let with = |greeting: &str| {
///     testing::Program::new(service)
///         .config(Config { greeting: greeting.to_owned() })
///         .variable("TABLEFLIP_PROBATION", "0s")
/// };
/// let ask = |address| {
///     let mut answer = String::new();
///     std::net::TcpStream::connect(address)?.read_to_string(&mut answer)?;
///     std::io::Result::Ok(answer)
/// };
/// let old = with("hello").start()?;
/// let address = old.address("greet").unwrap();
/// assert_eq!(ask(address)?, "hello");
///
/// let new = old.replace_program(with("good day"))?;
/// assert_eq!(ask(address)?, "good day");
/// new.stop();
/// # Ok(())
/// # }
/// ```
#[must_use = "a program does nothing until it is started"]
pub struct Program {
    main: Box<dyn FnOnce() + Send>,
    config: Option<Box<dyn Any + Send>>,
    variables: Vec<(String, OsString)>,
}

impl Program {
    /// The program with this `main`. A function with parameters is called in a closure.
    pub fn new<T: Termination>(main: impl FnOnce() -> T + Send + 'static) -> Self {
        let main = Box::new(|| _ = main().report());
        Self { main, config: None, variables: Vec::new() }
    }

    /// The configuration of the service, in the place of the one that the option `config` or
    /// [`configure`](crate::configure) loads. It must be of the same type.
    pub fn config(mut self, config: impl Any + Send) -> Self {
        self.config = Some(Box::new(config));
        self
    }

    /// Sets an environment variable of the crate for this service, such as `TABLEFLIP_PROBATION`.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts the service, and waits until it serves.
    ///
    /// # Errors
    ///
    /// The error that the service would print on stderr. Or `main` returned without a service.
    pub fn start(self) -> Result<Running<ExitCode>, StartError> {
        let (environment, run) = self.into_parts();
        OnThread::start(environment, None, run).wait_until_it_serves()
    }

    pub(super) fn into_parts(
        self,
    ) -> (Environment, impl FnOnce(ServiceHost) -> Result<Ended<ExitCode>, StartError> + Send) {
        let Self { main, config, variables } = self;
        let run = |host| {
            let config = config.map(|config| config as Box<dyn Any>);
            host::run_program(host, config, main)
                .unwrap_or_else(|| Err(StartError::NotReady("`main` returned without a service".to_owned())))
        };
        (Environment::of_test(variables), run)
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("variables", &self.variables).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::process::ExitCode;

    use super::*;
    use crate::base::error::chain;
    use crate::{Service, blocking, configure};

    /// A `main` with a listener on a port that only one of the tests could have.
    fn main() -> ExitCode {
        let config = match configure(|| Err::<SocketAddr, _>("there is no file".into())) {
            Ok(config) => config,
            Err(code) => return code,
        };
        Service::new().listen("http", config).pidfile("/nowhere/pid").probation("0s").run_blocking(|start| {
            let http: blocking::TcpListener = start.listener("http")?;
            Ok(move || http.incoming().for_each(drop))
        })
    }

    fn problem(program: Program) -> String {
        chain(&program.start().unwrap_err())
    }

    #[test]
    fn a_main_runs_as_it_stands_side_by_side_with_itself() {
        let program = || Program::new(main).config(SocketAddr::from(([127, 0, 0, 1], 80)));
        let (one, other) = (program().start().unwrap(), program().start().unwrap());
        let port = |running: &Running<_>| running.address("http").unwrap().port();
        assert!(port(&one) != port(&other) && port(&one) != 80);

        if cfg!(upgrades) {
            let new = one.replace_program(program()).unwrap();
            assert_eq!(port(&new), port(&one));
            let failed = one.replace_program(program()).map(drop).unwrap_err();
            assert_eq!(failed, crate::UpgradeError::Terminating);
            new.upgrader().predecessor_gone_blocking();
            let failed = new.replace_program(Program::new(main)).map(drop).unwrap_err().to_string();
            assert!(failed.starts_with("the successor could not start: there is no file"), "{failed}");
            new.stop();
        }
        let port = port(&other);
        other.stop();
        let fixed = program()
            .variable(concat!("TABLEFLIP_LISTEN_", "HTTP"), format!("127.0.0.1:{port}"))
            .start()
            .unwrap();
        assert_eq!(fixed.address("http").unwrap().port(), port);
    }

    /// A process would have ended, or have run on as it liked. The service of a test never becomes the process of the test.
    #[test]
    fn a_main_that_goes_on_after_its_failure_runs_no_service() {
        let goes_on = || match main() {
            code if code == ExitCode::FAILURE => {
                Service::new().run_blocking(|_| -> Result<fn(), _> { unreachable!("it has no host") })
            }
            code => code,
        };
        assert_eq!(problem(Program::new(goes_on)), "there is no file");
    }

    #[test]
    fn an_optional_listener_is_taken_at_run_time_as_well() {
        let service = || {
            Service::new().listen("admin", None::<&str>).listen("http", "127.0.0.1:0").run_blocking(|start| {
                let listeners: crate::Listeners = start.handle()?;
                let plain = listeners.declared::<blocking::TcpListener>("admin").unwrap_err();
                assert!(plain.to_string().contains("as an `Option`"), "{plain}");
                assert!(listeners.declared::<Option<blocking::TcpListener>>("admin")?.is_none());
                let http =
                    listeners.declared::<Option<blocking::TcpListener>>("http")?.expect("it has an address");
                Ok(move || http.incoming().for_each(drop))
            })
        };
        Program::new(service).start().unwrap().stop();
    }

    #[test]
    fn a_main_that_does_not_come_to_its_service_says_why() {
        assert_eq!(problem(Program::new(main)), "there is no file");
        assert_eq!(problem(Program::new(|| ())), "not ready: `main` returned without a service");
        let of_another_type = problem(Program::new(main).config(7));
        let expected =
            "option `config`: the test gives it another type than core::net::socket_addr::SocketAddr";
        assert_eq!(of_another_type, expected);
        let program = Program::new(main).config(SocketAddr::from(([127, 0, 0, 1], 80)));
        let unknown = problem(program.variable(concat!("TABLEFLIP_", "PROBATON"), "0s"));
        assert!(unknown.contains("unknown (did you mean `TABLEFLIP_PROBATION`?)"), "{unknown}");
    }
}
