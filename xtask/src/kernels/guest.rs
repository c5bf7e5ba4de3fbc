//! A guest: one QEMU without KVM, until it ends or has had its time; and what its console says about the test programs.

use super::PLAN;
use crate::setup::Kernel;
use crate::step::say;
use crate::workspace::{program, target};
use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// LIMIT: a few times as long as a guest takes on a busy machine with two processors.
const GUEST: Duration = Duration::from_secs(25 * 60);

/// What the lines of `init.sh` begin with.
const OWN: &str = "kernels: ";

/// What a kernel says when it has found a fault of its own.
const COMPLAINTS: [&str; 5] = ["Kernel panic", "BUG: ", "WARNING: CPU", "Oops: ", "general protection fault"];

/// Boots a kernel with an initramfs; the tests that it ran, or what went wrong.
pub(super) fn run(kernel: &Kernel, initramfs: &Path) -> Result<()> {
    let log = kernel.folder().join("console.log");
    let mut child = boot(&kernel.image()?, initramfs)?;
    let console = child.stdout.take().context("QEMU has no console")?;
    let followed = follow(&lines_of(console), &log);
    // It has ended by itself, or has had its time.
    let _ = child.kill();
    let status = child.wait().context("QEMU")?;
    let lines = followed?;
    let faults = judge(&lines);
    if faults.is_empty() {
        return Ok(());
    }
    show(&lines)?;
    let faults = faults.join("; ");
    bail!("Linux {}: {faults} (QEMU: {status}); the whole console is {}", kernel.name, log.display())
}

fn boot(image: &Path, initramfs: &Path) -> Result<Child> {
    let newer = target().join("daemons/qemu-10/qemu-system-x86_64");
    let qemu: PathBuf = if newer.is_file() { newer } else { "qemu-system-x86_64".into() };
    // The guest must not outlive this process, however that ends.
    let mut command = Command::new(program("setpriv").context("setpriv (util-linux) is not installed")?);
    command.args(["--pdeathsig", "KILL"]).arg(&qemu);
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1G", "-nodefaults"]);
    command.args(["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel"]).arg(image);
    command.arg("-initrd").arg(initramfs);
    // A guest that is not scheduled while it tries out its timer finds it broken, and panics; one that is not scheduled for some
    // seconds is not stuck.
    command.args([
        "-append",
        "console=ttyS0 loglevel=2 log_buf_len=1M panic=-1 no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1 \
         random.trust_cpu=on mitigations=off",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().with_context(|| format!("{} cannot be started", qemu.display()))
}

/// What comes from the console, line by line, without what a terminal wants at their ends.
fn lines_of(console: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Takes lines until there are no more or the guest has had its time, keeps them in a file, and says how it goes on.
fn follow(console: &Receiver<String>, log: &Path) -> Result<Vec<String>> {
    let mut file = File::create(log).with_context(|| log.display().to_string())?;
    let (begun, mut last) = (Instant::now(), Instant::now());
    let mut lines = Vec::new();
    loop {
        let line = match console.recv_timeout(GUEST.saturating_sub(begun.elapsed())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return Ok(lines),
            Err(RecvTimeoutError::Timeout) => {
                lines.push(format!("xtask: the guest was ended after {GUEST:?}"));
                return Ok(lines);
            }
        };
        writeln!(file, "{line}").with_context(|| log.display().to_string())?;
        if line.starts_with(OWN) || line.starts_with("SKIPPED ") || line.starts_with("test result: ") {
            say(format_args!("{:>4} s  {line}", last.elapsed().as_secs()));
            last = Instant::now();
        }
        lines.push(line);
    }
}

/// Everything that is wrong with what a guest has said.
fn judge(lines: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for part in PLAN.iter().map(|part| part.program) {
        let begin = format!("{OWN}{part} begins");
        let Some(begin) = lines.iter().position(|line| *line == begin) else {
            faults.push(format!("{part} did not begin"));
            continue;
        };
        let end = format!("{OWN}{part} ended with ");
        let rest = &lines[begin..];
        let Some(length) = rest.iter().position(|line| line.starts_with(&end)) else {
            faults.push(format!("{part} did not end"));
            continue;
        };
        let code = &rest[length][end.len()..];
        if code != "0" {
            faults.push(format!("{part} ended with {code}"));
        } else if !rest[..length].iter().any(|line| has_passed_some(line)) {
            faults.push(format!("{part} has run no test"));
        }
    }
    let complaints = lines.iter().filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)));
    faults.extend(complaints.map(|line| format!("the kernel says: {line}")));
    if !lines.iter().any(|line| *line == format!("{OWN}end")) {
        faults.push("the guest did not come to its end".to_owned());
    }
    faults
}

/// Whether this is the last line of a test program that has run at least one.
fn has_passed_some(line: &str) -> bool {
    let passed = line.strip_prefix("test result: ok. ").and_then(|rest| rest.split(' ').next());
    passed.and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number > 0)
}

/// Shows what a guest has said, without the log of its kernel.
fn show(lines: &[String]) -> Result<()> {
    let mut stderr = std::io::stderr().lock();
    let log = format!("{OWN}log of the kernel");
    for line in lines.iter().take_while(|line| **line != log) {
        writeln!(stderr, "  | {line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A console on which all is well.
    fn healthy() -> Vec<String> {
        let mut lines = vec!["kernels: running 5.10.0-32-cloud-amd64".to_owned()];
        for part in PLAN.iter().map(|part| part.program) {
            lines.push(format!("kernels: {part} begins"));
            lines.push("test result: ok. 26 passed; 0 failed; 0 ignored; 0 measured".to_owned());
            lines.push(format!("kernels: {part} ended with 0"));
        }
        lines.push("kernels: log of the kernel".to_owned());
        lines.push("[    0.000000] Linux version 5.10.0-32-cloud-amd64".to_owned());
        lines.push("kernels: end".to_owned());
        lines
    }

    /// The same with each `from` replaced.
    fn with(from: &str, to: &str) -> Vec<String> {
        let lines = healthy().into_iter().map(|line| line.replace(from, to));
        lines.filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn a_guest_passes_only_if_each_program_ran_a_test_and_ended_well() {
        let first = PLAN[0].program;
        assert_eq!(judge(&healthy()), Vec::<String>::new());
        let failed = with(&format!("{first} ended with 0"), &format!("{first} ended with 101"));
        assert_eq!(judge(&failed), [format!("{first} ended with 101")]);
        let cut = with(&format!("kernels: {first} ended with 0"), "");
        assert_eq!(judge(&cut), [format!("{first} did not end")]);
        let absent = with(&format!("kernels: {first} begins"), "");
        assert_eq!(judge(&absent), [format!("{first} did not begin")]);
        let filtered = with("ok. 26 passed", "ok. 0 passed");
        assert_eq!(judge(&filtered).len(), PLAN.len());
        assert_eq!(judge(&filtered)[0], format!("{first} has run no test"));
        assert_eq!(judge(&with("kernels: end", "")), ["the guest did not come to its end"]);
        assert_eq!(judge(&[]).len(), PLAN.len() + 1);
    }

    #[test]
    fn what_the_kernel_complains_of_is_a_fault() {
        let complaint = "[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000008";
        let faults = judge(&with("[    0.000000] Linux version 5.10.0-32-cloud-amd64", complaint));
        assert_eq!(faults, [format!("the kernel says: {complaint}")]);
    }

    #[test]
    fn lines_come_without_the_terminals_ends() {
        let lines: Vec<String> = lines_of(&b"one\r\ntwo\xff\r\n"[..]).into_iter().collect();
        assert_eq!(lines, ["one", "two\u{fffd}"]);
    }
}
