use tableflip::net::UnixListener;

#[tableflip::main(listen = [queue = "unix-seqpacket:///run/queue.sock"])]
async fn main(queue: UnixListener) {
    drop(queue);
}
