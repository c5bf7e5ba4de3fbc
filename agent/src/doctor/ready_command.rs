//! `CutoverReadyCommand`: whether the agent can run it. That the path is absolute is the settings' own rule.

use super::finding::{Area, Check, Finding};
use cutover_daemon::settings::Settings;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

static READY_COMMAND: Check = Check {
    area: Area::Settings,
    name: "ready-command",
    wants: "CutoverReadyCommand, if there is one, is a program that can be run",
    why: "No endpoint is reported up before it has said yes. If it cannot be run, every VM start and every migration waits for Nova's timeout.",
};

pub(super) static CHECKS: &[&Check] = &[&READY_COMMAND];

/// What is at the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadyCommandFile {
    /// Nothing is asked for.
    Unset,
    /// There is nothing, or it cannot be looked at.
    Missing,
    /// A folder, a device.
    NoFile,
    /// A file without the permission to be run.
    NotExecutable,
    /// A program.
    Program,
}

impl ReadyCommandFile {
    pub(super) fn look(settings: &Settings) -> Self {
        let Some(path) = settings.cutover_ready_command.as_deref() else { return Self::Unset };
        match fs::metadata(path) {
            Err(_) => Self::Missing,
            Ok(found) if !found.is_file() => Self::NoFile,
            // KERNEL: root may run a file that anybody may run.
            Ok(found) if found.permissions().mode() & 0o111 == 0 => Self::NotExecutable,
            Ok(_) => Self::Program,
        }
    }
}

pub(super) fn judge(seen: ReadyCommandFile, path: Option<&Path>) -> Option<Finding> {
    let path = path.unwrap_or(Path::new("")).display();
    let name = "CutoverReadyCommand";
    Some(match seen {
        ReadyCommandFile::Unset => return None,
        ReadyCommandFile::Program => READY_COMMAND.ok(format!("{path} can be run")),
        ReadyCommandFile::Missing => READY_COMMAND.error(
            format!("{name} is {path}, which does not exist"),
            format!("install it, or take {name} out of the file"),
        ),
        ReadyCommandFile::NoFile => READY_COMMAND
            .error(format!("{name} is {path}, which is no file"), format!("{name} = the path of a program")),
        ReadyCommandFile::NotExecutable => {
            READY_COMMAND.error(format!("{name} is {path}, which may not be run"), format!("chmod +x {path}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use std::path::PathBuf;

    fn found(path: Option<PathBuf>) -> (ReadyCommandFile, Option<Level>) {
        let settings = Settings { cutover_ready_command: path.clone(), ..Settings::default() };
        let seen = ReadyCommandFile::look(&settings);
        (seen, judge(seen, path.as_deref()).map(|finding| finding.level))
    }

    #[test]
    fn only_a_program_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ready");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let error = Some(Level::Error);
        assert_eq!(found(None), (ReadyCommandFile::Unset, None));
        assert_eq!(found(Some(folder.path().join("nothing"))), (ReadyCommandFile::Missing, error));
        assert_eq!(found(Some(folder.path().to_owned())), (ReadyCommandFile::NoFile, error));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(found(Some(file.clone())), (ReadyCommandFile::NotExecutable, error));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(Some(file)), (ReadyCommandFile::Program, Some(Level::Ok)));
    }
}
