//! `cutover watch` on a terminal, beside a real agent.

use cutover_tests::scene::{ELEVATED, Scene};
use cutover_tests::{frames, wait};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};

/// What a terminal gets when a full-screen program begins and ends (xterm's private mode 1049).
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SIZE: Winsize = Winsize { ws_row: 30, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };

/// `cutover watch` with a person in front of it.
struct Watching {
    child: Child,
    keyboard: File,
    terminal: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Watching {
    fn start(scene: &Scene) -> Self {
        let pair = openpty(&SIZE, None).expect("a pseudo-terminal");
        let child = scene.target.agent.spawn_on(&pair.slave, &["watch"]);
        let keyboard = File::from(pair.master);
        let mut reader = keyboard.try_clone().expect("a descriptor");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen = Arc::clone(&shown);
        // Ends with the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                screen.lock().expect("nobody panics here").extend(&buffer[..count]);
            }
        });
        Self { child, keyboard, terminal: pair.slave, shown }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panics here")).into_owned()
    }

    #[track_caller]
    fn wait_shown(&self, part: &str) {
        let shown = wait::holds_within(wait::SOON, || screen(&self.text()).contains(part));
        assert!(shown, "{part:?} is not shown in\n{}", screen(&self.text()));
    }

    #[track_caller]
    fn wait_sent(&self, sequence: &str) {
        let sent = wait::holds_within(wait::SOON, || self.text().contains(sequence));
        assert!(sent, "{sequence:?} is not in {:?}", self.text());
    }

    #[track_caller]
    fn wait_ended(mut self) -> ExitStatus {
        let mut status = None;
        wait::until(wait::SOON, "watch ends", || {
            status = self.child.try_wait().expect("it is ours");
            status.is_some()
        });
        self.wait_sent(LEAVE);
        let mode = tcgetattr(&self.terminal).expect("a terminal").local_flags;
        assert!(mode.contains(LocalFlags::ICANON | LocalFlags::ECHO), "the terminal is usable again");
        status.expect("it ended")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Both fail only if it has ended, as it should have.
        let _: std::io::Result<()> = self.child.kill();
        let _: std::io::Result<ExitStatus> = self.child.wait();
    }
}

/// What a terminal shows that was sent this: text, and cursor positions, which is all that matters here. A program
/// sends only what changed.
fn screen(sent: &str) -> String {
    let mut cells = vec![vec![' '; usize::from(SIZE.ws_col)]; usize::from(SIZE.ws_row)];
    let (mut row, mut column) = (0, 0);
    let mut characters = sent.chars();
    while let Some(character) = characters.next() {
        if character != '\x1b' {
            if let Some(cell) = cells.get_mut(row).and_then(|row: &mut Vec<char>| row.get_mut(column)) {
                *cell = character;
            }
            column += 1;
            continue;
        }
        // `ESC [`, parameters, and a letter that says what it is.
        let (mut parameters, mut letter) = (String::new(), ' ');
        for next in characters.by_ref().skip(1) {
            if next.is_ascii_alphabetic() {
                letter = next;
                break;
            }
            parameters.push(next);
        }
        if let ('H', Some((to_row, to_column))) = (letter, parameters.split_once(';')) {
            let from_zero = |text: &str| text.parse::<usize>().map_or(0, |number| number - 1);
            (row, column) = (from_zero(to_row), from_zero(to_column));
        }
    }
    cells.into_iter().map(|row| row.into_iter().collect::<String>() + "\n").collect()
}

#[test]
fn watch_follows_the_agent_and_gives_the_terminal_back() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mut watching = Watching::start(&scene);
    watching.wait_sent(ENTER);
    watching.wait_shown("host compute2   agent ");
    watching.wait_shown("armed for ");
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    watching.wait_shown("RARP, routed in ");

    assert_eq!(scene.target.agent.terminate().code(), Some(0));
    watching.wait_shown("no agent answers");
    watching.keyboard.write_all(b"q").expect("it reads");
    assert_eq!(watching.wait_ended().code(), Some(0));
}

#[test]
fn a_killed_watch_gives_the_terminal_back() {
    let scene = Scene::new();
    let watching = Watching::start(&scene);
    watching.wait_shown("0 endpoints");
    kill(Pid::from_raw(watching.child.id().cast_signed()), Signal::SIGTERM).expect("it is ours");
    assert_eq!(watching.wait_ended().code(), Some(0));
}
