//! A connection to the control socket of a service, docs/control.md.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

const CONTROL: &str = "pid.control";

pub(super) struct Operator {
    stream: UnixStream,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    /// The phases that were told during a request.
    phases: Vec<String>,
    /// The last status.
    status: Option<Value>,
    /// The first reply that ends a request.
    answer: Option<Value>,
    /// The connection is at its end.
    is_over: bool,
}

impl Operator {
    /// Connects to the process that serves. `None` if no process does.
    pub(super) fn connect(dir: &Path) -> Option<Self> {
        let stream = UnixStream::connect(dir.join(CONTROL)).ok()?;
        let heard = Arc::<Mutex<Heard>>::default();
        let (to, from) = (heard.clone(), stream.try_clone().expect("a descriptor for the reader"));
        let reader = thread::spawn(move || {
            let lock = || to.lock().unwrap_or_else(PoisonError::into_inner);
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { break };
                let reply: Value = serde_json::from_str(&line).expect("a line of JSON");
                let word = |name: &str| reply[name].as_str().map(str::to_owned);
                match reply["reply"].as_str() {
                    Some("phase") => lock().phases.extend(word("phase")),
                    Some("status") => lock().status = Some(reply),
                    Some("drained" | "stopping") => {}
                    _ => _ = lock().answer.get_or_insert(reply),
                }
            }
            lock().is_over = true;
        });
        Some(Self { stream, heard, reader: Some(reader) })
    }

    /// Sends a request.
    pub(super) fn ask(&self, command: &str) {
        match (&self.stream).write_all(format!("{}\n", json!({ "command": command })).as_bytes()) {
            // A process that is dead gives no answer.
            Ok(()) | Err(_) => {}
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the service was in this phase during the request.
    pub(super) fn has_seen(&self, phase: &str) -> bool {
        self.heard().phases.iter().any(|it| it == phase)
    }

    /// The phase of the last status.
    pub(super) fn phase(&self) -> Option<String> {
        self.heard().status.as_ref()?["phase"].as_str().map(str::to_owned)
    }

    /// Asks for a status, which takes the place of the last one.
    pub(super) fn ask_for_status(&self) {
        self.ask("status");
    }

    /// Whether the process of the last status serves, beside no other one.
    pub(super) fn serves_alone(&self) -> bool {
        self.heard().status.as_ref().is_some_and(|status| {
            status["phase"] == "serving" && status["predecessor"].is_null() && status["successor"].is_null()
        })
    }

    /// Whether there is a reply, or none will come.
    pub(super) fn is_answered(&self) -> bool {
        let heard = self.heard();
        heard.answer.is_some() || heard.is_over
    }

    pub(super) fn has_answered(&self, reply: &str) -> bool {
        self.heard().answer.as_ref().is_some_and(|answer| answer["reply"] == reply)
    }

    pub(super) fn is_over(&self) -> bool {
        self.heard().is_over
    }

    pub(super) fn answer(&self) -> Option<Value> {
        self.heard().answer.clone()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        match self.stream.shutdown(Shutdown::Both) {
            // The other end may be closed already.
            Ok(()) | Err(_) => {}
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a service sends lines of JSON");
        }
    }
}
