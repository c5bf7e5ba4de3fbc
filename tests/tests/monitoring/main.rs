//! Metrics, health, the page for people and the word to systemd of real agents; alert rules and dashboard with a real Prometheus, and the page in
//! a real browser.

mod files;
mod health;
mod page;
mod prometheus;
mod scrape;
mod systemd;

use std::path::{Path, PathBuf};

/// Where rules and dashboard are.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring")
}
