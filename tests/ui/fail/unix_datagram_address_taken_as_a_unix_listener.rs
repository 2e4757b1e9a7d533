use tableflip::net::UnixListener;

#[tableflip::main(listen = [log = "unix-dgram:///run/log.sock"])]
async fn main(log: UnixListener) {
    drop(log);
}
