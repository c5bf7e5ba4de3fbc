//! A thread that acts at once, as on a host with a processor to spare: emulated guests leave none, and an ordinary thread waits for its turn.

use nix::unistd::{Pid, gettid};
use std::process::Command;

/// The calling thread comes before every ordinary one, until this is dropped.
#[derive(Debug)]
#[must_use = "it is over when this is dropped"]
pub struct Prompt(Pid);

impl Prompt {
    /// From now on.
    ///
    /// # Panics
    /// When `chrt` cannot be run, or the kernel refuses.
    pub fn now() -> Self {
        let thread = gettid();
        schedule(thread, &["--fifo", "--reset-on-fork"], "1");
        Self(thread)
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        schedule(self.0, &["--other"], "0");
    }
}

fn schedule(thread: Pid, policy: &[&str], priority: &str) {
    let mut command = Command::new("chrt");
    command.args(policy).args(["--pid", priority, &thread.to_string()]);
    let output = command.output().expect("util-linux is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The 41st field is the policy (proc_pid_stat(5)); the second one may have spaces in it.
    fn policy() -> String {
        let path = format!("/proc/self/task/{}/stat", gettid());
        let stat = fs::read_to_string(path).expect("a thread is there");
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        rest.split_whitespace().nth(38).expect("a policy").to_owned()
    }

    #[test]
    fn a_thread_is_prompt_until_it_is_not() {
        assert_eq!(policy(), "0");
        let prompt = Prompt::now();
        assert_eq!(policy(), "1");
        drop(prompt);
        assert_eq!(policy(), "0");
    }
}
