use tableflip::net::UnixListener;

#[tableflip::main(listen = [admin = "unix://run/admin.sock"])]
async fn main(admin: UnixListener) {
    drop(admin);
}
