//! B13: a service of HTTP learns the address of its client.
#![cfg(all(feature = "http", feature = "axum-08"))]

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;

use axum::Router;
use axum::extract::{ConnectInfo, Extension};
use axum::routing::get;
use axum::serve::ListenerExt;
use tableflip::http::{Connection, PeerAddr, serve, with_connect_info, with_handshake};
use tableflip::net::TcpListener;
use tableflip::{Service, testing};
use tokio::io::AsyncReadExt;

type Body = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

/// Answers with the address that axum knows.
fn app() -> Router {
    Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
}

/// What a client sends: HTTP/1.1 with one request after another, and before it what a handshake reads.
fn request(before: &str) -> String {
    let get = |more| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    format!("{before}{}{}", get(""), get("Connection: close\r\n"))
}

/// Whether both answers of a service have the address of the client.
fn knows_its_client(before: &str, serve: impl Fn(TcpListener) -> Body + Send + 'static) -> bool {
    let service = testing::start(Service::new().listen("http", "tcp://127.0.0.1:0"), move |start| {
        Ok(serve(start.listener("http")?))
    });
    let service = service.unwrap();
    let know = [(); 2].map(|()| {
        let mut client = TcpStream::connect(service.address("http").unwrap()).unwrap();
        client.write_all(request(before).as_bytes()).unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        let address = client.local_addr().unwrap().to_string();
        println!("{address}: {answers}");
        answers.matches(&address).count() == 2 && answers.matches("HTTP/1.1 200 ").count() == 2
    });
    service.stop();
    know == [true; 2]
}

#[test]
fn b13_axum_finds_its_connect_info() {
    assert!(knows_its_client("", |http| Box::pin(serve(http, app()))));
}

/// As the pages of axum have it. It needs nothing of axum in `tableflip`.
#[test]
fn b13_a_make_service_with_connect_info_is_served() {
    assert!(knows_its_client("", |http| {
        Box::pin(serve(http, app().into_make_service_with_connect_info::<SocketAddr>()))
    }));
    // The type of the user, made of the address.
    #[derive(Clone)]
    struct Peer(String);
    impl axum::extract::connect_info::Connected<SocketAddr> for Peer {
        fn connect_info(peer: SocketAddr) -> Self {
            Peer(peer.to_string())
        }
    }
    assert!(knows_its_client("", |http| {
        let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.0));
        Box::pin(serve(http, app.into_make_service_with_connect_info::<Peer>()))
    }));
    // A service that is made without it.
    assert!(knows_its_client("", |http| Box::pin(serve(http, app().into_make_service()))));
}

#[test]
fn b13_axum_serve_has_the_connect_info() {
    assert!(knows_its_client("", |http| {
        Box::pin(async move {
            let app = app().into_make_service_with_connect_info::<SocketAddr>();
            axum::serve(http.tap_io(|_| {}), app).await
        })
    }));
}

#[test]
fn b13_every_request_has_the_address_without_a_framework() {
    assert!(knows_its_client("", |http| {
        let whoami = async |Extension(PeerAddr(peer)): Extension<PeerAddr<SocketAddr>>| peer.to_string();
        Box::pin(serve(http, Router::new().route("/", get(whoami))))
    }));
}

/// The information about a connection stands beside a handshake, before and after it. The later value of a type counts.
#[test]
fn b13_what_a_handshake_has_shown_reaches_the_requests() {
    #[derive(Clone, PartialEq)]
    struct Before(SocketAddr);
    #[derive(Clone)]
    struct Word(u8);
    async fn whoami(
        Extension(Before(before)): Extension<Before>,
        Extension(Word(word)): Extension<Word>,
        ConnectInfo(peer): ConnectInfo<SocketAddr>,
    ) -> String {
        assert_eq!((before, word), (peer, b'2'));
        peer.to_string()
    }
    assert!(knows_its_client("12", |http| {
        let http = with_connect_info(http, |stream, peer| {
            assert_eq!(stream.peer_addr().unwrap(), *peer);
            Before(*peer)
        });
        let http = with_handshake(http, one_byte, |_| None);
        let http = with_connect_info(http, |stream, _| Word(stream.1));
        let http = with_handshake(http, async |stream: Read1| one_byte(stream.0).await, |_| None);
        let http = with_connect_info(http, |stream, _| Word(stream.1));
        Box::pin(serve(http, Router::new().route("/", get(whoami))))
    }));
}

/// A stream after a handshake of one byte, and that byte.
struct Read1(Connection<tableflip::net::TcpStream>, u8);

async fn one_byte(mut stream: Connection<tableflip::net::TcpStream>) -> io::Result<Read1> {
    let byte = stream.read_u8().await?;
    Ok(Read1(stream, byte))
}

impl tokio::io::AsyncRead for Read1 {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Read1 {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Both handshakes of two run, the inner one first.
#[test]
fn a_handshake_around_another_one_skips_none() {
    assert!(!knows_its_client("", |http| {
        let http = with_handshake(http, one_byte, |_| None);
        Box::pin(serve(with_handshake(http, async |stream: Read1| one_byte(stream.0).await, |_| None), app()))
    }));
    assert!(knows_its_client("ab", |http| {
        let http = with_handshake(http, one_byte, |_| None);
        let http = with_handshake(
            http,
            async |stream: Read1| {
                assert_eq!(stream.1, b'a');
                one_byte(stream.0).await
            },
            |_| None,
        );
        Box::pin(serve(http, app()))
    }));
}

#[cfg(unix)]
#[test]
fn b13_the_address_of_a_unix_client_is_there() {
    use std::os::unix::net::{SocketAddr, UnixStream};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http");
    let address = format!("unix://{}", path.display());
    let service = testing::start(Service::new().listen("http", &*address), |start| {
        let http: tableflip::net::UnixListener = start.listener("http")?;
        let whoami = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("{}", peer.is_unnamed());
        Ok(serve(http, Router::new().route("/", get(whoami))))
    });
    let service = service.unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(request("").as_bytes()).unwrap();
    let mut answers = String::new();
    client.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("true").count(), 2, "{answers}");
    service.stop();
}
