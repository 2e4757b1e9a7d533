use tableflip::Shutdown;

#[tableflip::main(config = "/etc/echo.toml")]
async fn main(shutdown: Shutdown) {
    shutdown.await;
}
