use tableflip::Listeners;

#[tableflip::main(listen = [écho = "127.0.0.1:7000"])]
async fn main(listeners: Listeners) {
    drop(listeners);
}
