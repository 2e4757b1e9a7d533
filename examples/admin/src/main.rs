//! Two listeners: one for clients, and one for operators, which is open only if `ADMIN` has an address.
//!
//! Run it with `ADMIN=127.0.0.1:9090 cargo run -p admin-hello`, ask it with `curl http://127.0.0.1:8080/`, let Prometheus
//! read `http://127.0.0.1:9090/metrics`, and replace it with `curl -X POST http://127.0.0.1:9090/upgrade`.

use std::env;
use std::io;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Router, routing::get, routing::post};
use tableflip::Upgrader;
use tableflip::net::TcpListener;

async fn metrics(State(upgrader): State<Upgrader>) -> String {
    upgrader.status().await.prometheus()
}

/// `GET /ready`, for a load balancer.
async fn ready(State(upgrader): State<Upgrader>) -> StatusCode {
    match upgrader.status().await.serving {
        Some(_) => StatusCode::OK,
        None => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn upgrade(State(upgrader): State<Upgrader>) -> (StatusCode, String) {
    match upgrader.upgrade().await {
        Ok(upgraded) => (StatusCode::OK, format!("process {} serves\n", upgraded.pid)),
        Err(error) => (StatusCode::CONFLICT, format!("{error}\n")),
    }
}

#[tableflip::main(
    pidfile = "admin-hello.pid",
    listen = [http = "tcp://127.0.0.1:8080", admin = env::var("ADMIN").ok()],
)]
async fn main(http: TcpListener, admin: Option<TcpListener>, upgrader: Upgrader) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!" }));
    let operators = Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/upgrade", post(upgrade))
        .with_state(upgrader);
    let serve_operators = async {
        match admin {
            Some(admin) => tableflip::http::serve(admin, operators).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(tableflip::http::serve(http, app), serve_operators).map(drop)
}
