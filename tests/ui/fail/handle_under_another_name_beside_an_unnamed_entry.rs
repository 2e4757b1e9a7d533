//! D11: the macro takes the handle for the listener of the entry without a name.
use tableflip::Shutdown as Stop;

#[tableflip::main(listen = ["localhost:80"])]
async fn main(stop: Stop) {
    stop.await;
}
