//! An upgrade as the control socket of the service tells it: its phases, and its outcome.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

/// The phase that begins for the old process when an upgrade has succeeded.
const DRAINING: &str = "draining";

/// The beginning of a phase of the old process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) since: Instant,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This process of this generation serves.
    Upgraded { generation: u64, pid: u32 },
    /// The old process serves on, for this reason.
    Failed(String),
}

/// A request to upgrade, and what the old process replies to it. Dropping it ends only the connection.
#[derive(Debug)]
pub(crate) struct Request {
    phases: Arc<Mutex<Vec<Phase>>>,
    outcome: watch::Receiver<Option<Outcome>>,
    reader: JoinHandle<()>,
}

impl Request {
    /// Asks the process behind this control socket to upgrade. Also returns when it has asked.
    pub(crate) async fn upgrade(control: &Path) -> io::Result<(Self, Instant)> {
        let stream = UnixStream::connect(control).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot connect to the control socket {}: {error}", control.display()),
            )
        })?;
        let mut stream = BufReader::new(stream);
        let asked = Instant::now();
        stream.get_mut().write_all(b"{\"command\":\"upgrade\"}\n").await?;
        let phases = Arc::default();
        let (sender, outcome) = watch::channel(None);
        let reader = tokio::spawn(read(stream, asked, Arc::clone(&phases), sender));
        Ok((Self { phases, outcome, reader }, asked))
    }

    /// The phases that have begun so far, the first one first.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.phases.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the old process has reported the outcome.
    pub(crate) async fn outcome(&self) -> Outcome {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        }
        .unwrap_or_else(|| Outcome::Failed("the old process ended before it reported the outcome".to_owned()))
    }

    /// Waits until the upgrade has failed, and says why. Waits for ever if it succeeds.
    pub(crate) async fn failure(&self) -> String {
        match self.outcome().await {
            Outcome::Failed(reason) => reason,
            Outcome::Upgraded { .. } => std::future::pending().await,
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(
    stream: BufReader<UnixStream>,
    asked: Instant,
    phases: Arc<Mutex<Vec<Phase>>>,
    outcome: watch::Sender<Option<Outcome>>,
) {
    let mut lines = stream.lines();
    // An error of the connection is its end as well: whoever waits for the outcome is told that there is none.
    while let Ok(Some(line)) = lines.next_line().await {
        let now = Instant::now();
        let begins = |name: &str, since: Instant| {
            let mut phases = phases.lock().unwrap_or_else(PoisonError::into_inner);
            if phases.last().is_none_or(|last| last.name != name) {
                phases.push(Phase { name: name.to_owned(), since });
            }
        };
        match reply(&line) {
            // Under its own load the demo may read the line late. The service says in whole milliseconds when the phase began.
            Reply::Phase(name, elapsed) => {
                let latest = elapsed.map(|elapsed| asked + elapsed + Duration::from_millis(1));
                begins(&name, latest.map_or(now, |latest| latest.min(now)));
            }
            Reply::Outcome(said) => {
                if matches!(said, Outcome::Upgraded { .. }) {
                    begins(DRAINING, now);
                }
                outcome.send_replace(Some(said));
            }
            Reply::Other => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// Its name, and how long after the request it began.
    Phase(String, Option<Duration>),
    Outcome(Outcome),
    Other,
}

fn reply(line: &str) -> Reply {
    let reply: Value = match serde_json::from_str(line) {
        Ok(reply) => reply,
        Err(error) => {
            return Reply::Outcome(Outcome::Failed(format!(
                "the control socket sent no JSON: {error}: {line}"
            )));
        }
    };
    let text = |name: &str| reply[name].as_str().map(str::to_owned);
    let outcome = match reply["reply"].as_str() {
        Some("phase") => {
            let elapsed = reply["elapsed_ms"].as_u64().map(Duration::from_millis);
            return text("phase").map_or(Reply::Other, |name| Reply::Phase(name, elapsed));
        }
        Some("upgraded") => {
            let number = |name: &str| reply[name].as_u64();
            let pid = number("pid").and_then(|pid| u32::try_from(pid).ok());
            let upgraded = number("generation").zip(pid);
            upgraded.map(|(generation, pid)| Outcome::Upgraded { generation, pid })
        }
        Some("error") => text("message").map(Outcome::Failed),
        _ => return Reply::Other,
    };
    Reply::Outcome(outcome.unwrap_or_else(|| Outcome::Failed(format!("the control socket sent {line}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_phase_or_the_outcome() {
        let failed = |reason: &str| Reply::Outcome(Outcome::Failed(reason.to_owned()));
        for (line, expected) in [
            (
                r#"{"reply":"phase","phase":"standby","successor":9,"elapsed_ms":3}"#,
                Reply::Phase("standby".to_owned(), Some(Duration::from_millis(3))),
            ),
            (
                r#"{"reply":"upgraded","generation":2,"pid":9,"elapsed_ms":3,"warnings":[]}"#,
                Reply::Outcome(Outcome::Upgraded { generation: 2, pid: 9 }),
            ),
            (r#"{"reply":"error","code":"failed","message":"it died"}"#, failed("it died")),
            (r#"{"reply":"upgraded"}"#, failed(r#"the control socket sent {"reply":"upgraded"}"#)),
            (r#"{"reply":"of a later release"}"#, Reply::Other),
        ] {
            assert_eq!(reply(line), expected, "{line}");
        }
        assert!(
            matches!(reply("hello"), Reply::Outcome(Outcome::Failed(reason)) if reason.ends_with(": hello"))
        );
    }

    /// A control socket that sends these lines to whoever connects.
    async fn served(lines: &'static str) -> (Request, Vec<String>) {
        let directory =
            std::env::temp_dir().join(format!("demo-control-{}-{}", std::process::id(), lines.len()));
        std::fs::create_dir(&directory).expect("a directory of its own");
        let path = directory.join("control");
        let listener = tokio::net::UnixListener::bind(&path).expect("it is bound");
        let server = async {
            let (stream, _) = listener.accept().await.expect("the demo connects");
            let mut stream = BufReader::new(stream);
            let mut asked = String::new();
            stream.read_line(&mut asked).await.expect("the demo asks");
            stream.write_all(lines.as_bytes()).await.expect("the demo reads");
            asked
        };
        let (asked, request) = tokio::join!(server, Request::upgrade(&path));
        std::fs::remove_dir_all(directory).expect("it is there");
        (request.expect("it is there").0, vec![asked])
    }

    #[tokio::test]
    async fn the_phases_of_an_upgrade_end_with_the_drain() {
        let (request, asked) = served(concat!(
            "{\"reply\":\"phase\",\"phase\":\"upgrading\"}\n",
            "{\"reply\":\"phase\",\"phase\":\"standby\"}\n",
            "{\"reply\":\"upgraded\",\"generation\":2,\"pid\":9}\n",
        ))
        .await;
        assert_eq!(asked, ["{\"command\":\"upgrade\"}\n"]);
        assert_eq!(request.outcome().await, Outcome::Upgraded { generation: 2, pid: 9 });
        let names: Vec<_> = request.phases().into_iter().map(|phase| phase.name).collect();
        assert_eq!(names, ["upgrading", "standby", "draining"]);
    }

    #[tokio::test]
    async fn a_process_that_ends_without_an_outcome_has_failed() {
        let (request, _) = served("{\"reply\":\"phase\",\"phase\":\"upgrading\"}\n").await;
        assert_eq!(request.failure().await, "the old process ended before it reported the outcome");
    }
}
