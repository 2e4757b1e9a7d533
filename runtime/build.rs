//! Says which half of the crate is compiled: `cfg(upgrades)` where a process can hand its sockets to another one.
//!
//! `--cfg tableflip_portable` in RUSTFLAGS compiles the half of the other platforms on Linux, to test it there.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(upgrades)");
    // For the target, and with the flags, that the crate is compiled with.
    let linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    let portable = std::env::var_os("CARGO_CFG_TABLEFLIP_PORTABLE").is_some();
    if linux && !portable {
        println!("cargo::rustc-cfg=upgrades");
    }
}
