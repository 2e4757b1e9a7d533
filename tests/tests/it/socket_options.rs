//! The options of sockets: those of an address arrive at the socket and at each connection, and a release that fails leaves the
//! sockets that are served as they were. `sockets.rs` has the listeners themselves.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    getsockopt, setsockopt,
    sockopt::{GetStruct, SetStruct},
};
use socket2::{Domain, Socket, Type};

use crate::harness::{Client, Dir, Exit, Process, Root, Service, root_or_skip};

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
        // Before it is ready; once it has been told to serve, before it says that it does; in its probation. Of the last two it lives
        // on: its body has returned, or it was reverted.
        let starts = ["init gate init; init fail no disk", "step:TakingOver abort", "serving abort"];
        let ends = ["kill", "body return 0; exit gate linger", "revert"];
        let linger = dir.gate("linger");
        for end in starts.into_iter().chain(ends) {
            let (last_word, plan) = end.split_once("; ").filter(|_| ends.contains(&end)).unwrap_or((end, ""));
            if ends.contains(&end) {
                service.plan(&format!("{release}; {plan}"));
                let new = service.upgrade(&old);
                let changed = tuning(&new);
                assert!(at_first.iter().all(|row| !changed.contains(row)), "{changed:?}");
                match last_word {
                    "kill" => new.kill(),
                    word => service.open(&new).send(word),
                }
            } else {
                service.plan(&format!("{release}; {end}"));
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
            if end.contains("linger") {
                linger.open();
            }
            if ends[1..].contains(&end) {
                service.wait_for(&old, "info", "the successor is gone");
            }
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
