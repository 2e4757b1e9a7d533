use tableflip::Shutdown;

#[tableflip::main(runtime = |builder| { builder.thread_name("http"); })]
fn main(shutdown: Shutdown) {
    shutdown.wait();
}
