//! Runs the helper, passes on what it says, and starts it again when it has ended or says nothing any more.

use super::domains::Domains;
use super::line::{self, Line};
use super::lines::Lines;
use super::said::Said;
use super::{COMMAND, Event, Place, Report, Standing};
use crate::clock;
use crate::logging::one_line;
use crate::retry::BackOff;
use cutover_engine::BootTime;
use cutover_engine::time::milliseconds;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

/// LIMIT: for a daemon that is being started by its socket and looks at all its domains first. One that hangs is asked again in a
/// new process.
const LISTED_WITHIN: Duration = Duration::from_secs(15);
/// LIMIT: three times as long as a helper that lives is silent.
const SILENT_AT_MOST: Duration = Duration::from_secs(90);
/// LIMIT: a connection that was of use for so long is no reason to wait before the next one.
const OF_USE_AFTER: Duration = Duration::from_secs(10);
/// LIMIT: a library is installed by somebody, who can wait; looking for it takes a process.
const LIBRARY_AGAIN_WITHIN: Duration = Duration::from_secs(300);

/// Why libvirt is not heard.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("none of its sockets is there ({0})")]
    NoSocket(String),
    #[error("{0}")]
    NoLibrary(String),
    #[error("the helper cannot be started: {0}")]
    Start(io::Error),
    #[error("the helper cannot be read: {0}")]
    Read(io::Error),
    #[error("the helper said something that makes no sense: {0}")]
    Nonsense(String),
    #[error("it has not shown its domains within {} s", LISTED_WITHIN.as_secs())]
    NoAnswer,
    #[error("the helper has been silent for {} s", SILENT_AT_MOST.as_secs())]
    Silent,
    #[error("{0}")]
    Told(String),
    #[error("the helper ended ({0})")]
    Ended(ExitStatus),
}

impl Unheard {
    fn standing(&self) -> Standing {
        match self {
            Self::NoSocket(_) | Self::NoLibrary(_) => Standing::Absent,
            _ => Standing::Unheard,
        }
    }
}

/// Listens to libvirt. Cheap to clone: a handle on whether it is heard.
#[derive(Clone, Debug)]
pub struct Listener {
    place: Arc<Place>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    heard: Heard,
    since: BootTime,
}

/// How it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    Yes { library: String, daemon: String },
    No { standing: Standing, why: String },
}

/// The helper and its lines. The process ends with this.
struct Helper {
    child: Child,
    lines: Lines<ChildStdout>,
}

impl Listener {
    /// Starts nothing yet.
    #[must_use]
    pub fn new(place: Place) -> Self {
        let heard =
            Heard::No { standing: Standing::Unheard, why: "it has not been looked for yet".to_owned() };
        let state = State { heard, since: clock::now() };
        Self { place: Arc::new(place), state: Arc::new(Mutex::new(state)) }
    }

    /// Whether libvirt is heard now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.lock();
        let for_ms = milliseconds(clock::now().since(state.since));
        match state.heard.clone() {
            Heard::Yes { library, daemon } => Report {
                standing: Standing::Connected,
                why: None,
                for_ms,
                library: Some(library),
                daemon: Some(daemon),
            },
            Heard::No { standing, why } => {
                Report { standing, why: Some(why), for_ms, library: None, daemon: None }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what libvirt says, for ever. At each connection it tells first how every active domain stands, and that those
    /// which are not active any more are gone.
    pub async fn run(self, events: UnboundedSender<Event>) {
        let (mut domains, mut said) = (Domains::default(), Said::default());
        let mut back_off = BackOff::new();
        let mut library_back_off = BackOff::up_to(LIBRARY_AGAIN_WITHIN);
        loop {
            let began_at = clock::now();
            let unheard = self.follow(&mut domains, &events, &mut said).await;
            let standing = unheard.standing();
            debug!(%unheard, "libvirt is not heard");
            self.note(Heard::No { standing, why: one_line(&unheard).to_string() }, &mut said);
            if clock::now().since(began_at) > LISTED_WITHIN + OF_USE_AFTER {
                back_off.reset();
            }
            let pause = match unheard {
                Unheard::NoLibrary(_) => library_back_off.next_pause(),
                _ => {
                    library_back_off.reset();
                    back_off.next_pause()
                }
            };
            self.wait(clock::now() + pause, &mut said).await;
        }
    }

    /// Until libvirt is not heard any more.
    async fn follow(
        &self,
        domains: &mut Domains,
        events: &UnboundedSender<Event>,
        said: &mut Said<Heard>,
    ) -> Unheard {
        let mut helper = match self.start() {
            Ok(helper) => helper,
            Err(unheard) => return unheard,
        };
        let deadline = Instant::now() + LISTED_WITHIN;
        let (mut versions, mut is_listed) = (None, false);
        loop {
            let line = if is_listed {
                helper.next_saying(said).await
            } else {
                timeout_at(deadline, helper.next()).await.unwrap_or(Err(Unheard::NoAnswer))
            };
            let told = match line {
                Ok(Line::Connected { library, daemon }) => {
                    domains.begin();
                    versions = Some(Heard::Yes { library, daemon });
                    Vec::new()
                }
                Ok(Line::Found(word) | Line::Told(word)) => vec![domains.take(word)],
                Ok(Line::Listed) => {
                    let Some(heard) = versions.take() else {
                        return Unheard::Nonsense("a list without a connection".to_owned());
                    };
                    is_listed = true;
                    self.note(heard, said);
                    domains.listed(clock::now())
                }
                Ok(Line::Alive) => Vec::new(),
                Ok(Line::Missing(why)) => return Unheard::NoLibrary(why),
                Ok(Line::Failed(why)) => return Unheard::Told(why),
                Err(unheard) => return unheard,
            };
            for event in told {
                debug!(domain = event.domain, what = ?event.what, "libvirt said");
                // The receiver is gone only while the agent stops.
                let _: Result<(), _> = events.send(event);
            }
        }
    }

    fn start(&self) -> Result<Helper, Unheard> {
        let sockets = &self.place.sockets;
        if !sockets.iter().any(|socket| socket.exists()) {
            let names: Vec<String> = sockets.iter().map(|socket| socket.display().to_string()).collect();
            return Err(Unheard::NoSocket(names.join(", ")));
        }
        let mut command = Command::new(&self.place.program);
        command.args([COMMAND, &self.place.uri]).kill_on_drop(true);
        // Its library goes by variables that are somebody else's business, and its messages are read by a program, too.
        command.env_clear().env("LC_ALL", "C");
        // The other end of its standard input is this process's as long as it lives; its end is the helper's.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(Unheard::Start)?;
        let missing = || Unheard::Start(io::Error::other("it has no standard output"));
        let lines = Lines::new(child.stdout.take().ok_or_else(missing)?, line::BYTES_MAX);
        Ok(Helper { child, lines })
    }

    fn note(&self, heard: Heard, said: &mut Said<Heard>) {
        {
            let mut state = self.lock();
            let was_heard = matches!(state.heard, Heard::Yes { .. });
            if was_heard != matches!(heard, Heard::Yes { .. }) {
                state.since = clock::now();
            }
            state.heard = heard.clone();
        }
        said.set(heard);
        say(said);
    }

    /// Until then. Says what has had to wait.
    async fn wait(&self, until: BootTime, said: &mut Said<Heard>) {
        while clock::now() < until {
            let next = said.due_at().map_or(until, |due_at| due_at.min(until));
            clock::sleep_until(Some(next)).await;
            say(said);
        }
    }
}

impl Helper {
    /// The next line; says meanwhile what has had to wait.
    async fn next_saying(&mut self, said: &mut Said<Heard>) -> Result<Line, Unheard> {
        let deadline = Instant::now() + SILENT_AT_MOST;
        loop {
            tokio::select! {
                line = timeout_at(deadline, self.next()) => {
                    return line.unwrap_or(Err(Unheard::Silent));
                }
                () = clock::sleep_until(said.due_at()) => say(said),
            }
        }
    }

    async fn next(&mut self) -> Result<Line, Unheard> {
        match self.lines.next().await {
            Ok(Some(text)) => Line::parse(&text).map_err(Unheard::Nonsense),
            Ok(None) => {
                // It has closed its output: it has ended, or is not worth having.
                let _: io::Result<()> = self.child.start_kill();
                self.child
                    .wait()
                    .await
                    .map_or_else(|error| Err(Unheard::Read(error)), |status| Err(Unheard::Ended(status)))
            }
            Err(error) => Err(Unheard::Read(error)),
        }
    }
}

/// Writes the line that is due, if one is.
fn say(said: &mut Said<Heard>) {
    match said.due(clock::now()) {
        None => {}
        Some(Heard::Yes { library, daemon }) => info!(library, daemon, "libvirt is heard"),
        Some(Heard::No { standing: Standing::Absent, why }) => {
            info!(why, "no libvirt here; `cutover migrate pause` is the only way to tell of a stop");
        }
        Some(Heard::No { why, .. }) => warn!(why, "libvirt is not heard; it is tried again"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";

    /// A helper that is a script, beside a file in place of libvirt's socket.
    fn listener(folder: &TempDir, script: &str) -> Listener {
        let (program, socket) = (folder.path().join("helper"), folder.path().join("socket"));
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&socket, "").unwrap();
        Listener::new(Place { program, uri: "test".to_owned(), sockets: vec![socket] })
    }

    /// The first attempt of a listener: how it ended, and what was told.
    async fn attempt(listener: &Listener) -> (String, Vec<(What, u64)>) {
        let (sender, mut events) = mpsc::unbounded_channel();
        let why = loop {
            let unheard = listener.follow(&mut Domains::default(), &sender, &mut Said::default()).await;
            // KERNEL: another test may have forked while the script was open for writing, and not executed anything yet.
            if !matches!(&unheard, Unheard::Start(error) if error.kind() == io::ErrorKind::ExecutableFileBusy)
            {
                break unheard.to_string();
            }
            tokio::task::yield_now().await;
        };
        drop(sender);
        let mut told = Vec::new();
        while let Some(event) = events.recv().await {
            assert_eq!(event.domain, UUID);
            told.push((event.what, event.at.0));
        }
        (why, told)
    }

    #[tokio::test]
    async fn what_a_helper_says_is_passed_on_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let word = |what, at| format!(r#"{{"domain":"{UUID}","what":"{what}","at_ns":{at}}}"#);
        let script = format!(
            "echo '{{\"connected\":{{\"library\":\"11.3.0\",\"daemon\":\"9.0.0\"}}}}'\n\
             echo '{{\"found\":{}}}'\necho '\"listed\"'\necho '\"alive\"'\necho '{{\"told\":{}}}'\nexit 3",
            word("running", 1),
            word("stopped", 2)
        );
        let listener = listener(&folder, &script);
        let (why, told) = attempt(&listener).await;
        assert_eq!(why, "the helper ended (exit status: 3)");
        assert_eq!(told, [(What::Running, 1), (What::Stopped, 2)]);
        let report = listener.report();
        assert_eq!((report.standing, report.daemon.as_deref()), (Standing::Connected, Some("9.0.0")));
    }

    #[tokio::test]
    async fn it_says_why_nothing_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        for (script, expected) in [
            ("echo '{\"missing\":\"no library\"}'; exec sleep 60", "no library"),
            ("echo '{\"failed\":\"no daemon\"}'; exec sleep 60", "no daemon"),
            ("echo '\"listed\"'; exec sleep 60", "a list without a connection"),
            ("echo nonsense; exec sleep 60", "makes no sense"),
            ("head -c 100000 /dev/zero; exec sleep 60", "cannot be read"),
            ("exec >&-; exec sleep 60", "the helper ended (signal: 9"),
        ] {
            let (why, told) = attempt(&listener(&folder, script)).await;
            assert!(why.contains(expected), "{script}: {why}");
            assert_eq!(told, []);
        }
        let absent = listener(&folder, "");
        fs::remove_file(folder.path().join("socket")).unwrap();
        let (why, _) = attempt(&absent).await;
        assert!(why.contains("none of its sockets is there"), "{why}");
    }
}
