//! The order of events: build, start, load, upgrade, stop, report.

mod args;
mod binary;
mod client;
mod control;
mod drawing;
mod load;
mod progress;
mod report;
mod service;
// Files of the program `tableflip`, which draws more.
#[allow(dead_code)]
mod svg;
#[allow(dead_code)]
mod svg_file;
mod tally;

use std::{
    env,
    error::Error,
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use processes::{Exit, Process, Signal, adopt_orphans};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    args::{Args, BadRelease, HELP},
    client::{Client, Http, Named, Other},
    control::{Outcome, Request},
    load::Load,
    progress::Progress,
    report::{BadUpgrade, Report, Run, Upgrade},
    service::Service,
    svg_file::SvgFile,
    tally::{First, Tally},
};
use crate::Prepare;

/// How long the service may take to give its first answer.
const START: Duration = Duration::from_secs(20);

/// How long a successor may take to give its first answer.
const TAKEOVER: Duration = Duration::from_secs(30);

/// How long a predecessor may take to be gone: the drain timeout of the service and some more.
const DRAIN: Duration = Duration::from_secs(45);

/// How long the load runs before the first upgrade and after the last one, to see what is usual.
const STEADY: Duration = Duration::from_secs(2);

/// What an upgrade, or the end of the run, failed by: an error of the system, or a text.
type Problem = Box<dyn Error + Send + Sync>;

pub(crate) fn main(prepare: Option<Prepare>) -> ExitCode {
    let args = match Args::parse(env::args_os().skip(1)) {
        Ok(args) if args.help => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(args) => args,
        Err(error) => {
            eprintln!("demo: {error}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match build_and_run(args, prepare) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build_and_run(args: Args, prepare: Option<Prepare>) -> io::Result<ExitCode> {
    if args.service.is_foreign && prepare.is_none() {
        // The same with more clients, and as if it had been started in the place of this one.
        let program = binary::build("demo-clients")?;
        return Err(Command::new(program).args(env::args_os().skip(1)).exec());
    }
    let picture = args.report.as_deref().map(SvgFile::open).transpose()?;
    let binary = match &args.binary {
        Some(path) => path.canonicalize().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot find the service {}: {error}", path.display()))
        })?,
        None => binary::build(args.service.package)?,
    };
    let bad = args.bad_release.map(|_| binary::build(BadRelease::PACKAGE)).transpose()?;
    adopt_orphans()?;
    // While there is one thread: what the service is sent it is to get, though a script with nohup has started the demo.
    processes::default_for_children();

    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let json = args.json;
        // Before the service starts: a signal that ends the demo would leave the service running.
        let interrupts = [
            (signal(SignalKind::hangup())?, 129),
            (signal(SignalKind::interrupt())?, 130),
            (signal(SignalKind::terminate())?, 143),
        ];
        let status = Arc::new(AtomicU8::new(1));
        let run = tokio::spawn(run(args, Releases { first: binary, bad }, prepare));
        for (mut interrupt, code) in interrupts {
            let (run, status) = (run.abort_handle(), Arc::clone(&status));
            tokio::spawn(async move {
                interrupt.recv().await;
                status.store(code, Ordering::Relaxed);
                run.abort();
            });
        }

        // Whichever way the task ends, by its end, by a panic or by a signal, it drops the service, and that ends
        // every process of it and removes its directory.
        match run.await {
            Ok(run) => {
                let run = run?;
                let report = Report::new(&run);
                if let Some(picture) = picture {
                    picture.write(&drawing::picture(&run).svg())?;
                }
                let text = if json { report.json() } else { report.to_string() };
                // Not by `print!`, which panics when the reader of a pipe is gone.
                io::stdout().write_all(text.as_bytes())?;
                Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(error) if error.is_cancelled() => {
                eprintln!("demo: interrupted; the service is stopped");
                Ok(ExitCode::from(status.load(Ordering::Relaxed)))
            }
            // The panic has said where it was.
            Err(_) => Ok(ExitCode::FAILURE),
        }
    })
}

/// The programs of a run.
struct Releases {
    first: PathBuf,
    /// What an upgrade deploys in the place of the first one.
    bad: Option<PathBuf>,
}

async fn run(args: Args, releases: Releases, prepare: Option<Prepare>) -> io::Result<Run> {
    let (service, first) = Service::start(&args, releases.first, releases.bad, prepare)?;
    let named = Named::new(first.pid());
    match service.foreign() {
        Some(make) => {
            let client = Other::new(make, args.patience, named.clone());
            observe(args, &service, &first, &client, Some(&named), true).await
        }
        None => {
            let named = (!args.service.tells).then_some(named);
            let client =
                Http::new(service.address(), args.patience, named.clone(), service.is_behind_a_proxy());
            observe(args, &service, &first, &client, named.as_ref(), false).await
        }
    }
}

/// Upgrades the service while this client asks it. Who serves is said by its answers, or noted in `named`.
async fn observe(
    args: Args,
    service: &Service,
    first: &Process,
    client: &impl Client,
    named: Option<&Named>,
    asked_by_others: bool,
) -> io::Result<Run> {
    let tally = Arc::new(Tally::new());
    let mut serving = match started(service, first, client, &tally).await {
        Ok(first) => first,
        Err(error) => return Err(with_log(error, service)),
    };

    let progress = Progress::new(&args, &tally, service.address(), first.pid());
    let load = Load::start(client, &tally, args.rate.get(), args.connections)?;
    let began = Instant::now();
    progress.phase("the usual load");
    sleep(STEADY).await;

    let mut upgrades: Vec<Upgrade> = Vec::new();
    let mut bad_release = None;
    for number in 1..=args.upgrades {
        if let Some(last) = upgrades.last() {
            progress.phase("the usual load");
            sleep_until(last.requested + args.every).await;
        }
        if let Some(release) = args.bad_release {
            let (upgrade, bad) = upgrade_badly(release, serving, service, &progress).await?;
            if let Some(Outcome::Upgraded { generation, pid }) = bad.outcome {
                serving = First { generation, pid, at: Instant::now() };
            }
            upgrades.push(upgrade);
            bad_release = Some(bad);
            break;
        }
        let upgrade = upgrade(number, serving, service, named, &tally, &progress).await;
        progress.upgraded(&upgrade);
        let succeeded = upgrade.problem.is_none();
        serving = upgrade.answered.unwrap_or(serving);
        upgrades.push(upgrade);
        if !succeeded {
            break;
        }
    }
    progress.phase("the usual load");
    sleep(STEADY).await;

    let ended = Instant::now();
    load.finish().await.map_err(io::Error::other)?;
    progress.phase("stopping the service");
    let problems = stop(serving.pid, service).await;
    progress.finish();

    let counts = tally.take();
    let log = service.log_tail();
    Ok(Run { args, began, ended, upgrades, bad_release, counts, asked_by_others, problems, log })
}

/// Waits until the service answers, and names itself in its pid file.
async fn started(
    service: &Service,
    first: &Process,
    client: &impl Client,
    tally: &Tally,
) -> io::Result<First> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(end) = first.exit_within(Duration::ZERO)? {
            return Err(io::Error::other(format!("before it answered the service {end}")));
        }
        let began = Instant::now();
        let exchange = client.exchange(&mut None, false, false).await;
        let problem = match &exchange.result {
            Ok(answer) if answer.pid != first.pid() => {
                return Err(io::Error::other(format!("a process {} answers on its port", answer.pid)));
            }
            Ok(_) => match service.main_process() {
                Ok(named) if named.pid() == first.pid() => {
                    tally.record(began, true, false, exchange);
                    return Ok(tally.newer_than(0).await);
                }
                Ok(named) => format!("its pid file names {}", named.pid()),
                Err(error) => error.to_string(),
            },
            Err(loss) => loss.detail.clone(),
        };
        if Instant::now() > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the service is not ready after {} s: {problem}", START.as_secs()),
            ));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Upgrades the service once, and says what came of it.
async fn upgrade(
    number: u32,
    old: First,
    service: &Service,
    named: Option<&Named>,
    tally: &Tally,
    progress: &Progress,
) -> Upgrade {
    let requested = Instant::now();
    let mut upgrade =
        Upgrade { number, old, requested, phases: Vec::new(), answered: None, gone: None, problem: None };
    let outcome = replace(&mut upgrade, service, named, tally, progress).await;
    upgrade.problem = outcome.err().map(|problem| problem.to_string());
    upgrade
}

/// Upgrades the service as an operator does: a new file, and a request to the control socket.
async fn replace(
    upgrade: &mut Upgrade,
    service: &Service,
    named: Option<&Named>,
    tally: &Tally,
    progress: &Progress,
) -> Result<(), Problem> {
    service.deploy()?;
    let old = main_process(upgrade.old.pid, service)?;

    progress.phase(&format!("upgrade {}: waiting for the new process", upgrade.number));
    let (request, requested) = Request::upgrade(&service.control()).await?;
    upgrade.requested = requested;
    let end = finish(upgrade, &old, &request, service, named, tally, progress).await;
    upgrade.phases = request.phases();
    let (new, end) = end?;

    if new.generation != upgrade.old.generation + 1 {
        let problem = format!("generation {} was followed by {}", upgrade.old.generation, new.generation);
        return Err(problem.into());
    }
    if !matches!(end, Exit::Status(0) | Exit::Reaped) {
        return Err(format!("the old process {end}").into());
    }
    main_process(new.pid, service).map(drop)
}

/// Waits until the new process has answered and the old one is gone. Returns both.
async fn finish(
    upgrade: &mut Upgrade,
    old: &Process,
    request: &Request,
    service: &Service,
    named: Option<&Named>,
    tally: &Tally,
    progress: &Progress,
) -> Result<(First, Exit), Problem> {
    let first_answer = async {
        let generation = upgrade.old.generation;
        let (first, ()) = tokio::join!(tally.newer_than(generation), follow(old, generation, service, named));
        first
    };
    let new = tokio::select! {
        new = timeout(TAKEOVER, first_answer) => {
            new.map_err(|_| format!("the new process did not answer in {} s", TAKEOVER.as_secs()))?
        }
        reason = request.failure() => return Err(reason.into()),
    };
    upgrade.answered = Some(new);

    progress.phase(&format!("upgrade {}: waiting for process {} to finish", upgrade.number, old.pid()));
    let end = tokio::select! {
        end = exit_within(old, DRAIN) => end?,
        reason = request.failure() => return Err(reason.into()),
    };
    let Some(end) = end else {
        return Err(format!("process {} is still there after {} s", old.pid(), DRAIN.as_secs()).into());
    };
    upgrade.gone = Some(Instant::now());
    Ok((new, end))
}

/// Upgrades the service to a release that should never have been deployed. Whatever comes of it is no error.
async fn upgrade_badly(
    release: BadRelease,
    serving: First,
    service: &Service,
    progress: &Progress,
) -> io::Result<(Upgrade, BadUpgrade)> {
    service.deploy()?;
    let old = service.main_process()?;
    progress.phase(&format!("upgrade to a release that {}", release.does));
    let (request, requested) = Request::upgrade(&service.control()).await?;
    let mut upgrade = Upgrade {
        number: 1,
        old: serving,
        requested,
        phases: Vec::new(),
        answered: None,
        gone: None,
        problem: None,
    };
    let outcome = timeout(TAKEOVER, request.outcome()).await.ok();
    let decided = Instant::now();
    match outcome {
        None => upgrade.problem = Some(format!("there was no outcome after {} s", TAKEOVER.as_secs())),
        Some(Outcome::Failed(_)) => {}
        Some(Outcome::Upgraded { .. }) => match exit_within(&old, DRAIN).await? {
            Some(_) => upgrade.gone = Some(Instant::now()),
            None => {
                let problem = format!("process {} is still there after {} s", old.pid(), DRAIN.as_secs());
                upgrade.problem = Some(problem);
            }
        },
    }
    upgrade.phases = request.phases();
    Ok((upgrade, BadUpgrade { release, outcome, decided }))
}

/// Notes who answers from now on, for a service whose answers do not say it.
async fn follow(old: &Process, generation: u64, service: &Service, named: Option<&Named>) {
    let Some(named) = named else { return };
    loop {
        // A pid file that is being replaced is there all the time.
        if let Some(new) = service.main_process().ok().filter(|new| new.pid() != old.pid()) {
            named.set(generation + 1, new.pid());
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The process in the pid file, which has to be the process that serves.
fn main_process(serving: u32, service: &Service) -> Result<Process, Problem> {
    let named = service.main_process()?;
    if named.pid() != serving {
        return Err(format!("the pid file names {} and not {serving}", named.pid()).into());
    }
    Ok(named)
}

/// Stops the last process as an operator does, and says what was not as it should be.
async fn stop(serving: u32, service: &Service) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(problem) = terminate(serving, service).await {
        problems.push(format!("at the end, {problem}"));
    }
    for left in service.processes() {
        problems.push(format!("process {} was left running, and is killed", left.pid()));
    }
    problems
}

async fn terminate(serving: u32, service: &Service) -> Result<(), Problem> {
    let last = main_process(serving, service)?;
    last.signal(Signal::TERM)?;
    match exit_within(&last, DRAIN).await? {
        Some(Exit::Status(0) | Exit::Reaped) if service.has_pid_file() => {
            Err("the pid file was left behind".into())
        }
        Some(Exit::Status(0) | Exit::Reaped) => Ok(()),
        Some(end) => Err(format!("the process that was told to stop {end}").into()),
        None => Err(format!("process {} was told to stop, and did not", last.pid()).into()),
    }
}

/// Waits until a process has ended, for at most as long as `limit`, and says how. `None` if it has not.
async fn exit_within(process: &Process, limit: Duration) -> io::Result<Option<Exit>> {
    // On a thread of its own, because only an unsafe function gives tokio a bare descriptor. If this future is dropped, the drop
    // of the service kills the process, and the thread ends with it.
    let process = process.try_clone()?;
    spawn_blocking(move || process.exit_within(limit)).await?
}

fn with_log(error: io::Error, service: &Service) -> io::Error {
    let log = service.log_tail();
    if log.is_empty() {
        return error;
    }
    io::Error::new(error.kind(), format!("{error}; its log ends with\n{}", log.join("\n")))
}
