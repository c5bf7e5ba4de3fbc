//! What was away while some of the recordings were made, between two of their steps, and how it is away here.
//!
//! In 07d it is etcd, which was stopped. In 07a and 07b it is Neutron's server, which an agent does not see: it goes on with
//! nobody to write or to read. These are played as they were, and with etcd away in the meantime, too.

use crate::member::Member;
use cutover_tests::{Etcd, wait};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an agent may take to notice that a member is gone, or back.
///
/// LIMIT: only failing tests wait this long.
const RECOVERY: Duration = Duration::from_secs(40);

/// How etcd is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outage {
    /// Its process is gone, and comes back with the same data.
    Stopped,
    /// It is there, and does nothing.
    Frozen,
    /// It cannot be reached from any compute host.
    CutOff,
}

/// Every way in which a recording is played.
pub(crate) fn all(name: &str) -> Vec<Option<Outage>> {
    match steps(name) {
        // Without etcd's absence it would be another scenario.
        Some(_) if name.starts_with("07d") => {
            vec![Some(Outage::Stopped), Some(Outage::Frozen), Some(Outage::CutOff)]
        }
        Some(_) if name.starts_with("07a") => vec![None, Some(Outage::Frozen)],
        Some(_) => vec![None, Some(Outage::CutOff)],
        None => vec![None],
    }
}

/// The step at whose beginning it goes away, and the one at whose beginning it is back.
fn steps(name: &str) -> Option<(&'static str, &'static str)> {
    match name {
        "07a-restart-mid-migration" => Some(("04-server-stopped", "05-server-started")),
        "07b-restart-dest-up-while-down" => Some(("03-server-stopped", "05-server-started")),
        "07d-finish-while-etcd-down" => Some(("04-etcd-stopped", "06-etcd-started")),
        _ => None,
    }
}

impl Outage {
    /// Does what belongs to the beginning of a step.
    pub(crate) fn at(self, recording: &str, step: &str, etcd: &Etcd, members: &mut BTreeMap<String, Member>) {
        let Some((begins, ends)) = steps(recording) else { return };
        if step == begins {
            self.begin(etcd, members);
        } else if step == ends {
            self.end(etcd, members);
        }
    }

    fn begin(self, etcd: &Etcd, members: &mut BTreeMap<String, Member>) {
        match self {
            Self::Stopped => etcd.kill(0),
            Self::Frozen => etcd.freeze(0),
            Self::CutOff => {
                members.values().for_each(|member| member.host.namespace().ip("link set eth0 down"));
            }
        }
        for member in members.values_mut() {
            member.is_cut_off = true;
            member.agent.log().wait(RECOVERY, &["Datastore lost"]);
        }
    }

    fn end(self, etcd: &Etcd, members: &mut BTreeMap<String, Member>) {
        let marks: Vec<_> = members.values().map(|member| member.agent.log().mark()).collect();
        match self {
            Self::Stopped => etcd.restart(0),
            Self::Frozen => etcd.thaw(0),
            Self::CutOff => {
                members.values().for_each(|member| member.host.namespace().ip("link set eth0 up"));
            }
        }
        etcd.wait_answering();
        for (member, mark) in members.values_mut().zip(marks) {
            member.agent.log().wait_after(mark, RECOVERY, &["Datastore read"]);
            member.is_cut_off = false;
        }
        wait::until(RECOVERY, "etcd answers", || etcd.value("/calico/").is_none());
    }
}
