//! The test programs of the workspace: built by cargo in one go, run two at a time.
//!
//! Tests wait for something most of the time, so two programs beside each other take little longer than one. What a program prints goes
//! to a file while it runs, and is shown in one piece when it is over.

use crate::step::{Step, say};
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// LIMIT: each program runs as many tests at once as there are processors. With a third program, tests would wait for a processor.
const AT_ONCE: usize = 2;

/// LIMIT: several times as long as the slowest one takes on a busy machine, and less than continuous integration waits for all of them.
const LONGEST: Duration = Duration::from_secs(40 * 60);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Programs that take minutes, the slowest one first, so that no slow one is begun last. Others follow in the order of their names.
const LONG: [&str; 11] = [
    "doctor",
    "scenarios",
    "etcd_status",
    "chaos",
    "frr",
    "etcd_orders",
    "vm",
    "package",
    "etcd_reader",
    "bird",
    "hitless",
];

/// A test program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    /// Its target, which is the name of its folder or file.
    pub(crate) name: String,
    /// What cargo has built.
    pub(crate) path: PathBuf,
    /// The folder of its package, in which it is started.
    folder: PathBuf,
    /// It is in a folder `tests`.
    pub(crate) is_integration_test: bool,
}

/// Builds all of them, always with the same command: with another selection of packages cargo would build what they depend on once more.
pub(crate) fn build() -> Result<Vec<Program>> {
    let messages = Step::cargo()
        .args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"])
        .output()?;
    let mut programs: Vec<Program> = messages.lines().filter_map(program).collect();
    if programs.is_empty() {
        bail!("cargo did not say where the test programs are");
    }
    programs.sort_by_key(|program| {
        (LONG.iter().position(|name| *name == program.name).unwrap_or(LONG.len()), program.name.clone())
    });
    Ok(programs)
}

/// Runs all of them, and `beside` as if it were the first one. Every one is run, whatever becomes of the others.
pub(crate) fn run(programs: Vec<Program>, beside: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    run_in(&workspace::target().join("test-output"), programs, beside)
}

/// The same with another folder for what they print.
fn run_in(folder: &Path, programs: Vec<Program>, beside: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    // What earlier runs have said.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    say(format_args!(
        "{} test programs; while one runs, what it prints is in {}",
        programs.len(),
        folder.display()
    ));
    let (waiting, failures) = (Mutex::new(VecDeque::from(programs)), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let failed = |error| failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
    let work_off = || {
        while let Some(program) = next() {
            if let Err(error) = program.run(folder) {
                failed(format!("{}: {error:#}", program.name));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE {
            scope.spawn(work_off);
        }
        if let Err(error) = beside() {
            failed(format!("{error:#}"));
        }
        work_off();
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

impl Program {
    fn run(&self, folder: &Path) -> Result<()> {
        let log = folder.join(self.path.file_name().unwrap_or_default()).with_extension("log");
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        // It must not outlive this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.path);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let mut child =
            command.spawn().with_context(|| format!("{} cannot be started", self.path.display()))?;
        say(format_args!("{} begins", self.name));
        let status = wait(&mut child);
        show(self, &log);
        match status? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{status}"),
            None => bail!("it was not over after {} minutes", LONGEST.as_secs() / 60),
        }
    }
}

/// Waits for the end of a program; nothing if it had to be killed.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + LONGEST;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// In one piece, although another program may be over at the same time. Nobody is left to tell if standard output is closed.
fn show(program: &Program, log: &Path) {
    let said = fs::read(log).unwrap_or_else(|error| format!("{}: {error}\n", log.display()).into_bytes());
    let mut out = stdout().lock();
    let _ = writeln!(out, "     Running {} ({})", program.name, program.path.display());
    let _ = out.write_all(&said).and_then(|()| out.flush());
}

/// The test program that this line of cargo's JSON messages is about, if it is about one.
fn program(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message["executable"].as_str().filter(|_| message["profile"]["test"] == true)?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Program {
        name: message["target"]["name"].as_str()?.to_owned(),
        path: path.into(),
        folder: manifest.parent()?.to_owned(),
        is_integration_test: message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let message = |kind: &str, name: &str, is_test: bool, executable: Option<&str>| {
            let target = json!({"kind": [kind], "name": name});
            let profile = json!({"test": is_test});
            json!({"reason": "compiler-artifact", "manifest_path": "/w/tests/Cargo.toml", "target": target, "profile": profile, "executable": executable})
                .to_string()
        };
        let found = program(&message("test", "bird", true, Some("/w/target/debug/deps/bird-1f"))).unwrap();
        assert_eq!((found.name.as_str(), found.is_integration_test), ("bird", true));
        assert_eq!((found.folder, found.path), ("/w/tests".into(), "/w/target/debug/deps/bird-1f".into()));
        let unit =
            program(&message("lib", "cutover_tests", true, Some("/w/target/debug/deps/cutover_tests-2e")));
        assert!(unit.is_some_and(|unit| !unit.is_integration_test));
        assert_eq!(program(&message("lib", "cutover_tests", false, None)), None, "the library itself");
        assert_eq!(
            program(&message("bin", "cutover", false, Some("/w/target/debug/cutover"))),
            None,
            "what is tested"
        );
        assert_eq!(program("warning: text"), None);
    }

    #[test]
    fn all_are_run_and_each_failure_is_named() {
        let program = |path: &str| Program {
            name: path.rsplit('/').next().unwrap().to_owned(),
            path: path.into(),
            folder: "/".into(),
            is_integration_test: true,
        };
        // Not where those are whose program this test may be.
        let folder = std::env::temp_dir().join(format!("cutover-xtask-{}", std::process::id()));
        let three = vec![program("/bin/false"), program("/bin/true"), program("/no/such")];
        let error = run_in(&folder, three, || bail!("beside"));
        let error = error.unwrap_err().to_string();
        let mut parts: Vec<&str> = error.split("; ").collect();
        parts.sort_unstable();
        assert_eq!(parts[..2], ["beside", "false: exit status: 1"]);
        assert!(parts[2].starts_with("such: exit status: "), "{parts:?}");
        run_in(&folder, vec![program("/bin/true")], || Ok(())).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
