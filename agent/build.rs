//! Builds the kernel program for the agent to embed, or stops with one line that names `cargo xtask setup`.

fn main() {}
