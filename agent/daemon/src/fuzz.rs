//! What comes from outside, one entry for each format, which the tests run over `fuzz/corpus` and over changed copies of what is there.
//!
//! An entry takes any bytes and panics if something does not hold that has to hold for all of them; what that is, is written beside the parser
//! (files named `fuzz.rs`).

mod corpus;
mod mutations;
mod tests;

use crate::{conntrack, control, datastore, fast_path, felix, libvirt, netlink, peers, settings, state_file};

/// One format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Of the folder of its inputs.
    pub(crate) name: &'static str,
    /// Panics if these bytes are not treated as they have to be.
    pub(crate) check: fn(&[u8]),
}

/// Those who can be reached from farthest away come first.
pub(crate) const FORMATS: [Format; 13] = [
    Format { name: "channel_messages", check: peers::fuzz_messages },
    Format { name: "peer_record", check: peers::fuzz_record },
    Format { name: "event_record", check: fast_path::fuzz_record },
    Format { name: "control_request", check: control::fuzz::request },
    Format { name: "etcd_key", check: datastore::etcd::fuzz_key },
    Format { name: "resource_json", check: datastore::fuzz::json },
    Format { name: "resource_yaml", check: datastore::fuzz::yaml },
    Format { name: "conntrack", check: conntrack::fuzz_message },
    Format { name: "route_netlink", check: netlink::fuzz::payload },
    Format { name: "nf_tables", check: felix::fuzz_nf_tables },
    Format { name: "ini", check: settings::fuzz_file },
    Format { name: "state_file", check: state_file::fuzz::document },
    Format { name: "libvirt_line", check: libvirt::fuzz_line },
];
