//! What has to be the case after each step of a recording.
//!
//! INVARIANT: judged by where virtual machines run and what was written, never by what an agent says about itself.

use crate::member::Member;
use crate::replay::Replay;
use cutover_tests::Port;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL};
use std::collections::BTreeMap;

/// Endpoints at the beginning of a step that have nothing to do with any migration: by host and port.
pub(crate) type Snapshot = BTreeMap<(String, String), Quiet>;

/// An endpoint where a virtual machine simply runs.
pub(crate) struct Quiet {
    port: Port,
    ifindex: u32,
    mark: Mark,
}

impl Replay {
    /// The endpoints where a virtual machine runs that did not come by a migration, and whose routes are in place.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let quiet = |(name, home): (&String, &crate::replay::Home)| {
            let member = self.members.get(&home.host)?;
            let port = self.written.port(&home.host, name).filter(|_| !home.arrived)?;
            let ifindex = member.ifindex(&port)?;
            let mark = member.watch.mark();
            member.has_metrics(&port.routed(), &[&[NORMAL]]).then_some(())?;
            Some(((home.host.clone(), name.clone()), Quiet { port, ifindex, mark }))
        };
        self.homes.iter().filter_map(quiet).collect()
    }

    /// Waits until everything is as it has to be after the step; returns what the next one begins with.
    pub(crate) fn end_step(&self, before: Option<Snapshot>) -> Option<Snapshot> {
        let before = before?;
        for port in &self.ports {
            for member in self.members.values() {
                self.judge_endpoint(member, port);
            }
        }
        self.judge_writes(&before);
        Some(self.snapshot())
    }

    fn judge_endpoint(&self, member: &Member, port: &str) {
        let host = member.host.name();
        let home = self.homes.get(port);
        let lives_here = home.is_some_and(|home| home.host == host);
        let shown = self.written.port(host, port);
        let migration = self.written.migration_to(host, port);
        let is = |member: &Member, port: &Port| {
            format!(
                "{:?}, reported {:?}\n{}",
                member.metrics(&port.routed()),
                member.reported(port),
                member.agent.log_text()
            )
        };
        match shown {
            Some(shown) if lives_here => {
                let arrived = home.is_some_and(|home| home.arrived);
                let any_of: &[&[u32]] = match (arrived, &migration) {
                    (false, _) => &[&[NORMAL]],
                    (true, Some(_)) => &[&[ELEVATED]],
                    (true, None) => &[&[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]],
                };
                let what = format!("after {}: {port} runs here, with metrics {any_of:?} and up", self.step);
                member.wait(
                    &what,
                    |member| {
                        member.has_metrics(&shown.routed(), any_of)
                            && (arrived || member.is_settled(&shown))
                            && member.is_up(&shown)
                    },
                    |member| is(member, &shown),
                );
            }
            Some(shown) if let (Some((_, uid)), true) = (&migration, home.is_some()) => {
                let what = format!("after {}: {port} is awaited, without routes, armed and up", self.step);
                member.wait(
                    &what,
                    |member| {
                        member.has_metrics(&shown.routed(), &[&[]])
                            && member.is_armed(&shown, uid)
                            && member.is_up(&shown)
                    },
                    |member| is(member, &shown),
                );
            }
            _ => self.judge_gone(member, port),
        }
    }

    /// Where there is no tap of it any more there is no route to it.
    fn judge_gone(&self, member: &Member, port: &str) {
        let shown = self.members.keys().find_map(|host| self.written.port(host, port));
        let Some(shown) = shown.filter(|shown| member.ifindex(shown).is_none()) else { return };
        let what = format!("after {}: {port} is not here, without routes", self.step);
        member.wait(
            &what,
            |member| member.has_metrics(&shown.routed(), &[&[]]),
            |member| format!("{:?}", member.metrics(&shown.routed())),
        );
    }

    /// Where nothing changed nothing was written, whatever the driver rewrote or took away for a moment.
    fn judge_writes(&self, before: &Snapshot) {
        let after = self.snapshot();
        for (key @ (host, port), quiet) in before {
            let same =
                after.get(key).is_some_and(|now| (&now.port, now.ifindex) == (&quiet.port, quiet.ifindex));
            let history = self.members[host].watch.since(quiet.mark);
            let writes = history.writes_to(quiet.ifindex);
            assert!(
                !same || writes.is_empty(),
                "in {}: nothing changed for {port} on {host}, but {writes:#?}",
                self.step
            );
        }
    }
}
