//! The acts of a rehearsal: which routes come and go, in which order, and what is waited for between them.
//!
//! Every act has destinations of its own, so that most of them happen at the same time; those of the remote ones also have one for each
//! session. What is waited for is what a good configuration does; whoever does something else is waited for as long as that may
//! take. Draws no conclusions.

use super::Request;
use super::daemon::Daemon;
use super::observed::{Act, Announcement, KernelRoute, Observed, Scene, Session};
use super::scenery::Scenery;
use super::speaker::{Expected, Speaker};
use super::stage::Stage;
use super::text::Named;
use cutover_engine::InterfacePrefixes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

/// LIMIT: daemons take a connection at once, but some only after they have looked at their interfaces, and try again themselves after
/// five seconds.
const UP_WITHIN: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(40);
/// LIMIT: so many have destinations of their own, and a configuration with more of them does the same with the others.
const SESSIONS_MAX: usize = 50;
/// LIMIT: of networks that a configuration names; what it does with the first ones shows whether addresses matter to it.
const NETWORKS_MAX: usize = 3;
/// Where nobody has named a network: for VMs whose addresses no filter knows.
const ANYWHERE: [&str; 4] = ["198.19.77.0", "100.127.77.0", "2001:db8:7777:7777::", "fd77:7777:7777::"];
/// Of the destinations in one place: those that are only here, then those of each session.
const LOCAL_SLOTS: usize = 4;
/// The one of them that comes last.
const LATER_SLOT: usize = 2;
const SLOTS_OF_A_SESSION: usize = 4;
/// What stands for "elevated" where a daemon announced nothing that could be told again.
const USUAL_COMMUNITY: u32 = 65_000 << 16 | 100;

/// Everybody on the stage.
pub(super) struct Cast<'a> {
    pub(super) request: &'a Request,
    pub(super) stage: &'a Stage,
    pub(super) daemon: Daemon,
    pub(super) named: &'a Named,
    pub(super) workloads: &'a InterfacePrefixes,
}

/// A scene that is still to be played.
#[derive(Clone, Copy)]
struct Planned {
    act: Act,
    destination: IpNet,
    sample: usize,
    from: Option<usize>,
}

/// Plays everything.
pub(super) fn play(mut cast: Cast<'_>, mut scenery: Scenery<'_>) -> io::Result<Observed> {
    let told = cast.daemon.told()?;
    let mut observed = Observed {
        version: cast.daemon.version().to_owned(),
        generation: cast.daemon.generation(),
        complaints: told.complaints.clone(),
        missing: told.missing.clone(),
        others: told.others.clone(),
        families: cast.daemon.families(),
        ..Observed::default()
    };
    let carries_next_hops = |program: &&&str| !["bfdd", "staticd"].contains(*program);
    observed.others.extend(cast.named.programs.iter().filter(carries_next_hops).map(|it| (*it).to_owned()));
    let tap = scenery.tap(cast.request.prefixes.split(',').next().unwrap_or("tap"))?;
    let mut sessions: Vec<(Session, _, bool)> = told.sessions;
    sessions.extend(cast.named.dynamic.iter().map(|range| {
        let trouble = format!("nobody knows which neighbours there are in {range}");
        let session = Session { name: range.clone(), trouble, ..Session::default() };
        (session, Expected::External, false)
    }));
    for (session, ..) in &mut sessions {
        if let Some(interface) = cast.named.bound.get(&session.name) {
            session.interface = Some(interface.clone());
        }
        session.is_of_vm = session.interface.as_deref().is_some_and(|name| cast.workloads.cover(name))
            || session.neighbour.is_some_and(|address| cast.request.here.contains(&address));
    }
    let neighbours: Vec<Session> = sessions.iter().map(|(session, ..)| session.clone()).collect();
    scenery.expect(&neighbours);
    let mut speakers: Vec<Option<Speaker>> = Vec::new();
    let mut playing = 0;
    for (number, (session, expected, is_shut)) in sessions.iter_mut().enumerate() {
        let mut speaker = None;
        session.is_shut = *is_shut;
        if session.is_shut || session.is_of_vm || !session.trouble.is_empty() {
            // Nobody waits for it.
        } else if playing == SESSIONS_MAX {
            session.trouble = format!("there are more than {SESSIONS_MAX} of them");
        } else {
            match scenery.place(session, *expected, number) {
                Ok(part) => {
                    playing += 1;
                    speaker = Some(cast.stage.beyond(move || Speaker::start(part)));
                }
                Err(error) => session.trouble = error,
            }
        }
        speakers.push(speaker);
    }
    observed.sessions = sessions.into_iter().map(|(session, ..)| session).collect();
    let mut play = Play { cast: &mut cast, speakers, ends: Vec::new(), tap, observed };
    play.begin();
    play.all(&scenery)?;
    Ok(play.observed)
}

struct Play<'a, 'b> {
    cast: &'a mut Cast<'b>,
    speakers: Vec<Option<Speaker>>,
    /// How often each session had ended when the first act began.
    ends: Vec<u64>,
    tap: String,
    observed: Observed,
}

impl Play<'_, '_> {
    /// Waits for the sessions.
    fn begin(&mut self) {
        let speakers = || self.speakers.iter().flatten();
        for _ in looks(UP_WITHIN) {
            if speakers().all(|speaker| speaker.state().is_up) {
                break;
            }
            std::thread::sleep(POLL);
        }
        let families = self.cast.daemon.families();
        for (session, speaker) in self.observed.sessions.iter_mut().zip(&self.speakers) {
            let Some(speaker) = speaker else { continue };
            let state = speaker.state();
            session.is_up = state.is_up;
            session.is_external = state.is_external;
            session.families = [0, 1].map(|family| state.families[family] && families[family]);
            session.trouble.clone_from(&state.trouble);
        }
        self.ends = self.speakers.iter().map(|it| it.as_ref().map_or(0, |it| it.state().ends)).collect();
        self.quiet();
    }

    /// Which sessions did not last: what their peers were not told means nothing.
    fn note_ends(&mut self) {
        let sessions = self.observed.sessions.iter_mut().zip(&self.speakers).zip(&self.ends);
        for ((session, speaker), ends) in sessions {
            let Some(speaker) = speaker.as_ref().filter(|_| session.is_up) else { continue };
            let state = speaker.state();
            if state.ends != *ends {
                session.has_ended = true;
                session.trouble.clone_from(&state.trouble);
            }
        }
    }

    fn all(&mut self, scenery: &Scenery<'_>) -> io::Result<()> {
        let plan = self.plan();
        let of = |acts: &[Act]| -> Vec<Planned> {
            plan.iter().filter(|planned| acts.contains(&planned.act)).copied().collect()
        };
        // What is here.
        let mut lines = Vec::new();
        for planned in of(&[Act::Normal, Act::Elevated, Act::Source]) {
            lines.push(self.route("add", planned.destination, planned.act == Act::Elevated));
        }
        self.cast.stage.ip(&lines)?;
        let here = of(&[Act::Normal, Act::Elevated]);
        self.settle(&here, |play, planned| {
            play.receivers(planned).all(|speaker| !speaker.told(planned.destination).is_empty())
        });
        self.look(&of(&[Act::Normal, Act::Elevated]))?;
        // What is at the peers.
        for planned in of(&[Act::RemoteNormal, Act::RemoteElevated, Act::Source, Act::Target]) {
            let Some(from) = planned.from else { continue };
            let is_elevated = matches!(planned.act, Act::RemoteElevated | Act::Source);
            let announcement = self.as_told(from, planned, is_elevated);
            if let Some(speaker) = &self.speakers[from] {
                speaker.announce(planned.destination, announcement);
            }
        }
        let there = of(&[Act::RemoteNormal, Act::RemoteElevated, Act::Source]);
        self.settle_kernel(&there)?;
        self.look(&there)?;
        // The source's VM arrives here; the convergence time of another one is over.
        let (target, back) = (of(&[Act::Target]), of(&[Act::Back]));
        let mut lines: Vec<String> =
            target.iter().map(|planned| self.route("add", planned.destination, true)).collect();
        lines.extend(back.iter().map(|planned| self.route("add", planned.destination, false)));
        lines.extend(back.iter().map(|planned| self.route("del", planned.destination, true)));
        self.cast.stage.ip(&lines)?;
        self.settle(&target, |play, planned| play.tells_priority(planned, Act::Elevated));
        self.settle(&back, |play, planned| play.tells_priority(planned, Act::Normal));
        self.look(&[target, back].concat())?;
        self.others_come(scenery, &plan)?;
        self.note_ends();
        self.observed.is_stopped = self.cast.daemon.stop();
        let kernel = self.kernel()?;
        for planned in of(&[Act::RemoteNormal]) {
            let kernel = kernel.get(&planned.destination).cloned().unwrap_or_default();
            self.observed.scenes.push(Scene { kernel, ..planned.scene(Act::Stopped) });
        }
        Ok(())
    }

    /// The host's default route, and another VM.
    fn others_come(&mut self, scenery: &Scenery<'_>, plan: &[Planned]) -> io::Result<()> {
        let mut another = self.tap.clone();
        another.pop();
        self.cast.stage.link(&another, "another")?;
        let mut ways = Vec::new();
        for is_ipv6 in self.families() {
            let destination: IpNet = if is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix");
            let Some(way) = scenery.way_out(is_ipv6) else { continue };
            let planned = Planned { act: Act::Default, destination, sample: 0, from: None };
            // What the daemon has made itself, it is meant to tell.
            let before: Vec<bool> = self
                .speakers
                .iter()
                .map(|speaker| speaker.as_ref().is_some_and(|it| !it.told(destination).is_empty()))
                .collect();
            // Network managers choose metrics like those of VMs (systemd-networkd: 1024), so this one looks like a VM's.
            let family = self.cast.request.families.iter().find(|family| family.is_ipv6 == is_ipv6);
            let metric = family.map_or(0, |family| family.normal);
            let route = format!("route add {destination} {way} metric {metric}");
            self.cast.stage.ip(&[route])?;
            ways.push((planned, before));
        }
        // ORDER: whoever has been told of a VM's route that came later has been told of what came before, if that is announced.
        let normal = || plan.iter().filter(|it| it.act == Act::Normal);
        let later: Vec<Planned> = normal()
            .map(|it| Planned { destination: slot_of(it.destination.addr(), LATER_SLOT), ..*it })
            .collect();
        let lines: Vec<String> =
            later.iter().map(|planned| self.route("add", planned.destination, false)).collect();
        self.cast.stage.ip(&lines)?;
        let is_told = |play: &Self, planned: &Planned| play.tells_priority(planned, Act::Normal);
        self.settle(&later, is_told);
        std::thread::sleep(self.cast.daemon.silence());
        self.look(&normal().map(|it| Planned { act: Act::Beside, ..*it }).collect::<Vec<_>>())?;
        if !one_place(&later, |planned| is_told(self, planned)) {
            // What is not told may only be late.
            return Ok(());
        }
        for (planned, before) in ways {
            self.look(&[planned])?;
            if let Some(scene) = self.observed.scenes.last_mut() {
                scene.told.retain(|session, _| !before[*session]);
            }
        }
        Ok(())
    }

    fn families(&self) -> Vec<bool> {
        let of_daemon = self.cast.daemon.families();
        let families = self.cast.request.families.iter().map(|family| family.is_ipv6);
        families.filter(|is_ipv6| of_daemon[usize::from(*is_ipv6)]).collect()
    }

    fn plan(&self) -> Vec<Planned> {
        let mut plan = Vec::new();
        for is_ipv6 in self.families() {
            for (sample, place) in self.places(is_ipv6).into_iter().enumerate() {
                let of = |act, slot, from| Planned { act, destination: slot_of(place, slot), sample, from };
                plan.push(of(Act::Normal, 0, None));
                plan.push(of(Act::Elevated, 1, None));
                plan.push(of(Act::Back, 1, None));
                let carries = |session: &Session| session.is_up && session.families[usize::from(is_ipv6)];
                let peers = self.observed.sessions.iter().enumerate().filter(|(_, session)| carries(session));
                for (count, (peer, _)) in peers.enumerate() {
                    let first = LOCAL_SLOTS + count * SLOTS_OF_A_SESSION;
                    let acts = [Act::Target, Act::Source, Act::RemoteNormal, Act::RemoteElevated];
                    plan.extend((first..).zip(acts).map(|(slot, act)| of(act, slot, Some(peer))));
                }
            }
        }
        plan
    }

    /// Where VMs have their addresses: where they have them now, or else in every network that the configuration names, and anywhere.
    fn places(&self, is_ipv6: bool) -> Vec<IpAddr> {
        let family = self.cast.request.families.iter().find(|family| family.is_ipv6 == is_ipv6);
        if let Some(sample) = family.and_then(|family| family.sample) {
            return vec![sample.addr()];
        }
        let named = self.cast.named;
        let bits = if is_ipv6 { 120 } else { 24 };
        let sessions = self.observed.sessions.iter().filter_map(|session| session.neighbour);
        let hosts: Vec<IpAddr> =
            sessions.chain(named.locals.iter().copied()).chain(named.router_id).collect();
        let is_for_vms = |net: &&IpNet| {
            net.addr().is_ipv6() == is_ipv6
                && net.prefix_len() <= bits
                && !hosts.iter().any(|host| net.contains(host))
        };
        let mut networks: Vec<IpNet> = named.prefixes.iter().filter(is_for_vms).copied().collect();
        networks.sort_unstable();
        networks.dedup();
        let anywhere = ANYWHERE.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        let anywhere = anywhere.filter(|place| place.is_ipv6() == is_ipv6);
        let is_free = |place: &IpAddr| !named.prefixes.iter().any(|net| net.contains(place));
        let anywhere = anywhere.clone().find(is_free).or_else(|| anywhere.clone().next());
        anywhere.into_iter().chain(networks.into_iter().take(NETWORKS_MAX).map(|net| net.network())).collect()
    }

    /// A line for `ip` about a VM's route, as the agent writes it.
    fn route(&self, verb: &str, destination: IpNet, is_elevated: bool) -> String {
        let is_ipv6 = destination.addr().is_ipv6();
        let family = self.cast.request.families.iter().find(|family| family.is_ipv6 == is_ipv6);
        let family = family.expect("only families that were asked for are played");
        let metric = if is_elevated { family.elevated } else { family.normal };
        let (tap, protocol) = (&self.tap, self.cast.request.protocol);
        format!("route {verb} {destination} dev {tap} proto {protocol} metric {metric}")
    }

    /// What the daemon announced to `peer` for the like of it here.
    fn as_told(&self, peer: usize, planned: Planned, is_elevated: bool) -> Announcement {
        let act = if is_elevated { Act::Elevated } else { Act::Normal };
        let scene = self.scene(act, planned);
        let told = scene.and_then(|scene| scene.told.get(&peer)?.first().cloned());
        told.unwrap_or_else(|| {
            let family = self
                .cast
                .request
                .families
                .iter()
                .find(|it| it.is_ipv6 == planned.destination.addr().is_ipv6());
            let metric = family.map_or(0, |family| if is_elevated { family.elevated } else { family.normal });
            let communities = if is_elevated { vec![USUAL_COMMUNITY] } else { Vec::new() };
            let local_pref = Some(cutover_bgp::PREFERENCE_OF_METRIC_0.saturating_sub(metric));
            Announcement { local_pref, communities, ..Announcement::default() }
        })
    }

    /// A scene of this act in the same place.
    fn scene(&self, act: Act, planned: Planned) -> Option<&Scene> {
        self.observed.scenes.iter().find(|scene| {
            scene.act == act
                && scene.sample == planned.sample
                && scene.is_ipv6() == planned.destination.addr().is_ipv6()
        })
    }

    /// Whether all peers are told the same as in another act.
    fn tells_priority(&self, planned: &Planned, act: Act) -> bool {
        let Some(scene) = self.scene(act, *planned) else { return true };
        scene.told.iter().all(|(session, expected)| {
            let told = self.speakers[*session].as_ref().map(|speaker| speaker.told(planned.destination));
            told.is_some_and(|told| expected.iter().all(|it| told.contains(it)))
        })
    }

    fn receivers<'s>(&'s self, planned: &Planned) -> impl Iterator<Item = &'s Speaker> {
        let family = usize::from(planned.destination.addr().is_ipv6());
        let sessions = self.observed.sessions.iter().zip(&self.speakers);
        sessions
            .filter(move |(session, _)| session.is_up && session.families[family])
            .filter_map(|(_, speaker)| speaker.as_ref())
    }

    /// Waits until something holds in one place of each family for all that is planned there, and then until nothing happens any more.
    fn settle(&self, planned: &[Planned], holds: impl Fn(&Self, &Planned) -> bool) {
        for _ in looks(self.cast.daemon.patience()) {
            if one_place(planned, |it| holds(self, it)) {
                break;
            }
            std::thread::sleep(POLL);
        }
        self.quiet();
    }

    /// The same for routes of the daemon in the kernel, who is asked less often.
    fn settle_kernel(&self, planned: &[Planned]) -> io::Result<()> {
        for _ in looks(self.cast.daemon.patience()).step_by(4) {
            let kernel = self.kernel()?;
            let is_installed = |it: &Planned| {
                kernel.get(&it.destination).is_some_and(|routes| routes.iter().any(|route| !route.is_of_vm))
            };
            if one_place(planned, is_installed) {
                break;
            }
            std::thread::sleep(2 * POLL);
        }
        self.quiet();
        Ok(())
    }

    fn quiet(&self) {
        let changes = || self.speakers.iter().flatten().map(|speaker| speaker.state().changes).sum::<u64>();
        let (mut seen, mut since) = (changes(), 0);
        for _ in looks(self.cast.daemon.patience()) {
            std::thread::sleep(POLL);
            let now = changes();
            since = if now == seen { since + 1 } else { 0 };
            seen = now;
            if since >= looks(self.cast.daemon.quiet()).end {
                break;
            }
        }
    }

    /// What became of them.
    fn look(&mut self, planned: &[Planned]) -> io::Result<()> {
        let kernel = self.kernel()?;
        let table = self.cast.daemon.table(&self.observed.sessions)?;
        for planned in planned {
            let told = self.speakers.iter().enumerate().filter_map(|(session, speaker)| {
                let told = speaker.as_ref()?.told(planned.destination);
                (!told.is_empty()).then_some((session, told))
            });
            let (paths, chosen) = table.get(&planned.destination).cloned().unwrap_or_default();
            let scene = Scene {
                told: told.collect(),
                kernel: kernel.get(&planned.destination).cloned().unwrap_or_default(),
                paths,
                chosen,
                ..planned.scene(planned.act)
            };
            self.observed.scenes.push(scene);
        }
        Ok(())
    }

    /// Routes of the kernel that lead somewhere.
    fn kernel(&self) -> io::Result<BTreeMap<IpNet, Vec<KernelRoute>>> {
        let mut found: BTreeMap<IpNet, Vec<KernelRoute>> = BTreeMap::new();
        for family in ["-4", "-6"] {
            let answer = self.cast.stage.ask(&[family, "route", "show", "table", "main"])?;
            for route in answer.as_array().into_iter().flatten() {
                if route["type"].as_str().is_some_and(|kind| kind != "unicast") {
                    continue;
                }
                let Some(destination) = destination(route, family == "-6") else { continue };
                let metric =
                    route["metric"].as_u64().and_then(|metric| u32::try_from(metric).ok()).unwrap_or(0);
                let is_of_vm = route["dev"] == *self.tap;
                found.entry(destination).or_default().push(KernelRoute { metric, is_of_vm });
            }
        }
        found.values_mut().for_each(|routes| routes.sort_by_key(|route| route.metric));
        Ok(found)
    }
}

impl Planned {
    fn scene(&self, act: Act) -> Scene {
        Scene {
            act,
            destination: self.destination,
            sample: self.sample,
            from: self.from,
            told: BTreeMap::new(),
            kernel: Vec::new(),
            paths: Vec::new(),
            chosen: None,
        }
    }
}

fn destination(route: &Value, is_ipv6: bool) -> Option<IpNet> {
    match route["dst"].as_str()? {
        "default" => if is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().ok(),
        text => text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)),
    }
}

/// How often is looked within a time, by a machine that does nothing else: on a busy one everybody is slower, and so is this.
fn looks(within: Duration) -> Range<u128> {
    0..within.as_millis() / POLL.as_millis()
}

/// Whether in each family there is a place in which it holds for everything.
fn one_place(planned: &[Planned], holds: impl Fn(&Planned) -> bool) -> bool {
    let mut places: BTreeMap<(bool, usize), bool> = BTreeMap::new();
    for it in planned {
        *places.entry((it.destination.addr().is_ipv6(), it.sample)).or_insert(true) &= holds(it);
    }
    [false, true].iter().all(|is_ipv6| {
        let mut of_family = places.iter().filter(|((family, _), _)| family == is_ipv6).peekable();
        of_family.peek().is_none() || of_family.any(|(_, all)| *all)
    })
}

/// One of 256 addresses around a place.
fn slot_of(place: IpAddr, slot: usize) -> IpNet {
    let slot = u8::try_from(slot % 256).unwrap_or_default();
    match place {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d.wrapping_add(slot)), 32).into()
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[15] = octets[15].wrapping_add(slot);
            Ipv6Net::new_assert(Ipv6Addr::from(octets), 128).into()
        }
    }
}
