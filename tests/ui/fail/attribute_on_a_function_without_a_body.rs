trait Service {
    #[tableflip::main]
    fn serve();
}

fn main() {}
