//! WebSockets that move to the successor with what they know, or are told to connect again.
#![cfg(all(upgrades, feature = "websocket"))]

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tableflip::net::Resumed;
use tableflip::testing;
use tableflip::websocket::tokio_tungstenite::tungstenite::protocol::frame::coding::{
    CloseCode, Data, OpCode,
};
use tableflip::websocket::tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tableflip::websocket::tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};
use tableflip::websocket::{self, Managed, Socket};
use tableflip::{Failure, Service, Session, Shutdown, Start};

const LIMIT: Duration = Duration::from_secs(10);

fn declared() -> Service {
    Service::new().listen("ws", "tcp://127.0.0.1:0").probation("0s")
}

/// A release of the service. A message is answered with its number and the generation.
#[derive(Clone, Copy)]
struct Release {
    generation: u32,
    kind: &'static str,
}

impl Release {
    async fn count<S: Managed>(
        self,
        mut socket: Socket<S>,
        mut count: u32,
        mut shutdown: Shutdown,
    ) -> Result<(), Error> {
        loop {
            tokio::select! {
                message = socket.next() => match message.transpose()? {
                    Some(Message::Text(text)) => {
                        count += 1;
                        let Self { generation, .. } = self;
                        socket.send(format!("{count} {generation} {text}").into()).await?;
                    }
                    Some(_) => {}
                    None => return Ok(()),
                },
                () = &mut shutdown => break,
            }
        }
        let session = Session::new(self.kind).state(count.to_be_bytes());
        match websocket::hand_over(socket, session).await {
            Ok(()) => Ok(()),
            Err(mut socket) => {
                socket.close(Some(CloseFrame { code: CloseCode::Restart, reason: "".into() })).await?;
                while socket.next().await.transpose()?.is_some() {}
                Ok(())
            }
        }
    }

    /// Takes what its predecessor hands over, until the drain.
    async fn take<S: Managed + From<tableflip::net::TcpStream> + Send + 'static>(
        self,
        mut resumed: Resumed<tableflip::net::TcpStream>,
        mut shutdown: Shutdown,
    ) {
        loop {
            let offer = tokio::select! {
                offer = resumed.next() => offer,
                () = &mut shutdown => return,
            };
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let count = u32::from_be_bytes(offer.state().try_into().expect("four bytes"));
                let socket = websocket::resume(S::from(offer.take().await?), None).await;
                self.count(socket, count, shutdown).await
            });
        }
    }

    /// On a listener of its own.
    fn alone(self) -> Prepare {
        Box::new(move |start| {
            let ws: tableflip::net::TcpListener = start.listener("ws")?;
            let shutdown: Shutdown = start.handle()?;
            let taking = self.take::<tableflip::net::TcpStream>(ws.resumed([self.kind]), shutdown.clone());
            Ok(Box::pin(async move {
                let accepting = async {
                    loop {
                        let (stream, shutdown) = (ws.accept().await?.0, shutdown.clone());
                        tokio::spawn(async move {
                            self.count(websocket::accept(stream).await?, 0, shutdown).await
                        });
                    }
                };
                tokio::select! {
                    () = taking => Ok(()),
                    result = accepting => result,
                }
            }))
        })
    }

    /// Behind a path of an HTTP service.
    #[cfg(feature = "http")]
    fn behind_http(self) -> Prepare {
        use hyper::{Request, Response, body::Incoming, service::service_fn};
        use tableflip::websocket::Upgraded;

        Box::new(move |start| {
            let ws: tableflip::net::TcpListener = start.listener("ws")?;
            let shutdown: Shutdown = start.handle()?;
            let taking = self.take::<Upgraded>(ws.resumed([self.kind]), shutdown.clone());
            let answer = move |mut request: Request<Incoming>| {
                let answer: Response<String> = match websocket::upgrade(&mut request, None) {
                    Ok((answer, opening)) => {
                        let shutdown = shutdown.clone();
                        tokio::spawn(async move { self.count(opening.socket().await?, 0, shutdown).await });
                        answer
                    }
                    Err(refusal) => refusal,
                };
                std::future::ready(Ok::<_, std::convert::Infallible>(answer))
            };
            Ok(Box::pin(async move {
                let (served, ()) = tokio::join!(tableflip::http::serve(ws, service_fn(answer)), taking);
                served
            }))
        })
    }
}

type Prepare = Box<dyn FnOnce(&mut Start) -> Result<Body, Failure> + Send>;
type Body = std::pin::Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

struct Client {
    socket: WebSocket<TcpStream>,
}

impl Client {
    fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket: client("ws://localhost/", stream).unwrap().0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).unwrap();
    }

    fn read(&mut self) -> String {
        self.socket.read().expect("the connection stays").into_text().unwrap().to_string()
    }

    fn ask(&mut self, text: &str) -> String {
        self.socket.send(Message::text(text)).unwrap();
        self.read()
    }

    fn assert_is_sent_away(&mut self) {
        let Message::Close(Some(frame)) = self.socket.read().unwrap() else { panic!("no Close with a code") };
        assert_eq!(frame.code, CloseCode::Restart);
    }
}

fn frame(is_final: bool, data: Data, payload: &str) -> Vec<u8> {
    let header =
        FrameHeader { is_final, opcode: OpCode::Data(data), mask: Some([1, 2, 3, 4]), ..Default::default() };
    let mut out = Vec::new();
    Frame::from_payload(header, payload.to_owned().into()).format(&mut out).unwrap();
    out
}

#[test]
fn sockets_go_on_in_each_successor() {
    go_on(Release::alone);
}

#[cfg(feature = "http")]
#[test]
fn sockets_of_an_http_service_go_on_in_each_successor() {
    go_on(Release::behind_http);
}

fn go_on(prepare: fn(Release) -> Prepare) {
    let release = |generation| prepare(Release { generation, kind: "count/1" });
    let mut service = testing::start(declared(), release(1)).unwrap();
    let server = service.address("ws").unwrap();
    let (mut idle, mut asking, mut long) =
        (Client::connect(server), Client::connect(server), Client::connect(server));
    assert_eq!(idle.ask("a"), "1 1 a");
    assert_eq!(long.ask("b"), "1 1 b");
    long.write(&frame(false, Data::Text, "0"));
    for generation in 2..=5 {
        // A part of a frame, which is cut elsewhere each time.
        let part = frame(false, Data::Continue, &generation.to_string().repeat(100_000));
        let (first, second) = part.split_at(generation as usize * generation as usize * 4000);
        long.write(first);
        assert_eq!(asking.ask("x"), format!("{} {} x", 2 * generation - 3, generation - 1));
        let next = service.replace(declared(), release(generation)).unwrap();
        // It ends because nothing is left in it.
        service.wait().expect("the body has returned").unwrap();
        service = next;
        assert_eq!(asking.ask("y"), format!("{} {generation} y", 2 * generation - 2));
        long.write(second);
    }
    assert_eq!(idle.ask("c"), "2 5 c");
    long.write(&frame(true, Data::Continue, ""));
    let text = long.read();
    let expected: String = (2..=5).map(|generation| generation.to_string().repeat(100_000)).collect();
    assert!(text == format!("2 5 0{expected}"), "{} bytes", text.len());
    // A stop is no upgrade.
    let stopped = std::thread::spawn(|| service.stop());
    for client in [&mut idle, &mut asking, &mut long] {
        client.assert_is_sent_away();
        client.socket.read().expect_err("the end");
    }
    stopped.join().unwrap().expect("the body has returned").unwrap();
}

#[test]
fn a_socket_of_another_kind_is_told_to_connect_again() {
    let old = testing::start(declared(), Release { generation: 1, kind: "count/1" }.alone()).unwrap();
    let server = old.address("ws").unwrap();
    let mut client = Client::connect(server);
    assert_eq!(client.ask("a"), "1 1 a");
    let new = old.replace(declared(), Release { generation: 2, kind: "count/2" }.alone()).unwrap();
    client.assert_is_sent_away();
    client.socket.read().expect_err("the end");
    old.wait().expect("the body has returned").unwrap();
    assert_eq!(Client::connect(server).ask("b"), "1 2 b");
    new.stop();
}
