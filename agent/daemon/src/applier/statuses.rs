//! Endpoint status: what Neutron's driver is told about each endpoint of this host.
//!
//! Owns the comparison of the statuses that are wanted with those that are there, and the value that the driver
//! understands. It decides no status and writes nothing: [`dir`] has the files of the directory datastore,
//! [`etcd`] the keys of an etcd cluster; the agent runs the one that belongs to its datastore.

mod counts;
pub mod dir;
pub mod etcd;
mod plan;
mod publisher;

pub use counts::StatusCounts;
pub use publisher::{Inputs, Outcome};

use serde::{Deserialize, Serialize};

/// The value of a status.
#[derive(Serialize, Deserialize)]
struct Document {
    status: String,
}

/// The status in a value, unless it is something else.
pub(crate) fn parse(value: &[u8]) -> Option<String> {
    serde_json::from_slice::<Document>(value).ok().map(|document| document.status)
}

/// The value for a status.
fn render(status: &'static str) -> String {
    format!("{{\"status\":\"{status}\"}}")
}
