use tableflip::Shutdown;

#[tableflip::main(runtime = "multi_thread")]
async fn main(shutdown: Shutdown) {
    shutdown.await;
}
