//! Listeners over the releases of a service: the listeners that a release adds, removes or moves, and the files of Unix sockets.
//! `socket_options.rs` has the options of an address.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::harness::{Client, DEADLINE, Dir, Exit, Process, Service, Signal, find, wait_until_refused};
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
    wait_until_refused(&tcp);
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
    let warning = format!("WARN tableflip: listener `kept`: no client finds unix://{}: ", kept.display());
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

/// Two ways to write one address: the socket is at that address already, and cannot be bound there a second time.
#[test]
fn b4_an_address_in_another_spelling_is_that_of_the_same_socket() {
    let dir = Dir::new();
    std::os::unix::fs::symlink(dir.path(), dir.join("link")).unwrap();
    let [path, link] = ["local", "link/local"].map(|name| format!("unix://{}", dir.join(name).display()));
    let command = dir.victim().no_listeners().listen("web", "tcp://127.0.0.1:0").listen("local", &path);
    let (service, mut old) = command.listen("other", "udp://localhost:0").probation("0s").serve();
    let web = service.address("web");
    let port = web.rsplit_once(':').unwrap().1.to_owned();
    // What the predecessor has not accepted yet is in the queue of that socket.
    let before = inode(&dir.join("local"));
    for (name, address, local) in [
        ("web", format!("tcp://127.0.0.1:{port}"), &link),
        ("web", format!("tcp://localhost:{port}"), &path),
        ("web", format!("tcp://[::ffff:127.0.0.1]:{port}"), &path),
        ("web", format!("tcp://LOCALHOST:{port}?backlog=7"), &link),
        ("renamed", format!("tcp://127.0.0.1:{port}"), &path),
    ] {
        let plan = format!(
            "listen without web; listen with {name} {address}; listen without local; listen with local {local}"
        );
        service.plan(&plan);
        let new = service.upgrade(&old);
        assert_eq!(service.address(name), web, "{address}");
        assert_eq!(Client::tcp(&web).who().1, new.pid(), "{address}");
        assert_eq!(who(&dir.join("local")).1, new.pid(), "{local}");
        assert_eq!(inode(&dir.join("local")), before);
        assert_eq!(old.exit(), Exit::Status(0));
        service.wait(&new, "alone");
        assert!(!service.log().contains("no longer declared"), "{}", service.log());
        old = new;
    }
    old.signal(Signal::TERM);
    assert_eq!(old.exit(), Exit::Status(0));
    assert!(!dir.join("local").exists());
}

/// An address that only overlaps is another one.
#[test]
fn b4_an_address_that_overlaps_is_said_with_what_to_do() {
    let dir = Dir::new();
    let command = dir.victim().no_listeners().listen("echo", "tcp://127.0.0.1:0");
    let (service, old) = command.serve();
    let port = service.address("echo").rsplit_once(':').unwrap().1.to_owned();
    for host in ["0.0.0.0", "[::]"] {
        service.plan(&format!("listen without echo; listen with echo tcp://{host}:{port}"));
        service.start_upgrade(&old);
        let reason = service.wait_for_failure(&old);
        let expected = "; the predecessor serves `echo` at tcp://127.0.0.1:0, which overlaps: to move it in an upgrade, give both \
                        addresses `reuse_port=true`, first in a release with the old address; or stop and start the service";
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(service.served_by(), old.pid());
    }
    drop(service);
    // As it says.
    let dir = Dir::new();
    let command = dir.victim().no_listeners().listen("echo", "tcp://127.0.0.1:0?reuse_port=true");
    // A release that adopts no listener at all is taken for another service.
    let (service, mut old) = command.listen_unix("stays").probation("0s").serve();
    let at = service.address("echo");
    let port = at.rsplit_once(':').unwrap().1;
    for host in ["0.0.0.0", "127.0.0.1"] {
        service.plan(&format!("listen without echo; listen with echo tcp://{host}:{port}?reuse_port=true"));
        let new = service.upgrade(&old);
        assert_eq!(old.exit(), Exit::Status(0));
        assert_eq!(Client::tcp(&at).who().1, new.pid());
        old = new;
    }
}
