//! The `cutover` program in front of the daemon: [`cli`] is the command line, [`doctor`] checks a host.

pub mod cli;
pub mod doctor;
#[cfg(test)]
mod example;
mod overruns;
