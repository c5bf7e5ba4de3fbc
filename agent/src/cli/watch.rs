//! `cutover watch`: what `cutover status` shows, live in the terminal, with what is moving on top.
//!
//! Asks the agent once a second and changes nothing. Threads of its own wait for the agent, for keys and for signals;
//! the terminal belongs to the main thread, which gives it back however the command ends.

mod progress;
mod screen;

use super::status::ask;
use super::{ConfigFile, Failure};
use cutover_daemon::clock;
use cutover_daemon::control;
use cutover_daemon::settings;
use nix::sys::signal::{SigSet, Signal};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{
    self, Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use screen::{Screen, Scroll};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// How often the agent is asked.
const PERIOD: Duration = Duration::from_secs(1);
/// LIMIT: the agent's loop makes the answer. With many thousand endpoints it is asked less often, so that watching takes
/// at most this part of its time.
const SHARE_OF_TIME: u32 = 10;

/// Arguments of `cutover watch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys: q, Esc or Ctrl-C quits; arrows, j, k, Page Up, Page Down, Home and End scroll."
)]
pub struct WatchArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Something that the screen has to follow.
enum Event {
    Answer(Result<Box<control::Status>, String>),
    Terminal(TerminalEvent),
    /// The terminal is gone, or somebody wants the command to end.
    End,
}

/// Shows the agent's status until the user quits.
///
/// # Errors
/// There is no terminal, the settings cannot be read, no agent answers at the start, or the caller may not ask.
pub fn run(arguments: &WatchArguments) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::usage(
            "watch: standard output is no terminal; use cutover status, with --json for programs",
        ));
    }
    let run_dir = settings::load(&arguments.file.sources()?, &[]).settings.cutover_run_dir;
    let mut screen = Screen::new(ask(&run_dir)?);
    let (events_in, events) = channel();
    watch_signals(events_in.clone())?;
    let terminal_failed = |error: io::Error| Failure::other(format!("terminal: cannot use it: {error}"));
    let shown = ratatui::try_init().and_then(|mut terminal| {
        start("cutover-keys", events_in.clone(), follow_terminal)?;
        start("cutover-status", events_in, move |events| follow_agent(&run_dir, &events))?;
        show(&mut terminal, &mut screen, &events)
    });
    // ORDER: also after a failure, and before anything is said about it.
    let restored = ratatui::try_restore();
    shown.and(restored).map_err(terminal_failed)
}

fn start(
    name: &str,
    events: Sender<Event>,
    work: impl FnOnce(Sender<Event>) + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(move || work(events)).map(drop)
}

/// SIGTERM and the like end the command as `q` does, or the shell would get a terminal that is not usable.
fn watch_signals(events: Sender<Event>) -> Result<(), Failure> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    // ORDER: before any thread is started, all of which inherit it.
    signals.thread_block().map_err(|error| Failure::other(format!("cannot block signals: {error}")))?;
    start("cutover-signals", events, move |events| {
        let _: nix::Result<Signal> = signals.wait();
        // Nobody listens only if the command is ending anyway.
        let _: Result<(), _> = events.send(Event::End);
    })
    .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))
}

fn follow_terminal(events: Sender<Event>) {
    loop {
        let event = event::read().map_or(Event::End, Event::Terminal);
        let is_last = matches!(event, Event::End);
        if events.send(event).is_err() || is_last {
            return;
        }
    }
}

fn follow_agent(run_dir: &Path, events: &Sender<Event>) {
    let socket: PathBuf = run_dir.join(control::SOCKET);
    loop {
        let begin = clock::now();
        let answer = control::ask(run_dir)
            .map(Box::new)
            .map_err(|error| format!("{}: no agent answers: {error}; trying again", socket.display()));
        let took = clock::now().since(begin);
        let pause = if answer.is_ok() { pause(took) } else { PERIOD };
        if events.send(Event::Answer(answer)).is_err() {
            return;
        }
        thread::sleep(pause);
    }
}

/// How long to leave an agent alone whose answer took so long.
fn pause(took: Duration) -> Duration {
    PERIOD.saturating_sub(took).max(took * (SHARE_OF_TIME - 1))
}

fn show(terminal: &mut DefaultTerminal, screen: &mut Screen, events: &Receiver<Event>) -> io::Result<()> {
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        // Every sender ends with an event of its own.
        match events.recv().unwrap_or(Event::End) {
            Event::End => return Ok(()),
            Event::Answer(Ok(status)) => screen.take(*status),
            Event::Answer(Err(trouble)) => screen.trouble = Some(trouble),
            Event::Terminal(TerminalEvent::Key(key)) if quits(&key) => return Ok(()),
            Event::Terminal(TerminalEvent::Key(key)) => {
                if let Some(scroll) = scroll(&key) {
                    screen.scroll(scroll);
                }
            }
            // A new size, among others: the next round draws.
            Event::Terminal(_) => {}
        }
    }
}

fn quits(key: &KeyEvent) -> bool {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release
        && match key.code {
            KeyCode::Esc => true,
            KeyCode::Char('q' | 'Q') => !with_control,
            KeyCode::Char('c') => with_control,
            _ => false,
        }
}

fn scroll(key: &KeyEvent) -> Option<Scroll> {
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Up | KeyCode::Char('k') => Some(Scroll::LineUp),
        KeyCode::Down | KeyCode::Char('j') => Some(Scroll::LineDown),
        KeyCode::PageUp => Some(Scroll::PageUp),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Scroll::PageDown),
        KeyCode::Home => Some(Scroll::Top),
        KeyCode::End => Some(Scroll::Bottom),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_asked_every_second_and_no_more_than_it_can_bear() {
        assert_eq!(pause(Duration::ZERO), PERIOD);
        assert_eq!(pause(Duration::from_millis(5)), Duration::from_millis(995));
        assert_eq!(pause(Duration::from_millis(400)), Duration::from_millis(3_600));
    }

    #[test]
    fn keys_do_what_the_help_says() {
        for (key, expected) in [
            (KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE), true),
            (KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE), true),
            (KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), true),
            (KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE), false),
            (KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release), false),
        ] {
            assert_eq!(quits(&key), expected, "{key:?}");
        }
        let scroll = |code| scroll(&KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(scroll(KeyCode::PageDown), Some(Scroll::PageDown));
        assert_eq!(scroll(KeyCode::Char('k')), Some(Scroll::LineUp));
        assert_eq!(scroll(KeyCode::Char('x')), None);
    }
}
