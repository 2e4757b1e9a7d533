//! A server that misbehaves on command, and the losses that the client reports.

use tokio::{net::TcpListener, task::JoinHandle};

use super::*;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 37\r\n\r\nhello 0.1.0, generation 2, pid 12345\n";
const LAST_ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 37\r\nConnection: keep-alive, Close\r\n\r\n\
                           hello 0.1.0, generation 2, pid 12345\n";

/// Nothing here depends on how fast the machine is: a test that wants it otherwise says so.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server does next on a connection. It closes it at the end.
#[derive(Clone, Copy)]
enum Step {
    /// Reads a request.
    Read,
    Say(&'static str),
    /// Does nothing until the client has closed the connection.
    Hang,
    /// Ends the connection by a reset.
    Reset,
}
use Step::{Hang, Read, Reset, Say};

/// Accepts as many connections as there are scripts, one after the other, and does with each what its script says.
async fn server(scripts: Vec<Vec<Step>>) -> (Http, JoinHandle<io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut client = Http::new(listener.local_addr().expect("local address"), PATIENCE, None, false);
    client.crossing = PATIENCE;
    let task = tokio::spawn(async move {
        for script in scripts {
            let (stream, _) = listener.accept().await?;
            play(stream, &script).await?;
        }
        Ok(())
    });
    (client, task)
}

async fn play(mut stream: TcpStream, script: &[Step]) -> io::Result<()> {
    for step in script {
        match step {
            Read => {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
            Say(text) => stream.write_all(text.as_bytes()).await?,
            Hang => while !matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {},
            Reset => stream.set_zero_linger()?,
        }
    }
    Ok(())
}

/// How a request on a new connection that is treated like this is lost.
async fn lost_on_new(script: Vec<Step>) -> (Kind, Place) {
    let (client, _server) = server(vec![script]).await;
    let exchange = client.exchange(&mut None, false, true).await;
    assert!(exchange.opened.is_some());
    let loss = exchange.result.expect_err("there was no answer");
    assert_eq!(loss.last_pid, None);
    (loss.kind, loss.place)
}

/// How the second request on a connection that is treated like this is lost.
async fn lost_on_reused(script: Vec<Step>, change: impl FnOnce(&mut Http)) -> (Kind, Place) {
    let (mut client, _server) = server(vec![script]).await;
    let mut slot = None;
    client.exchange(&mut slot, false, true).await.result.expect("the first request is answered");
    change(&mut client);
    let exchange = client.exchange(&mut slot, false, true).await;
    assert!(exchange.opened.is_none() && slot.is_none());
    let loss = exchange.result.expect_err("there was no second answer");
    assert_eq!(loss.last_pid, Some(12345));
    (loss.kind, loss.place)
}

#[tokio::test]
async fn requests_are_answered_on_one_connection_until_the_server_says_close() {
    let (client, _server) =
        server(vec![vec![Read, Say(ANSWER), Read, Say(LAST_ANSWER)], vec![Read, Say(ANSWER)]]).await;
    let mut slot = None;
    let first = client.exchange(&mut slot, false, true).await;
    assert_eq!(first.result, Ok(Answer { generation: 2, pid: 12345, close: false }));
    assert!(first.opened.is_some() && !client.give_up_closed(&mut slot));

    let second = client.exchange(&mut slot, false, true).await;
    assert_eq!(second.result, Ok(Answer { generation: 2, pid: 12345, close: true }));
    assert!(second.opened.is_none() && slot.is_none());

    let third = client.exchange(&mut slot, false, true).await;
    assert!(third.result.is_ok() && third.opened.is_some());
}

#[tokio::test]
async fn where_answers_do_not_say_it_who_serves_is_known_by_the_connection_or_behind_a_proxy_by_the_time() {
    for (is_behind_a_proxy, second) in [(false, (1, 100)), (true, (2, 200))] {
        let (mut client, _server) = server(vec![vec![Read, Say(ANSWER), Read, Say(ANSWER)]]).await;
        let named = Named::new(100);
        (client.named, client.is_behind_a_proxy) = (Some(named.clone()), is_behind_a_proxy);
        let mut slot = None;
        for expected in [(1, 100), second] {
            let answer = client.exchange(&mut slot, false, true).await.result.expect("an answer");
            assert_eq!((answer.generation, answer.pid), expected);
            named.set(2, 200);
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_found_closed_is_replaced_and_loses_nothing() {
    for end in [vec![], vec![Reset]] {
        let script = [vec![Read, Say(ANSWER)], end].concat();
        let (client, _server) = server(vec![script, vec![Read, Say(ANSWER)]]).await;
        let mut slot = None;
        assert!(client.exchange(&mut slot, false, true).await.result.is_ok());
        let idle = slot.as_ref().expect("the connection is kept");
        drop(idle.stream.readable().await); // which the end of the connection makes it
        assert!(client.give_up_closed(&mut slot) && slot.is_none());

        let exchange = client.exchange(&mut slot, false, true).await;
        assert!(exchange.result.is_ok() && exchange.opened.is_some());
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = Http::new(listener.local_addr().expect("local address"), PATIENCE, None, false);
    drop(listener);
    let loss = client.exchange(&mut None, false, false).await.result.expect_err("nobody listens");
    assert_eq!((loss.kind, loss.place), (Kind::Refused, Place::NewConnection));
}

#[tokio::test]
async fn the_client_cannot_even_connect() {
    // No TCP connection leads to the broadcast address.
    let client = Http::new(SocketAddr::from(([255, 255, 255, 255], 80)), PATIENCE, None, false);
    let loss =
        client.exchange(&mut None, false, false).await.result.expect_err("there is no such connection");
    assert_eq!((loss.kind, loss.place), (Kind::Client, Place::NewConnection));
}

#[tokio::test]
async fn a_new_connection_comes_to_nothing() {
    assert_eq!(lost_on_new(vec![Read]).await, (Kind::EndOfFile, Place::NewConnection));
    assert_eq!(lost_on_new(vec![Read, Reset]).await, (Kind::Reset, Place::NewConnection));
}

#[tokio::test]
async fn a_new_connection_is_closed_before_anything_was_sent_on_it() {
    let (client, _server) = server(vec![vec![]]).await;
    let connection = client.connect().await.expect("connect");
    drop(connection.stream.readable().await);
    let loss =
        client.exchange(&mut Some(connection), false, false).await.result.expect_err("there is no answer");
    assert_eq!((loss.kind, loss.place), (Kind::EndOfFile, Place::NewConnection));
}

#[tokio::test]
async fn the_connection_ends_within_the_answer() {
    let half = Say(&ANSWER[..ANSWER.len() - 1]);
    assert_eq!(lost_on_new(vec![Read, half]).await, (Kind::EndOfFile, Place::InFlight));
    let reused = lost_on_reused(vec![Read, Say(ANSWER), Read, half], |_| ()).await;
    assert_eq!(reused, (Kind::EndOfFile, Place::InFlight));
}

#[tokio::test]
async fn a_keep_alive_connection_ends_at_once_after_a_request() {
    let ended = lost_on_reused(vec![Read, Say(ANSWER), Read], |_| ()).await;
    assert_eq!(ended, (Kind::EndOfFile, Place::CrossingClose));
    let reset = lost_on_reused(vec![Read, Say(ANSWER), Read, Reset], |_| ()).await;
    assert_eq!(reset, (Kind::Reset, Place::CrossingClose));
}

#[tokio::test]
async fn a_request_is_written_on_a_connection_that_was_closed_already() {
    let (client, _server) = server(vec![vec![Read, Say(ANSWER)]]).await;
    let mut slot = None;
    assert!(client.exchange(&mut slot, false, true).await.result.is_ok());
    let idle = slot.as_ref().expect("the connection is kept");
    drop(idle.stream.readable().await);
    // Nobody looked, as a client cannot whose server is far away.
    let loss = client.exchange(&mut slot, false, true).await.result.expect_err("there is no answer");
    assert_eq!((loss.kind, loss.place), (Kind::EndOfFile, Place::CrossingClose));
}

#[tokio::test]
async fn a_connection_ends_long_after_the_request() {
    // So long that the server must have read it: here, any time at all.
    let long_after = |client: &mut Http| client.crossing = Duration::ZERO;
    let ended = lost_on_reused(vec![Read, Say(ANSWER), Read], long_after).await;
    assert_eq!(ended, (Kind::EndOfFile, Place::InFlight));
}

#[tokio::test]
async fn the_server_never_answers() {
    let soon = |client: &mut Http| client.patience = Duration::from_millis(30);
    let reused = lost_on_reused(vec![Read, Say(ANSWER), Hang], soon).await;
    assert_eq!(reused, (Kind::Timeout, Place::InFlight));

    let (mut client, _server) = server(vec![vec![Hang]]).await;
    soon(&mut client);
    let loss = client.exchange(&mut None, false, true).await.result.expect_err("there was no answer");
    assert_eq!((loss.kind, loss.place), (Kind::Timeout, Place::NewConnection));
}

#[tokio::test]
async fn what_is_not_an_answer_of_hello_is_a_bad_one() {
    for garbage in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello 0.1.0, generation 2, pid 12345\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbye",
        "HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\nhello 0.1.0, generation 2, pid none\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nhello 0.1.0, generation 2, pid 12345\n",
    ] {
        let lost = lost_on_new(vec![Read, Say(garbage), Hang]).await;
        assert_eq!(lost, (Kind::BadAnswer, Place::InFlight), "{garbage:?}");
    }
    let long: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2 * HEAD)).into());
    assert_eq!(lost_on_new(vec![Read, Say(long), Hang]).await, (Kind::BadAnswer, Place::InFlight));
}

#[test]
fn an_answer_may_come_in_pieces() {
    for end in 0..ANSWER.len() {
        assert_eq!(parse(&ANSWER.as_bytes()[..end], None).expect("nothing is wrong yet"), None, "{end}");
    }
    let answer = parse(ANSWER.as_bytes(), None).expect("an answer");
    assert_eq!(answer, Some(Answer { generation: 2, pid: 12345, close: false }));
}
