//! The processes of this network namespace: daemons of other namespaces have other routes and do not matter.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A process.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name of its program, as the kernel has it: at most 15 characters.
    pub name: String,
    /// Its command line, the program first.
    pub arguments: Vec<String>,
    /// The file of its program; nothing where this process may not look, and for threads of the kernel.
    pub executable: Option<PathBuf>,
}

impl Process {
    /// The values that follow one of `options`, or are joined to it with `=`.
    pub fn values_of(&self, options: &[&str]) -> Vec<&str> {
        let mut values = Vec::new();
        let mut arguments = self.arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            if options.contains(&argument) {
                values.extend(arguments.next());
            } else if let Some((option, value)) = argument.split_once('=')
                && options.contains(&option)
            {
                values.push(value);
            }
        }
        values
    }
}

/// The processes that share a network namespace with this thread.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Processes(pub Vec<Process>);

impl Processes {
    /// Those that may be looked at: all of them as root.
    pub fn of_this_namespace(proc: &Path) -> Self {
        Self::in_namespace(proc, &proc.join("thread-self/ns/net"))
    }

    /// The same for the namespace of a process.
    pub fn beside(proc: &Path, pid: u32) -> Self {
        Self::in_namespace(proc, &proc.join(pid.to_string()).join("ns/net"))
    }

    fn in_namespace(proc: &Path, namespace: &Path) -> Self {
        let Ok(namespace) = fs::read_link(namespace) else { return Self::default() };
        let pids = fs::read_dir(proc)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let is_here = |folder: &PathBuf| fs::read_link(folder.join("ns/net")).is_ok_and(|it| it == namespace);
        let processes = pids.filter_map(|pid| {
            let folder = Some(proc.join(pid.to_string())).filter(is_here)?;
            let name = fs::read_to_string(folder.join("comm")).ok()?.trim().to_owned();
            let line = fs::read(folder.join("cmdline")).ok()?;
            let arguments = line.split(|byte| *byte == 0).filter(|part| !part.is_empty());
            let arguments = arguments.map(|part| String::from_utf8_lossy(part).into_owned()).collect();
            let executable = fs::read_link(folder.join("exe")).ok();
            Some(Process { pid, name, arguments, executable })
        });
        Self(processes.collect())
    }

    /// Those whose program has one of these names.
    pub fn named<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Process> {
        self.0.iter().filter(|process| names.contains(&process.name.as_str()))
    }

    /// Those that are Calico's Felix: in one image with other programs of Calico, Felix is an option.
    pub fn felix(&self) -> impl Iterator<Item = &Process> {
        let is_option = |argument: &String| argument.trim_start_matches('-') == "felix";
        self.0.iter().filter(move |process| match process.name.as_str() {
            "calico-felix" | "felix" => true,
            "calico-node" => process.arguments.iter().any(is_option),
            _ => false,
        })
    }

    /// Those with a program or a script of this name among their first arguments, as interpreted programs have it.
    pub fn running<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Process> {
        self.0.iter().filter(move |process| {
            let programs = process.arguments.iter().take(3);
            programs.map(|argument| argument.rsplit('/').next().unwrap_or_default()).any(|it| it == name)
        })
    }
}

/// Whether a program of this name runs here, at little cost. One that may not be asked for its network namespace counts: without
/// `CAP_SYS_PTRACE` those of other users may not.
pub fn is_running(proc: &Path, name: &str) -> bool {
    let own = fs::read_link(proc.join("thread-self/ns/net")).ok();
    let is_it =
        |folder: &PathBuf| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    let is_here = |folder: &PathBuf| match fs::read_link(folder.join("ns/net")) {
        Ok(other) => own.as_ref().is_none_or(|own| *own == other),
        // It has ended: one that nobody has waited for yet has a name still, and no namespace.
        Err(error) => own.is_none() || error.kind() != io::ErrorKind::NotFound,
    };
    let folders = fs::read_dir(proc).into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some(entry.path())
    });
    folders.filter(is_it).any(|folder| is_here(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_program_is_found_unless_it_is_known_to_be_elsewhere() {
        let proc = tempfile::tempdir().unwrap();
        let namespace = |of: &str, which: &str| {
            fs::create_dir_all(proc.path().join(of).join("ns")).unwrap();
            symlink(which, proc.path().join(of).join("ns/net")).unwrap();
        };
        let named = |pid: &str, name: &str| {
            fs::create_dir_all(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("comm"), format!("{name}\n")).unwrap();
        };
        let runs = || is_running(proc.path(), "zebra");
        namespace("thread-self", "net:[1]");
        for (pid, name) in [("7", "zebrafish"), ("8", "bgpd"), ("self", "zebra")] {
            named(pid, name);
        }
        assert!(!runs());
        named("9", "zebra");
        namespace("9", "net:[2]");
        assert!(!runs(), "that is another host's, as it were");
        named("10", "zebra");
        assert!(!runs(), "what has ended has no namespace");
        fs::write(proc.path().join("10/ns"), "").unwrap();
        assert!(runs(), "it may not be asked, so nobody says that it is elsewhere");
        fs::remove_file(proc.path().join("10/ns")).unwrap();
        namespace("10", "net:[1]");
        assert!(runs());
        assert!(!is_running(Path::new("/nonexistent"), "zebra"));
    }

    #[test]
    fn this_process_is_found() {
        let processes = Processes::of_this_namespace(Path::new("/proc"));
        let own = processes.0.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert_eq!(own.executable, std::env::current_exe().ok());
        let beside = Processes::beside(Path::new("/proc"), std::process::id());
        assert!(beside.0.iter().any(|process| process.pid == std::process::id()));
    }

    #[test]
    fn options_are_read_either_way() {
        let line = "nova-compute --config-file /a --config-file=/b -x --config-dir /c";
        let arguments = line.split(' ').map(str::to_owned).collect();
        let process = Process { arguments, ..Process::default() };
        assert_eq!(process.values_of(&["--config-file"]), ["/a", "/b"]);
        assert_eq!(process.values_of(&["--config-dir"]), ["/c"]);
    }
}
