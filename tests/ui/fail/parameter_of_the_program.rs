struct Args;

#[tableflip::main(pidfile = "/run/name.pid")]
async fn main(args: Args) {
    drop(args);
}
