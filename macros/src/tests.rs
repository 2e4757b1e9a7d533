//! Snapshots of the expansion and of its errors, without a compiler. `tests/ui` of the workspace tests that the expansion compiles,
//! and where the compiler shows the errors.

use expect_test::{Expect, expect};

fn expand(attr: &str, item: &str) -> String {
    let tokens = crate::attribute(attr.parse().expect("lexes"), item.parse().expect("lexes"));
    prettyplease::unparse(&syn::parse2(tokens).expect("the expansion parses"))
}

#[track_caller]
fn check(attr: &str, item: &str, expected: &Expect) {
    expected.assert_eq(&expand(attr, item));
}

#[test]
fn one_listener() {
    check(
        r#"listen = [echo = "tcp://127.0.0.1:7000"], pidfile = "/run/echo.pid""#,
        "async fn main(echo: TcpListener) -> io::Result<()> { serve(echo).await }",
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                async fn main(echo: TcpListener) -> io::Result<()> {
                    serve(echo).await
                }
                ::tableflip::__private::readiness!(async TcpListener);
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .listen("echo", "tcp://127.0.0.1:7000")
                    .pidfile("/run/echo.pid")
                    .run(|start| {
                        let echo = start.listener::<TcpListener>("echo")?;
                        ::core::result::Result::Ok(main(echo))
                    })
            }
        "#]],
    );
}

#[test]
fn three_listeners_and_two_handles() {
    let attr = r#"listen = [http = "0.0.0.0:80", admin = "/run/admin.sock", dns = "udp://0.0.0.0:53"]"#;
    let item = "async fn main(http: TcpListener, admin: UnixListener, dns: UdpSocket, stop: Shutdown, ready: Ready) {}";
    check(
        attr,
        item,
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                async fn main(
                    http: TcpListener,
                    admin: UnixListener,
                    dns: UdpSocket,
                    stop: Shutdown,
                    ready: Ready,
                ) {}
                ::tableflip::__private::fits!(async TcpListener, UnixListener, UdpSocket);
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .listen("http", "0.0.0.0:80")
                    .listen("admin", "/run/admin.sock")
                    .listen("dns", "udp://0.0.0.0:53")
                    .run(|start| {
                        let http = start.listener::<TcpListener>("http")?;
                        let admin = start.listener::<UnixListener>("admin")?;
                        let dns = start.listener::<UdpSocket>("dns")?;
                        let stop = start.handle::<Shutdown>()?;
                        let ready = start.handle::<Ready>()?;
                        ::core::result::Result::Ok(main(http, admin, dns, stop, ready))
                    })
            }
        "#]],
    );
    assert_adds_at_most(16, attr, item);
}

/// Compared with the function of the user.
#[track_caller]
fn assert_adds_at_most(lines: usize, attr: &str, item: &str) {
    let function = prettyplease::unparse(&syn::parse_str(item).expect("parses"));
    let added = expand(attr, item).lines().count() - function.lines().count();
    assert!(added <= lines, "{added} lines are generated");
}

#[test]
fn three_listeners_and_a_pid_file() {
    let attr = r#"listen = [http = "0.0.0.0:80", admin = "/run/admin.sock", dns = "udp://0.0.0.0:53"], pidfile = "/run/a.pid""#;
    let item = "async fn main(http: TcpListener, admin: UnixListener, dns: UdpSocket) { serve(http, admin, dns).await }";
    check(
        attr,
        item,
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                async fn main(http: TcpListener, admin: UnixListener, dns: UdpSocket) {
                    serve(http, admin, dns).await
                }
                ::tableflip::__private::readiness!(async TcpListener, UnixListener, UdpSocket);
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .listen("http", "0.0.0.0:80")
                    .listen("admin", "/run/admin.sock")
                    .listen("dns", "udp://0.0.0.0:53")
                    .pidfile("/run/a.pid")
                    .run(|start| {
                        let http = start.listener::<TcpListener>("http")?;
                        let admin = start.listener::<UnixListener>("admin")?;
                        let dns = start.listener::<UdpSocket>("dns")?;
                        ::core::result::Result::Ok(main(http, admin, dns))
                    })
            }
        "#]],
    );
    assert_adds_at_most(15, attr, item);
}

#[test]
fn a_blocking_body() {
    check(
        r#"listen = [echo = "tcp://127.0.0.1:7000"]"#,
        "fn main(mut echo: TcpListener, shutdown: Shutdown) -> io::Result<()> { serve(&mut echo, shutdown) }",
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                fn main(mut echo: TcpListener, shutdown: Shutdown) -> io::Result<()> {
                    serve(&mut echo, shutdown)
                }
                ::tableflip::__private::readiness!(plain TcpListener);
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .listen("echo", "tcp://127.0.0.1:7000")
                    .run_blocking(|start| {
                        let echo = start.listener::<TcpListener>("echo")?;
                        let shutdown = start.handle::<Shutdown>()?;
                        ::core::result::Result::Ok(move || main(echo, shutdown))
                    })
            }
        "#]],
    );
}

#[test]
fn a_body_without_parameters() {
    check(
        "",
        "async fn main() {}",
        &expect![[r#"
        fn main() -> ::std::process::ExitCode {
            async fn main() {}
            ::tableflip::Service::new()
                .package(::tableflip::__private::package!())
                .run(|_| { ::core::result::Result::Ok(main()) })
        }
    "#]],
    );
    check(
        "",
        "fn main() -> ExitCode { ExitCode::SUCCESS }",
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                fn main() -> ExitCode {
                    ExitCode::SUCCESS
                }
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .run_blocking(|_| {
                        ::core::result::Result::Ok(move || {
                            use ::tableflip::__private::NoError as _;
                            let returned = main();
                            let error = ::tableflip::__private::Probe(&returned).error();
                            ::tableflip::__private::told(returned, error)
                        })
                    })
            }
        "#]],
    );
}

/// The lint would ask for a `_` in front of a name that the options use.
#[test]
fn a_parameter_of_its_own_that_an_option_uses_is_not_unused() {
    check(
        "config = load(&args.file)?, overlap = config.overlap",
        "async fn serve(args: Args, other: u8, config: Config, shutdown: Shutdown) {}",
        &expect![[r#"
            fn serve(args: Args, other: u8) -> ::std::process::ExitCode {
                async fn serve(
                    #[allow(unused_variables)]
                    args: Args,
                    other: u8,
                    config: Config,
                    shutdown: Shutdown,
                ) {}
                #[allow(unused_variables)]
                let config = match ::tableflip::configure(|| {
                    let loaded: Config = load(&args.file)?;
                    ::core::result::Result::Ok(loaded)
                }) {
                    ::core::result::Result::Ok(loaded) => loaded,
                    ::core::result::Result::Err(code) => return code,
                };
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .overlap(&config.overlap)
                    .run(|start| {
                        let args = args;
                        let other = other;
                        let config = config;
                        let shutdown = start.handle::<Shutdown>()?;
                        ::core::result::Result::Ok(serve(args, other, config, shutdown))
                    })
            }
        "#]],
    );
}

/// The name of the return type is unknown, so the expansion probes the value for an error.
#[test]
fn b3_a_body_that_returns_an_unknown_type() {
    check(
        "",
        "async fn main() -> Outcome { serve().await }",
        &expect![[r#"
        fn main() -> ::std::process::ExitCode {
            async fn main() -> Outcome {
                serve().await
            }
            ::tableflip::Service::new()
                .package(::tableflip::__private::package!())
                .run(|_| {
                    ::core::result::Result::Ok(async move {
                        use ::tableflip::__private::NoError as _;
                        let returned = main().await;
                        let error = ::tableflip::__private::Probe(&returned).error();
                        ::tableflip::__private::told(returned, error)
                    })
                })
        }
    "#]],
    );
}

#[test]
fn every_option() {
    check(
        r#"
            crate = crate::reexport,
            name = "a",
            listen = ["127.0.0.1:7000", admin = ADMIN],
            pidfile = directory().join("a.pid"),
            control = false,
            upgrade_timeout = "1m 30s",
            probation = Duration::from_secs(3),
            drain_timeout = "500ms",
            upgrade_signal = "SIGUSR2",
            overlap = "hasten",
            supervise = "never",
            preflight = "test -x \"$0\"",
            probe = "admin GET /healthz 204",
            verify = "curl -f $URL",
            flavor = "multi_thread",
            worker_threads = 2 * CORES,
        "#,
        r#"
            /// Serves.
            #[allow(unused)]
            pub(crate) async fn serve(a: TcpListener, admin: OwnedFd, upgrader: tableflip::Upgrader) {
                #![deny(missing_docs)]
            }
        "#,
        &expect![[r#"
            /// Serves.
            #[allow(unused)]
            pub(crate) fn serve() -> ::std::process::ExitCode {
                async fn serve(a: TcpListener, admin: OwnedFd, upgrader: tableflip::Upgrader) {
                    #![deny(missing_docs)]
                }
                crate::reexport::__private::readiness!(async TcpListener, OwnedFd);
                crate::reexport::Service::new()
                    .package(crate::reexport::__private::package!())
                    .listen("a", "127.0.0.1:7000")
                    .listen("admin", &ADMIN)
                    .name("a")
                    .pidfile(directory().join("a.pid"))
                    .control(false)
                    .upgrade_timeout("1m 30s")
                    .probation(Duration::from_secs(3))
                    .drain_timeout("500ms")
                    .upgrade_signal("SIGUSR2")
                    .overlap("hasten")
                    .supervise("never")
                    .preflight("test -x \"$0\"")
                    .probe("admin GET /healthz 204")
                    .verify("curl -f $URL")
                    .flavor(crate::reexport::Flavor::MultiThread)
                    .worker_threads(2 * CORES)
                    .run(|start| {
                        let a = start.listener::<TcpListener>("a")?;
                        let admin = start.listener::<OwnedFd>("admin")?;
                        let upgrader = start.handle::<tableflip::Upgrader>()?;
                        ::core::result::Result::Ok(serve(a, admin, upgrader))
                    })
            }
        "#]],
    );
}

#[test]
fn an_unknown_type_is_checked_by_the_compiler() {
    check(
        r#"listen = [a = "udp://[::1]:53", b = "unix-seqpacket:@b", c = address()]"#,
        "fn main(a: my::Socket, b: Sequenced, c: Anything) {}",
        &expect![[r#"
            fn main() -> ::std::process::ExitCode {
                fn main(a: my::Socket, b: Sequenced, c: Anything) {}
                ::tableflip::__private::takes!(my::Socket, Udp);
                ::tableflip::__private::takes!(Sequenced, UnixSeqpacket);
                ::tableflip::__private::readiness!(plain my::Socket, Sequenced, Anything);
                ::tableflip::Service::new()
                    .package(::tableflip::__private::package!())
                    .listen("a", "udp://[::1]:53")
                    .listen("b", "unix-seqpacket:@b")
                    .listen("c", address())
                    .run_blocking(|start| {
                        let a = start.listener::<my::Socket>("a")?;
                        let b = start.listener::<Sequenced>("b")?;
                        let c = start.listener::<Anything>("c")?;
                        ::core::result::Result::Ok(move || main(a, b, c))
                    })
            }
        "#]],
    );
}

#[test]
fn a_mistake_leaves_the_function_to_the_editor() {
    check(
        r#"pidfle = "x", worker_threads = 0"#,
        "pub const extern \"C\" fn main(self, echo: TcpListener) -> io::Result<()> { echo.accept() }",
        &expect![[r#"
            ::core::compile_error! {
                "unknown option `pidfle` (did you mean `pidfile`?); expected one of `name`, `config`, `listen`, `pidfile`, `control`, `upgrade_timeout`, `probation`, `drain_timeout`, `upgrade_signal`, `overlap`, `supervise`, `preflight`, `probe`, `verify`, `flavor`, `worker_threads`, `runtime`, `crate`"
            }
            ::core::compile_error! {
                "expected a number of threads from 1, or an expression of type `usize`"
            }
            ::core::compile_error! {
                "`main` cannot be `const`"
            }
            ::core::compile_error! {
                "`main` cannot be `extern`"
            }
            ::core::compile_error! {
                "`main` cannot take `self`"
            }
            #[allow(unused_variables)]
            pub fn main() -> ::std::process::ExitCode {
                fn main(echo: TcpListener) -> io::Result<()> {
                    echo.accept()
                }
                ::std::process::ExitCode::FAILURE
            }
        "#]],
    );
    check(
        "",
        "struct Main;",
        &expect![[r#"
        ::core::compile_error! {
            "this attribute is for a function; expected `fn`"
        }
        struct Main;
    "#]],
    );
}

/// The fallback has no second entry point, which would be a second error.
#[test]
fn d11_an_entry_point_below_is_refused() {
    for (attribute, message) in [
        (
            "#[tokio::main]",
            "remove `#[tokio::main]`: `#[tableflip::main]` runs an `async fn` on tokio by itself",
        ),
        (
            "#[::actix_web::main]",
            "remove `#[::actix_web::main]`: `#[tableflip::main]` runs an `async fn` on tokio by itself",
        ),
        (
            "#[async_std::test]",
            "remove `#[async_std::test]`: `#[tableflip::main]` runs an `async fn` on tokio by itself",
        ),
        (
            "#[rocket::launch]",
            "remove `#[rocket::launch]`: `#[tableflip::main]` runs an `async fn` on tokio by itself",
        ),
        ("#[main]", "remove `#[main]`: `#[tableflip::main]` runs an `async fn` on tokio by itself"),
        ("#[tableflip::main(name = \"a\")]", "the attribute `#[tableflip::main]` stands here twice"),
    ] {
        let expansion = expand("", &format!("#[allow(unused)] {attribute} async fn main() {{}}"));
        assert!(expansion.contains(&format!("{message:?}")), "{expansion}");
        assert_eq!(expansion.matches("compile_error").count(), 1, "{expansion}");
        assert!(
            expansion.contains("#[allow(unused)]") && !expansion.contains(&format!("{attribute}\n")),
            "{expansion}"
        );
    }
    for attribute in ["#[test]", "#[core::prelude::v1::test]", "#[instrument]", "#[other::main_loop]"] {
        let expansion = expand("", &format!("{attribute} async fn main() {{}}"));
        assert!(!expansion.contains("compile_error"), "{attribute}: {expansion}");
    }
}
