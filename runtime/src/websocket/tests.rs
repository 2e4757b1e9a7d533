//! Sockets that are taken apart at every place, and go on.

use std::time::Duration;

use futures_util::{FutureExt, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::coop::unconstrained;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader, coding::CloseCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::socket::{Socket, accept, accept_with, into_parts, resume};

const SECOND: Duration = Duration::from_secs(1);
const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUATION: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const PONG: OpCode = OpCode::Control(Control::Pong);
const CLOSE: OpCode = OpCode::Control(Control::Close);

/// A frame of a client.
fn frame(is_last: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mask = Some(fastrand::u32(..).to_ne_bytes());
    let header = FrameHeader { is_final: is_last, opcode, mask, ..FrameHeader::default() };
    let mut out = Vec::new();
    Frame::from_payload(header, payload.to_vec().into()).format(&mut out).unwrap();
    out
}

/// The two ends of an open WebSocket.
async fn pair(room: usize) -> (WebSocketStream<DuplexStream>, Socket<DuplexStream>) {
    let (client, server) = duplex(room);
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (client, resume(server, None).await)
}

/// What there is without a wait, whatever the budget of the task.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    unconstrained(future).now_or_never()
}

/// Writes bytes for which there is room.
fn write(client: &mut WebSocketStream<DuplexStream>, bytes: &[u8]) {
    at_once(client.get_mut().write_all(bytes)).expect("there is room").unwrap();
}

/// The messages that are there.
fn messages(socket: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) -> Vec<Message> {
    std::iter::from_fn(|| at_once(socket.next()).map(|message| message.unwrap().unwrap())).collect()
}

/// Another socket in its place.
async fn moved(socket: Socket<DuplexStream>) -> Socket<DuplexStream> {
    let config = Some(*socket.get_config());
    into_parts(socket, SECOND).await.expect("it can be taken apart").resume(config).await
}

/// The same socket.
async fn stays(socket: Socket<DuplexStream>) -> Socket<DuplexStream> {
    into_parts(socket, SECOND).await.map(drop).expect_err("it cannot be taken apart")
}

/// What a client sends, and what comes out.
#[derive(Default)]
struct Script {
    wire: Vec<u8>,
    /// Without the Pings.
    messages: Vec<Message>,
    pongs: Vec<Message>,
}

impl Script {
    fn random(random: &mut fastrand::Rng) -> Self {
        let mut script = Self::default();
        for _ in 0..random.usize(1..12) {
            script.push_controls(random);
            let length = match random.u8(..) {
                0..100 => random.usize(..20),
                100..200 => random.usize(110..140),
                200..245 => random.usize(..3000),
                _ => random.usize(65_500..65_600),
            };
            let (opcode, message) = if random.bool() {
                let text: String =
                    (0..length).map(|_| random.choice(['a', 'é', '€', '𝄞']).unwrap()).collect();
                (TEXT, Message::text(text))
            } else {
                let data: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                (BINARY, Message::binary(data))
            };
            script.push(opcode, &message, random);
        }
        script.push_controls(random);
        script
    }

    /// Pings and Pongs.
    fn push_controls(&mut self, random: &mut fastrand::Rng) {
        while random.u8(..4) == 0 {
            let payload: Vec<u8> = (0..random.usize(..126)).map(|_| random.u8(..)).collect();
            if random.bool() {
                self.wire.extend(frame(true, PING, &payload));
                self.pongs.push(Message::Pong(payload.into()));
            } else {
                self.wire.extend(frame(true, PONG, &payload));
                self.messages.push(Message::Pong(payload.into()));
            }
        }
    }

    /// A message in fragments, often in one.
    fn push(&mut self, opcode: OpCode, message: &Message, random: &mut fastrand::Rng) {
        let payload = message.clone().into_data();
        let (mut rest, mut opcode) = (&payload[..], opcode);
        while random.bool() {
            let (fragment, after) = rest.split_at(random.usize(..=rest.len()));
            self.wire.extend(frame(false, opcode, fragment));
            (rest, opcode) = (after, CONTINUATION);
            self.push_controls(random);
        }
        self.wire.extend(frame(true, opcode, rest));
        self.messages.push(message.clone());
    }
}

/// Sends a script in pieces to a socket that is taken apart again and again, and that sends as well.
async fn play(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let script = Script::random(&mut random);
    let size = random.choice([1, 64, 4096, 128 * 1024]).unwrap();
    let config = WebSocketConfig::default().read_buffer_size(size);
    let (client, server) = duplex(1 << 24);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut socket = resume(server, Some(config)).await;
    let (mut taken, mut sent, mut at) = (Vec::new(), Vec::new(), 0);
    while at < script.wire.len() {
        let most = random.choice([1, 8, 200, 10_000, usize::MAX]).unwrap();
        let piece = &script.wire[at..][..random.usize(1..=most.min(script.wire.len() - at))];
        at += piece.len();
        write(&mut client, piece);
        for _ in 0..random.usize(..4) {
            match random.u8(..4) {
                0 => taken.extend(messages(&mut socket)),
                1 => taken.extend(at_once(socket.next()).map(|message| message.unwrap().unwrap())),
                2 => {
                    let message = Message::text("x".repeat(random.usize(..300)));
                    socket.feed(message.clone()).await.unwrap();
                    sent.push(message);
                }
                _ => socket = moved(socket).await,
            }
        }
    }
    socket = moved(socket).await;
    taken.extend(messages(&mut socket));
    socket.flush().await.unwrap();
    taken.retain(|message| !message.is_ping());
    assert!(taken == script.messages, "seed {seed}");
    let (pongs, texts): (Vec<_>, Vec<_>) = messages(&mut client).into_iter().partition(Message::is_pong);
    assert!(pongs == script.pongs, "seed {seed}");
    assert!(texts == sent, "seed {seed}");
}

#[tokio::test]
async fn every_message_comes_out_once_and_in_order() {
    for _ in 0..500 {
        play(fastrand::u64(..)).await;
    }
}

/// The socket is taken apart after each of these bytes of a message, and goes on.
async fn cut(message: Message, opcode: OpCode, cuts: impl IntoIterator<Item = usize>) {
    let wire = frame(true, opcode, &message.clone().into_data());
    for cut in cuts {
        let (mut client, mut socket) = pair(2 * wire.len() + 100).await;
        let (first, second) = wire.split_at(cut.min(wire.len()));
        // A message that is whole comes out before the cut, or after it.
        for is_taken in [true, false] {
            write(&mut client, first);
            let mut taken = if is_taken { messages(&mut socket) } else { Vec::new() };
            socket = moved(socket).await;
            write(&mut client, second);
            taken.extend(messages(&mut socket));
            assert!(taken == [message.clone()], "{} bytes cut at {cut}", wire.len());
        }
    }
}

#[tokio::test]
async fn a_frame_may_be_cut_at_every_byte() {
    let text = |length: usize| Message::text("€".repeat(length / 3) + &"x".repeat(length % 3));
    for length in [0, 1, 125, 126, 127] {
        cut(text(length), TEXT, 0..=length + 8).await;
    }
    for length in [65_535, 65_536] {
        cut(text(length), TEXT, (0..20).chain([length / 2, length + 5, length + 14])).await;
    }
    let data: Vec<u8> = (0..5_000_000).map(|_| fastrand::u8(..)).collect();
    cut(Message::binary(data), BINARY, [1, 13, 14, 15, 128 * 1024, 3_333_333, 5_000_013]).await;
}

/// Each part has only what belongs to the message that is not whole.
#[tokio::test]
async fn what_is_left_unread_is_no_more_than_the_rest() {
    let (mut client, mut socket) = pair(1 << 20).await;
    let (whole, part) = (frame(true, TEXT, &[b'a'; 70_000]), frame(false, TEXT, b"part"));
    write(&mut client, &[&whole[..], &frame(true, PING, b"1"), &part, &frame(true, PING, b"2")].concat());
    let taken = messages(&mut socket);
    assert_eq!(taken.len(), 3);
    let parts = into_parts(socket, SECOND).await.unwrap();
    assert_eq!(parts.unread, part);
    assert_eq!(messages(&mut client), [Message::Pong("1".into()), Message::Pong("2".into())]);
}

#[tokio::test]
async fn a_ping_that_nobody_has_taken_is_answered_once() {
    let (mut client, mut socket) = pair(1 << 20).await;
    write(&mut client, &[frame(true, TEXT, b"a"), frame(true, PING, b"b"), frame(true, TEXT, b"c")].concat());
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    for _ in 0..3 {
        socket = moved(socket).await;
    }
    assert_eq!(messages(&mut client), [Message::Pong("b".into())]);
    assert_eq!(messages(&mut socket), [Message::text("c")]);
}

#[tokio::test]
async fn a_close_that_was_read_keeps_the_socket() {
    let (mut client, mut socket) = pair(1 << 20).await;
    let close = frame(true, CLOSE, &1000u16.to_be_bytes());
    let texts = [frame(true, TEXT, b"a"), frame(true, TEXT, b"b")].concat();
    // A part of the Close may go.
    write(&mut client, &[&texts[..], &close[..close.len() - 1]].concat());
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    socket = moved(socket).await;
    write(&mut client, &close[close.len() - 1..]);
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("b"));
    assert!(socket.next().await.unwrap().unwrap().is_close());
    // Its answer is on its way, or the end is reached.
    socket = stays(socket).await;
    assert!(socket.next().await.is_none());
    stays(socket).await;
    assert!(client.next().await.unwrap().unwrap().is_close());

    // The Close was read with what comes before it.
    let (mut client, mut socket) = pair(1 << 20).await;
    write(&mut client, &[&texts[..], &close].concat());
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    let mut socket = stays(socket).await;
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("b"));
    assert!(socket.next().await.unwrap().unwrap().is_close());
}

#[tokio::test]
async fn a_close_that_was_written_keeps_the_socket() {
    let (mut client, mut socket) = pair(1 << 20).await;
    let frame = CloseFrame { code: CloseCode::Restart, reason: "upgrade".into() };
    // Also one that is not flushed.
    socket.feed(Message::Close(Some(frame.clone()))).await.unwrap();
    let mut socket = stays(socket).await;
    socket.flush().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Close(Some(frame)));
    assert!(at_once(client.next()).is_none_or(|message| message.unwrap().is_err()));
    assert!(socket.next().await.unwrap().unwrap().is_close());
    stays(socket).await;
}

#[tokio::test]
async fn an_end_of_the_stream_keeps_the_socket() {
    let (mut client, mut socket) = pair(1 << 20).await;
    client.get_mut().shutdown().await.unwrap();
    assert!(socket.next().await.unwrap().is_err());
    assert!(stays(socket).await.next().await.is_none());
}

/// What comes before it is not lost.
#[tokio::test]
async fn an_error_of_the_peer_keeps_the_socket() {
    let texts = [frame(true, TEXT, b"a"), frame(true, TEXT, b"b"), frame(true, TEXT, b"c")].concat();
    for wrong in [frame(true, TEXT, b"\xff"), frame(true, CONTINUATION, b""), vec![0x81, 0], vec![0xf1, 0x80]]
    {
        let (mut client, mut socket) = pair(1 << 20).await;
        write(&mut client, &[&texts[..], &wrong, &texts].concat());
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
        // Nobody asks a second time.
        let mut socket = stays(stays(socket).await).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("b"));
        let mut socket = stays(socket).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("c"));
        let error = socket.next().await.unwrap().unwrap_err();
        assert!(
            matches!(&error, Error::Io(error) if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>)),
            "{error:?}"
        );
        assert!(socket.next().await.is_none());
        socket.send(Message::text("a farewell")).await.unwrap();
        assert_eq!(messages(&mut client), [Message::text("a farewell")]);
    }
}

#[tokio::test]
async fn a_message_that_is_written_in_fragments_keeps_the_socket() {
    let (mut client, mut socket) = pair(1 << 20).await;
    let fragments = [(false, TEXT, "a"), (false, CONTINUATION, "b"), (true, CONTINUATION, "c")];
    for (is_last, opcode, text) in fragments {
        socket.send(Message::Frame(Frame::message(text, opcode, is_last))).await.unwrap();
        socket = if is_last { moved(socket).await } else { stays(socket).await };
    }
    assert_eq!(messages(&mut client), [Message::text("abc")]);
}

/// The time is paused: it passes as soon as every task waits.
#[tokio::test(start_paused = true)]
async fn an_output_that_waits_keeps_the_socket_and_is_sent_once() {
    let room = 1000;
    let (mut client, mut socket) = pair(room).await;
    let message = |number: usize| Message::text(number.to_string().repeat(300));
    for number in 0..10 {
        socket.feed(message(number)).await.unwrap();
    }
    // It wants to be written, and cannot be.
    assert!(at_once(socket.flush()).is_none());
    write(
        &mut client,
        &[frame(true, TEXT, b"a"), frame(true, PING, b"ping"), frame(true, TEXT, b"b")].concat(),
    );
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("a"));
    let before = tokio::time::Instant::now();
    for tries in 1..=2 {
        socket = stays(socket).await;
        assert_eq!(before.elapsed(), SECOND * tries);
    }
    socket.feed(message(10)).await.unwrap();
    // The peer reads again while it is waited for.
    let reads = async {
        let mut read = Vec::new();
        while read.len() < 12 {
            read.push(client.next().await.unwrap().unwrap());
        }
        read
    };
    let (mut socket, read) = tokio::join!(moved(socket), reads);
    assert_eq!(messages(&mut socket), [Message::text("b")]);
    let mut all: Vec<_> = (0..10).map(message).collect();
    all.extend([Message::Pong("ping".into()), message(10)]);
    assert_eq!(read, all);
    assert!(at_once(client.next()).is_none());
}

struct AddHeader;

impl Callback for AddHeader {
    fn on_request(self, _request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        response.headers_mut().insert("x-seen", "1".parse().unwrap());
        Ok(response)
    }
}

/// What a socket that stays has still to send is sent by a task that only reads, as tungstenite does with the answer to a Ping.
#[tokio::test(start_paused = true)]
async fn a_socket_that_stays_and_reads_sends_its_output() {
    let (mut client, mut socket) = pair(1000).await;
    let message = Message::text("x".repeat(3000));
    socket.feed(message.clone()).await.unwrap();
    let mut socket = stays(socket).await;
    let read = tokio::select! {
        read = socket.next() => panic!("{read:?}"),
        read = client.next() => read.unwrap().unwrap(),
    };
    assert!(read == message);
    // The peer is gone before it has read all of it.
    socket.feed(message).await.unwrap();
    let mut socket = stays(socket).await;
    drop(client);
    let error = socket.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe),
        "{error:?}"
    );
}

/// A handshake, with a callback, and the first message right after it.
#[tokio::test]
async fn a_handshake_is_none_of_the_frames() {
    let (client, server) = duplex(1 << 20);
    let accepted = accept_with(server, AddHeader, None);
    let (socket, connected) = tokio::join!(accepted, client_async("ws://localhost/", client));
    let (mut client, response) = connected.unwrap();
    assert_eq!(response.headers()["x-seen"], "1");
    let mut socket = socket.unwrap();
    let message = Message::binary(vec![7; 100]);
    client.send(message.clone()).await.unwrap();
    client.send(message.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), message);
    let mut socket = moved(socket).await;
    assert_eq!(messages(&mut socket), std::slice::from_ref(&message));
    socket.send(message.clone()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), message);
}

#[tokio::test]
async fn a_request_that_is_no_handshake_is_refused() {
    let (mut client, server) = duplex(1 << 20);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(accept(server).await.is_err());
    assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}
