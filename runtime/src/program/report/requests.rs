//! The requests of `upgrade --report-get`: each over a connection of its own, in one thread that never blocks on any of them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use super::super::output::Failure;
use super::super::url::Url;
use crate::base::answer::{Answer, Expected};
use crate::sys::poll;

/// The time between two requests.
const EVERY: Duration = Duration::from_millis(10);
/// The time in which an answer must be whole.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many requests are under way at most. It is more than the number that is due in `TIMEOUT`.
const AT_ONCE: usize = 512;
/// The time in which one of several addresses must take a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How many requests a report has at most: ten minutes of them.
const MOST: u32 = 60_000;
/// The longest body of an answer, in bytes.
const MAX_BODY: usize = 64 << 20;
/// How many reads follow one another, and the bytes of each. A long answer then does not delay the other requests.
const READS: usize = 4;
const READ_AT_ONCE: usize = 64 * 1024;

/// Where the requests go.
pub(crate) struct Target {
    url: Url,
    address: SocketAddr,
}

impl Target {
    pub(crate) fn find(url: &Url) -> Result<Self, String> {
        let not_found = |why: String| format!("cannot find the host of --report-get {}: {why}", url.as_str());
        let mut addresses =
            (&*url.host, url.port).to_socket_addrs().map_err(|error| not_found(error.to_string()))?;
        let first = addresses.next().ok_or_else(|| not_found("it has no address".to_owned()))?;
        // Of the addresses of a name the service may have only one.
        let others: Vec<_> = addresses.collect();
        let is_served = |address: &SocketAddr| TcpStream::connect_timeout(address, CONNECT).is_ok();
        let all = || [first].into_iter().chain(others.iter().copied());
        let served = if others.is_empty() { None } else { all().find(is_served) };
        let address = served.unwrap_or(first);
        Ok(Self { url: url.clone(), address })
    }
}

/// What the requests have come to.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) url: Url,
    pub(crate) requests: Vec<Request>,
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Request {
    /// When it was due. The latency counts from then.
    pub(crate) due: Instant,
    pub(crate) took: Duration,
    pub(crate) result: Result<(), String>,
}

/// The thread that sends the requests.
pub(crate) struct Requests {
    url: Url,
    ended: Arc<OnceLock<Instant>>,
    thread: Option<JoinHandle<Vec<Request>>>,
}

impl Requests {
    pub(crate) fn start(target: Target) -> Result<Self, Failure> {
        let ended = Arc::default();
        let url = target.url.clone();
        let load = Load::new(target, Arc::clone(&ended));
        let thread = thread::Builder::new().name("tableflip-report".to_owned());
        let thread = thread.spawn(|| load.run()).map_err(Failure::no_thread)?;
        Ok(Self { url, ended, thread: Some(thread) })
    }

    /// Sends no more, and waits for the answers that are still to come.
    pub(crate) fn finish(mut self) -> Sent {
        Sent { url: self.url.clone(), requests: self.end() }
    }

    fn end(&mut self) -> Vec<Request> {
        self.ended.get_or_init(Instant::now);
        // The panic hook has printed a panic of the thread.
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.end();
    }
}

struct Load {
    address: SocketAddr,
    request: Vec<u8>,
    ended: Arc<OnceLock<Instant>>,
    under_way: Vec<Exchange>,
    done: Vec<Request>,
}

impl Load {
    fn new(target: Target, ended: Arc<OnceLock<Instant>>) -> Self {
        let Url { authority, target: path, .. } = &target.url;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: tableflip-report\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        let (under_way, done) = (Vec::new(), Vec::new());
        Self { address: target.address, request: request.into_bytes(), ended, under_way, done }
    }

    fn run(mut self) -> Vec<Request> {
        let began = Instant::now();
        let mut count = 0;
        loop {
            let next = began + EVERY * count;
            // A request that was due before the end is sent, though this thread may be late.
            let sends = count < MOST && self.ended.get().is_none_or(|ended| next <= *ended);
            if !sends && self.under_way.is_empty() {
                return self.done;
            }
            let has_room = sends && self.under_way.len() < AT_ONCE;
            if has_room && next <= Instant::now() {
                self.send(next);
                count += 1;
            }
            let ends = self.under_way.iter().map(|exchange| exchange.begun + TIMEOUT).min();
            let next = has_room.then_some(began + EVERY * count);
            let mut fds: Vec<_> = self.under_way.iter().map(Exchange::fd).collect();
            if poll::until(&mut fds, ends.into_iter().chain(next).min()).is_err() {
                // poll(2) fails only if the system is short of memory.
                thread::sleep(EVERY);
            }
            self.go_on();
        }
    }

    fn send(&mut self, due: Instant) {
        match Exchange::begin(self.address, due) {
            Ok(exchange) => self.under_way.push(exchange),
            Err(error) => self.done.push(Request::ended(due, Err(error.to_string()))),
        }
    }

    /// Goes on with each exchange as far as possible.
    fn go_on(&mut self) {
        let mut at = 0;
        while let Some(exchange) = self.under_way.get_mut(at) {
            let ended = exchange.go_on(&self.request).or_else(|| exchange.is_late());
            match ended {
                Some(result) => {
                    let exchange = self.under_way.swap_remove(at);
                    self.done.push(Request::ended(exchange.due, result));
                }
                None => at += 1,
            }
        }
    }
}

impl Request {
    fn ended(due: Instant, result: Result<(), String>) -> Self {
        Self { due, took: due.elapsed(), result }
    }
}

/// One connection with one request.
struct Exchange {
    due: Instant,
    /// The timeout counts from here, because this thread may be late.
    begun: Instant,
    socket: Socket,
    /// How much of the request is sent.
    sent: usize,
    is_sent: bool,
    answer: Answer,
}

impl Exchange {
    fn begin(address: SocketAddr, due: Instant) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let answer = Answer::new(Expected::NoServerError, MAX_BODY);
        Ok(Self { due, begun: Instant::now(), socket, sent: 0, is_sent: false, answer })
    }

    fn fd(&self) -> PollFd<'_> {
        let events = if self.is_sent { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        PollFd::new(self.socket.as_fd(), events)
    }

    fn is_late(&self) -> Option<Result<(), String>> {
        let is_late = self.begun.elapsed() >= TIMEOUT;
        is_late.then(|| Err(format!("{} in {} s", self.answer.is_missing(), TIMEOUT.as_secs())))
    }

    /// The result, once there is one.
    fn go_on(&mut self, request: &[u8]) -> Option<Result<(), String>> {
        match self.try_to_go_on(request) {
            Ok(result) => result,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(self.answer.end(&error.to_string())),
        }
    }

    fn try_to_go_on(&mut self, request: &[u8]) -> io::Result<Option<Result<(), String>>> {
        while !self.is_sent {
            match self.socket.write(&request[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.is_sent = self.sent == request.len();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The service may have answered without a look at the request.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.is_sent = true,
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; READ_AT_ONCE];
        for _ in 0..READS {
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    return Ok(Some(
                        self.answer.end("it closed the connection before the end of its answer"),
                    ));
                }
                Ok(count) => {
                    if let Some(ended) = self.answer.take(&buffer[..count]) {
                        return Ok(Some(ended));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The result of one request to a server that reads it and answers this.
    fn answered(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let result = ask(address);
        let request = server.join().unwrap();
        let start = format!("GET /a?b HTTP/1.1\r\nHost: {address}\r\n");
        assert!(request.starts_with(&start), "{request}");
        result
    }

    fn ask(address: SocketAddr) -> Result<(), String> {
        let url: Url = format!("http://{address}/a?b").parse().unwrap();
        let mut load = Load::new(Target::find(&url).unwrap(), Arc::default());
        load.send(Instant::now());
        while load.done.is_empty() {
            let mut fds: Vec<_> = load.under_way.iter().map(Exchange::fd).collect();
            poll::until(&mut fds, Some(Instant::now() + TIMEOUT)).unwrap();
            load.go_on();
        }
        load.done.remove(0).result
    }

    #[test]
    fn a_request_is_lost_if_its_answer_is_not_whole_or_is_an_error_of_the_server() {
        assert_eq!(answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Ok(()));
        assert_eq!(answered("HTTP/1.1 404 Not Found\r\n\r\nnot here"), Ok(()));
        let failed = |answer| answered(answer).unwrap_err();
        assert_eq!(failed("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), "it answered 503 Busy");
        let cut = "it closed the connection before the end of its answer";
        assert_eq!(failed("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), cut);
        assert_eq!(failed(""), cut);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(free).unwrap_err(), "Connection refused (os error 111)");
    }

    #[test]
    fn a_host_without_an_address_is_an_error() {
        let url: Url = "http://no-host.invalid/".parse().unwrap();
        let Err(error) = Target::find(&url) else { panic!("nobody has this name") };
        assert!(
            error.starts_with("cannot find the host of --report-get http://no-host.invalid/: "),
            "{error}"
        );
    }
}
