struct Shutdown;

#[tableflip::main]
async fn main(shutdown: Shutdown) {
    drop(shutdown);
}
