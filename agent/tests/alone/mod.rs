//! Commands in a network namespace of their own, where nothing of the machine's network is.

use nix::sched::{CloneFlags, unshare};
use std::process::{Command, Output};

pub(crate) fn output_alone(command: &mut Command) -> Output {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The namespace is the thread's, whose child inherits it.
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            command.output().unwrap()
        });
        thread.join().unwrap()
    })
}
