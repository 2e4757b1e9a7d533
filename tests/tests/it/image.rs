//! The examples of docs/containers.md for container engines: the Dockerfile, carried out here and run by crun, and the manifest for
//! Kubernetes.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use processes::{Process, proc};
use serde_json::json;
use yaml_rust2::YamlLoader;

use crate::harness::booted::connect_inside;
use crate::harness::{Client, Dir, Root, Signal, block_of_the_page, find, root_or_skip, skip, unpack};

/// What the instructions of this name in the Dockerfile say.
fn instructions(name: &str) -> Vec<String> {
    let dockerfile = block_of_the_page("dockerfile");
    let said = dockerfile.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    said.map(str::to_owned).collect()
}

/// That of the Dockerfile is in exec form: a shell in between would be the first process.
fn entrypoint() -> Vec<String> {
    let [said] = &instructions("ENTRYPOINT")[..] else { panic!("one ENTRYPOINT") };
    serde_json::from_str(said).expect("an array of strings")
}

/// The image of the Dockerfile, run by crun(1).
struct Container<'d> {
    dir: &'d Dir,
    crun: PathBuf,
    run: Child,
}

impl<'d> Container<'d> {
    fn start(crun: PathBuf, dir: &'d Dir) -> Self {
        let image = Path::new("bundle/rootfs");
        for made in ["dev", "proc", "usr/local/bin"] {
            fs::create_dir_all(dir.join(image).join(made)).expect("a directory");
        }
        let [copied] = &instructions("COPY")[..] else { panic!("one COPY") };
        let (_, to) = copied.split_once(' ').expect("a destination");
        let service = env!("CARGO_BIN_EXE_unit");
        dir.copy(service, image.join(to.trim_start_matches('/')));
        // In the place of the base image.
        let libraries = Command::new("ldd").arg(service).output().expect("ldd runs").stdout;
        let libraries = String::from_utf8(libraries).expect("it is text");
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = image.join(library.trim_start_matches('/'));
            fs::create_dir_all(dir.join(&to).parent().expect("a path of a file")).expect("a directory");
            dir.copy(library, to);
        }
        for run in instructions("RUN") {
            let made = run.strip_prefix("mkdir /").expect("nothing but directories is made here");
            fs::create_dir_all(dir.join(image).join(made)).expect("a directory");
        }
        let environment: Vec<_> =
            instructions("ENV").iter().flat_map(|line| line.split(' ')).map(str::to_owned).collect();
        let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": entrypoint(), "env": environment, "cwd": "/" },
            "root": { "path": "rootfs" },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "namespaces": namespaces },
        });
        fs::write(dir.join("bundle/config.json"), config.to_string()).expect("a file");
        let run = Self::command(&crun, dir, &["run", "-b", "bundle", "echo"])
            .stdout(File::create(dir.join("out")).expect("a file"))
            .spawn();
        Self { dir, crun, run: run.expect("unshare") }
    }

    /// It makes no cgroup, and sees none: one of the machine is not its business.
    fn command(crun: &Path, dir: &Dir, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .args(["mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"", "sh"])
            .arg(crun.join("usr/bin/crun"))
            .args(["--cgroup-manager=disabled", "--root"])
            .arg(dir.join("state"))
            .args(words)
            .env("LD_LIBRARY_PATH", crun.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)))
            .current_dir(dir.path())
            .stdin(Stdio::null());
        command
    }

    /// The first process, as it is seen from outside.
    fn first(&self) -> Option<u32> {
        proc::children(self.run.id()).pop()
    }

    /// As `docker kill` does.
    fn signal(&self, signal: &str) {
        let status = Self::command(&self.crun, self.dir, &["kill", "echo", signal]).status();
        assert!(status.expect("unshare").success(), "{signal}");
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.run.try_wait().expect("it is a child").is_none() {
            // The first process of the container, with which all in there end.
            if let Some(first) = self.first() {
                let killed = Process::open(first).and_then(|first| first.signal_if_alive(Signal::KILL));
                killed.unwrap_or_else(|error| eprintln!("process {first}: {error}"));
            }
            self.run.wait().expect("it is a child");
        }
    }
}

#[test]
fn the_image_is_upgraded_and_stopped_by_a_container_runtime() {
    let Some(Root) = root_or_skip() else { return };
    let crun = match unpack("", "crun", &["crun", "libyajl2"]) {
        Ok(directory) => directory,
        Err(why) => return skip(&format!("crun cannot be had: {why}")),
    };
    let dir = Dir::new();
    let mut container = Container::start(crun, &dir);
    let first = dir.wait_until("a generation", || {
        fs::read_to_string(dir.join("out")).ok()?.starts_with("generation 1 is process ").then_some(())?;
        container.first()
    });
    let network = File::open(format!("/proc/{first}/ns/net")).expect("it lives");
    let connect = || -> std::io::Result<TcpStream> { connect_inside(network.as_fd(), 7000) };
    let who = || Client::over_tcp(connect().expect("it serves")).who();
    assert_eq!(who().0, 1);
    for generation in 2..=4 {
        container.signal("HUP");
        // The number of a process in the container is the last one of the line.
        let of_the_only_child = || {
            let [child] = proc::children(first)[..] else { return None };
            proc::status(child, "NSpid")?.split_whitespace().last()?.parse::<u32>().ok()
        };
        find("generation that serves alone", || {
            let (serves, pid) = who();
            (serves == generation && of_the_only_child() == Some(pid)).then_some(())
        });
    }
    let mut client = Client::over_tcp(connect().expect("it serves"));
    let before = client.who();
    let [stop] = &instructions("STOPSIGNAL")[..] else { panic!("one STOPSIGNAL") };
    container.signal(stop);
    find("refused client", || connect().is_err().then_some(()));
    assert_eq!(client.who(), before, "it drains");
    client.close();
    assert_eq!(container.run.wait().expect("it is a child").code(), Some(0));
}

#[test]
fn kubernetes_gives_the_drain_its_time() {
    let manifests = YamlLoader::load_from_str(&block_of_the_page("yaml")).expect("it is YAML");
    let [deployment] = &manifests[..] else { panic!("one manifest") };
    assert_eq!(deployment["kind"].as_str(), Some("Deployment"));
    let (labels, selector) =
        (&deployment["spec"]["template"]["metadata"]["labels"], &deployment["spec"]["selector"]);
    assert_eq!(*labels, selector["matchLabels"]);
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let variable = |name: &str| {
        let variables = container["env"].as_vec().expect("variables");
        let found = variables.iter().find(|variable| variable["name"].as_str() == Some(name));
        found.and_then(|variable| variable["value"].as_str()).expect("a variable")
    };
    let drain = humantime::parse_duration(variable("TABLEFLIP_DRAIN_TIMEOUT")).expect("a duration");
    // It is there so that connections end which are still on their way when the pod is told to stop.
    let stop = container["lifecycle"]["preStop"]["exec"]["command"].as_vec().expect("a command");
    let [Some("sleep"), Some(seconds)] = [stop[0].as_str(), stop[1].as_str()] else { panic!("{stop:?}") };
    let before = Duration::from_secs(seconds.parse().expect("seconds"));
    let grace = pod["terminationGracePeriodSeconds"].as_i64().and_then(|seconds| seconds.try_into().ok());
    assert!(Duration::from_secs(grace.expect("a grace")) > before + drain);
    // Those that connect find the port of the listener; the one of the start finds the pid file.
    let port = container["ports"][0]["containerPort"].as_i64().expect("a port");
    assert!(variable("TABLEFLIP_LISTEN_ECHO").ends_with(&format!(":{port}")));
    for probe in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["tcpSocket"]["port"].as_i64(), Some(port), "{probe}");
    }
    let start = container["startupProbe"]["exec"]["command"].as_vec().expect("a command");
    assert_eq!(start.last().and_then(|word| word.as_str()), Some("/run/echo/echo.pid"));
    // It is that of the image.
    assert!(container["command"].is_badvalue() && container["args"].is_badvalue());
}
