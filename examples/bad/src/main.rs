//! A release of `hello` that should never have been deployed. `BAD_RELEASE` says how it is bad:
//!
//! * `crash`: it dies right after it has become ready, when it is to serve.
//! * `hang`: it does not become ready.
//! * `status-500`: it answers 500 to every request.
//!
//! `cargo run --release -p demo -- --bad-release crash` upgrades `hello` to it under load, and counts what the clients notice.

use std::{env, future::pending, io, process};

use axum::{Router, http::StatusCode};
use tableflip::net::TcpListener;
use tableflip::status::Phase;
use tableflip::{Ready, Upgrader};

#[tableflip::main(name = "hello", pidfile = "hello.pid", listen = [http = "tcp://127.0.0.1:8080"])]
async fn main(http: TcpListener, ready: Ready, upgrader: Upgrader) -> io::Result<()> {
    match env::var("BAD_RELEASE").as_deref() {
        Ok("crash") => {
            ready.notify();
            while upgrader.status().await.phase != Phase::Serving {}
            process::abort();
        }
        Ok("hang") => pending().await,
        Ok("status-500") => {
            ready.notify();
            let answer =
                || async { (StatusCode::INTERNAL_SERVER_ERROR, "the database has another password\n") };
            tableflip::http::serve(http, Router::new().fallback(answer)).await
        }
        other => {
            Err(io::Error::other(format!("BAD_RELEASE is {other:?}; set it to crash, hang or status-500")))
        }
    }
}
