#[tableflip::main(listen = ["tcp://127.0.0.1:7000"])]
fn main(listener: std::os::fd::OwnedFd) {
    drop(listener);
}
