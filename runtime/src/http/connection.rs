//! One connection, from its first byte to its end.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::BoxError;
use super::activity::{Activity, HTTP_1, Version};
use super::answer::Answering;
use super::moving::{Left, until_left};
use super::notice::Noticing;
use super::settings::Settings;
use super::version::{Detected, Shaken, detect, served};
use crate::base::report::tell;
use crate::between::drain::Shutdown;
use crate::moving::session::Session;

/// The grace: how long a connection without a request stays open once the drain has begun.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// The grace is at most the drain divided by this, so that time is left for the answers.
const IDLE_GRACE_SHARE: u32 = 2;

/// How long an idle HTTP/2 connection waits for a request before it gets the notice, and how long after the notice the last
/// GOAWAY comes.
const NOTICE: Duration = Duration::from_secs(1);

/// What one connection is made of.
pub(super) struct Parts<H, M, F> {
    /// The stream after its handshakes.
    pub(super) io: H,
    /// The service of the user.
    pub(super) service: M,
    pub(super) activity: Arc<Activity>,
    pub(super) settings: Arc<Settings>,
    /// Hands a connection that leaves over to the successor.
    pub(super) hand_over: F,
}

/// Serves one connection to its end. Once the drain has begun the connection moves to the successor, or is brought to its end.
pub(super) async fn serve<H, I, M, S, B, F, V>(parts: Parts<H, M, F>, mut shutdown: Shutdown)
where
    F: Fn(I, Session) -> V,
    V: Future<Output = Result<(), I>>,
    H: Future<Output = Result<Shaken<I>, BoxError>>,
    M: Future<Output = Result<S, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let times = Times::within(shutdown.drain_timeout());
    let (activity, head_limit) = (parts.activity.clone(), parts.settings.head_limit);
    let mut course = Course {
        conversation: pin!(converse(parts, shutdown.clone())),
        timer: pin!(tokio::time::sleep(times.grace)),
        shutdown: &mut shutdown,
        activity: &activity,
        times,
        head_limit,
        stage: Stage::Serving,
        limited: None,
        watcher: None,
    };
    let ended = poll_fn(|cx| course.poll(cx)).await;
    // A client that goes away, or does not speak HTTP, ends only its own connection.
    if let Err(error) = ended {
        tell!(shutdown.shared(), DEBUG, error, "an HTTP connection ended early");
    }
}

/// The waits of the end of a connection.
#[derive(Clone, Copy)]
struct Times {
    grace: Duration,
    notice: Duration,
    /// From the graceful shutdown until a silent client counts as gone.
    farewell: Duration,
}

impl Times {
    fn within(drain_timeout: Duration) -> Self {
        let grace = IDLE_GRACE.min(drain_timeout / IDLE_GRACE_SHARE);
        let notice = NOTICE.min(grace / 2);
        // Half of the rest, because the grace and the notice come before it, and answers may come after it.
        let farewell = grace.min((drain_timeout - grace - notice) / 2);
        Self { grace, notice, farewell }
    }
}

/// The phases of a connection, in their order.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Serving,
    /// The drain has begun, and a request may still come.
    Draining,
    /// The connection is HTTP/2, and its client gets the notice.
    Noticed,
    /// The graceful shutdown has begun. The client has to be heard once more: over HTTP/2 its answer to a PING.
    Closing,
    /// The client was heard, and the open requests are served to their end.
    Finishing,
}

/// The next stage, or the end of the connection.
type Step = ControlFlow<Result<(), BoxError>, Stage>;

/// One connection on its way through the phases.
struct Course<'a, C> {
    /// The connection itself.
    conversation: Pin<&'a mut C>,
    /// The wait of the stage, or the limit of `limited`.
    timer: Pin<&'a mut Sleep>,
    shutdown: &'a mut Shutdown,
    activity: &'a Activity,
    times: Times,
    /// How long a client has for its handshake, and for the head of a request from its first byte on.
    head_limit: Option<Duration>,
    stage: Stage,
    /// The handshake or the head that has a limit, by [`Activity::unfinished`]. Only in `Stage::Serving`.
    limited: Option<usize>,
    /// The waker that the drain wakes.
    watcher: Option<Waker>,
}

impl<C: Future<Output = Result<(), BoxError>>> Course<'_, C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            if let Poll::Ready(ended) = self.conversation.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            let step = match self.stage {
                // A request has come after the handover, and its answer asks for the notice.
                Stage::Serving | Stage::Draining if self.activity.is_notice_due() => {
                    Poll::Ready(self.wait(self.times.notice, Stage::Noticed))
                }
                Stage::Serving => self.serve(cx),
                Stage::Draining => self.drain(cx),
                Stage::Noticed => self.timer.as_mut().poll(cx).map(|()| self.close()),
                Stage::Closing => self.part(cx),
                Stage::Finishing => Poll::Pending,
            };
            match ready!(step) {
                ControlFlow::Continue(stage) => self.stage = stage,
                ControlFlow::Break(ended) => return Poll::Ready(ended),
            }
        }
    }

    /// Enforces the limit of a handshake or of a head, and waits for the drain.
    fn serve(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(limit) = self.head_limit {
            let unfinished = self.activity.unfinished();
            if unfinished != self.limited {
                self.limited = unfinished;
                if self.limited.is_some() {
                    self.timer.as_mut().reset(Instant::now() + limit);
                }
            }
        }
        if self.limited.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            let late = "neither the handshake nor the head of a request was whole in time";
            return Poll::Ready(ControlFlow::Break(Err(late.into())));
        }
        // Polled once for each waker, because a poll takes a lock that all connections share.
        let is_watching = self.watcher.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_watching && !self.shutdown.is_raised() {
            return Poll::Pending;
        }
        self.watcher = Some(cx.waker().clone());
        ready!(Pin::new(&mut *self.shutdown).poll(cx));
        let wait = if self.activity.can_have_notice() { self.times.notice } else { self.times.grace };
        // The grace is for bytes that come from now on.
        self.activity.take_heard();
        if self.activity.can_move(self.shutdown.shared()) {
            self.activity.leave();
        }
        Poll::Ready(self.wait(wait, Stage::Draining))
    }

    /// Waits for a request until the grace is over. Then begins the end of an idle connection.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        ready!(self.timer.as_mut().poll(cx));
        if let Poll::Ready(ended) = self.probe(cx) {
            return Poll::Ready(ControlFlow::Break(ended));
        }
        let step = match self.activity.version() {
            Some(Version::Http2) => {
                self.activity.give_notice();
                ControlFlow::Continue(Stage::Draining)
            }
            // The answer ends the connection. An answer that began before the drain lacks `Connection: close`: the
            // connection is then idle after it, and ends at the next look.
            _ if self.activity.take_heard() || !self.activity.is_idle() => {
                self.wait(self.times.grace, Stage::Draining)
            }
            // At a graceful shutdown hyper would wait for the first request.
            _ if !self.activity.was_asked() => ControlFlow::Break(Ok(())),
            _ => self.close(),
        };
        Poll::Ready(step)
    }

    /// Waits until the client is heard once more, and ends the connection of a client that is gone.
    fn part(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        ready!(self.timer.as_mut().poll(cx));
        if let Poll::Ready(ended) = self.probe(cx) {
            return Poll::Ready(ControlFlow::Break(ended));
        }
        Poll::Ready(if self.activity.take_heard() {
            ControlFlow::Continue(Stage::Finishing)
        } else if self.activity.is_idle() {
            // No answer is owed to a client that is gone.
            ControlFlow::Break(Ok(()))
        } else {
            self.wait(self.times.farewell, Stage::Closing)
        })
    }

    /// Lets hyper read once more, from the socket itself. So a request is served that has arrived and that tokio does not
    /// know of yet.
    fn probe(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.activity.probe();
        self.conversation.as_mut().poll(cx)
    }

    /// Begins the graceful shutdown.
    fn close(&mut self) -> Step {
        self.activity.close();
        self.activity.take_heard();
        self.wait(self.times.farewell, Stage::Closing)
    }

    fn wait(&mut self, time: Duration, stage: Stage) -> Step {
        self.timer.as_mut().reset(Instant::now() + time);
        ControlFlow::Continue(stage)
    }
}

/// Shakes hands, finds the version of HTTP, and serves requests. Hands the connection over if it leaves.
async fn converse<H, I, M, S, B, F, V>(parts: Parts<H, M, F>, shutdown: Shutdown) -> Result<(), BoxError>
where
    F: Fn(I, Session) -> V,
    V: Future<Output = Result<(), I>>,
    H: Future<Output = Result<Shaken<I>, BoxError>>,
    M: Future<Output = Result<S, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let Parts { io, service, activity, settings, hand_over } = parts;
    let mut shaken = io.await?;
    activity.end_handshake();
    let service = service.await?;
    let extensions = std::mem::take(&mut shaken.extensions);
    let mut service = Answering::new(service, shutdown, activity.clone(), extensions);
    let negotiated = served(shaken.negotiated, settings.only)?;
    let mut io = shaken.io;
    loop {
        let negotiated = negotiated.or(activity.version());
        let unread;
        match detect(io, negotiated, activity.clone()).await? {
            Detected::Ended => return Ok(()),
            Detected::Leaves(left, read) => (io, unread) = (left, read),
            Detected::Version(Version::Http1, rewound) => {
                activity.set_version(Version::Http1);
                let connection = settings.http1.hyper.serve_connection(TokioIo::new(rewound), service);
                let left = until_left(connection.with_upgrades(), &activity).await?;
                let Some(left) = left else { return Ok(()) };
                Left { io, unread, service } = left;
            }
            Detected::Version(Version::Http2, rewound) => {
                activity.set_version(Version::Http2);
                let io = TokioIo::new(Noticing::new(rewound, activity.clone()));
                let connection = settings.http2.hyper.serve_connection(io, service);
                until_closed(connection, &activity, http2::Connection::graceful_shutdown).await?;
                return Ok(());
            }
        }
        match hand_over(io, Session::new(HTTP_1).unread(unread)).await {
            Ok(()) => return Ok(()),
            Err(refused) => io = refused,
        }
        activity.come_back();
    }
}

/// Runs a connection. Calls `close` once when the connection is to end gracefully.
async fn until_closed<C: Future>(
    connection: C,
    activity: &Activity,
    close: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    let mut is_closing = false;
    poll_fn(|cx| {
        if !is_closing && activity.is_closing() {
            close(connection.as_mut());
            is_closing = true;
        }
        connection.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use hyper::http::Extensions;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::between::shared::Shared;
    use crate::http::Builder;
    use crate::http::activity::{Connection, Stream, is_quiet};

    impl Stream for DuplexStream {
        /// tokio knows at once of every byte that the other end has written.
        fn is_quiet(&self) -> bool {
            true
        }
    }

    impl Stream for TcpStream {
        fn is_quiet(&self) -> bool {
            is_quiet(self)
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    const HALF: &str = "GET / HTTP/1.1\r\nHo";
    const REST: &str = "st: test\r\n\r\n";
    const HOUR: Duration = Duration::from_secs(3600);

    /// The client's end of a served connection. The time is paused: it passes as soon as every task waits.
    struct Client {
        stream: DuplexStream,
        served: JoinHandle<()>,
        shared: Arc<Shared>,
    }

    impl Client {
        fn connect() -> Self {
            Self::connect_to(&Builder::new())
        }

        fn connect_to(builder: &Builder) -> Self {
            Self::shake_hands(builder, |connection| async { Ok(connection) })
        }

        /// Sends a request, if there is one, and takes the answer.
        async fn connect_and_send(request: &str) -> Self {
            let mut client = Self::connect();
            if !request.is_empty() {
                client.write(request).await;
                client.assert_is_answered().await;
            }
            client
        }

        /// The handshake is two bytes.
        fn connect_to_slow() -> Self {
            Self::shake_hands(&Builder::new(), |mut connection| async {
                connection.read_u16().await?;
                Ok(connection)
            })
        }

        fn shake_hands<H>(builder: &Builder, handshake: impl FnOnce(Connection<DuplexStream>) -> H) -> Self
        where
            H: Future<Output = Result<Connection<DuplexStream>, BoxError>> + Send + 'static,
        {
            let (stream, server) = tokio::io::duplex(1024);
            let activity = Arc::default();
            let io = handshake(Connection::new(server, Arc::clone(&activity)));
            let io = async { Ok(shaken(io.await?)) };
            let (served, shared) = begin(io, activity, builder);
            Self { stream, served: tokio::spawn(served), shared }
        }

        async fn write(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).await.unwrap();
        }

        async fn assert_is_answered(&mut self) {
            take_answer(&mut self.stream).await;
        }

        /// Asserts that the connection is closed so many seconds from now.
        async fn assert_ends_in(self, seconds: u64) {
            let now = Instant::now();
            self.served.await.unwrap();
            // A timer of tokio counts milliseconds.
            assert_eq!(now.elapsed().as_secs_f32().round() as u64, seconds);
        }

        async fn wait(&self, time: Duration) {
            tokio::time::sleep(time).await;
            assert!(!self.served.is_finished());
        }
    }

    fn shaken<I>(io: I) -> Shaken<I> {
        Shaken { io, negotiated: None, extensions: Extensions::new() }
    }

    /// Makes the future that serves a connection, and does not poll it.
    fn begin<I, H>(
        io: H,
        activity: Arc<Activity>,
        builder: &Builder,
    ) -> (impl Future<Output = ()> + use<I, H>, Arc<Shared>)
    where
        I: Stream,
        H: Future<Output = Result<Shaken<Connection<I>>, BoxError>>,
    {
        let shared = Arc::new(Shared::new(1, false, Duration::from_secs(30)).unwrap());
        let service = service_fn(|mut request: Request<Incoming>| async move {
            while poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await.is_some() {}
            Ok::<_, Infallible>(Response::new("yes".to_owned()))
        });
        let settings = Arc::new(builder.settings.clone());
        // Nothing is taken, so no connection leaves.
        let hand_over = |_, _| async { unreachable!("nothing takes it") };
        let parts = Parts { io, service: std::future::ready(Ok(service)), activity, settings, hand_over };
        (serve(parts, Shutdown::new(shared.clone())), shared)
    }

    async fn take_answer(stream: &mut (impl AsyncRead + Unpin)) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nyes") {
            let read = stream.read_buf(&mut answer).await.unwrap();
            assert_ne!(read, 0, "{answer:?}");
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_does_not_end_is_given_up() {
        for sent in ["", "!"] {
            let mut client = Client::connect_to_slow();
            client.write(sent).await;
            client.assert_ends_in(30).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_limit_from_its_first_byte_on() {
        for (before, head, more) in
            [("", "G", "E"), ("", HALF, "s"), ("", "PRI * HTTP/2", "."), (GET, HALF, "s"), (GET, "\r", "\n")]
        {
            let mut client = Client::connect_and_send(before).await;
            client.wait(HOUR).await;
            client.write(head).await;
            client.wait(secs(20)).await;
            // More bytes do not prolong the limit.
            client.write(more).await;
            client.assert_ends_in(10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_a_limit_of_its_own_and_so_has_the_handshake() {
        let mut client = Client::connect_to_slow();
        client.wait(secs(20)).await;
        client.write(&format!("!!{HALF}")).await;
        for _ in 0..3 {
            client.wait(secs(20)).await;
            client.write(&format!("{REST}{HALF}")).await;
            client.assert_is_answered().await;
        }
        client.write(REST).await;
        client.assert_is_answered().await;
    }

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    #[tokio::test(start_paused = true)]
    async fn the_limit_for_a_head_is_a_setting() {
        for sent in ["G", HALF, "PRI * HTTP/2"] {
            let mut client = Client::connect_to(Builder::new().header_read_timeout(secs(3)));
            client.wait(HOUR).await;
            client.write(sent).await;
            client.assert_ends_in(3).await;
        }
        let mut client = Client::connect_to(Builder::new().header_read_timeout(None));
        client.write(HALF).await;
        client.wait(HOUR).await;
        client.write(REST).await;
        client.assert_is_answered().await;
    }

    /// What comes back until the connection ends.
    async fn all_of(mut client: Client) -> Vec<u8> {
        let mut answer = Vec::new();
        client.stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn the_limits_of_http_1_are_settings() {
        let mut builder = Builder::new();
        builder.http1().max_headers(3);
        let mut client = Client::connect_to(&builder);
        client.write("GET / HTTP/1.1\r\nHost: test\r\nA: 1\r\nB: 2\r\n\r\n").await;
        client.assert_is_answered().await;
        client.write("GET / HTTP/1.1\r\nHost: test\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n").await;
        assert!(all_of(client).await.starts_with(b"HTTP/1.1 431 "));

        let mut builder = Builder::new();
        builder.http1().max_buf_size(8192);
        let mut client = Client::connect_to(&builder);
        client.write("GET / HTTP/1.1\r\nHost: test\r\nA: ").await;
        // The answer may come before all of this is read.
        match client.stream.write_all(&[b'a'; 9000]).await {
            Ok(()) | Err(_) => {}
        }
        assert!(all_of(client).await.starts_with(b"HTTP/1.1 431 "));

        let mut builder = Builder::new();
        builder.http1().keep_alive(false);
        let mut client = Client::connect_to(&builder);
        client.write(GET).await;
        let answer = String::from_utf8(all_of(client).await).unwrap();
        assert!(answer.contains("connection: close") && answer.ends_with("yes"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_limits_of_http_2_are_settings() {
        let mut builder = Builder::new();
        builder.http2().max_concurrent_streams(7).keep_alive_interval(secs(60)).keep_alive_timeout(secs(5));
        let mut client = Client::connect_to(&builder);
        client.stream.write_all(PREFACE).await.unwrap();
        let mut head = [0; 9];
        client.stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "SETTINGS");
        let mut settings = vec![0; usize::from(head[2])];
        client.stream.read_exact(&mut settings).await.unwrap();
        let max_concurrent_streams = [0, 3, 0, 0, 0, 7];
        assert!(settings.chunks(6).any(|setting| setting == max_concurrent_streams), "{settings:?}");
        // The client does not answer the PING.
        let Client { mut stream, served, .. } = client;
        let begin = Instant::now();
        let mut rest = Vec::new();
        let read = tokio::spawn(async move { stream.read_to_end(&mut rest).await.map(|_| rest) });
        served.await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 65);
        let ping = [0, 0, 8, 6, 0];
        assert!(read.await.unwrap().unwrap().windows(5).any(|bytes| bytes == ping));
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_version_is_served_if_the_settings_say_so() {
        for (sent, only_1, only_2) in [(GET.as_bytes(), true, false), (PREFACE, false, true)] {
            let begins_well =
                |answer: &[u8]| answer.starts_with(b"HTTP/1.1 200") || answer.get(3) == Some(&4);
            for (builder, is_served) in
                [(Builder::new().http1_only().clone(), only_1), (Builder::new().http2_only().clone(), only_2)]
            {
                let mut client = Client::connect_to(&builder);
                client.stream.write_all(sent).await.unwrap();
                if is_served {
                    let mut answer = [0; 12];
                    client.stream.read_exact(&mut answer).await.unwrap();
                    assert!(begins_well(&answer), "{answer:?}");
                    client.wait(HOUR).await;
                } else {
                    // It ends by itself.
                    client.assert_ends_in(0).await;
                }
            }
        }
    }

    /// M13. The client has sent nothing since its last answer. Its next request is answered.
    #[tokio::test(start_paused = true)]
    async fn m13_an_idle_connection_has_no_limit() {
        let post = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\na";
        let mut client = Client::connect_to_slow();
        client.write("!!").await;
        for parts in [[HALF, REST], [post, "bc"], [GET, ""]] {
            client.wait(HOUR).await;
            for part in parts {
                client.write(part).await;
                client.wait(secs(1)).await;
            }
            client.assert_is_answered().await;
        }
        client.wait(HOUR).await;
        drop(client.stream);
        client.served.await.unwrap();
    }

    /// M13. A client opens a connection before it has a request.
    #[tokio::test(start_paused = true)]
    async fn m13_an_idle_connection_has_no_limit_over_http_2() {
        let mut client = Client::connect();
        client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        client.wait(HOUR).await;
    }

    /// A client that is silent for a grace is given up, whatever it sent before.
    #[tokio::test(start_paused = true)]
    async fn what_has_begun_does_not_hold_the_drain() {
        for (before, sent) in
            [("", ""), ("", "G"), ("", HALF), ("", "PRI * HTTP/2"), (GET, ""), (GET, HALF), (GET, "\r\n")]
        {
            let mut client = Client::connect_and_send(before).await;
            client.write(sent).await;
            client.wait(secs(1)).await;
            client.shared.shutdown.set(());
            client.assert_ends_in(5).await;
        }
        for sent in ["", "!"] {
            let mut client = Client::connect_to_slow();
            client.write(sent).await;
            client.wait(secs(1)).await;
            client.shared.shutdown.set(());
            client.assert_ends_in(5).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_comes_slowly_is_answered_in_the_drain() {
        for before in ["", GET] {
            let mut client = Client::connect();
            // In one piece with the request before it: only hyper knows where that request ends.
            client.write(&format!("{before}{HALF}")).await;
            if !before.is_empty() {
                client.assert_is_answered().await;
            }
            client.wait(secs(1)).await;
            client.shared.shutdown.set(());
            for byte in REST.chars() {
                client.wait(Duration::from_millis(4900)).await;
                client.write(&byte.to_string()).await;
            }
            client.assert_is_answered().await;
        }
    }

    /// K9. A request has arrived at the moment at which the grace ends, and tokio does not know of it yet. A close would reset
    /// the connection and lose the answer.
    #[test]
    fn k9_a_request_that_crosses_the_close_is_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.unwrap();
        for before in ["", GET] {
            runtime.block_on(async {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                // Two descriptors of one socket. The test writes by the first one, without a turn of tokio's driver.
                let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                client.set_nonblocking(true).unwrap();
                let mut reading = TcpStream::from_std(client.try_clone().unwrap()).unwrap();
                let server = listener.accept().unwrap().0;
                server.set_nonblocking(true).unwrap();
                let server = TcpStream::from_std(server).unwrap();
                let activity = Arc::default();
                let connection = Connection::new(server, Arc::clone(&activity));
                let (served, shared) = begin(async { Ok(shaken(connection)) }, activity, &Builder::new());
                let mut served = pin!(served);
                let write = |text: &str| (&client).write_all(text.as_bytes()).unwrap();
                if !before.is_empty() {
                    write(before);
                    tokio::select! {
                        () = served.as_mut() => panic!("it has ended"),
                        () = take_answer(&mut reading) => {}
                    }
                }
                shared.shutdown.set(());
                let begins = poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx))).await;
                assert!(begins.is_pending(), "{before:?}: the grace has begun");
                tokio::time::sleep(secs(5)).await;
                write(GET);
                let ends = poll_fn(|cx| Poll::Ready(served.as_mut().poll(cx))).await;
                assert!(ends.is_pending(), "{before:?}: closed with a request in it");
                tokio::join!(served, async {
                    take_answer(&mut reading).await;
                    assert_eq!(reading.read(&mut [0]).await.unwrap(), 0, "{before:?}: it ends in order");
                });
            });
        }
    }
}
