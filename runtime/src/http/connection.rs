//! One connection, from its first byte to its end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::BoxError;
use super::activity::{Activity, Version};
use super::answer::Answering;
use super::notice::Noticing;
use super::version::detect;
use crate::base::report::tell;
use crate::between::drain::Shutdown;

/// How long a connection without a request stays open once the drain has begun.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// How much of the drain is kept for the answers, whatever the grace.
const IDLE_GRACE_SHARE: u32 = 2;

/// How long an HTTP/2 connection has for a request to come with which it is told, and how long after that its last GOAWAY
/// comes.
const NOTICE: Duration = Duration::from_secs(1);

/// How long a client has for its handshake, and for the head of a request from its first byte on.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How far the end of a connection is.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    /// The drain has begun, and it may have a request to come.
    Draining,
    /// It is HTTP/2, and has its first GOAWAY.
    Told,
    /// It is told to end, and the client is to be heard of once more: an HTTP/2 connection ends with its answer to a PING.
    Closing,
    /// The client has been heard of, and what is open is served to its end.
    Finishing,
}

/// Serves one connection to its end, which it brings about once the drain has begun.
pub(super) async fn serve<H, I, S, B>(
    io: H,
    service: Answering<S>,
    activity: Arc<Activity>,
    mut shutdown: Shutdown,
) where
    H: Future<Output = Result<I, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let grace = IDLE_GRACE.min(shutdown.drain_timeout() / IDLE_GRACE_SHARE);
    let notice = NOTICE.min(grace / 2);
    // In time before the deadline, though the grace and the notice come before it.
    let farewell = grace.min((shutdown.drain_timeout() - grace - notice) / 2);
    let mut conversation = pin!(converse(io, service, &activity));
    let mut patience = pin!(tokio::time::sleep(grace));
    let mut phase = Phase::Serving;
    // What of the client's has a limit, for as long as `Phase::Serving`.
    let mut limited: Option<usize> = None;
    let mut watching: Option<Waker> = None;
    let close = |activity: &Activity, patience: Pin<&mut Sleep>| {
        activity.close();
        activity.look();
        patience.reset(Instant::now() + farewell);
        Phase::Closing
    };
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            phase = match phase {
                // A request has come after the hand-over, and brought the notice about.
                Phase::Serving | Phase::Draining if activity.is_told() => {
                    patience.as_mut().reset(Instant::now() + notice);
                    Phase::Told
                }
                Phase::Serving => {
                    let unfinished = activity.unfinished();
                    if unfinished != limited {
                        limited = unfinished;
                        if limited.is_some() {
                            patience.as_mut().reset(Instant::now() + HEAD_LIMIT);
                        }
                    }
                    if limited.is_some() && patience.as_mut().poll(cx).is_ready() {
                        let late = "neither the handshake nor the head of a request was whole in time";
                        return Poll::Ready(Err(late.into()));
                    }
                    // Polled once for each waker, for that takes a lock which all connections share.
                    if !shutdown.is_raised()
                        && watching.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
                    {
                        return Poll::Pending;
                    }
                    watching = Some(cx.waker().clone());
                    ready!(Pin::new(&mut shutdown).poll(cx));
                    let wait = if activity.can_be_told() { notice } else { grace };
                    patience.as_mut().reset(Instant::now() + wait);
                    // Whatever has been read before, the grace is for what comes from now on.
                    activity.look();
                    Phase::Draining
                }
                Phase::Draining => {
                    ready!(patience.as_mut().poll(cx));
                    // hyper looks for a request once more, and this time the socket itself is asked: a request that has
                    // arrived and of which tokio has not heard yet is served.
                    activity.probe();
                    if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
                        return Poll::Ready(ended);
                    }
                    match activity.version() {
                        Some(Version::Http2) => {
                            activity.tell();
                            Phase::Draining
                        }
                        // Its answer ends it. Should that be under way already, without `Connection: close`, it is idle
                        // next.
                        _ if activity.look() || !activity.is_idle() => {
                            patience.as_mut().reset(Instant::now() + grace);
                            Phase::Draining
                        }
                        // hyper would wait for the first request, whatever it is told.
                        _ if !activity.was_asked() => return Poll::Ready(Ok(())),
                        _ => close(&activity, patience.as_mut()),
                    }
                }
                Phase::Told => {
                    ready!(patience.as_mut().poll(cx));
                    close(&activity, patience.as_mut())
                }
                Phase::Closing => {
                    ready!(patience.as_mut().poll(cx));
                    activity.probe();
                    if let Poll::Ready(ended) = conversation.as_mut().poll(cx) {
                        return Poll::Ready(ended);
                    }
                    if activity.look() {
                        Phase::Finishing
                    } else if activity.is_idle() {
                        // Nothing is owed to a client that is gone.
                        return Poll::Ready(Ok(()));
                    } else {
                        patience.as_mut().reset(Instant::now() + farewell);
                        Phase::Closing
                    }
                }
                Phase::Finishing => return Poll::Pending,
            };
        }
    })
    .await;
    // A client that goes away, or does not speak HTTP, ends its own connection.
    if let Err(error) = ended {
        tell!(shutdown.shared(), DEBUG, error, "an HTTP connection ended early");
    }
}

/// Shakes hands, finds out which version of HTTP it is, and speaks it.
async fn converse<H, I, S, B>(io: H, service: Answering<S>, activity: &Arc<Activity>) -> Result<(), BoxError>
where
    H: Future<Output = Result<I, BoxError>>,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let io = io.await?;
    activity.shook_hands();
    let Some((version, io)) = detect(io, activity.clone()).await? else { return Ok(()) };
    activity.speaks(version);
    match version {
        Version::Http1 => {
            let io = TokioIo::new(io);
            // Without a timer, and so without its limit for the head of a request, which counts from the last answer on: it
            // would close idle connections, and lose what crosses that.
            let connection = http1::Builder::new().serve_connection(io, service).with_upgrades();
            until_closed(connection, activity, http1::UpgradeableConnection::graceful_shutdown).await?;
        }
        Version::Http2 => {
            let io = TokioIo::new(Noticing::new(io, activity.clone()));
            let mut http = http2::Builder::new(TokioExecutor::new());
            // For WebSockets, RFC 8441.
            http.enable_connect_protocol();
            let connection = http.serve_connection(io, service);
            until_closed(connection, activity, http2::Connection::graceful_shutdown).await?;
        }
    }
    Ok(())
}

/// A connection, which is told when it is to end.
async fn until_closed<C: Future>(
    connection: C,
    activity: &Activity,
    close: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    let mut told = false;
    poll_fn(|cx| {
        if !told && activity.is_closing() {
            close(connection.as_mut());
            told = true;
        }
        connection.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::between::shared::Shared;
    use crate::http::activity::{Connection, is_quiet};
    use crate::http::sealed::Stream;

    impl Stream for DuplexStream {
        /// What has been written to the other end is known at once.
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

    /// The client's end of a connection that is served, in time that passes as soon as everybody waits.
    struct Client {
        stream: DuplexStream,
        served: JoinHandle<()>,
        shared: Arc<Shared>,
    }

    impl Client {
        fn connect() -> Self {
            Self::shake_hands(|connection| async { Ok(connection) })
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

        /// Its handshake is two bytes.
        fn connect_to_slow() -> Self {
            Self::shake_hands(|mut connection| async {
                connection.read_u16().await?;
                Ok(connection)
            })
        }

        fn shake_hands<H>(handshake: impl FnOnce(Connection<DuplexStream>) -> H) -> Self
        where
            H: Future<Output = Result<Connection<DuplexStream>, BoxError>> + Send + 'static,
        {
            let (stream, server) = tokio::io::duplex(1024);
            let activity = Arc::default();
            let io = handshake(Connection::new(server, Arc::clone(&activity)));
            let (served, shared) = begin(io, activity);
            Self { stream, served: tokio::spawn(served), shared }
        }

        async fn write(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).await.unwrap();
        }

        async fn assert_is_answered(&mut self) {
            take_answer(&mut self.stream).await;
        }

        /// It is closed, and so many seconds from now.
        async fn assert_ends_in(self, seconds: u64) {
            let now = Instant::now();
            self.served.await.unwrap();
            // A timer of tokio has milliseconds.
            assert_eq!(now.elapsed().as_secs_f32().round() as u64, seconds);
        }

        async fn wait(&self, time: Duration) {
            tokio::time::sleep(time).await;
            assert!(!self.served.is_finished());
        }
    }

    /// The service of a connection, which is yet to be polled.
    fn begin<I, H>(io: H, activity: Arc<Activity>) -> (impl Future<Output = ()>, Arc<Shared>)
    where
        I: Stream,
        H: Future<Output = Result<Connection<I>, BoxError>>,
    {
        let shared = Arc::new(Shared::new(1, false, Duration::from_secs(30)).unwrap());
        let service = service_fn(|mut request: Request<Incoming>| async move {
            while poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx)).await.is_some() {}
            Ok::<_, Infallible>(Response::new("yes".to_owned()))
        });
        let shutdown = Shutdown::new(shared.clone());
        let service = Answering::new(service, shutdown.clone(), activity.clone());
        (serve(io, service, activity, shutdown), shared)
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
            // What comes meanwhile does not prolong it.
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

    /// M13. It has sent nothing since its last answer, and what it sends next is to be answered.
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

    /// A channel that is opened in advance.
    #[tokio::test(start_paused = true)]
    async fn m13_an_idle_connection_has_no_limit_over_http_2() {
        let mut client = Client::connect();
        client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        client.wait(HOUR).await;
    }

    /// Whoever is silent for a grace is given up, whatever was sent before.
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
            // In one piece with the request before it, of which nobody but hyper knows.
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

    /// K9. A request has arrived of which tokio has not heard, at the very moment at which the grace is over: a close would
    /// reset the connection, and lose the answer.
    #[test]
    fn k9_a_request_that_crosses_the_close_is_answered() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.unwrap();
        for before in ["", GET] {
            runtime.block_on(async {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                // One and the same: what is written by the first, tokio does not hear of.
                let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                client.set_nonblocking(true).unwrap();
                let mut reading = TcpStream::from_std(client.try_clone().unwrap()).unwrap();
                let server = listener.accept().unwrap().0;
                server.set_nonblocking(true).unwrap();
                let server = TcpStream::from_std(server).unwrap();
                let activity = Arc::default();
                let connection = Connection::new(server, Arc::clone(&activity));
                let (served, shared) = begin(async { Ok(connection) }, activity);
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
