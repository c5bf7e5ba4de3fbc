//! What libvirt says about the virtual machines of this host: one that is being migrated away has stopped, one is here again, one
//! is gone.
//!
//! [`Listener`] owns a process of this program's own ([`helper`]) that loads libvirt's library and prints one line for each
//! event. So the library is in nobody's way where it is not installed, and whatever it does (wait, crash, leak) happens where the
//! agent only loses the feature: the process is ended and started again. Listens only: the connection is read-only, and nothing
//! here changes a domain. What a stop means for a migration is not decided here.

mod domains;
pub mod helper;
mod lifecycle;
mod line;
mod lines;
mod listener;
mod said;

#[cfg(test)]
pub(crate) use line::fuzz::line as fuzz_line;
pub use listener::Listener;

use cutover_engine::BootTime;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The hidden command of this program that is the [`helper`]; its one argument is the URI.
pub const COMMAND: &str = "libvirt-events";

/// Something that libvirt said about a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// UUID in lower case. Nova gives a domain the UUID of its instance, which is the workload of the endpoint.
    pub domain: String,
    /// What became of it.
    pub what: What,
    /// When libvirt's word of it came; for what was found at a (new) connection, when it was found.
    pub at: BootTime,
}

/// What became of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A migration has stopped it. At the source it ran until now and goes on at the target, unless the migration fails. A target
    /// that waits for a guest is found in the same state at a new connection, so this counts only for whoever is a source.
    Stopped,
    /// It is here, and no migration has stopped it: it runs, or something else keeps it from running, as `virsh suspend` does.
    Running,
    /// It has a process here, and nothing more is known: a guest may be on its way to it.
    Present,
    /// It has no process here any more, whatever the reason. After [`What::Stopped`] that is the end of a migration that
    /// succeeded.
    Gone,
}

/// How libvirt is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// This program, which has the command [`COMMAND`].
    pub program: PathBuf,
    /// libvirt's name for the hypervisor; the library finds out which daemon serves it, libvirtd or virtqemud.
    pub uri: String,
    /// Sockets one of which is there where libvirt is. Nothing is started without.
    pub sockets: Vec<PathBuf>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            // KERNEL: the program that runs, also after a newer one was installed in its place.
            program: "/proc/self/exe".into(),
            uri: "qemu:///system".to_owned(),
            sockets: ["virtqemud-sock-ro", "libvirt-sock-ro"]
                .map(|socket| PathBuf::from("/run/libvirt").join(socket))
                .into(),
        }
    }
}

/// Whether libvirt is heard, for `cutover status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// In one word.
    pub standing: Standing,
    /// Why it is not heard.
    #[serde(default)]
    pub why: Option<String>,
    /// For how long that has been so, in milliseconds.
    pub for_ms: u64,
    /// Version of libvirt's library, if it is heard.
    #[serde(default)]
    pub library: Option<String>,
    /// Version of libvirt's daemon, if it is heard.
    #[serde(default)]
    pub daemon: Option<String>,
}

/// Whether libvirt is heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every event arrives.
    Connected,
    /// There is no libvirt here, or not its library: no fault of this host's.
    Absent,
    /// There is one, and it is not heard.
    Unheard,
}
