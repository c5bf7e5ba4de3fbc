//! Who can change what the agent believes: refuses files, folders and pins that somebody else than root could exchange.
//!
//! Owns the walk along a path, through every symbolic link, and the judgement, a pure function of what was seen on the way. It changes
//! nothing: what to mend is for the operator, in the words of [`Refusal`]. The run directory, the pins and doctor ask.

use nix::unistd::Uid;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::{fmt, fs, io};

/// LIMIT: as many symbolic links as the kernel follows in one path (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

// The parts of `st_mode`, see inode(7).
const TYPE: u32 = libc::S_IFMT;
const STICKY: u32 = libc::S_ISVTX;
const GROUP_WRITES: u32 = libc::S_IWGRP;
const OTHERS_WRITE: u32 = libc::S_IWOTH;

/// Something that the kernel passes on the way to a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WayStation {
    /// Where it is, without symbolic links before the last name.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: u32,
    /// Type and permissions, as stat(2) tells them.
    pub mode: u32,
}

/// All of them, in the order in which the kernel passes them. The last one is what the path leads to, if that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Way {
    steps: Vec<WayStation>,
    arrives: bool,
}

/// Why a path is not trusted: the first thing on the way to it that somebody else than root could exchange or change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    step: WayStation,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Owner,
    Mode,
}

impl Way {
    /// Walks an absolute path from the root.
    ///
    /// # Errors
    /// Something on the way cannot be looked at, or is no folder. What does not exist is no error: the way ends before it.
    pub fn to(path: &Path) -> io::Result<Self> {
        let root = PathBuf::from("/");
        let steps = vec![look(root.clone())?];
        walk(steps, root, path)
    }

    /// Walks on from a folder to which the way is known.
    ///
    /// # Errors
    /// As [`Way::to`].
    pub fn beyond(folder: &Path, rest: &Path) -> io::Result<Self> {
        walk(Vec::new(), folder.to_owned(), rest)
    }

    /// Whether the path exists.
    #[must_use]
    pub const fn arrives(&self) -> bool {
        self.arrives
    }

    /// Whether root and this user alone decide what is at the end of the way. Everything on it has to belong to one of the two.
    /// Nobody else may write to it, except to a folder on the way in which nobody can replace what is another's (sticky, as /tmp
    /// is). Of a symbolic link the owner counts: its permissions mean nothing.
    ///
    /// # Errors
    /// What is wrong with the first one that is not so.
    pub fn judge(&self, user: Uid) -> Result<(), Refusal> {
        let end = if self.arrives { self.steps.len().checked_sub(1) } else { None };
        for (number, step) in self.steps.iter().enumerate() {
            let refused = |fault| Refusal { step: step.clone(), fault };
            if step.owner != 0 && step.owner != user.as_raw() {
                return Err(refused(Fault::Owner));
            }
            let writable = step.mode & (GROUP_WRITES | OTHERS_WRITE) != 0;
            let is_shared_folder = Some(number) != end && step.mode & STICKY != 0;
            if !step.is_link() && writable && !is_shared_folder {
                return Err(refused(Fault::Mode));
            }
        }
        Ok(())
    }
}

impl WayStation {
    const fn is_link(&self) -> bool {
        self.mode & TYPE == libc::S_IFLNK
    }
}

impl Refusal {
    /// What is wrong.
    #[must_use]
    pub fn what(&self) -> String {
        let WayStation { path, owner, mode } = &self.step;
        let (path, permissions) = (path.display(), mode & !TYPE);
        match self.fault {
            Fault::Owner => {
                format!("{path} belongs to user {owner} (mode {permissions:04o}) and not to root")
            }
            Fault::Mode => {
                let who = if mode & OTHERS_WRITE != 0 { "everybody" } else { "its group" };
                format!("{who} may write to {path} (owner {owner}, mode {permissions:04o})")
            }
        }
    }

    /// The command that mends it.
    #[must_use]
    pub fn change(&self) -> String {
        let path = self.step.path.display();
        match self.fault {
            Fault::Owner if self.step.is_link() => format!("chown --no-dereference root {path}"),
            Fault::Owner => format!("chown root {path}"),
            Fault::Mode => format!("chmod go-w {path}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; whoever can change it makes the agent believe anything: see that nothing there is forged, then run: {}",
            self.what(),
            self.change()
        )
    }
}

impl std::error::Error for Refusal {}

fn look(path: PathBuf) -> io::Result<WayStation> {
    let metadata = fs::symlink_metadata(&path)?;
    Ok(WayStation { path, owner: metadata.uid(), mode: metadata.mode() })
}

fn walk(mut steps: Vec<WayStation>, mut at: PathBuf, rest: &Path) -> io::Result<Way> {
    let mut ahead: VecDeque<OsString> = names(rest).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            // What it leaves was passed without a link, so this is where the kernel goes.
            at.pop();
            continue;
        }
        let step = match look(at.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Way { steps, arrives: false });
            }
            step => step?,
        };
        let (path, is_link) = (step.path.clone(), step.is_link());
        steps.push(step);
        if is_link {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = fs::read_link(path)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(name);
            }
        } else {
            at = path;
        }
    }
    Ok(Way { steps, arrives: true })
}

/// What is to be gone through, name by name.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const FOLDER: u32 = libc::S_IFDIR;
    const LINK: u32 = libc::S_IFLNK | 0o777;
    const AGENT: u32 = 998;

    fn way(steps: &[(&str, u32, u32)], arrives: bool) -> Way {
        let steps = steps.iter().map(|(path, owner, mode)| WayStation {
            path: path.into(),
            owner: *owner,
            mode: *mode,
        });
        Way { steps: steps.collect(), arrives }
    }

    /// What is refused of a path whose last two steps are these, if anything is.
    fn verdict(last: &[(&str, u32, u32)], arrives: bool) -> Option<(String, String)> {
        let steps = [&[("/", 0, FOLDER | 0o755)], last].concat();
        let refusal = way(&steps, arrives).judge(Uid::from_raw(AGENT)).err()?;
        Some((refusal.what(), refusal.change()))
    }

    #[test]
    fn what_root_and_the_agent_alone_decide_is_trusted() {
        for (steps, arrives) in [
            (&[("/run", 0, FOLDER | 0o755), ("/run/cutover", 0, FOLDER | 0o700)][..], true),
            (&[("/run", 0, FOLDER | 0o755), ("/run/cutover", 0, FOLDER | 0o755)], true),
            (&[("/run", 0, FOLDER | 0o755), ("/run/cutover", AGENT, FOLDER | 0o700)], true),
            // As /tmp and a BPF file system are.
            (&[("/tmp", 0, FOLDER | 0o1777), ("/tmp/cutover", 0, FOLDER | 0o700)], true),
            (&[("/tmp", 0, FOLDER | 0o1777)], false),
            (&[("/var/run", 0, LINK), ("/run", 0, FOLDER | 0o755)], true),
            (&[("/run/state.json", 0, libc::S_IFREG | 0o644)], true),
        ] {
            assert_eq!(verdict(steps, arrives), None, "{steps:?}");
        }
    }

    #[test]
    fn what_somebody_else_decides_is_refused_with_the_command_that_mends_it() {
        let refused = |what: &str, change: &str| Some((what.to_owned(), change.to_owned()));
        for (steps, arrives, expected) in [
            (
                &[("/srv", 1000, FOLDER | 0o755), ("/srv/run", 0, FOLDER | 0o700)][..],
                true,
                refused("/srv belongs to user 1000 (mode 0755) and not to root", "chown root /srv"),
            ),
            (
                &[("/srv", 0, FOLDER | 0o775), ("/srv/run", 0, FOLDER | 0o700)],
                true,
                refused("its group may write to /srv (owner 0, mode 0775)", "chmod go-w /srv"),
            ),
            (
                &[("/srv", 0, FOLDER | 0o777)],
                false,
                refused("everybody may write to /srv (owner 0, mode 0777)", "chmod go-w /srv"),
            ),
            (
                &[("/run", 0, FOLDER | 0o755), ("/run/x", 0, FOLDER | 0o770)],
                true,
                refused("its group may write to /run/x (owner 0, mode 0770)", "chmod go-w /run/x"),
            ),
            // What is in it is safe from being replaced, but anybody may add to it.
            (
                &[("/tmp", 0, FOLDER | 0o1777)],
                true,
                refused("everybody may write to /tmp (owner 0, mode 1777)", "chmod go-w /tmp"),
            ),
            (
                &[("/tmp", 0, FOLDER | 0o1777), ("/tmp/x", 1000, LINK), ("/run", 0, FOLDER | 0o755)],
                true,
                refused(
                    "/tmp/x belongs to user 1000 (mode 0777) and not to root",
                    "chown --no-dereference root /tmp/x",
                ),
            ),
            (
                &[("/run/state.json", 0, libc::S_IFREG | 0o664)],
                true,
                refused(
                    "its group may write to /run/state.json (owner 0, mode 0664)",
                    "chmod go-w /run/state.json",
                ),
            ),
        ] {
            assert_eq!(verdict(steps, arrives), expected, "{steps:?}");
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Of whoever runs the test: a folder below one that is sticky, as temporary ones are.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap();
        (folder, path)
    }

    /// The paths of a way below the folder, without it.
    fn below(way: &Way, folder: &Path) -> Vec<String> {
        let names = way.steps.iter().filter_map(|step| step.path.strip_prefix(folder).ok()?.to_str());
        names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn every_step_of_a_path_is_looked_at_through_its_links() {
        let (_guard, folder) = folder();
        fs::create_dir_all(folder.join("real/deep")).unwrap();
        fs::create_dir(folder.join("other")).unwrap();
        symlink("../real", folder.join("other/relative")).unwrap();
        symlink(folder.join("other/relative"), folder.join("absolute")).unwrap();
        let way = Way::to(&folder.join("absolute/./deep")).unwrap();
        assert_eq!(below(&way, &folder), ["absolute", "other", "other/relative", "real", "real/deep"]);
        assert!(way.arrives());
        assert_eq!(way.steps[0].path, Path::new("/"));
        way.judge(Uid::effective()).unwrap();
        // The way back out of a link leads to where the link leads, not to where it is.
        let back = Way::to(&folder.join("absolute/deep/../../other")).unwrap();
        assert_eq!(below(&back, &folder).last().unwrap(), "other");
        let beyond = Way::beyond(&folder, Path::new("absolute/deep")).unwrap();
        assert_eq!(below(&beyond, &folder), below(&way, &folder));
    }

    #[test]
    fn a_way_ends_before_what_does_not_exist() {
        let (_guard, folder) = folder();
        let way = Way::to(&folder.join("a/b")).unwrap();
        assert!(!way.arrives());
        assert_eq!(way.steps.last().unwrap().path, folder);
        way.judge(Uid::effective()).unwrap();
        symlink("nowhere", folder.join("dangling")).unwrap();
        let way = Way::to(&folder.join("dangling")).unwrap();
        assert_eq!((way.arrives(), below(&way, &folder)), (false, vec!["dangling".to_owned()]));
        fs::write(folder.join("file"), "").unwrap();
        let error = Way::to(&folder.join("file/x")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        symlink("loop", folder.join("loop")).unwrap();
        let error = Way::to(&folder.join("loop")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_folder_on_the_way_that_others_may_write_to_is_found() {
        let (_guard, folder) = folder();
        fs::create_dir_all(folder.join("open/run")).unwrap();
        symlink(folder.join("open/run"), folder.join("link")).unwrap();
        let path = folder.join("link");
        let verdict = || Way::to(&path).unwrap().judge(Uid::effective());
        assert_eq!(verdict(), Ok(()));
        for (mode, is_trusted) in [(0o777, false), (0o1777, true), (0o720, false), (0o755, true)] {
            set_mode(&folder.join("open"), mode);
            let said = verdict();
            assert_eq!(said.is_ok(), is_trusted, "{mode:o}: {said:?}");
            if let Err(refusal) = said {
                assert!(refusal.what().contains(&format!("{} (", folder.join("open").display())));
            }
        }
    }
}
