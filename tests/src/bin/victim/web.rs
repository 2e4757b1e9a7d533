//! A listener of the name `http` speaks HTTP: `/` says who answers, `/gate/NAME` once the test has opened that gate,
//! `/stream/NAME` half of that at once and half then; `/count` counts what is sent to it, `/until-shutdown` answers when the
//! service is told to finish, `/switch` becomes a connection that echoes, and `/farewell/NAME` one that is silent until the service
//! is told to finish, and then, once the test has opened that gate, says who it was. On one of the name `slow` each connection
//! sends a byte before HTTP, for a handshake; one of the name `axum` is served by `axum::serve`.
//!
//! At the point `get` of its plan a process answers in another way, on every listener: `get status STATUS TEXT`, or `get hang`
//! not at all. On a listener without HTTP there are also `get bytes TEXT` and `get endless TEXT`, which send the text, with `|` for each
//! end of a line, once or without end; then the connection is closed.

use std::io;
use std::process;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{get, post};
use http_body_util::channel::Channel;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tableflip::net::TcpListener;
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy, split,
};

use crate::Victim;
use crate::plan::Plan;

pub(crate) async fn serve(victim: Arc<Victim>, name: String, listener: TcpListener) {
    let shutdown = victim.shutdown.clone();
    let router = router(victim);
    let served = match name.as_str() {
        "axum" => axum::serve(listener, router).with_graceful_shutdown(shutdown).await,
        "http" => {
            let moves = std::env::var_os("VICTIM_HTTP_STAYS").is_none();
            tableflip::http::Builder::new().move_connections(moves).serve(listener, router).await
        }
        _ => {
            let listener = tableflip::http::with_handshake(listener, shake_hands, |_| None);
            tableflip::http::serve(listener, router).await
        }
    };
    served.expect("the listener is useful to the end");
}

fn router(victim: Arc<Victim>) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/gate/{name}", get(gate))
        .route("/stream/{name}", get(stream))
        .route("/until-shutdown", get(until_shutdown))
        .route("/count", post(count))
        .route("/switch", get(switch))
        .route("/farewell/{name}", get(farewell))
        .with_state(victim)
}

async fn shake_hands<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<S> {
    stream.read_u8().await?;
    Ok(stream)
}

async fn who(State(victim): State<Arc<Victim>>) -> String {
    format!("{} {}", victim.upgrader.generation(), process::id())
}

async fn front(State(victim): State<Arc<Victim>>) -> (StatusCode, String) {
    for verb in Plan::of_this_process().at("get") {
        match verb.split_once(' ').unwrap_or((verb, "")) {
            ("status", answer) => {
                let (status, text) = answer.split_once(' ').expect("a status and a text");
                return (status.parse().expect("a status"), text.to_owned());
            }
            ("hang", _) => std::future::pending().await,
            _ => blocking(&victim, verb).await,
        }
    }
    (StatusCode::OK, who(State(victim)).await)
}

/// Answers a request whose first line has been read.
pub(crate) async fn answer_get(
    victim: Arc<Victim>,
    mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>,
) {
    let mut line = String::new();
    while matches!(stream.read_line(&mut line).await, Ok(count) if count > 2) {
        line.clear();
    }
    let bytes = |text: &str| text.replace('|', "\r\n");
    let mut answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", who(State(victim.clone())).await);
    for verb in Plan::of_this_process().at("get") {
        match verb.split_once(' ').unwrap_or((verb, "")) {
            ("status", status) => {
                let (status, text) = status.split_once(' ').expect("a status and a text");
                answer = format!("HTTP/1.1 {status}\r\n\r\n{text}");
            }
            ("bytes", text) => answer = bytes(text),
            ("endless", text) => {
                while stream.write_all(bytes(text).as_bytes()).await.is_ok() {}
                return;
            }
            ("hang", _) => std::future::pending().await,
            _ => blocking(&victim, verb).await,
        }
    }
    // A client that is gone asks for nothing more.
    match stream.write_all(answer.as_bytes()).await {
        Ok(()) | Err(_) => {}
    }
}

/// Carries out a verb that blocks its thread.
async fn blocking(victim: &Arc<Victim>, verb: &'static str) {
    let victim = victim.clone();
    tokio::task::spawn_blocking(move || victim.act(verb)).await.expect("it does not panic");
}

async fn gate(State(victim): State<Arc<Victim>>, Path(name): Path<String>) -> String {
    let waiting = victim.clone();
    tokio::task::spawn_blocking(move || waiting.act(&format!("gate {name}")))
        .await
        .expect("it does not panic");
    who(State(victim)).await
}

async fn stream(State(victim): State<Arc<Victim>>, Path(name): Path<String>) -> Body {
    let (mut parts, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        let answer = Bytes::from(who(State(victim.clone())).await);
        parts.send_data(answer.slice(..1)).await.expect("the client reads");
        let waiting = victim.clone();
        let gate = tokio::task::spawn_blocking(move || waiting.act(&format!("gate {name}")));
        gate.await.expect("it does not panic");
        parts.send_data(answer.slice(1..)).await.expect("the client reads");
    });
    Body::new(body)
}

async fn until_shutdown(State(victim): State<Arc<Victim>>) -> String {
    victim.shutdown.clone().await;
    who(State(victim)).await
}

async fn count(State(victim): State<Arc<Victim>>, body: Bytes) -> String {
    format!("{} {}", who(State(victim)).await, body.len())
}

async fn switch(request: Request) -> (StatusCode, HeaderMap) {
    becomes("echo", request, |stream| async move {
        let (mut read, mut write) = split(stream);
        // Its end is the client's business.
        match copy(&mut read, &mut write).await {
            Ok(_) | Err(_) => {}
        }
    })
}

async fn farewell(
    State(victim): State<Arc<Victim>>,
    Path(name): Path<String>,
    request: Request,
) -> (StatusCode, HeaderMap) {
    becomes("farewell", request, |mut stream| async move {
        victim.shutdown.clone().await;
        let last_word = gate(State(victim), Path(name)).await + "\n";
        stream.write_all(last_word.as_bytes()).await.expect("the client reads");
    })
}

/// The answer that turns a connection into one of another protocol, which is spoken in a task of its own.
fn becomes<F: Future<Output = ()> + Send>(
    protocol: &'static str,
    request: Request,
    speak: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> (StatusCode, HeaderMap) {
    tokio::spawn(async move {
        let stream = hyper::upgrade::on(request).await.expect("the answer says so");
        speak(TokioIo::new(stream)).await;
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, protocol)];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (StatusCode::SWITCHING_PROTOCOLS, HeaderMap::from_iter(headers))
}
