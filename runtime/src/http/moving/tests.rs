//! Connections that move, in paused time: it passes as soon as every task waits. The successor is a second service in the same
//! test, with another word in its answers.

use std::future::{Future, pending};
use std::io;
use std::time::Duration;

use hyper::body::{Bytes, Frame};
use hyper::header::{CONNECTION, UPGRADE};
use hyper::http::Extensions;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::*;
use crate::between::drain::Shutdown;
use crate::between::shared::Shared;
use crate::http::activity::{Connection, HTTP_1, Stream};
use crate::http::connection::{Parts, serve};
use crate::http::version::Shaken;
use crate::http::{Builder, Stays};
use crate::moving::session::Session;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const HALF: &str = "GET / HTTP/1.1\r\nHo";
const REST: &str = "st: test\r\n\r\n";
const HOUR: Duration = Duration::from_secs(3600);
/// What the services answer with.
const OLD: &str = "old";
const NEW: &str = "new";

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stream with bytes that are read first.
#[derive(Debug)]
struct Line {
    unread: Vec<u8>,
    io: DuplexStream,
}

impl Stream for Line {
    fn is_quiet(&self) -> bool {
        // tokio knows at once of every byte that the other end has written.
        self.unread.is_empty()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A connection that is offered to the successor. The stream has the bytes that were not used.
struct Offer {
    line: Line,
    verdict: oneshot::Sender<Result<(), Connection<Line>>>,
    connection: Arc<Activity>,
}

impl Offer {
    /// The successor serves it.
    fn take(self) -> Server {
        self.verdict.send(Ok(())).expect("the predecessor waits");
        Server::begin(&Builder::new(), NEW, self.line)
    }

    fn refuse(self) {
        let connection = Connection::new(self.line, self.connection);
        self.verdict.send(Err(connection)).expect("the predecessor waits");
    }
}

/// The service of one connection.
struct Server {
    served: JoinHandle<()>,
    shared: Arc<Shared>,
    offers: mpsc::UnboundedReceiver<Offer>,
}

impl Server {
    /// Serves a new connection, which can move.
    fn connect(capacity: usize) -> (DuplexStream, Self) {
        Self::connect_to(&Builder::new(), capacity)
    }

    fn connect_to(builder: &Builder, capacity: usize) -> (DuplexStream, Self) {
        let (client, io) = tokio::io::duplex(capacity);
        (client, Self::begin(builder, OLD, Line { unread: Vec::new(), io }))
    }

    fn begin(builder: &Builder, word: &'static str, line: Line) -> Self {
        let shared = Arc::new(Shared::new(1, false, secs(30)).unwrap());
        shared.moving.giving.expect_kind("web", HTTP_1);
        let activity = Arc::new(Activity::new(builder.settings.move_http_1().then(|| Arc::from("web"))));
        let io = Connection::new(line, activity.clone());
        let (send, offers) = mpsc::unbounded_channel();
        let parts = Parts {
            io: std::future::ready(Ok(Shaken { io, negotiated: None, extensions: Extensions::new() })),
            service: std::future::ready(Ok(service_fn(move |request| answer(request, word)))),
            activity,
            settings: Arc::new(builder.settings.clone()),
            hand_over: move |io, session| hand_over(io, session, send.clone()),
        };
        let served = tokio::spawn(serve(parts, Shutdown::new(shared.clone())));
        Self { served, shared, offers }
    }

    /// The successor takes no connection.
    fn take_nothing(&self) {
        self.shared.moving.giving.forget();
    }

    /// The successor serves.
    fn stand_by(&self) {
        self.shared.set_handed_over(true);
    }

    fn drain(&self) {
        self.shared.start_draining();
    }

    /// The offer that comes now.
    async fn offer(&mut self) -> Offer {
        let begin = Instant::now();
        let offer = timeout(HOUR, self.offers.recv()).await.expect("it is offered").expect("it is not over");
        assert_eq!(begin.elapsed(), Duration::ZERO, "the connection waits for nothing");
        offer
    }

    /// Drains, and takes the offer that comes at once.
    async fn move_on(&mut self) -> Self {
        self.drain();
        let moved = self.offer().await.take();
        (&mut self.served).await.unwrap();
        moved
    }

    /// Lets this time pass, in which nothing is offered.
    async fn assert_stays(&mut self, time: Duration) {
        assert!(timeout(time, self.offers.recv()).await.is_err(), "it is offered");
    }

    /// Asserts that the connection ends so many seconds from now, and has not been offered.
    async fn assert_ends_in(mut self, seconds: u64) {
        let now = Instant::now();
        timeout(HOUR, self.served).await.expect("it ends").unwrap();
        assert_eq!(now.elapsed().as_secs_f32().round() as u64, seconds);
        assert!(self.offers.recv().await.is_none(), "it is offered");
    }
}

async fn hand_over(
    io: Connection<Line>,
    session: Session,
    offers: mpsc::UnboundedSender<Offer>,
) -> Result<(), Connection<Line>> {
    let Session { kind, state, unread } = session;
    assert_eq!((&*kind, &*state), (HTTP_1, &[][..]));
    let (mut line, connection) = io.into_parts();
    line.unread.splice(..0, unread);
    let (verdict, said) = oneshot::channel();
    offers.send(Offer { line, verdict, connection }).unwrap();
    match said.await {
        Ok(verdict) => verdict,
        Err(_) => pending().await,
    }
}

/// The body of an answer, which comes after a wait.
struct Late {
    wait: Pin<Box<Sleep>>,
    data: Option<Bytes>,
}

impl Late {
    fn new(seconds: u64, data: impl Into<Bytes>) -> Self {
        Self { wait: Box::pin(sleep(secs(seconds))), data: Some(data.into()) }
    }
}

impl Body for Late {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        ready!(self.wait.as_mut().poll(cx));
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }
}

async fn read_to_end(body: &mut Incoming) {
    while poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.is_some() {}
}

/// The answer by the path: its body is the path and the word, and comes in chunks.
async fn answer(mut request: Request<Incoming>, word: &str) -> io::Result<Response<Late>> {
    let path = request.uri().path().to_owned();
    let mut response = Response::new(Late::new(0, format!("{path} {word}")));
    match &*path {
        "/early" => *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE,
        "/wait" => sleep(secs(10)).await,
        "/late" => *response.body_mut() = Late::new(10, format!("{path} {word}")),
        "/large" => *response.body_mut() = Late::new(0, format!("{} {path} {word}", "0".repeat(5000))),
        "/stays" => drop(response.extensions_mut().insert(Stays)),
        "/close" => drop(response.headers_mut().insert(CONNECTION, "close".parse().unwrap())),
        // The body of the request is read behind the answer, or dropped, or kept.
        "/behind" => drop(tokio::spawn(async move { read_to_end(request.body_mut()).await })),
        "/drop" => drop(tokio::spawn(async move {
            sleep(secs(3)).await;
            drop(request);
        })),
        "/keep" => std::mem::forget(request),
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut upgraded = TokioIo::new(upgrade.await.unwrap());
                let mut bytes = [0; 4];
                upgraded.read_exact(&mut bytes).await.unwrap();
                upgraded.write_all(&bytes).await.unwrap();
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(UPGRADE, "echo".parse().unwrap());
        }
        _ => read_to_end(request.body_mut()).await,
    }
    Ok(response)
}

/// The head of the next answer. Its body ends with this, and nothing comes after it.
async fn head_of_answer(client: &mut DuplexStream, end: &str) -> String {
    let mut answer = Vec::new();
    let end = format!("{end}\r\n0\r\n\r\n");
    while !answer.ends_with(end.as_bytes()) {
        let byte = timeout(HOUR, client.read_u8()).await.expect("an answer comes");
        answer.push(byte.unwrap_or_else(|error| panic!("{error}: {}", answer.escape_ascii())));
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    head.to_owned()
}

/// Asserts that the next answer is that of `path` by the service with this word, and that the connection stays open.
async fn assert_answered(client: &mut DuplexStream, path: &str, word: &str) {
    let head = head_of_answer(client, &format!("{path} {word}")).await;
    assert!(!head.contains("connection: close"), "{head}");
}

async fn assert_answered_and_closes(client: &mut DuplexStream, path: &str) {
    let head = head_of_answer(client, &format!("{path} {OLD}")).await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection ends");
}

async fn write(client: &mut DuplexStream, text: impl AsRef<str>) {
    client.write_all(text.as_ref().as_bytes()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_moves_at_once() {
    for before in ["", GET, &post("/", "abc")] {
        let (mut client, mut old) = Server::connect(1024);
        if !before.is_empty() {
            write(&mut client, before).await;
            assert_answered(&mut client, "/", OLD).await;
        }
        sleep(secs(100)).await;
        let mut new = old.move_on().await;
        write(&mut client, GET).await;
        assert_answered(&mut client, "/", NEW).await;
        // It moves as often as there are upgrades.
        new = new.move_on().await;
        sleep(HOUR).await;
        write(&mut client, post("/", "abc")).await;
        assert_answered(&mut client, "/", NEW).await;
        drop(client);
        new.assert_ends_in(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_travels() {
    for before in ["", GET, &post("/", "abc")] {
        for (half, rest) in [("G", "ET / HTTP/1.1\r\nHost: test\r\n\r\n"), (HALF, REST), ("\r\n", GET)] {
            let (mut client, mut old) = Server::connect(1024);
            write(&mut client, format!("{before}{half}")).await;
            if !before.is_empty() {
                assert_answered(&mut client, "/", OLD).await;
            }
            sleep(secs(1)).await;
            let mut new = old.move_on().await;
            sleep(secs(1)).await;
            new = new.move_on().await;
            write(&mut client, rest).await;
            assert_answered(&mut client, "/", NEW).await;
            new.move_on().await;
        }
    }
}

/// Nothing shows yet whether it will be HTTP/2.
#[tokio::test(start_paused = true)]
async fn a_part_of_the_preface_travels() {
    let (mut client, mut old) = Server::connect(1024);
    write(&mut client, "PRI * HTTP/2.0\r\n\r\nS").await;
    sleep(secs(1)).await;
    let mut new = old.move_on().await;
    client.write_all(b"M\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS");
    new.drain();
    new.assert_stays(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_arrives_with_the_drain_is_answered_first() {
    let (mut client, mut old) = Server::connect(1024);
    write(&mut client, GET).await;
    assert_answered(&mut client, "/", OLD).await;
    write(&mut client, GET).await;
    let _new = old.move_on().await;
    assert_answered(&mut client, "/", OLD).await;
    write(&mut client, GET).await;
    assert_answered(&mut client, "/", NEW).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_middle_is_answered_first() {
    for path in ["/wait", "/late"] {
        for request in [get(path), post(path, ""), post(path, "abc")] {
            let (mut client, mut old) = Server::connect(1024);
            write(&mut client, &request).await;
            sleep(secs(1)).await;
            old.drain();
            old.assert_stays(secs(8)).await;
            assert_answered(&mut client, path, OLD).await;
            let mut new = old.offer().await.take();
            write(&mut client, GET).await;
            assert_answered(&mut client, "/", NEW).await;
            new.move_on().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_travel() {
    // Read before the drain: hyper has them.
    let (mut client, mut old) = Server::connect(1024);
    write(&mut client, format!("{}{GET}{}{HALF}", get("/wait"), post("/b", "abc"))).await;
    sleep(secs(1)).await;
    old.drain();
    assert_answered(&mut client, "/wait", OLD).await;
    assert_answered(&mut client, "/", OLD).await;
    assert_answered(&mut client, "/b", OLD).await;
    let _new = old.offer().await.take();
    write(&mut client, REST).await;
    assert_answered(&mut client, "/", NEW).await;

    // Those without a body have an end, however many they are.
    let (mut client, mut old) = Server::connect(64 * 1024);
    write(&mut client, get("/wait") + &GET.repeat(40)).await;
    sleep(secs(1)).await;
    old.drain();
    assert_answered(&mut client, "/wait", OLD).await;
    for _ in 0..40 {
        assert_answered(&mut client, "/", OLD).await;
    }
    let _new = old.offer().await.take();
    write(&mut client, GET).await;
    assert_answered(&mut client, "/", NEW).await;

    // They arrive in the drain.
    let (mut client, mut old) = Server::connect(1024);
    write(&mut client, get("/wait")).await;
    sleep(secs(1)).await;
    old.drain();
    sleep(secs(1)).await;
    write(&mut client, format!("{GET}{}{}", post("/b", "abc"), get("/c"))).await;
    assert_answered(&mut client, "/wait", OLD).await;
    let _new = old.offer().await.take();
    for path in ["/", "/b", "/c"] {
        assert_answered(&mut client, path, NEW).await;
    }
}

/// A client may send requests without a pause, so that there is no boundary.
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_boundary_is_closed() {
    let (mut client, old) = Server::connect(64 * 1024);
    write(&mut client, get("/wait") + &post("/b", "abc").repeat(40)).await;
    sleep(secs(1)).await;
    old.drain();
    assert_answered(&mut client, "/wait", OLD).await;
    for _ in 0..16 {
        assert_answered(&mut client, "/b", OLD).await;
    }
    assert_answered_and_closes(&mut client, "/b").await;
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_half_read_is_read_to_its_end_first() {
    for (head, begin, rest) in [
        ("Content-Length: 6\r\n\r\n", "", "abcdef"),
        ("Content-Length: 6\r\n\r\n", "abc", "def"),
        ("Transfer-Encoding: chunked\r\n\r\n", "3\r\nabc", "\r\n2\r\nde\r\n0\r\n\r\n"),
    ] {
        let (mut client, mut old) = Server::connect(1024);
        write(&mut client, format!("POST /b HTTP/1.1\r\nHost: test\r\n{head}{begin}")).await;
        sleep(secs(1)).await;
        old.drain();
        for byte in rest.chars() {
            old.assert_stays(secs(1)).await;
            write(&mut client, byte.to_string()).await;
        }
        assert_answered(&mut client, "/b", OLD).await;
        let _new = old.offer().await.take();
        write(&mut client, GET).await;
        assert_answered(&mut client, "/", NEW).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_body_that_was_not_read_is_closed() {
    let (mut client, old) = Server::connect(1024);
    let whole = post("/early", &"a".repeat(100));
    write(&mut client, &whole[..whole.len() - 50]).await;
    old.drain();
    let head = head_of_answer(&mut client, &format!("/early {OLD}")).await;
    assert!(head.contains(" 413 "), "{head}");
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_read_behind_the_answer_is_read_to_its_end_first() {
    for is_before in [true, false] {
        let (mut client, mut old) = Server::connect(1024);
        write(&mut client, "POST /behind HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc").await;
        if is_before {
            assert_answered(&mut client, "/behind", OLD).await;
        }
        old.drain();
        if !is_before {
            assert_answered(&mut client, "/behind", OLD).await;
        }
        for byte in ["d", "e", "f"] {
            old.assert_stays(secs(1)).await;
            write(&mut client, byte).await;
        }
        let _new = old.offer().await.take();
        write(&mut client, GET).await;
        assert_answered(&mut client, "/", NEW).await;
    }
    // The body looks like requests. Its reader drops it, or keeps it.
    for (path, is_whole) in [("/drop", false), ("/drop", true), ("/keep", true)] {
        let (mut client, mut old) = Server::connect(1024);
        let whole = post(path, &GET.repeat(3));
        let (begin, rest) = whole.split_at(whole.len() - GET.len());
        write(&mut client, begin).await;
        assert_answered(&mut client, path, OLD).await;
        old.drain();
        old.assert_stays(secs(1)).await;
        if is_whole {
            write(&mut client, rest).await;
        }
        match path {
            "/keep" => old.assert_stays(secs(20)).await,
            _ if !is_whole => old.assert_ends_in(2).await,
            _ => {
                old.assert_stays(Duration::from_millis(1900)).await;
                sleep(Duration::from_millis(200)).await;
                let _new = old.offer().await.take();
                write(&mut client, get("/c")).await;
                assert_answered(&mut client, "/c", NEW).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_the_client_is_written_first() {
    let (mut client, mut old) = Server::connect(1024);
    write(&mut client, get("/large")).await;
    sleep(secs(1)).await;
    old.drain();
    old.assert_stays(secs(10)).await;
    assert_answered(&mut client, "/large", OLD).await;
    let _new = old.offer().await.take();
    write(&mut client, get("/large")).await;
    assert_answered(&mut client, "/large", NEW).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_in_the_drain_ends_its_connection() {
    for path in ["/wait", "/late"] {
        let (mut client, old) = Server::connect(1024);
        write(&mut client, get(path)).await;
        sleep(secs(1)).await;
        old.drain();
        sleep(secs(1)).await;
        drop(client);
        old.assert_ends_in(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_be_closed_does_not_move() {
    let close = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    for request in [close("/wait"), get("/close"), close("/late")] {
        let (mut client, old) = Server::connect(1024);
        let path = request.split(' ').nth(1).unwrap();
        // In the middle of an answer, and at a boundary.
        write(&mut client, format!("{}{request}{GET}", get("/wait"))).await;
        sleep(secs(1)).await;
        old.drain();
        assert_answered(&mut client, "/wait", OLD).await;
        assert_answered_and_closes(&mut client, path).await;
        old.assert_ends_in(0).await;
    }
    let (mut client, old) = Server::connect(1024);
    write(&mut client, "GET /wait HTTP/1.0\r\n\r\n").await;
    sleep(secs(1)).await;
    old.drain();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("/wait old"), "{answer}");
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_drains_as_without_a_successor() {
    for before in ["", GET, &post("/", "abc")] {
        // Idle until the grace is over.
        let (mut client, mut old) = Server::connect(1024);
        if !before.is_empty() {
            write(&mut client, before).await;
            assert_answered(&mut client, "/", OLD).await;
        }
        old.drain();
        old.offer().await.refuse();
        old.assert_ends_in(5).await;
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);

        // A request, and one that has begun before.
        for half in ["", HALF] {
            let (mut client, mut old) = Server::connect(1024);
            if !before.is_empty() {
                write(&mut client, before).await;
                assert_answered(&mut client, "/", OLD).await;
            }
            write(&mut client, half).await;
            sleep(secs(1)).await;
            old.drain();
            let offer = old.offer().await;
            sleep(secs(1)).await;
            offer.refuse();
            old.assert_stays(secs(3)).await;
            write(&mut client, if half.is_empty() { GET } else { REST }).await;
            assert_answered_and_closes(&mut client, "/").await;
            old.assert_ends_in(0).await;
        }

        // A part of a request and then nothing.
        let (mut client, mut old) = Server::connect(1024);
        write(&mut client, format!("{before}{HALF}")).await;
        if !before.is_empty() {
            assert_answered(&mut client, "/", OLD).await;
        }
        sleep(secs(1)).await;
        old.drain();
        old.offer().await.refuse();
        // The bytes that come back count as heard.
        old.assert_ends_in(10).await;
    }
}

/// The verdict may take longer than the grace.
#[tokio::test(start_paused = true)]
async fn a_verdict_is_waited_for() {
    let (mut client, mut old) = Server::connect(1024);
    old.drain();
    let offer = old.offer().await;
    old.assert_stays(secs(20)).await;
    let _new = offer.take();
    write(&mut client, GET).await;
    assert_answered(&mut client, "/", NEW).await;
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn in_standby_the_answers_of_a_connection_that_moves_do_not_close_it() {
    let (mut client, mut old) = Server::connect(1024);
    old.stand_by();
    for _ in 0..2 {
        write(&mut client, GET).await;
        assert_answered(&mut client, "/", OLD).await;
        old.assert_stays(secs(60)).await;
    }
    old.move_on().await;

    // The successor takes nothing.
    let (mut client, old) = Server::connect(1024);
    old.take_nothing();
    old.stand_by();
    write(&mut client, GET).await;
    assert_answered_and_closes(&mut client, "/").await;
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_stays_if_an_answer_says_so() {
    let (mut client, old) = Server::connect(1024);
    write(&mut client, get("/stays")).await;
    assert_answered(&mut client, "/stays", OLD).await;
    write(&mut client, GET).await;
    assert_answered(&mut client, "/", OLD).await;
    old.drain();
    old.assert_ends_in(5).await;

    // In standby, and while the connection leaves.
    for is_draining in [false, true] {
        let (mut client, old) = Server::connect(1024);
        let requests = if is_draining { get("/wait") + &get("/stays") } else { get("/stays") };
        write(&mut client, requests).await;
        if is_draining {
            sleep(secs(1)).await;
            old.drain();
            assert_answered(&mut client, "/wait", OLD).await;
        } else {
            old.stand_by();
        }
        assert_answered_and_closes(&mut client, "/stays").await;
        old.assert_ends_in(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn connections_stay_if_the_settings_say_so() {
    let mut stays = Builder::new();
    stays.move_connections(false);
    let mut http_2 = Builder::new();
    http_2.http2_only();
    for builder in [&stays, &http_2] {
        let (_client, old) = Server::connect_to(builder, 1024);
        old.drain();
        old.assert_ends_in(5).await;
    }
    let (mut client, old) = Server::connect_to(&stays, 1024);
    old.drain();
    sleep(secs(1)).await;
    write(&mut client, GET).await;
    assert_answered_and_closes(&mut client, "/").await;
    old.assert_ends_in(0).await;
}

/// It dies, say, or is about to be replaced.
#[tokio::test(start_paused = true)]
async fn a_successor_that_takes_nothing_any_more_leaves_the_answers_as_without_one() {
    let (mut client, old) = Server::connect(1024);
    write(&mut client, get("/wait")).await;
    sleep(secs(1)).await;
    old.drain();
    sleep(secs(1)).await;
    old.take_nothing();
    assert_answered_and_closes(&mut client, "/wait").await;
    old.assert_ends_in(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_has_become_another_protocol_does_not_move() {
    let (mut client, old) = Server::connect(1024);
    write(&mut client, "GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    old.drain();
    old.assert_ends_in(0).await;
    write(&mut client, "ping").await;
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
}

/// hyper would give the stream of such a connection to the request of before, at a graceful shutdown.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_refused_another_protocol_moves() {
    let upgrade = "GET / HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    for after in [None, Some(get("/")), Some(post("/", "abc"))] {
        let (mut client, mut old) = Server::connect(1024);
        write(&mut client, upgrade).await;
        assert_answered(&mut client, "/", OLD).await;
        let has_body = after.as_ref().is_some_and(|request| request.ends_with("abc"));
        if let Some(request) = after {
            write(&mut client, request).await;
            assert_answered(&mut client, "/", OLD).await;
        }
        old.drain();
        // Only hyper knows where the body ends.
        if has_body {
            old.assert_stays(secs(4)).await;
            write(&mut client, GET).await;
            assert_answered(&mut client, "/", OLD).await;
        }
        let _new = old.offer().await.take();
        write(&mut client, GET).await;
        assert_answered(&mut client, "/", NEW).await;
    }
}

/// Random numbers, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Requests that are cut at any byte, and upgrades at any moment: each is answered once, in order.
#[tokio::test(start_paused = true)]
async fn no_byte_is_lost_and_no_request_is_answered_twice() {
    let mut moves = 0;
    for seed in 0..300 {
        let random = &mut Random(seed);
        let (mut client, mut server) = Server::connect(1 + random.below(300));
        let mut paths = Vec::new();
        let mut requests = String::new();
        // Fewer than a connection may answer without a pause while it leaves.
        for number in 0..12 {
            let path = format!("/{number}");
            requests += &match random.below(4) {
                0 => post(&path, &"a".repeat(random.below(100))),
                1 => format!(
                    "POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
                ),
                _ => get(&path),
            };
            paths.push(path);
        }
        let (mut read, mut send) = tokio::io::split(&mut client);
        let mut left = requests.as_bytes();
        let mut answers = Vec::new();
        while !answers.windows(4).any(|bytes| bytes == b"/11 ") || !answers.ends_with(b"\r\n0\r\n\r\n") {
            let count = random.below(60).min(left.len());
            let pause = secs(random.below(2) as u64);
            tokio::select! {
                biased;
                written = send.write(&left[..count]), if count > 0 => left = &left[written.unwrap()..],
                read = read.read_buf(&mut answers) => {
                    assert_ne!(read.unwrap(), 0, "{seed}: {}", answers.escape_ascii());
                }
                offer = server.offers.recv() => {
                    let answers = answers.escape_ascii();
                    server = offer.unwrap_or_else(|| panic!("{seed}: it is over: {answers}")).take();
                    moves += 1;
                }
                () = sleep(pause) => {}
            }
            if random.below(6) == 0 && !server.shared.handed_over() {
                server.drain();
            }
        }
        let answers = String::from_utf8(answers).unwrap();
        let answered: Vec<_> = answers
            .split("HTTP/1.1 200 OK")
            .skip(1)
            .map(|answer| {
                let body = answer.split_once("\r\n\r\n").unwrap().1;
                body.split(['\n', ' ']).nth(1).unwrap().to_owned()
            })
            .collect();
        assert_eq!(answered, paths, "{seed}: {answers}");
        assert!(!answers.contains("connection: close"), "{seed}");
    }
    assert!(moves > 300, "{moves}");
}
