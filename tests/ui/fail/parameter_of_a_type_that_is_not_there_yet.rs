struct Listeners;

#[tableflip::main(listen = [echo = "127.0.0.1:7000"])]
async fn main(listeners: Listeners) {
    drop(listeners);
}
