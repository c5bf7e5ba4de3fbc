//! What the figures were measured on.

use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// Appends a table with the machine, the kernel, the versions and the date.
pub(crate) fn describe(text: &mut String) -> Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let load = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let model = field(&cpus, "model name").unwrap_or("unknown");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let is_virtual = field(&cpus, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
    let rows = [
        ("processor", format!("{count} × {model}{}", if is_virtual { ", virtual machine" } else { "" })),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?.trim().to_owned()),
        ("compiler", answer("rustc", &["--version"])?),
        ("cutover", env!("CARGO_PKG_VERSION").to_owned()),
        ("command", "cargo xtask bench".to_owned()),
        ("load average at the end", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("date", answer("date", &["--utc", "+%Y-%m-%d"])?),
    ];
    text.push_str("| | |\n|---|---|\n");
    for (name, value) in rows {
        writeln!(text, "| {name} | {value} |")?;
    }
    Ok(())
}

fn field<'a>(cpus: &'a str, name: &str) -> Option<&'a str> {
    let line = cpus.lines().find(|line| line.starts_with(name))?;
    line.split_once(": ").map(|(_, value)| value.trim())
}

fn answer(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
