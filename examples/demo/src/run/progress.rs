//! The display during the run: a bar on a terminal, a line for each event elsewhere.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::{
    args::Args,
    report::{Upgrade, grouped, time},
    tally::Tally,
};

/// The progress of a run, on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Draws nothing where standard error is not a terminal.
    bar: ProgressBar,
    tally: Arc<Tally>,
    refresh: JoinHandle<()>,
}

impl Progress {
    pub(crate) fn new(args: &Args, tally: &Arc<Tally>, address: SocketAddr, pid: u32) -> Self {
        let bar = ProgressBar::new(u64::from(args.upgrades));
        let template = "{bar:20.green} {pos}/{len} upgrades  {msg}  {prefix:.dim}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let refresh = tokio::spawn(refresh(bar.clone(), Arc::clone(tally)));
        let progress = Self { bar, tally: Arc::clone(tally), refresh };
        progress.line(&format!(
            "{} runs on {}://{address} as process {pid}; {} requests a second, {} keep-alive connections",
            args.service.package,
            args.service.scheme,
            grouped(u64::from(args.rate.get())),
            args.connections,
        ));
        progress
    }

    /// What is going on now. Only a terminal shows it.
    pub(crate) fn phase(&self, phase: &str) {
        self.bar.set_prefix(phase.to_owned());
    }

    pub(crate) fn upgraded(&self, upgrade: &Upgrade) {
        let number = upgrade.number;
        match (&upgrade.problem, upgrade.answered, upgrade.gone) {
            (None, Some(new), Some(gone)) => {
                self.bar.inc(1);
                self.line(&format!(
                    "upgrade {number}: generation {} (process {}) answered after {}, the old one was gone after {}; {}",
                    new.generation,
                    new.pid,
                    time(new.at - upgrade.requested),
                    time(gone - upgrade.requested),
                    counts(&self.tally),
                ));
            }
            (problem, ..) => {
                let problem = problem.as_deref().unwrap_or("it did not come to an end");
                self.line(&format!("upgrade {number} failed: {problem}; {}", counts(&self.tally)));
            }
        }
    }

    /// Leaves the lines and takes away the bar.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, line: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.refresh.abort();
        self.bar.finish_and_clear();
    }
}

async fn refresh(bar: ProgressBar, tally: Arc<Tally>) {
    loop {
        bar.set_message(counts(&tally));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn counts(tally: &Tally) -> String {
    let (answered, lost) = tally.progress();
    format!("{} answered, {} lost", grouped(answered as u64), grouped(lost as u64))
}
