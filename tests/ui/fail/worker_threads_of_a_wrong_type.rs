const WORKERS: i8 = 4;

#[tableflip::main(worker_threads = WORKERS)]
async fn main() {}
