//! The log lines of a process, taken as they come, and waiting for one of them.

use crate::wait;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Lines of one agent, across its restarts.
#[derive(Clone, Debug, Default)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    grown: Condvar,
}

/// One line, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    /// Shortly after it was written.
    pub at: BootTime,
    /// Without the end of line.
    pub text: String,
}

/// A place in a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

impl Log {
    /// Takes lines from `stream` until it ends, in a thread of its own.
    pub(crate) fn follow(&self, stream: impl Read + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for text in BufReader::new(stream).lines().map_while(Result::ok) {
                let line = Line { at: clock::now(), text };
                shared.lines.lock().expect("nobody panics with the lock").push(line);
                shared.grown.notify_all();
            }
        });
    }

    /// Everything so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lines.lock().expect("nobody panics with the lock").clone()
    }

    /// This moment, for [`Self::wait_after`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.lines().len())
    }

    /// Everything from `mark` on.
    #[must_use]
    pub fn since(&self, Mark(first): Mark) -> Vec<Line> {
        self.lines().split_off(first)
    }

    /// Lines so far that contain every one of `parts`.
    #[must_use]
    pub fn matching(&self, parts: &[&str]) -> Vec<Line> {
        self.lines().into_iter().filter(|line| parts.iter().all(|part| line.text.contains(part))).collect()
    }

    /// The first line that contains every one of `parts`, waiting for it for at most `limit`.
    ///
    /// # Panics
    /// When it does not come; the message has the whole log.
    #[track_caller]
    pub fn wait(&self, limit: Duration, parts: &[&str]) -> Line {
        self.wait_after(Mark(0), limit, parts)
    }

    /// As [`Self::wait`], for a line after `mark`.
    ///
    /// # Panics
    /// When it does not come; the message has the whole log.
    #[track_caller]
    pub fn wait_after(&self, Mark(first): Mark, limit: Duration, parts: &[&str]) -> Line {
        let limit = wait::patient(limit);
        let deadline = Instant::now() + limit;
        let mut lines = self.shared.lines.lock().expect("nobody panics with the lock");
        let mut next = first;
        loop {
            if let Some(line) =
                lines[next..].iter().find(|line| parts.iter().all(|part| line.text.contains(part)))
            {
                return line.clone();
            }
            next = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let all: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
                let all = all.join("\n");
                drop(lines);
                panic!("not within {limit:?}: a line with {parts:?} in\n{all}");
            }
            (lines, _) = self.shared.grown.wait_timeout(lines, left).expect("nobody panics with the lock");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_before_and_after_they_come() {
        let log = Log::default();
        log.follow(&b"first line\nsecond line\n"[..]);
        assert_eq!(log.wait(Duration::from_secs(5), &["second", "line"]).text, "second line");
        let mark = log.mark();
        log.follow(&b"first again\n"[..]);
        assert_eq!(log.wait_after(mark, Duration::from_secs(5), &["first"]).text, "first again");
        assert_eq!(log.matching(&["first"]).len(), 2);
    }

    #[test]
    #[should_panic(expected = "first line")]
    fn a_missing_line_shows_the_log() {
        let log = Log::default();
        log.follow(&b"first line\n"[..]);
        log.wait(Duration::from_secs(5), &["first"]);
        log.wait(Duration::ZERO, &["never"]);
    }
}
