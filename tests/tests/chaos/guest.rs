//! One virtual machine: what is written about it, and where it has been since when.

use crate::plan::{GuestNumber, HostNumber};
use crate::stage::host_name;
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::datastore;
use cutover_tests::etcd::Write;
use cutover_tests::resources::new_uid;
use cutover_tests::{OpenTap, Port, Tap};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// A time at which it was on a host.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) host: HostNumber,
    /// When it was announced or, at home, when everything was in place.
    pub(crate) from: BootTime,
    pub(crate) how: Arrival,
    /// When the driver wrote that the migration to here is over.
    pub(crate) ended_at: Option<BootTime>,
    /// When it went on.
    pub(crate) to: Option<BootTime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// It was here at first.
    Home,
    /// On a watch that was armed.
    Announced,
    /// Nobody knows whether its watch was armed.
    Unheard,
    Silent,
    /// Back from a host where it was, without a word.
    Returned,
}

/// A virtual machine.
pub(crate) struct Guest {
    pub(crate) number: GuestNumber,
    pub(crate) port: Port,
    pub(crate) taps: BTreeMap<HostNumber, Tap>,
    pub(crate) open: Option<OpenTap>,
    /// A hypervisor that keeps a virtual machine which has moved until the driver says what became of it, and lets it go on there if that
    /// failed. Others end at once.
    left: Option<(HostNumber, OpenTap)>,
    pub(crate) stays: Vec<Stay>,
    /// The target's watch was armed when somebody looked last.
    pub(crate) is_armed: bool,
    /// Hosts with an endpoint and its uid.
    endpoints: BTreeMap<HostNumber, String>,
}

impl Guest {
    pub(crate) fn new(number: GuestNumber) -> Self {
        let digit = u8::try_from(number + 1).expect("not so many");
        let mut port = Port::new(digit);
        port.workload = format!("vm{number:03}");
        port.endpoint = format!("port{number:03}");
        port.interface = format!("tapport{number:03}");
        port.mac = MacAddr([0xfa, 0x16, 0x3e, 2, 0, digit]);
        port.addresses = vec![
            IpNet::new([10, 66, 0, digit].into(), 32).expect("a full prefix"),
            IpNet::new([0x2001, 0xdb8, 0x66, 0, 0, 0, 0, digit.into()].into(), 128).expect("a full prefix"),
        ];
        Self {
            number,
            port,
            taps: BTreeMap::new(),
            open: None,
            left: None,
            stays: Vec::new(),
            is_armed: false,
            endpoints: BTreeMap::new(),
        }
    }

    /// It runs on a host from now on. Returns the hypervisor's end of the tap.
    pub(crate) fn arrive(&mut self, host: HostNumber, how: Arrival) -> &OpenTap {
        let qemu = match self.left.take() {
            Some((left, qemu)) if left == host => qemu,
            _ => self.taps[&host].open(),
        };
        let now = clock::now();
        if let (Some(stay), true) = (self.stays.last(), self.number.is_multiple_of(2)) {
            self.left = self.open.take().map(|open| (stay.host, open));
        }
        if let Some(stay) = self.stays.last_mut() {
            stay.to = Some(now);
        }
        self.stays.push(Stay { host, from: now, how, ended_at: None, to: None });
        self.open.insert(qemu)
    }

    /// It does not run on a host any more, and its tap there is taken away.
    pub(crate) fn leave(&mut self, host: HostNumber) {
        self.left.take_if(|(left, _)| *left == host);
        self.taps.remove(&host).expect("it is plugged").remove();
    }

    /// The endpoint on a host, new or with the value that it has.
    pub(crate) fn written(&mut self, host: HostNumber) -> Write {
        let uid = self.endpoints.entry(host).or_insert_with(new_uid);
        let document = self.port.endpoint_on(&host_name(host), uid);
        Write { key: self.endpoint_key(host), value: Some(document.to_string()) }
    }

    /// No endpoint on a host.
    pub(crate) fn gone(&mut self, host: HostNumber) -> Write {
        self.endpoints.remove(&host);
        Write { key: self.endpoint_key(host), value: None }
    }

    pub(crate) fn begins(&self, from: HostNumber, to: HostNumber) -> Write {
        let document = self.port.migration(&host_name(from), &host_name(to), &new_uid());
        Write { key: self.migration_key(to), value: Some(document.to_string()) }
    }

    pub(crate) fn ends(&self, to: HostNumber) -> Write {
        Write { key: self.migration_key(to), value: None }
    }

    fn endpoint_key(&self, host: HostNumber) -> String {
        datastore::endpoint_key(&self.port, &host_name(host))
    }

    fn migration_key(&self, to: HostNumber) -> String {
        datastore::migration_key(&self.port, &host_name(to))
    }

    pub(crate) fn status_key(&self, host: HostNumber) -> String {
        datastore::status_key(&self.port, &host_name(host))
    }
}
