//! What the figures were measured on.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// Appends a table with the machine, the kernel, the versions and the date.
pub(crate) fn describe(text: &mut String) -> Result<()> {
    text.push_str("| | |\n|---|---|\n");
    let moment = [
        ("command", "cargo xtask bench".to_owned()),
        ("load average at the end", load()?),
        ("date", date()?),
    ];
    for (name, value) in facts()?.into_iter().chain(moment) {
        writeln!(text, "{}", row(name, &value))?;
    }
    Ok(())
}

/// What is the same in every run on this machine with this compiler and this version.
fn facts() -> Result<[(&'static str, String); 4]> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = field(&cpus, "model name").unwrap_or("unknown");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let is_virtual = field(&cpus, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    Ok([
        ("processor", format!("{count} × {model}{}", if is_virtual { ", virtual machine" } else { "" })),
        ("kernel", kernel.trim().to_owned()),
        ("compiler", answer("rustc", &["--version"])?),
        ("cutover", env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// When this is, what else the machine does, and where it is not the one that `head` describes.
pub(crate) fn moment(head: &str) -> Result<String> {
    let mut moment = format!("{}, load average at the end {}", date()?, load()?);
    for (name, value) in facts()? {
        if !head.contains(&row(name, &value)) {
            write!(moment, "; {name} {value}")?;
        }
    }
    Ok(moment)
}

fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    Ok(load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn date() -> Result<String> {
    answer("date", &["--utc", "+%Y-%m-%d"])
}

fn row(name: &str, value: &str) -> String {
    format!("| {name} | {value} |")
}

fn field<'a>(cpus: &'a str, name: &str) -> Option<&'a str> {
    let line = cpus.lines().find(|line| line.starts_with(name))?;
    line.split_once(": ").map(|(_, value)| value.trim())
}

fn answer(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
