//! Programs that others wrote: their sockets before the first upgrade are those after the last one.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};

use load::{Program, have};
use processes::{Process, Signal};

use crate::watched::{Watched, unless_held_up};

/// The upgrades of a run.
const UPGRADES: usize = 5;
/// The sockets of h2load and wrk.
const SATURATED: usize = 16;
/// The sockets of the clients that are written in a few lines.
const FEW: usize = 8;

/// A client that runs until it is ended. It ends by itself when a request fails.
struct Client {
    child: Child,
    watched: Watched,
}

impl Client {
    /// Starts it with a service of its own. `command` gets the address of the service.
    fn start(command: impl FnOnce(&str) -> Command) -> Self {
        let watched = Watched::start();
        let mut command = command(&watched.service.address("http").to_string());
        // Not a pipe: a full pipe would block the program.
        let stdout = File::create(watched.service.path("output")).expect("a file for its output");
        let stderr = stdout.try_clone().expect("a descriptor");
        let child = command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).spawn().expect("it runs");
        Self { child, watched }
    }

    fn output(&self) -> String {
        fs::read_to_string(self.watched.service.path("output")).expect("its output is text")
    }

    /// Upgrades the service. After each upgrade, as many sockets have to have a request answered by the new process as before
    /// the first one, and they have to be the same. The error says how many are not.
    fn keeps_its_sockets(&mut self, number: usize) -> Result<(), String> {
        let ports = self.watched.journal.wait_for_ports(self.watched.service.pid(), number);
        assert_eq!(ports.len(), number, "the sockets before the first upgrade");
        for upgrade in 1..=UPGRADES {
            let pid = self.watched.service.upgrade();
            let after = self.watched.journal.wait_for_ports(pid, number);
            let ended = self.child.try_wait().expect("it is a child");
            assert!(ended.is_none(), "after upgrade {upgrade}: {ended:?}\n{}", self.output());
            if after != ports {
                let stayed = ports.intersection(&after).count();
                return Err(format!("{stayed} of {number} sockets stayed in upgrade {upgrade}"));
            }
        }
        let all: BTreeSet<_> = self.watched.journal.requests().iter().map(|request| request.port).collect();
        assert_eq!(all, ports, "all ports of the run");
        Ok(())
    }

    /// Closes its stdin.
    fn end(&mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("it is a child")
    }

    fn end_by(&mut self, signal: Signal) -> ExitStatus {
        let process = Process::open(self.child.id()).expect("it is not reaped");
        process.signal(signal).expect("it can be signalled");
        self.child.wait().expect("it is a child")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ended already, unless the test has failed.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn curl_keeps_its_socket() {
    if have("curl") {
        unless_held_up(curl);
    }
}

fn curl() -> Result<(), String> {
    let mut client = Client::start(|address| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--fail-early",
            "--http1.1",
            "--output",
            "/dev/null",
        ]);
        curl.args(["--write-out", "%{http_code}\n", &format!("http://{address}/whole/[1-100000000]")]);
        curl
    });
    client.keeps_its_sockets(1)?;
    client.end_by(Signal::KILL);
    let output = client.output();
    let answers: Vec<_> = output.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    let wrong: Vec<_> = answers.iter().filter(|answer| **answer != "200\n").collect();
    assert!(answers.len() > UPGRADES && wrong.is_empty(), "{wrong:?} of {} answers", answers.len());
    client.watched.journal.has_no_repeated_path();
    Ok(())
}

/// Asks in several loops at a time, by node's `http.Agent`, until stdin ends.
const NODE: &str = "
    const http = require('http');
    const [address, sockets] = process.argv.slice(1);
    const agent = new http.Agent({ keepAlive: true, maxSockets: Number(sockets) });
    let [number, over] = [0, false];
    process.stdin.resume().on('end', () => { over = true; });
    const ask = () => {
        if (over) return;
        const path = `/whole/${++number}`;
        http.get(`http://${address}${path}`, { agent }, (answer) => {
            let text = '';
            answer.on('data', (data) => { text += data; });
            answer.on('end', () => {
                if (text !== path) throw new Error(`${path}: ${answer.statusCode} ${text}`);
                setTimeout(ask, number % 7);
            });
        });
    };
    for (let loop = 0; loop < sockets; loop++) ask();
    process.on('exit', () => console.log(`${number} answered`));
    const end = setInterval(() => { if (over) { agent.destroy(); clearInterval(end); } }, 10);
";

#[test]
fn the_agent_of_node_keeps_its_sockets() {
    if have("node") {
        unless_held_up(node);
    }
}

fn node() -> Result<(), String> {
    let mut client = Client::start(|address| {
        let mut node = Command::new("node");
        node.args(["-e", NODE, address, &FEW.to_string()]);
        node
    });
    client.keeps_its_sockets(FEW)?;
    let status = client.end();
    assert!(status.success() && client.output().contains(" answered"), "{status}: {}", client.output());
    client.watched.journal.has_no_repeated_path();
    Ok(())
}

#[test]
fn chromium_keeps_its_socket() {
    if have("chromium") {
        unless_held_up(chromium);
    }
}

fn chromium() -> Result<(), String> {
    let profile = tempfile::tempdir().expect("a directory");
    let mut client = Client::start(|address| {
        let mut chromium = Command::new("chromium");
        // As root it runs only without its sandbox. With the port it stays until it is ended.
        chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]);
        chromium.args(["--disable-background-networking", "--no-first-run"]);
        chromium.arg(format!("--user-data-dir={}", profile.path().display()));
        chromium.arg(format!("http://{address}/page"));
        chromium
    });
    // A request that fails ends the loop of the page, and no process answers another.
    client.keeps_its_sockets(1)?;
    client.end_by(Signal::TERM);
    client.watched.journal.has_no_repeated_path();
    Ok(())
}

/// Asks in several threads at a time, by a `http.client.HTTPConnection` each, until stdin ends.
const PYTHON: &str = "
import http.client, os, sys, threading, time
address, sockets = sys.argv[1], int(sys.argv[2])
over = threading.Event()

def ask(thread):
    connection = http.client.HTTPConnection(address)
    number = 0
    while not over.is_set():
        number += 1
        path = f'/whole/{thread}/{number}'
        body = path * (number % 100) if number % 3 == 0 else None
        try:
            connection.request('POST' if body else 'GET', path, body)
            answer = connection.getresponse().read().decode()
            if answer != path + (body or ''):
                raise ValueError(answer)
        except Exception as error:
            print(f'{path}: {error!r}', flush=True)
            os._exit(1)
        time.sleep(number % 7 / 1000)

threads = [threading.Thread(target=ask, args=[number]) for number in range(sockets)]
for thread in threads:
    thread.start()
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
";

#[test]
fn a_client_in_python_keeps_its_sockets() {
    if have("python3") {
        unless_held_up(python);
    }
}

fn python() -> Result<(), String> {
    let mut client = Client::start(|address| {
        let mut python = Command::new("python3");
        python.args(["-c", PYTHON, address, &FEW.to_string()]);
        python
    });
    client.keeps_its_sockets(FEW)?;
    let status = client.end();
    assert!(status.success(), "{status}: {}", client.output());
    client.watched.journal.has_no_repeated_path();
    Ok(())
}

/// The number before a word of a text.
fn number_before(text: &str, word: &str) -> usize {
    let (before, _) = text.split_once(word).unwrap_or_else(|| panic!("there is no `{word}` in {text}"));
    let number = before.rsplit(|char: char| !char.is_ascii_digit()).find(|digits| !digits.is_empty());
    number
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("no number before `{word}` in {text}"))
}

/// wrk counts an answer, and begins the next request at once. So when it ends, each of its sockets may have a request without
/// an answer.
#[test]
fn wrk_keeps_its_sockets() {
    if have("wrk") {
        unless_held_up(wrk);
    }
}

fn wrk() -> Result<(), String> {
    let mut client = Client::start(|address| {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", &format!("-c{SATURATED}"), "-d600s", &format!("http://{address}/whole")]);
        wrk
    });
    client.keeps_its_sockets(SATURATED)?;
    let status = client.end_by(Signal::INT);
    let output = client.output();
    // It has a line of errors only if there were some.
    let is_right = status.success() && !output.contains("errors") && !output.contains("Non-2xx");
    assert!(is_right, "{status}: {output}");
    let answered = number_before(&output, " requests in");
    let asked = client.watched.journal.requests().len();
    assert!((answered..=answered + SATURATED).contains(&asked), "{asked} requests, {answered} answers");
    Ok(())
}

#[test]
fn h2load_keeps_its_sockets() {
    if have("h2load") {
        unless_held_up(h2load);
    }
}

fn h2load() -> Result<(), String> {
    let mut watched = Watched::start();
    let address = watched.service.address("http");
    let sockets = Cell::new(0);
    let requests = |times: u32| 20_000 * times as usize;
    // How many requests there were before the last run of the program, and who served its first one.
    let Watched { service, journal } = &mut watched;
    let journal = std::cell::RefCell::new(journal);
    let before = Cell::new((0, 0));
    let first = Cell::new(service.pid());
    let h2load = |times: u32| {
        before.set((journal.borrow_mut().requests().len(), first.get()));
        let mut h2load = Command::new("h2load");
        h2load.args(["--h1", &format!("-c{SATURATED}"), &format!("-n{}", requests(times))]);
        h2load.arg(format!("http://{address}/whole"));
        h2load
    };
    let program = Program { listener: "http", begun: SATURATED as u64 };
    let upgrade = |service: &mut load::Service| {
        for _ in 0..UPGRADES {
            journal.borrow_mut().wait_for_ports(service.pid(), SATURATED);
            first.set(service.upgrade());
        }
    };
    program.across_upgrades(service, h2load, upgrade, |times, output| {
        let wanted = requests(times);
        let answered = format!("{wanted} done, {wanted} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(output.contains(&answered), "{output}");
        let mut journal = journal.borrow_mut();
        let (before, pid) = before.get();
        let run = &journal.requests()[before..];
        assert_eq!(run.len(), wanted, "requests that the service has received");
        let of_the_first = run.iter().filter(|request| request.pid == pid).map(|request| request.port);
        assert_eq!(of_the_first.collect::<BTreeSet<_>>().len(), SATURATED, "before the first upgrade");
        sockets.set(run.iter().map(|request| request.port).collect::<BTreeSet<_>>().len());
    });
    if sockets.get() != SATURATED {
        return Err(format!("h2load had {} sockets in place of {SATURATED}", sockets.get()));
    }
    Ok(())
}
