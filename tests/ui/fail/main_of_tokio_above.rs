//! D11: tokio's attribute has made a plain `fn` of it.
#[tokio::main]
#[tableflip::main(pidfile = "/run/name.pid")]
async fn main() {
    std::future::pending::<()>().await;
}
