//! Writes what one interface, or the whole host, lacks. Knows no order and no second attempt; the applier does.

use super::neighbours;
use super::sysctl::{self, Need, SettingError, Sysctls};
use crate::netlink::socket::{OpenError, SendError};
use crate::netlink::{Neighbour, NeighbourChange, NeighbourEvent, NeighbourKey, RouteSocket, neighbour};
use cutover_common::MacAddr;
use cutover_engine::wanted::WantedInterface;
use std::collections::BTreeMap;
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
    Neighbour { address: std::net::IpAddr, error: std::io::Error },
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

/// What it takes to prepare interfaces, and the neighbours that there are.
#[derive(Debug)]
pub(super) struct Preparer {
    sysctls: Sysctls,
    socket: RouteSocket,
    observed: BTreeMap<NeighbourKey, MacAddr>,
    /// What is done is logged one by one.
    is_loud: bool,
    felix_is_beside: bool,
}

/// What Felix has on each tap as it needs it for its own chains: they would be set to and fro.
const LEFT_TO_FELIX: [&str; 2] = ["/route_localnet", "/rp_filter"];

impl Preparer {
    pub(super) fn open(sysctl_root: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            sysctls: Sysctls::new(sysctl_root),
            socket: RouteSocket::open()?,
            observed: BTreeMap::new(),
            is_loud: true,
            felix_is_beside: false,
        })
    }

    pub(super) const fn leave_to_felix(&mut self, felix_is_beside: bool) {
        self.felix_is_beside = felix_is_beside;
    }

    pub(super) const fn is_loud(&self) -> bool {
        self.is_loud
    }

    /// From now on what is done is logged one by one, or not.
    pub(super) const fn be_loud(&mut self, is_loud: bool) {
        self.is_loud = is_loud;
    }

    /// Takes note of a neighbour. Says whose neighbours are not what they were.
    pub(super) fn observe(&mut self, event: &NeighbourEvent) -> Option<u32> {
        match event {
            NeighbourEvent::Seen(Neighbour { key, mac }) => {
                (self.observed.insert(*key, *mac) != Some(*mac)).then_some(key.ifindex)
            }
            NeighbourEvent::Gone(key) => self.observed.remove(key).map(|_| key.ifindex),
            NeighbourEvent::LinkChanged { .. } | NeighbourEvent::Synced => None,
        }
    }

    /// Switches forwarding on for the whole host.
    pub(super) fn prepare_host(&self) -> Result<(), SettingError> {
        self.ensure_all(&self.sysctls.forwarding(), || true)
    }

    /// Sets an interface up. Whatever fails because it went meanwhile is [`PrepareError::Missing`].
    pub(super) fn prepare(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<(), PrepareError> {
        let name = interface.name.as_str();
        if !sysctl::is_safe_name(name) {
            return Err(PrepareError::Name(name.to_owned()));
        }
        check_identity(ifindex, name)?;
        let prepared = self.prepare_existing(ifindex, interface);
        if prepared.is_err() {
            check_identity(ifindex, name)?;
        }
        prepared
    }

    fn prepare_existing(&mut self, ifindex: u32, interface: &WantedInterface) -> Result<(), PrepareError> {
        let name = interface.name.as_str();
        let ipv6 = interface.ipv6 && self.sysctls.has_ipv6(name);
        let mut settings = self.sysctls.ipv4(name);
        if ipv6 {
            settings.extend(Sysctls::ipv6(name));
        }
        let is_left = |path: &str| LEFT_TO_FELIX.iter().any(|name| path.ends_with(name));
        settings.retain(|setting| !(self.felix_is_beside && is_left(&setting.path)));
        self.ensure_all(&settings, || check_identity(ifindex, name).is_ok())?;
        // An interface of the same name may have taken the place of ours while its settings were written.
        check_identity(ifindex, name)?;
        self.ensure_neighbours(ifindex, interface, ipv6)
    }

    /// Makes all settings that can be made, and reports the first required one that cannot. One that is only wanted is worth
    /// a warning as long as what it is about is there.
    fn ensure_all(
        &self,
        settings: &[sysctl::Setting],
        is_there: impl Fn() -> bool,
    ) -> Result<(), SettingError> {
        let mut written = Vec::new();
        let mut first_error = None;
        for setting in settings {
            match (self.sysctls.ensure(setting), setting.need) {
                (Ok(true), _) => written.push(setting.clone()),
                (Ok(false), _) => {}
                (Err(error), Need::Required) => first_error = first_error.or(Some(error)),
                (Err(error), Need::Wanted) if is_there() => warn!(%error, "going on without it"),
                (Err(error), Need::Wanted | Need::BestEffort) => debug!(%error, "going on without it"),
            }
        }
        if !written.is_empty() {
            let settings = sysctl::describe(&written);
            say!(self.is_loud, settings, "sysctls written");
        }
        first_error.map_or(Ok(()), Err)
    }

    fn ensure_neighbours(
        &mut self,
        ifindex: u32,
        interface: &WantedInterface,
        ipv6: bool,
    ) -> Result<(), PrepareError> {
        let changes = neighbours::plan(ifindex, interface, ipv6, &self.observed);
        if changes.is_empty() {
            return Ok(());
        }
        let outcome = self.socket.send(&neighbour::prepare(&changes))?;
        let failed: BTreeMap<usize, i32> =
            outcome.failed.iter().map(|failure| (failure.index, failure.errno)).collect();
        let mut first_error = None;
        for (index, change) in changes.iter().enumerate() {
            let address = change.key().address;
            if let Some(&errno) = failed.get(&index) {
                let error = std::io::Error::from_raw_os_error(errno);
                first_error = first_error.or(Some(PrepareError::Neighbour { address, error }));
                continue;
            }
            match change {
                NeighbourChange::Add(neighbour) => {
                    say!(self.is_loud, %address, ifindex, mac = %neighbour.mac, "neighbour added");
                    self.observed.insert(neighbour.key, neighbour.mac);
                }
                NeighbourChange::Remove(key) => {
                    say!(self.is_loud, %address, ifindex, "neighbour removed");
                    self.observed.remove(key);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
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
    use crate::logging::warnings;
    use std::collections::BTreeSet;

    fn missing_setting(root: &Path) -> (Preparer, sysctl::Setting) {
        let preparer = Preparer::open(root).unwrap();
        let accept_dad = |setting: &sysctl::Setting| setting.path.ends_with("accept_dad");
        let setting = Sysctls::ipv6("tap1").into_iter().find(accept_dad).unwrap();
        (preparer, setting)
    }

    #[test]
    fn a_setting_that_went_with_its_tap_is_no_warning() {
        let root = tempfile::tempdir().unwrap();
        let (preparer, setting) = missing_setting(root.path());
        let attempt = |is_there: bool| preparer.ensure_all(std::slice::from_ref(&setting), || is_there);
        assert_eq!(warnings(|| attempt(false).unwrap()), [""; 0]);
        let said = warnings(|| attempt(true).unwrap());
        assert!(said.len() == 1 && said[0].contains("accept_dad"), "{said:?}");
    }

    #[test]
    fn only_what_is_not_there_or_down_fails_as_expected() {
        let root = tempfile::tempdir().unwrap();
        let mut preparer = Preparer::open(root.path()).unwrap();
        let wanted =
            |name: &str| WantedInterface { name: name.into(), neighbours: BTreeMap::new(), ipv6: true };
        let gone = i32::MAX.cast_unsigned();
        let error = preparer.prepare(gone, &wanted("cut0gone")).unwrap_err();
        assert!(matches!(error, PrepareError::Missing) && error.is_expected(), "{error}");
        // KERNEL: a namespace's first interface is its loopback. Without its sysctls it is there all the same.
        let error = preparer.prepare(1, &wanted("lo")).unwrap_err();
        assert!(matches!(error, PrepareError::Setting(_)) && !error.is_expected(), "{error}");
        let refused = |errno| PrepareError::Neighbour {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            error: std::io::Error::from_raw_os_error(errno),
        };
        let expected: BTreeSet<i32> = [libc::ENETDOWN, libc::ENODEV, libc::EPERM, libc::EINVAL]
            .into_iter()
            .filter(|errno| refused(*errno).is_expected())
            .collect();
        assert_eq!(expected, BTreeSet::from([libc::ENETDOWN]));
    }
}
