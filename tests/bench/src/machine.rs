//! The machine of a measurement.

use std::fs;
use std::thread::available_parallelism;

/// Machine, kernel and compiler, in one sentence.
pub(crate) fn describe() -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cores} cores, {}; Linux {}; {}.",
        processor(),
        memory(),
        read("/proc/sys/kernel/osrelease"),
        env!("BENCH_RUSTC"),
    )
}

/// How many threads ran or wanted to, on average over the last minute, proc_loadavg(5).
pub(crate) fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The setting that is in force, in brackets in the file.
pub(crate) fn huge_pages() -> String {
    let settings = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = settings.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or("unknown", |(chosen, _)| chosen).to_owned()
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory() -> String {
    let kibibytes = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or_default();
    format!("{} GiB", kibibytes >> 20)
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}
