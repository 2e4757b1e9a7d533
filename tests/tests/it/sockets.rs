//! Listeners over the releases of a service: what one has and the next has not, what moved, what becomes of the files of Unix
//! sockets, and of the options of an address.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    getsockopt, setsockopt,
    sockopt::{GetStruct, SetStruct},
};
use socket2::{Domain, Socket, Type};

use crate::harness::find;
use crate::harness::{
    Client, DEADLINE, Dir, Exit, Process, Root, Service, Signal, root_or_skip, wait_until_refused,
};
use crate::look;

/// Ends the probation of a successor at once: a stop that reaches the old process in it means that process.
fn end_probation(service: &Service, old: &Process) {
    old.signal(Signal::TERM);
    service.wait_for(old, "draining", "open=");
}

/// A port that was free a moment ago, of an address that no other process of the tests has.
fn fixed_address() -> SocketAddrV4 {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 77, high, low);
    let free = TcpListener::bind((address, 0)).expect("the whole of 127 is this machine");
    let fixed = SocketAddrV4::new(address, free.local_addr().expect("it is bound").port());
    drop(free);
    wait_until_refused(fixed);
    fixed
}

/// Who answers on a Unix socket.
fn who(path: &Path) -> (u64, u32) {
    Client::unix(path).who()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a file").ino()
}

#[test]
fn a_listener_is_added() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let path = dir.join("local");
    service.plan(&format!("listen with more tcp://127.0.0.1:0; listen with local unix://{}", path.display()));
    let new = service.upgrade(&old);
    assert_eq!(service.connect_to("more").who(), (2, new.pid()));
    assert_eq!(who(&path), (2, new.pid()));
    end_probation(&service, &old);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(service.connect_to("more").who(), (2, new.pid()));
    assert_eq!(who(&path), (2, new.pid()));
}

/// The listeners that a release adds are gone with it, when it dies in its probation.
#[test]
fn a_listener_is_added_by_a_release_that_fails() {
    let dir = Dir::new();
    let (service, old) = dir.victim().probation("1h").serve();
    let path = dir.join("local");
    let listen = format!("listen with more tcp://127.0.0.1:0; listen with local unix://{}", path.display());
    // One that fails in order removes what it has made.
    service.plan(&format!("{listen}; init fail no disk"));
    service.start_upgrade(&old);
    assert!(service.wait_for_failure(&old).contains("the body returned before it was ready"));
    assert!(!path.exists());
    // One that is killed cannot; the next one finds that nobody is behind it.
    service.plan(&listen);
    let new = service.upgrade(&old);
    let more = service.address("more");
    new.kill();
    service.wait_for_failure(&old);
    wait_until_refused(&more);
    assert!(path.exists());
    service.plan(&listen);
    let new = service.upgrade(&old);
    assert_eq!(who(&path), (2, new.pid()));
}

/// Its clients are served by the old process until that drains; nobody waits in a queue for nothing (K5).
#[test]
fn k5_a_listener_is_removed() {
    let dir = Dir::new();
    let command = dir.victim().listen("gone", "tcp://127.0.0.1:0").listen_unix("gone-local");
    let (service, old) = command.probation("1h").serve();
    let (gone, path) = (service.address("gone"), dir.join("gone-local"));
    service.plan("listen without gone; listen without gone-local");
    let new = service.upgrade(&old);
    assert_eq!(service.served_by(), new.pid());
    let mut client = Client::tcp(&gone);
    assert_eq!(client.who(), (1, old.pid()));
    assert_eq!(who(&path), (1, old.pid()));

    end_probation(&service, &old);
    wait_until_refused(&gone);
    assert!(!path.exists());
    assert_eq!(client.who(), (1, old.pid()), "what was open is finished");
    drop(client);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(look::kinds(&new)["socket"] > 0);
    assert_eq!(service.served_by(), new.pid());
}

/// And is there again, when the release that removed it dies in its probation, or is rolled back.
#[test]
fn k5_a_listener_is_removed_by_a_release_that_fails() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").probation("1h").serve();
    let path = dir.join("local");
    let before = inode(&path);
    service.plan("listen without local");
    service.upgrade(&old).kill();
    service.wait_for_failure(&old);
    assert_eq!(who(&path), (1, old.pid()));
    assert_eq!(inode(&path), before);

    service.plan("listen without local");
    let second = service.upgrade(&old);
    end_probation(&service, &old);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!path.exists());
    service.wait(&second, "alone");
    let third = service.upgrade(&second);
    assert_eq!(who(&path), (3, third.pid()));
}

#[test]
fn a_listener_is_moved_under_its_name() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen("moved", "tcp://127.0.0.1:0").probation("1h").serve();
    let from = service.address("moved");
    service.plan("listen without moved; listen with moved tcp://127.0.0.2:0");
    let new = service.upgrade(&old);
    let to = service.address("moved");
    assert!(to.starts_with("127.0.0.2:"), "{to}");
    // While the old one may have to serve again, its address is served as well.
    assert_eq!(Client::tcp(&to).who(), (2, new.pid()));
    assert_eq!(Client::tcp(&from).who(), (1, old.pid()));
    end_probation(&service, &old);
    wait_until_refused(&from);
    assert_eq!(Client::tcp(&to).who(), (2, new.pid()));
}

#[test]
fn a_listener_becomes_one_of_another_kind() {
    let dir = Dir::new();
    let (service, old) = dir.victim().listen("turned", "tcp://127.0.0.1:0").serve();
    let (tcp, path) = (service.address("turned"), dir.join("turned"));
    let unix = format!("listen without turned; listen with turned unix://{}", path.display());
    service.plan(&unix);
    let second = service.upgrade(&old);
    assert_eq!(who(&path), (2, second.pid()));
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(TcpStream::connect(&tcp).is_err());
    // And back.
    service.wait(&second, "alone");
    let third = service.upgrade(&second);
    assert_eq!(service.connect_to("turned").who(), (3, third.pid()));
    assert_eq!(second.exit(), Exit::Status(0));
    assert!(!path.exists());
}

/// It cannot be bound a second time while the old process has it.
#[test]
fn a_listener_gets_another_name() {
    let dir = Dir::new();
    let fixed = fixed_address();
    let command = dir.victim().listen("before", &format!("tcp://{fixed}")).listen_unix("local");
    let (service, old) = command.serve();
    let path = dir.join("local");
    service.plan(&format!(
        "listen without before; listen with after tcp://{fixed}; listen without local; listen with other unix://{}",
        path.display()
    ));
    let new = service.upgrade(&old);
    assert_eq!(Client::tcp(fixed.to_string()).who(), (2, new.pid()));
    assert_eq!(who(&path), (2, new.pid()));
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(Client::tcp(fixed.to_string()).who(), (2, new.pid()));
    assert_eq!(who(&path), (2, new.pid()));
    // The plan was for one process: the next one declares the first names again.
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    assert_eq!(Client::tcp(fixed.to_string()).who(), (3, third.pid()));
    assert_eq!(who(&path), (3, third.pid()));
}

/// K6: TCP and UDP have ports of their own, and one number is two addresses.
#[test]
fn k6_tcp_and_udp_on_one_port() {
    let dir = Dir::new();
    let fixed = fixed_address();
    let command = dir.victim().listen("stream", &format!("tcp://{fixed}"));
    let (service, mut old) = command.listen("packets", &format!("udp://{fixed}")).serve();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask_udp = |generation: u64, process: &Process| {
        udp.send_to(b"who", fixed).unwrap();
        let mut answer = [0; 64];
        let (length, from) = udp.recv_from(&mut answer).unwrap();
        assert_eq!(from, fixed.into());
        assert_eq!(String::from_utf8_lossy(&answer[..length]), format!("{generation} {}", process.pid()));
    };
    let ask_both = |generation: u64, process: &Process| {
        assert_eq!(Client::tcp(fixed.to_string()).who(), (generation, process.pid()));
        ask_udp(generation, process);
    };
    ask_both(1, &old);
    for generation in 2..4 {
        let new = service.upgrade(&old);
        ask_both(generation, &new);
        assert_eq!(old.exit(), Exit::Status(0));
        ask_both(generation, &new);
        service.wait(&new, "alone");
        old = new;
    }
    // One of the two is given up; the other goes on.
    service.plan("listen without stream");
    let last = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    wait_until_refused(fixed);
    ask_udp(4, &last);
}

/// K6, H5: what is offered arrives before anything is bound; a socket that was bound afresh would have another port.
#[test]
fn k6_a_port_of_the_kernels_choice_is_inherited() {
    let dir = Dir::new();
    // Two of them: by name they are told apart.
    let (service, mut old) = dir.victim().listen("other", "tcp://127.0.0.1:0").probation("10ms").serve();
    let addresses = ["echo", "other"].map(|name| service.address(name));
    assert_ne!(addresses[0], addresses[1]);
    for generation in 2..5 {
        let new = service.upgrade(&old);
        assert_eq!(["echo", "other"].map(|name| service.address(name)), addresses);
        for address in &addresses {
            assert_eq!(Client::tcp(address).who(), (generation, new.pid()));
        }
        assert_eq!(old.exit(), Exit::Status(0));
        service.wait(&new, "alone");
        old = new;
    }
}

#[test]
fn k6_one_address_for_two_names_is_refused() {
    let dir = Dir::new();
    let command = dir.victim().listen("one", "tcp://127.0.0.1:1").listen("two", "127.0.0.1:1").start();
    assert_eq!(command.first().exit(), Exit::Status(1));
    let expected =
        "tableflip: cannot start: listener `two`: it has the address of `one`, tcp://127.0.0.1:1\n";
    assert_eq!(command.log(), expected);

    let dir = Dir::new();
    let (service, old) = dir.victim().listen_unix("local").serve();
    let twice = format!("listen with again unix://{}", dir.join("local").display());
    service.plan(&twice);
    service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(reason.contains("listener `again`: it has the address of `local`, unix://"), "{reason}");
    assert_eq!(who(&dir.join("local")), (1, old.pid()));
    service.upgrade(&old);
}

/// An address that somebody else has fails the upgrade and not the service.
#[test]
fn an_address_in_use_fails_the_upgrade() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    service.plan(&format!("listen with more tcp://{address}"));
    service.start_upgrade(&old);
    let reason = service.wait_for_failure(&old);
    assert!(
        reason.contains(&format!("listener `more`: cannot listen on tcp://{address}"))
            || reason.contains(&format!("listener `more`: cannot bind tcp://{address}")),
        "{reason}"
    );
    assert!(reason.contains("in use"), "{reason}");
    assert_eq!(service.served_by(), old.pid());
    drop(taken);
    wait_until_refused(address);
    service.plan(&format!("listen with more tcp://{address}"));
    service.upgrade(&old);
    assert_eq!(service.connect_to("more").who().0, 2);
}

/// K7: the path belongs to whoever serves it.
#[test]
fn k7_a_unix_path_outlives_the_processes() {
    let dir = Dir::new();
    let path = dir.join("local");
    let (service, mut old) = dir.victim().listen_unix("local").probation("10ms").serve();
    let before = inode(&path);
    for generation in 2..5 {
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0));
        assert_eq!(inode(&path), before);
        assert_eq!(who(&path), (generation, new.pid()));
        service.wait(&new, "alone");
        old = new;
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!path.exists(), "the last one removes it");
}

/// What somebody has put there instead is not ours to remove.
#[test]
fn k7_a_path_that_somebody_replaced_is_left_alone() {
    let dir = Dir::new();
    let (kept, given_up) = (dir.join("kept"), dir.join("given-up"));
    let (service, old) = dir.victim().listen_unix("kept").listen_unix("given-up").serve();
    for path in [&kept, &given_up] {
        fs::remove_file(path).unwrap();
        fs::write(path, "precious").unwrap();
    }
    service.plan("listen without given-up");
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(fs::read_to_string(&given_up).unwrap(), "precious");
    assert_eq!(service.served_by(), new.pid());
    // Its socket lives on without a name, and the next release inherits it all the same.
    service.wait(&new, "alone");
    let warning = format!("WARN tableflip: listener `kept`: no client finds unix://{}, ", kept.display());
    assert!(service.log().contains(&warning), "{}", service.log());
    service.plan("listen without given-up");
    let last = service.upgrade(&new);
    assert_eq!(new.exit(), Exit::Status(0));
    service.wait(&last, "alone");
    last.signal(Signal::TERM);
    assert_eq!(last.exit(), Exit::Status(0));
    assert_eq!(fs::read_to_string(&kept).unwrap(), "precious");
    service.wait_until_all_are_gone();
    assert!(!service.log().contains("ERROR"), "{}", service.log());
}

/// Not even a socket: another service has taken the path over.
#[test]
fn k7_a_path_that_another_service_took_is_left_alone() {
    let dir = Dir::new();
    let path = dir.join("local");
    let (service, old) = dir.victim().listen_unix("local").serve();
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait_until_all_are_gone();
    let _client = UnixStream::connect(&path).expect("they serve it");
    drop(theirs);
}

#[test]
fn k7_a_stale_socket_is_replaced() {
    let dir = Dir::new();
    let path = dir.join("local");
    drop(UnixListener::bind(&path).unwrap());
    // As at an address.
    find("refused client", || UnixStream::connect(&path).is_err().then_some(()));
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    let (_service, old) = dir.victim().listen_unix("local").serve();
    assert_eq!(who(&path), (1, old.pid()));
    // What a service leaves that was killed.
    old.kill();
    old.exit();
    assert!(path.exists());
    let (_service, again) = dir.victim().listen_unix("local").serve();
    assert_eq!(who(&path), (1, again.pid()));
}

#[test]
fn k7_a_live_socket_is_never_stolen() {
    let dir = Dir::new();
    let path = dir.join("local");
    let theirs = UnixListener::bind(&path).unwrap();
    let before = inode(&path);
    let service = dir.victim().listen_unix("local").start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    let log = service.log();
    assert!(log.contains("listener `local`: cannot bind unix://"), "{log}");
    assert!(log.contains("another process serves it"), "{log}");
    assert_eq!(inode(&path), before);
    // The probe has been in its queue, and the client is.
    let _client = UnixStream::connect(&path).expect("they serve it");
    drop(theirs);

    // Nor by a second start of the same service.
    fs::remove_file(&path).unwrap();
    let (_service, first) = dir.victim().listen_unix("local").serve();
    let second = dir.victim().listen_unix("local").start();
    assert_eq!(second.first().exit(), Exit::Status(1));
    assert_eq!(who(&path), (1, first.pid()));
    drop(second);
    assert_eq!(who(&path), (1, first.pid()));
}

/// A backlog that is full is one that somebody is behind.
#[test]
fn k7_a_live_socket_whose_queue_is_full_is_never_stolen() {
    let dir = Dir::new();
    let path = dir.join("local");
    let theirs =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&theirs, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&theirs, 0).unwrap();
    let _in_the_queue = UnixStream::connect(&path).unwrap();
    let before = inode(&path);
    let service = dir.victim().listen_unix("local").start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    assert!(service.log().contains("another process serves it"), "{}", service.log());
    assert_eq!(inode(&path), before);
}

#[test]
fn k7_a_file_at_the_path_survives() {
    let dir = Dir::new();
    let path = dir.join("local");
    let refused = |what: &str| {
        let service = dir.victim().listen_unix("local").start();
        assert_eq!(service.first().exit(), Exit::Status(1));
        let log = service.log();
        assert!(log.contains("a file that is not a socket is there"), "{what}: {log}");
        fs::remove_file(dir.join("log")).unwrap();
    };
    fs::write(&path, "precious").unwrap();
    refused("a file");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("a directory");
    fs::remove_dir(&path).unwrap();
    // To a socket that nobody serves: what is removed would be the link.
    drop(UnixListener::bind(dir.join("elsewhere")).unwrap());
    std::os::unix::fs::symlink(dir.join("elsewhere"), &path).unwrap();
    refused("a link");
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert!(dir.join("elsewhere").exists());
}

/// A start that fails leaves the paths as it found them.
#[test]
fn k7_a_start_that_fails_removes_what_it_made() {
    let dir = Dir::new();
    fs::create_dir(dir.join("second")).unwrap();
    let service = dir.victim().listen_unix("first").listen_unix("second").start();
    assert_eq!(service.first().exit(), Exit::Status(1));
    assert!(!dir.join("first").exists());
}

/// A name that is not in the file system is inherited like any other, and there is nothing to be removed (K7).
#[test]
fn k7_an_abstract_name() {
    let dir = Dir::new();
    let name = format!("tableflip-test-{}", dir.path().file_name().unwrap().to_str().unwrap());
    let (service, old) = dir.victim().listen("abstract", &format!("unix:@{name}")).serve();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let connect = || Client::over_unix(UnixStream::connect_addr(&address).unwrap());
    assert_eq!(connect().who(), (1, old.pid()));
    let new = service.upgrade(&old);
    assert_eq!(connect().who(), (2, new.pid()));
    assert_eq!(old.exit(), Exit::Status(0));
    assert_eq!(connect().who(), (2, new.pid()));
    service.wait(&new, "alone");
    new.signal(Signal::TERM);
    assert_eq!(new.exit(), Exit::Status(0));
    assert!(UnixStream::connect_addr(&address).is_err());
    assert!(!service.log().contains("ERROR"), "{}", service.log());
}

/// The permissions are there with the path, and stay over an upgrade.
#[test]
fn the_mode_of_a_unix_path() {
    let dir = Dir::new();
    let path = dir.join("local");
    let mode = || fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
    let (service, old) = dir.victim().listen("local", &format!("unix://{}?mode=640", path.display())).serve();
    assert_eq!(mode(), 0o640);
    let new = service.upgrade(&old);
    assert_eq!(mode(), 0o640);
    // An operator has changed it meanwhile.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(old.exit(), Exit::Status(0));
    service.wait(&new, "alone");
    service.upgrade(&new);
    assert_eq!(mode(), 0o600);
}

/// What the kernel says of a socket, be it that or what of its file.
type Reading = fn(&Socket) -> usize;

/// An address without options, a key, what shows its value, and two values with what is read then: one of the first release and
/// the second, and one of the third. An option that only bind(2) takes keeps its value.
type Row<'a> = (&'a str, &'a str, Reading, [(&'a str, usize); 2]);

/// The sockets that are made for an address.
fn made_for(place: &str) -> (Domain, Type) {
    match place.split_once("://").expect("an address") {
        ("tcp", host) if host.starts_with('[') => (Domain::IPV6, Type::STREAM),
        ("tcp", _) => (Domain::IPV4, Type::STREAM),
        ("udp", host) if host.starts_with('[') => (Domain::IPV6, Type::DGRAM),
        ("udp", _) => (Domain::IPV4, Type::DGRAM),
        ("unix", _) => (Domain::UNIX, Type::STREAM),
        ("unix-dgram", _) => (Domain::UNIX, Type::DGRAM),
        (_, _) => (Domain::UNIX, Type::SEQPACKET),
    }
}

/// As ss(8) has it; 0 of a socket that does not listen.
fn backlog(socket: &Socket) -> usize {
    let bound = socket.local_addr().unwrap();
    let path = bound.as_pathname().map(|path| path.to_str().unwrap().to_owned());
    let Some(local) = path.or_else(|| Some(bound.as_socket()?.to_string())) else { return 0 };
    let output = std::process::Command::new("ss").arg("-Hlntx").output().expect("ss runs");
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let Some(row) = table.lines().find(|row| row.split_whitespace().any(|word| word == local)) else {
        return 0;
    };
    let limit = row.split_whitespace().skip_while(|word| *word != "LISTEN").nth(2);
    limit.and_then(|limit| limit.parse().ok()).expect("the third column is the limit of the queue")
}

#[derive(Clone, Copy)]
struct Fastopen;
nix::getsockopt_impl!(Fastopen, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, u32, GetStruct<u32>);

fn fastopen(socket: &Socket) -> usize {
    getsockopt(socket, Fastopen).unwrap() as usize
}

fn receive_buffer(socket: &Socket) -> usize {
    socket.recv_buffer_size().unwrap()
}

fn send_buffer(socket: &Socket) -> usize {
    socket.send_buffer_size().unwrap()
}

fn nodelay(socket: &Socket) -> usize {
    socket.tcp_nodelay().unwrap().into()
}

fn keepalive(socket: &Socket) -> usize {
    socket.keepalive().unwrap().into()
}

fn reuse_port(socket: &Socket) -> usize {
    socket.reuse_port().unwrap().into()
}

fn v6only(socket: &Socket) -> usize {
    socket.only_v6().unwrap().into()
}

fn freebind_v4(socket: &Socket) -> usize {
    socket.freebind_v4().unwrap().into()
}

fn freebind_v6(socket: &Socket) -> usize {
    socket.freebind_v6().unwrap().into()
}

fn is_of_lo(socket: &Socket) -> usize {
    (socket.device().unwrap().as_deref() == Some(b"lo")).into()
}

/// Of the file that a Unix socket is bound to; there is none yet for one that is not.
fn file(socket: &Socket) -> Option<fs::Metadata> {
    Some(fs::symlink_metadata(socket.local_addr().unwrap().as_pathname()?).expect("a file"))
}

fn mode(socket: &Socket) -> usize {
    file(socket).map_or(0, |file| file.mode() as usize & 0o777)
}

fn user(socket: &Socket) -> usize {
    file(socket).map_or(0, |file| file.uid() as usize)
}

fn group(socket: &Socket) -> usize {
    file(socket).map_or(0, |file| file.gid() as usize)
}

/// A listener for each row, which is looked at where it was bound, where it was inherited, and where the release that inherits
/// it says something else.
fn each_arrives(rows: &[Row<'_>]) {
    let dir = Dir::new();
    let declaration = |(at, (place, key, _, values)): (usize, &Row<'_>), release: usize| {
        let place = place.replace("PATH", dir.join(format!("socket-{at}")).to_str().unwrap());
        (format!("row-{at}"), format!("{place}?{key}={}", values[release].0))
    };
    let mut first = dir.victim();
    for row in rows.iter().enumerate() {
        let (name, address) = declaration(row, 0);
        first = first.listen(&name, &address);
    }

    // The sockets of one kind are told apart by their ports, or by their paths.
    let check = |service: &Service, process: &Process, release: usize| {
        let sockets: Vec<Socket> = process.sockets().into_iter().map(Socket::from).collect();
        for (at, (place, key, read, values)) in rows.iter().enumerate() {
            let path = dir.join(format!("socket-{at}"));
            let is_it = |socket: &&Socket| {
                let (Ok(bound), Ok(kind)) = (socket.local_addr(), socket.r#type()) else { return false };
                (bound.domain(), kind) == made_for(place)
                    && match bound.as_socket() {
                        Some(ip) => ip.to_string() == service.address(&format!("row-{at}")),
                        None => bound.as_pathname() == Some(&path),
                    }
            };
            let socket = sockets.iter().find(is_it).unwrap_or_else(|| panic!("no socket for {place}, {key}"));
            let (value, expected) = values[release];
            assert_eq!(read(socket), expected, "{place}?{key}={value}, of {process:?}");
        }
    };
    // None of it is so without the option.
    for (place, key, read, values) in rows {
        let (domain, kind) = made_for(place);
        assert_ne!(read(&Socket::new(domain, kind, None).unwrap()), values[0].1, "{place}, {key}");
    }

    let (service, old) = first.serve();
    check(&service, &old, 0);
    let new = service.upgrade(&old);
    assert_eq!(old.exit(), Exit::Status(0));
    check(&service, &new, 0);

    let again = rows.iter().enumerate().map(|row| {
        let (name, address) = declaration(row, 1);
        format!("listen without {name}; listen with {name} {address}")
    });
    service.plan(&again.collect::<Vec<_>>().join("; "));
    service.wait(&new, "alone");
    let third = service.upgrade(&new);
    check(&service, &third, 1);
}

#[test]
fn every_option_of_an_ip_socket_arrives() {
    const ON: [(&str, usize); 2] = [("true", 1); 2];
    // The kernel has twice what it is asked for, socket(7).
    const SIZES: [(&str, usize); 2] = [("40000", 80_000), ("30000", 60_000)];
    let (v4, v6) = (["tcp://127.0.0.1:0", "udp://127.0.0.1:0"], ["tcp://[::1]:0", "udp://[::1]:0"]);
    // Documentation's own, and no machine's: RFC 5737, RFC 3849.
    let (foreign_v4, foreign_v6) =
        (["tcp://192.0.2.1:0", "udp://192.0.2.1:0"], ["tcp://[2001:db8::1]:0", "udp://[2001:db8::1]:0"]);
    let mut rows: Vec<Row<'_>> = vec![
        (v4[0], "backlog", backlog, [("17", 17), ("23", 23)]),
        (v4[0], "nodelay", nodelay, [("true", 1), ("false", 0)]),
        (v4[0], "keepalive", keepalive, [("true", 1), ("false", 0)]),
        (v4[0], "fastopen", fastopen, [("16", 16), ("8", 8)]),
    ];
    for kind in [0, 1] {
        rows.extend::<[Row<'_>; 7]>([
            (v4[kind], "reuse_port", reuse_port, ON),
            (v6[kind], "v6only", v6only, ON),
            (foreign_v4[kind], "freebind", freebind_v4, ON),
            (foreign_v6[kind], "freebind", freebind_v6, ON),
            (v4[kind], "device", is_of_lo, [("lo", 1); 2]),
            (v4[kind], "recv_buffer", receive_buffer, SIZES),
            (v4[kind], "send_buffer", send_buffer, SIZES),
        ]);
    }
    each_arrives(&rows);
}

#[test]
fn every_option_of_a_unix_path_arrives() {
    let Some(Root) = root_or_skip() else { return };
    const SIZES: [(&str, usize); 2] = [("40000", 80_000), ("30000", 60_000)];
    // Somebody who has a name, by that and by number.
    let [users, groups] = ["/etc/passwd", "/etc/group"].map(|table| fs::read_to_string(table).unwrap());
    fn by_name(table: &str) -> (&str, usize) {
        let fields = |row| {
            let mut fields = str::split(row, ':');
            Some((fields.next()?, fields.nth(1)?.parse().ok()?))
        };
        table.lines().filter_map(fields).find(|(_, number)| *number != 0).expect("not only root")
    }
    let mut rows: Vec<Row<'_>> = vec![
        ("unix://PATH", "backlog", backlog, [("17", 17), ("23", 23)]),
        ("unix-seqpacket://PATH", "backlog", backlog, [("17", 17), ("23", 23)]),
    ];
    for place in ["unix://PATH", "unix-dgram://PATH", "unix-seqpacket://PATH"] {
        rows.extend::<[Row<'_>; 7]>([
            (place, "recv_buffer", receive_buffer, SIZES),
            (place, "send_buffer", send_buffer, SIZES),
            (place, "mode", mode, [("640", 0o640), ("600", 0o640)]),
            (place, "user", user, [("1234", 1234), ("4321", 1234)]),
            (place, "group", group, [("2345", 2345), ("5432", 2345)]),
            (place, "user", user, [by_name(&users); 2]),
            (place, "group", group, [by_name(&groups); 2]),
        ]);
    }
    each_arrives(&rows);
}

/// What is said of the connections, not of the listener.
#[test]
fn an_accepted_connection_has_the_options_of_its_listener() {
    let rows: [(&str, Reading, usize); 4] = [
        ("nodelay=true", nodelay, 1),
        ("nodelay=false", nodelay, 0),
        ("keepalive=true", keepalive, 1),
        ("keepalive=false", keepalive, 0),
    ];
    let dir = Dir::new();
    let mut first = dir.victim();
    for (at, (option, ..)) in rows.iter().enumerate() {
        first = first.listen(&format!("row-{at}"), &format!("tcp://127.0.0.1:0?{option}"));
    }
    let (service, old) = first.serve();
    let check = |process: &Process| {
        for (at, (option, read, expected)) in rows.iter().enumerate() {
            let stream = TcpStream::connect(service.address(&format!("row-{at}"))).unwrap();
            let local = stream.local_addr().unwrap();
            assert_eq!(Client::over_tcp(stream.try_clone().unwrap()).who().1, process.pid());
            let sockets = process.sockets().into_iter().map(Socket::from);
            let mut peers =
                sockets.filter(|socket| socket.peer_addr().is_ok_and(|peer| peer.as_socket() == Some(local)));
            assert_eq!(read(&peers.next().expect("it has accepted")), *expected, "{option}");
        }
    };
    check(&old);
    let new = service.upgrade(&old);
    check(&new);
}

#[derive(Clone, Copy)]
struct BufferLock;
nix::getsockopt_impl!(BufferLock, libc::SOL_SOCKET, libc::SO_BUF_LOCK, u32, GetStruct<u32>);

/// The options of each listening or datagram socket of a process that belong to the open file description, in the order of
/// the addresses.
fn tuning(process: &Process) -> Vec<String> {
    let mut tuning = std::collections::BTreeMap::new();
    for socket in process.sockets().into_iter().map(Socket::from) {
        let Ok(bound) = socket.local_addr() else { continue };
        let path = bound.as_pathname().map(|path| path.display().to_string());
        let Some(name) = path.or_else(|| Some(bound.as_socket()?.to_string())) else { continue };
        let kind = socket.r#type().unwrap();
        if kind != Type::DGRAM && !socket.is_listener().unwrap() {
            continue;
        }
        let mut values = format!(
            "backlog {} buffers {} {} lock {} keepalive {}",
            if kind == Type::DGRAM { 0 } else { backlog(&socket) },
            receive_buffer(&socket),
            send_buffer(&socket),
            getsockopt(&socket, BufferLock).unwrap(),
            keepalive(&socket)
        );
        if bound.is_ipv4() && kind == Type::STREAM {
            values += &format!(" nodelay {} fastopen {}", nodelay(&socket), fastopen(&socket));
        }
        tuning.insert(name, values);
    }
    tuning.into_iter().map(|(name, values)| format!("{name} {values}")).collect()
}

/// The options belong to the open file description, which the process that serves on has as well.
#[test]
fn a9_a_release_that_fails_changes_no_option_of_the_sockets_that_are_served() {
    const KINDS: [&str; 3] = ["unix", "unix-dgram", "unix-seqpacket"];
    let other = |options: &str| {
        format!("{options}backlog=1&recv_buffer=2400&send_buffer=4800&nodelay=true&keepalive=true&fastopen=3")
    };
    let [none, own] =
        ["", "?backlog=77&recv_buffer=30000&send_buffer=20000&nodelay=false&keepalive=false&fastopen=9"];
    for before in [none, own] {
        let dir = Dir::new();
        let path = |kind: &str| dir.join(kind).display().to_string();
        let mut command =
            dir.victim().no_listeners().probation("1h").listen("echo", &format!("tcp://127.0.0.1:0{before}"));
        command = command.listen("packets", "udp://127.0.0.1:0");
        for kind in KINDS {
            command = command.listen(kind, &format!("{kind}://{}", path(kind)));
        }
        let (service, old) = command.serve();
        let at_first = tuning(&old);
        assert_eq!(at_first.len(), 5, "{at_first:?}");

        let mut release = format!("listen without echo; listen with echo tcp://127.0.0.1:0{}", other("?"));
        let buffers = "recv_buffer=2400&send_buffer=4800";
        release += &format!("; listen without packets; listen with packets udp://127.0.0.1:0?{buffers}");
        for kind in KINDS {
            let backlog = if kind == "unix-dgram" { "" } else { "&backlog=1" };
            release += &format!(
                "; listen without {kind}; listen with {kind} {kind}://{}?{buffers}{backlog}",
                path(kind)
            );
        }
        let gate = dir.gate("init");
        // Before it is ready; once it has been told to serve, before it says that it does; in its probation.
        for end in ["init gate init; init fail no disk", "step:TakingOver abort", "serving abort", ""] {
            service.plan(&format!("{release}; {end}"));
            if end.is_empty() {
                let new = service.upgrade(&old);
                let changed = tuning(&new);
                assert!(at_first.iter().all(|row| !changed.contains(row)), "{changed:?}");
                new.kill();
            } else {
                let new = service.start_upgrade(&old);
                if end.contains("gate") {
                    service.wait(&new, "gate");
                    assert_eq!(tuning(&old), at_first, "while a release initialises");
                    gate.open();
                }
            }
            service.wait_for_failure(&old);
            assert_eq!(tuning(&old), at_first, "{before}, {end}");
            assert_eq!(service.served_by(), old.pid());
        }

        // One that succeeds has its own options, and passes them on to the next.
        service.plan(&release);
        let new = service.upgrade(&old);
        let changed = tuning(&new);
        assert!(changed[0].starts_with("/"), "{changed:?}");
        for row in &changed {
            assert!(row.contains("backlog 1 ") || row.contains("backlog 0 "), "{row}");
            assert!(row.contains("buffers 4800 9600 lock 3"), "{row}");
        }
        let tcp = changed.iter().find(|row| row.contains("nodelay")).unwrap();
        assert!(tcp.ends_with("keepalive 1 nodelay 1 fastopen 3"), "{tcp}");
    }
}

#[derive(Clone, Copy)]
struct LeastBytes;
nix::getsockopt_impl!(LeastBytes, libc::SOL_SOCKET, libc::SO_RCVLOWAT, u32, GetStruct<u32>);
nix::setsockopt_impl!(LeastBytes, libc::SOL_SOCKET, libc::SO_RCVLOWAT, u32, SetStruct<u32>);

/// What a program sets on a listener for its connections. With a small TTL no client far away gets an answer, and with a linger time
/// of 0 the end of a connection is a reset.
#[test]
fn f6_what_a_release_that_fails_has_set_for_its_connections_is_set_back() {
    let dir = Dir::new();
    let (service, old) = dir.victim().serve();
    let gate = dir.gate("init");
    let listener = |process: &Process| {
        let mut sockets = process.sockets().into_iter().map(Socket::from);
        sockets.find(|socket| socket.is_listener().unwrap_or(false)).expect("it has a listener")
    };
    let values = |it: &Socket| {
        format!(
            "ttl {:?} tos {:?} linger {:?} timeouts {:?} {:?} segment {:?} at least {:?} receive {}",
            it.ttl_v4().unwrap(),
            it.tos_v4().unwrap(),
            it.linger().unwrap(),
            it.read_timeout().unwrap(),
            it.write_timeout().unwrap(),
            it.tcp_mss().unwrap(),
            getsockopt(it, LeastBytes).unwrap(),
            receive_buffer(it),
        )
    };
    let at_first = values(&listener(&old));
    service.plan("init gate init; init fail no disk");
    let new = service.start_upgrade(&old);
    service.wait(&new, "gate");
    let theirs = listener(&new);
    theirs.set_ttl_v4(1).unwrap();
    theirs.set_tos_v4(32).unwrap();
    theirs.set_linger(Some(Duration::ZERO)).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    theirs.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    theirs.set_tcp_mss(100).unwrap();
    setsockopt(&theirs, LeastBytes, &1_000_000).unwrap();
    assert_ne!(values(&listener(&old)), at_first, "they share it");
    drop(theirs);
    gate.open();
    service.wait_for_failure(&old);
    assert_eq!(values(&listener(&old)), at_first);
    assert_eq!(service.served_by(), old.pid());
}

/// What starts in the place of a release that died while its predecessor drained serves with the options of that one.
#[test]
fn a9_a_rescue_serves_with_the_options_of_the_release_that_it_is_of() {
    let dir = Dir::new();
    let (service, old) = dir.victim().awaits_shutdown().serve();
    let _open = service.open(&old);
    let at_first = tuning(&old);
    service.plan(
        "listen without echo; listen with echo tcp://127.0.0.1:0?backlog=1&recv_buffer=2400&nodelay=true",
    );
    let new = service.upgrade(&old);
    service.wait(&old, "draining");
    assert_ne!(tuning(&new), at_first);
    new.kill();
    let rescue = service.next_process();
    service.wait_until_it_serves(&rescue);
    assert_eq!(tuning(&rescue), at_first);
}

/// Whoever comes later is refused, and reaches neither nobody nor a file that is not served.
#[test]
fn a12_of_two_services_that_start_at_once_on_a_stale_path_one_serves() {
    let rounds = if std::env::var_os("SLOW_TESTS").is_some() { 1000 } else { 30 };
    let dir = Dir::new();
    let path = dir.join("local");
    for round in 0..rounds {
        // A process that starts in another test has a copy of the descriptor until its exec.
        drop(UnixListener::bind(&path).unwrap());
        find("refused client", || UnixStream::connect(&path).is_err().then_some(()));
        // Each has a pid file of its own, which does not stop the other.
        let services = ["one", "other"].map(|name| {
            let command = dir.victim().no_listeners().listen_unix("local");
            command.env("TABLEFLIP_PIDFILE", dir.join(name)).start()
        });
        let dead = find("service that is refused", || {
            services.iter().position(|service| service.first().has_exited())
        });
        assert_eq!(services[dead].first().exit(), Exit::Status(1), "{round}");
        let left = &services[1 - dead];
        left.wait(left.first(), "serving");
        assert_eq!(who(&path), (1, left.first().pid()), "{round}");
        let log = left.log();
        assert!(log.contains("another process serves it") || log.contains("in use"), "{round}: {log}");
        left.first().signal(Signal::TERM);
        assert_eq!(left.first().exit(), Exit::Status(0), "{round}");
        assert!(!path.exists(), "{round}");
    }
}

/// Of a port that the kernel has chosen a listener that is shut down lets go.
fn on_a_fixed_port(dir: &Dir) -> crate::harness::Command<'_> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    dir.victim().no_listeners().listen("echo", &format!("tcp://127.0.0.1:{port}"))
}

/// A9: a release that shuts the listener down, and fails: the old process serves on, whoever was the first to notice.
#[test]
fn a9_a_listener_that_a_release_has_shut_down_listens_again() {
    for (plan, current_thread) in [
        ("init shut-listeners; init return 1", false),
        ("init shut-listeners; init return 1", true),
        ("step:Prepared shut-listeners; step:Prepared exit 1", false),
        ("serving shut-listeners; serving exit 1", false),
    ] {
        let dir = Dir::new();
        let command = on_a_fixed_port(&dir).probation("1h");
        let command = if current_thread { command.current_thread() } else { command };
        let (service, old) = command.serve();
        service.plan(plan);
        old.signal(Signal::HUP);
        service.wait_for_failure(&old);
        let mut clients: Vec<_> = (0..20).map(|_| service.open(&old)).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.who(), (1, old.pid()), "{plan}"));
        drop(service.upgrade(&old));
    }
}

/// The other way round: the old process shuts it down once its successor serves.
#[test]
fn a9_a_listener_that_the_predecessor_has_shut_down_listens_again() {
    let dir = Dir::new();
    let (service, old) = on_a_fixed_port(&dir).plan("draining shut-listeners").serve();
    let new = service.upgrade(&old);
    service.wait(&old, "shut");
    service.wait_for(&new, "error", "shut it down, shutdown(2); it listens again");
    for _ in 0..20 {
        assert_eq!(service.served_by(), new.pid());
    }
    assert_eq!(old.exit(), Exit::Status(0));
}
