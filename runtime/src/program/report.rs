//! The report of an upgrade, `upgrade --report`: a picture of the phases, the open connections and the latency of requests.
//!
//! `recording` watches the processes, `requests` sends the requests of `--report-get`, and `drawing` makes the picture of both.

mod drawing;
mod recording;
mod requests;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use self::recording::Recorder;
use self::requests::{Requests, Target};
use super::args;
use super::conversation::Conversation;
use super::output::{Failure, Output};
use super::svg_file::SvgFile;

/// The time before the request to upgrade that the picture shows, and the time after the end of the drain.
const AROUND: Duration = Duration::from_secs(1);
/// The longest time after the outcome that the picture shows. The drain may take longer.
const LONGEST_DRAIN: Duration = Duration::from_secs(5);

/// A report that can be written, before the upgrade.
pub(crate) struct Report {
    file: SvgFile,
    target: Option<Target>,
}

impl Report {
    /// `None` if no report is asked for. Every mistake that shows before the upgrade is an error here.
    pub(crate) fn new(args: &args::Upgrade) -> Result<Option<Self>, Failure> {
        let Some(path) = &args.report else { return Ok(None) };
        let target = args.report_get.as_ref().map(Target::find).transpose().map_err(Failure::usage)?;
        let file = SvgFile::open(path).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Some(Self { file, target }))
    }

    /// Begins to record, and returns when the upgrade may begin.
    pub(crate) fn start(
        self,
        conversation: &Conversation,
        deadline: Instant,
        output: &Output,
    ) -> Result<Running, Failure> {
        let recorder = Recorder::start(conversation.paths().0, deadline)?;
        let requests = self.target.map(Requests::start).transpose()?;
        output.progress("the report shows a second before the upgrade");
        thread::sleep(AROUND);
        Ok(Running { file: self.file, recorder, requests, requested: Instant::now() })
    }
}

/// A report while the upgrade runs.
pub(crate) struct Running {
    file: SvgFile,
    recorder: Recorder,
    requests: Option<Requests>,
    requested: Instant,
}

impl Running {
    /// Writes the picture. A report that cannot be written does not change the outcome of the upgrade.
    pub(crate) fn finish(self, done: &Result<(), Failure>, output: &Output) {
        let Self { file, recorder, requests, requested } = self;
        let decided = Instant::now();
        let is_done = done.as_ref().map_or_else(Failure::is_done, |()| true);
        output.progress("the report shows the end of the upgrade");
        if is_done {
            recorder.wait_for_the_drain(decided + LONGEST_DRAIN - AROUND);
        }
        thread::sleep(AROUND);
        let requests = requests.map(Requests::finish);
        let recording = recorder.finish();
        let failure = done.as_ref().err().filter(|_| !is_done);
        let run =
            drawing::Run { recording: &recording, requests: requests.as_ref(), requested, decided, failure };
        let path = file.path().to_owned();
        match file.write(&drawing::picture(&run).svg()) {
            Ok(()) => {
                output.line(&json!({"reply": "report", "path": path.to_string_lossy()}));
                output.say(&format!("the report is {}: {}", path.display(), drawing::counted(&run)));
            }
            Err(error) => output.note(&format!("warning: {error}")),
        }
    }
}
