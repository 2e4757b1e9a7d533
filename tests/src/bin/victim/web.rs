//! A listener of the name `http` speaks HTTP: `/` says who answers, `/gate/NAME` once the test has opened that gate, and
//! `/switch` becomes a connection that echoes.

use std::process;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use tableflip::net::TcpListener;
use tokio::io::{copy, split};

use crate::Victim;

pub(crate) async fn serve(victim: Arc<Victim>, listener: TcpListener) {
    let router = Router::new()
        .route("/", get(who))
        .route("/gate/{name}", get(gate))
        .route("/switch", get(switch))
        .with_state(victim);
    tableflip::http::serve(listener, router).await.expect("the listener is useful to the end");
}

async fn who(State(victim): State<Arc<Victim>>) -> String {
    format!("{} {}", victim.upgrader.generation(), process::id())
}

async fn gate(State(victim): State<Arc<Victim>>, Path(name): Path<String>) -> String {
    let waiting = victim.clone();
    tokio::task::spawn_blocking(move || waiting.act(&format!("gate {name}")))
        .await
        .expect("it does not panic");
    who(State(victim)).await
}

async fn switch(request: Request) -> (StatusCode, HeaderMap) {
    tokio::spawn(async move {
        let stream = hyper::upgrade::on(request).await.expect("the answer says so");
        let (mut read, mut write) = split(TokioIo::new(stream));
        // Its end is the client's business.
        match copy(&mut read, &mut write).await {
            Ok(_) | Err(_) => {}
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "echo")];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    (StatusCode::SWITCHING_PROTOCOLS, HeaderMap::from_iter(headers))
}
