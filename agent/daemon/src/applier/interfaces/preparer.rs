//! Writes what one interface, or the whole host, lacks. Knows no order and no second attempt; the applier does.

use super::neighbours;
use crate::applier::recount::OwnWrites;
use crate::clock;
use crate::netlink::socket::{OpenError, Outcome, SendError};
use crate::netlink::{Neighbour, NeighbourChange, NeighbourKey, RouteSocket, neighbour};
use crate::sysctls::former::FormerValues;
use crate::sysctls::table::{self, HostSysctl, Ipv6Device, Keeper, Need, Setting};
use crate::sysctls::{SettingError, SysctlChange, Sysctls, is_safe_name};
use cutover_common::MacAddr;
use cutover_engine::BootTime;
use cutover_engine::wanted::{Ipv6, WantedInterface};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use tracing::{debug, info, warn};

/// A line at INFO, or at DEBUG if there are too many of its kind.
macro_rules! say {
    ($loud:expr, $($line:tt)*) => {
        if $loud { info!($($line)*) } else { debug!($($line)*) }
    };
}

/// An interface could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("{0:?} is not a name that an interface can have")]
    Name(String),
    #[error("the interface does not exist now")]
    Missing,
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error("cannot set neighbour {address}: {error}")]
    Neighbour { address: std::net::IpAddr, error: io::Error },
    #[error(transparent)]
    Netlink(#[from] SendError),
}

impl PrepareError {
    /// Whether it is nothing to worry about: the interface is not there (any more), or down. Its next event brings the rest.
    pub(super) fn is_expected(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Neighbour { error, .. } => error.raw_os_error() == Some(libc::ENETDOWN),
            Self::Name(_) | Self::Setting(_) | Self::Netlink(_) => false,
        }
    }
}

/// What prepares interfaces, as the applier sees it: [`Preparer`], which says what each function does, or something else in tests.
pub(super) trait Prepares: Send {
    fn writes(&self) -> usize;
    fn is_loud(&self) -> bool;
    fn be_loud(&mut self, is_loud: bool);
    fn seen(&mut self, neighbour: Neighbour) -> bool;
    fn gone(&mut self, key: &NeighbourKey) -> bool;
    fn recount(&mut self, held: &BTreeMap<NeighbourKey, MacAddr>, since: BootTime) -> BTreeSet<u32>;
    fn prepare_host(&self, with_ipv6: bool) -> Result<(), SettingError>;
    fn prepare(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<Option<String>, PrepareError>;
}

/// Where changes of neighbours go.
#[derive(Debug)]
enum Neighbours {
    Kernel(RouteSocket),
    /// Nowhere: they are noted.
    Noted(Vec<NeighbourChange>),
}

impl Neighbours {
    fn change(&mut self, changes: &[NeighbourChange]) -> Result<Outcome, SendError> {
        match self {
            Self::Kernel(socket) => socket.send(&neighbour::prepare(changes)),
            Self::Noted(noted) => {
                noted.extend_from_slice(changes);
                Ok(Outcome::default())
            }
        }
    }
}

/// What it takes to prepare interfaces, and the neighbours that there are.
#[derive(Debug)]
pub(super) struct Preparer {
    sysctls: Sysctls,
    former: Option<FormerValues>,
    neighbours: Neighbours,
    observed: BTreeMap<NeighbourKey, MacAddr>,
    /// Those that have been wanted in this life on bridges, where neighbours of others are as well.
    ours_on_bridges: BTreeSet<NeighbourKey>,
    own_writes: OwnWrites<NeighbourKey>,
    /// Settings and neighbours so far.
    writes: usize,
    /// What is done is logged one by one.
    is_loud: bool,
    keeper: Keeper,
}

impl Preparer {
    /// What the host's sysctls were is noted in `run_dir`, if there is one.
    pub(super) fn open(sysctl_root: &Path, run_dir: Option<&Path>) -> Result<Self, OpenError> {
        let former = run_dir.map(FormerValues::of);
        Ok(Self::with(Sysctls::new(sysctl_root), former, Neighbours::Kernel(RouteSocket::open()?)))
    }

    /// One that writes nothing, and notes what it would have written.
    pub(super) fn noting(sysctl_root: &Path) -> Self {
        Self::with(Sysctls::noting(sysctl_root), None, Neighbours::Noted(Vec::new()))
    }

    fn with(sysctls: Sysctls, former: Option<FormerValues>, neighbours: Neighbours) -> Self {
        Self {
            sysctls,
            former,
            neighbours,
            observed: BTreeMap::new(),
            ours_on_bridges: BTreeSet::new(),
            own_writes: OwnWrites::default(),
            writes: 0,
            is_loud: true,
            keeper: Keeper::Agent,
        }
    }

    /// What was noted since the last call.
    pub(super) fn take_noted(&mut self) -> (Vec<SysctlChange>, Vec<NeighbourChange>) {
        let neighbours = match &mut self.neighbours {
            Neighbours::Kernel(_) => Vec::new(),
            Neighbours::Noted(noted) => std::mem::take(noted),
        };
        (self.sysctls.take_noted(), neighbours)
    }

    pub(super) const fn kept_by(&mut self, keeper: Keeper) {
        self.keeper = keeper;
    }

    fn ensure_forwarding(&self, row: &HostSysctl) -> Result<(), SettingError> {
        let value = match self.sysctls.read(row.path) {
            Ok(value) => value,
            Err(error) if row.is_ipv6 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.sysctls.error(row.path, table::FORWARDING, error)),
        };
        if value != "0" {
            return Ok(());
        }
        // ORDER: noted before it is changed, or nobody would know after a crash.
        if let Some(Err(error)) = self.former.as_ref().map(|former| former.remember(row.path, &value)) {
            warn!(%error, setting = row.name(), "cannot note what it was; cleanup will not set it back");
        }
        self.sysctls.write(row.path, table::FORWARDING)?;
        info!(settings = format!("{}={}", row.path, table::FORWARDING), "sysctls written");
        Ok(())
    }

    fn prepare_existing(
        &mut self,
        ifindex: u32,
        interface: &WantedInterface,
    ) -> Result<Option<String>, PrepareError> {
        let name = interface.name.as_str();
        let device = self.sysctls.ipv6_device(name);
        let settings = if interface.is_bridge {
            Vec::new()
        } else {
            table::of_interface(name, interface.ipv6, device, self.keeper)
        };
        let mut lacks = self.ensure_all(&settings)?;
        if interface.ipv6 == Ipv6::Routed {
            lacks.extend(without_ipv6(name, device));
        }
        // An interface of the same name may have taken the place of ours while its settings were written.
        check_identity(ifindex, name)?;
        self.ensure_neighbours(ifindex, interface, device == Ipv6Device::Enabled)?;
        Ok((!lacks.is_empty()).then(|| lacks.join("; ")))
    }

    /// Makes all settings that can be made, and reports the first required one that cannot, or else those that were only wanted.
    fn ensure_all(&mut self, settings: &[Setting]) -> Result<Vec<String>, SettingError> {
        let (mut written, mut lacks) = (Vec::new(), Vec::new());
        let mut first_error = None;
        for setting in settings {
            match (self.sysctls.ensure(setting), setting.need) {
                (Ok(true), _) => written.push(format!("{}={}", setting.path, self.sysctls.value(setting))),
                (Ok(false), _) => {}
                (Err(error), Need::Required) => first_error = first_error.or(Some(error)),
                (Err(error), Need::Wanted) => lacks.push(error.to_string()),
            }
        }
        self.writes += written.len();
        if !written.is_empty() {
            let settings = written.join(" ");
            say!(self.is_loud, settings, "sysctls written");
        }
        first_error.map_or(Ok(lacks), Err)
    }

    fn ensure_neighbours(
        &mut self,
        ifindex: u32,
        interface: &WantedInterface,
        has_ipv6: bool,
    ) -> Result<(), PrepareError> {
        let changes = neighbours::plan(ifindex, interface, has_ipv6, &self.observed, &self.ours_on_bridges);
        if interface.is_bridge {
            // Also those that an earlier life has made, or they would stay when their VM leaves.
            let wanted = interface.neighbours.keys().map(|&address| NeighbourKey { ifindex, address });
            self.ours_on_bridges.extend(wanted);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let sent_at = clock::now();
        self.writes += changes.len();
        let outcome = self.neighbours.change(&changes)?;
        let failed: BTreeMap<usize, i32> =
            outcome.failed.iter().map(|failure| (failure.index, failure.errno)).collect();
        let mut first_error = None;
        for (index, change) in changes.iter().enumerate() {
            let address = change.key().address;
            if let Some(&errno) = failed.get(&index) {
                let error = io::Error::from_raw_os_error(errno);
                first_error = first_error.or(Some(PrepareError::Neighbour { address, error }));
                continue;
            }
            match change {
                NeighbourChange::Add(neighbour) => {
                    say!(self.is_loud, %address, ifindex, mac = %neighbour.mac, "neighbour added");
                    self.observed.insert(neighbour.key, neighbour.mac);
                    self.own_writes.sent(neighbour.key, sent_at);
                }
                NeighbourChange::Remove(key) => {
                    say!(self.is_loud, %address, ifindex, "neighbour removed");
                    self.gone(key);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Prepares for Preparer {
    /// How many settings and neighbours have been written; the kernel notifies about most of them.
    fn writes(&self) -> usize {
        self.writes
    }

    fn is_loud(&self) -> bool {
        self.is_loud
    }

    /// From now on what is done is logged one by one, or not.
    fn be_loud(&mut self, is_loud: bool) {
        self.is_loud = is_loud;
    }

    /// A neighbour is there. Says whether that is news.
    fn seen(&mut self, Neighbour { key, mac }: Neighbour) -> bool {
        self.observed.insert(key, mac) != Some(mac)
    }

    /// A neighbour is not there any more. Says whether that is news.
    fn gone(&mut self, key: &NeighbourKey) -> bool {
        self.own_writes.gone(key);
        self.ours_on_bridges.remove(key);
        self.observed.remove(key).is_some()
    }

    /// These, and no others, were there when the kernel was asked, at `since` or later. Says on which interfaces that is news.
    fn recount(&mut self, held: &BTreeMap<NeighbourKey, MacAddr>, since: BootTime) -> BTreeSet<u32> {
        let missing = self.own_writes.missing(self.observed.keys(), |key| held.contains_key(key), since);
        let gone = missing.iter().filter(|key| self.observed.remove(key).is_some());
        let mut news: BTreeSet<u32> = gone.map(|key| key.ifindex).collect();
        for (&key, &mac) in held {
            if self.observed.insert(key, mac) != Some(mac) {
                news.insert(key.ifindex);
            }
        }
        news
    }

    /// Makes the whole host forward what belongs to VMs.
    fn prepare_host(&self, with_ipv6: bool) -> Result<(), SettingError> {
        let rows = table::HOST.iter().filter(|row| with_ipv6 || !row.is_ipv6);
        let outcomes: Vec<_> = rows.map(|row| self.ensure_forwarding(row)).collect();
        outcomes.into_iter().collect()
    }

    /// Sets an interface up. Says what it is ready without, if there is anything. Whatever fails because it went meanwhile is
    /// [`PrepareError::Missing`].
    fn prepare(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<Option<String>, PrepareError> {
        let name = interface.name.as_str();
        if !is_safe_name(name) {
            return Err(PrepareError::Name(name.to_owned()));
        }
        check_identity(ifindex, name)?;
        let prepared = self.prepare_existing(ifindex, interface);
        if prepared.is_err() {
            check_identity(ifindex, name)?;
        }
        prepared
    }
}

/// Why an interface that needs IPv6 cannot have it.
fn without_ipv6(name: &str, device: Ipv6Device) -> Option<String> {
    match device {
        Ipv6Device::Enabled => None,
        Ipv6Device::Disabled => Some(format!(
            "IPv6 is switched off (net.ipv6.conf.{name}.disable_ipv6), so neither settings nor neighbours"
        )),
        // KERNEL: IPV6_MIN_MTU.
        Ipv6Device::Absent => Some("no IPv6: the MTU is less than 1280, or the kernel has none".to_owned()),
    }
}

/// That the interface of this name is the one of this number.
fn check_identity(ifindex: u32, name: &str) -> Result<(), PrepareError> {
    match nix::net::if_::if_nametoindex(name) {
        Ok(found) if found == ifindex => Ok(()),
        _ => Err(PrepareError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_wanted_is_lacking_and_what_is_required_fails() {
        let root = tempfile::tempdir().unwrap();
        let mut preparer = Preparer::open(root.path(), None).unwrap();
        let settings = table::of_interface("tap1", Ipv6::Routed, Ipv6Device::Enabled, Keeper::Agent);
        let (wanted, required): (Vec<_>, Vec<_>) =
            settings.into_iter().partition(|setting| setting.need == Need::Wanted);
        let lacks = preparer.ensure_all(&wanted).unwrap();
        assert!(lacks.len() == wanted.len() && lacks[1].contains("accept_dad"), "{lacks:?}");
        let error = preparer.ensure_all(&required).unwrap_err().to_string();
        assert!(error.contains("route_localnet"), "{error}");
    }

    #[test]
    fn a_recount_says_where_neighbours_are_not_what_they_were() {
        let root = tempfile::tempdir().unwrap();
        let mut preparer = Preparer::open(root.path(), None).unwrap();
        let key = |ifindex| NeighbourKey { ifindex, address: std::net::Ipv4Addr::LOCALHOST.into() };
        let [before, after] = [1, 2].map(|last| MacAddr([2, 0, 0, 0, 0, last]));
        for ifindex in [1, 2, 3, 4] {
            assert!(preparer.seen(Neighbour { key: key(ifindex), mac: before }));
        }
        // 1 is gone, 2 is another's, 3 is as it was, 4 has been written meanwhile, and 5 is new.
        let since = clock::now();
        preparer.own_writes.sent(key(4), clock::now());
        let held = BTreeMap::from([(key(2), after), (key(3), before), (key(5), before)]);
        assert_eq!(preparer.recount(&held, since), BTreeSet::from([1, 2, 5]));
        assert_eq!(preparer.observed.len(), 4);
        assert_eq!(preparer.recount(&held, since), BTreeSet::new());
        assert!(preparer.gone(&key(4)) && !preparer.gone(&key(4)));
    }

    #[test]
    fn only_what_is_not_there_or_down_fails_as_expected() {
        let root = tempfile::tempdir().unwrap();
        let mut preparer = Preparer::open(root.path(), None).unwrap();
        let wanted = |name: &str| WantedInterface {
            name: name.into(),
            neighbours: BTreeMap::new(),
            ipv6: Ipv6::Routed,
            is_bridge: false,
        };
        let gone = i32::MAX.cast_unsigned();
        let error = preparer.prepare(gone, &wanted("cut0gone")).unwrap_err();
        assert!(matches!(error, PrepareError::Missing) && error.is_expected(), "{error}");
        // KERNEL: a namespace's first interface is its loopback. Without its sysctls it is there all the same.
        let error = preparer.prepare(1, &wanted("lo")).unwrap_err();
        assert!(matches!(error, PrepareError::Setting(_)) && !error.is_expected(), "{error}");
        let refused = |errno| PrepareError::Neighbour {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            error: io::Error::from_raw_os_error(errno),
        };
        let expected: BTreeSet<i32> = [libc::ENETDOWN, libc::ENODEV, libc::EPERM, libc::EINVAL]
            .into_iter()
            .filter(|errno| refused(*errno).is_expected())
            .collect();
        assert_eq!(expected, BTreeSet::from([libc::ENETDOWN]));
    }
}
