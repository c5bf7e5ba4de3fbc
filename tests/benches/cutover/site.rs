//! Where a bench takes place: one host in a lab, and kernel programs of its own for each contender, so that none
//! sees the announcements or the load of another.

use crate::lane::Lane;
use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use cutover_common::abi::{WATCH_IPV4_MAX, WATCH_IPV6_MAX, Watch};
use cutover_common::names;
use cutover_daemon::bpf::{Attach, Kernel, Options, cleanup};
use cutover_daemon::netlink::RouteSocket;
use cutover_tests::{Host, Lab};
use std::net::IpAddr;
use std::path::PathBuf;

/// One host. The lab goes last, because it looks for what is left of the others.
pub(crate) struct Site {
    pub(crate) host: Host,
    lab: Lab,
}

impl Site {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        Self { host: lab.host("compute1"), lab }
    }

    /// Where one contender pins.
    pub(crate) fn pin_path(&self, contender: &str) -> PathBuf {
        self.lab.pin_path(contender)
    }

    /// A socket that writes routes of the host.
    pub(crate) fn open_socket(&self) -> Result<RouteSocket> {
        Ok(self.host.namespace().run(RouteSocket::open)?)
    }
}

/// The kernel programs of one contender, and their watches.
pub(crate) struct Watcher<'a> {
    site: &'a Site,
    // ORDER: it goes before its pins.
    kernel: Kernel,
    pins: BenchPins<'a>,
    generation: u64,
}

/// Pins that go with this.
struct BenchPins<'a> {
    site: &'a Site,
    path: PathBuf,
}

impl<'a> Watcher<'a> {
    /// Loads the programs, attached as the agent does by default.
    pub(crate) fn load(site: &'a Site, contender: &str) -> Result<Self> {
        let pin_path = site.pin_path(contender);
        let options = Options { pin_path: pin_path.clone(), attach: Attach::Auto, debug_log: false };
        let kernel = site.host.namespace().run(|| Kernel::open(&options))?;
        Ok(Self { site, kernel, pins: BenchPins { site, path: pin_path }, generation: 0 })
    }

    /// The ring buffer, once.
    pub(crate) fn take_ring(&mut self) -> Result<RingBuf<MapData>> {
        self.kernel.events().context("the ring buffer was taken before")
    }

    /// Where one of the programs is pinned.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.pins.path.join(names::PIN_DIR_PROGRAMS).join(name)
    }

    /// Waits for the announcement of a guest from now on. Returns the generation of the watch.
    pub(crate) fn arm(&mut self, lane: &Lane) -> Result<u64> {
        self.generation += 1;
        let watch = watch(lane, self.generation);
        let kernel = &mut self.kernel;
        self.site.host.namespace().run(|| kernel.arm(lane.ifindex(), lane.interface(), &watch))?;
        Ok(self.generation)
    }

    /// The generation that the next [`Self::arm`] will use.
    pub(crate) const fn next_generation(&self) -> u64 {
        self.generation + 1
    }

    /// Waits no more.
    pub(crate) fn disarm(&mut self, lane: &Lane) -> Result<()> {
        let kernel = &mut self.kernel;
        self.site.host.namespace().run(|| kernel.disarm(lane.ifindex(), Some(lane.interface())))?;
        while self.kernel.idle() > 0 {
            self.site.host.namespace().run(|| self.kernel.detach_idle())?;
        }
        Ok(())
    }
}

impl Drop for BenchPins<'_> {
    fn drop(&mut self) {
        // The lab complains about what is left.
        let _ = self.site.host.namespace().run(|| cleanup(&self.path, false));
    }
}

fn watch(lane: &Lane, generation: u64) -> Watch {
    let mut watch = Watch {
        generation,
        flags: 0,
        ipv4_count: 0,
        ipv6_count: 0,
        mac: lane.mac.0,
        reserved: [0; 4],
        ipv4: [[0; 4]; WATCH_IPV4_MAX],
        ipv6: [[0; 16]; WATCH_IPV6_MAX],
    };
    for address in &lane.addresses {
        match address {
            IpAddr::V4(address) => {
                watch.ipv4[usize::from(watch.ipv4_count)] = address.octets();
                watch.ipv4_count += 1;
            }
            IpAddr::V6(address) => {
                watch.ipv6[usize::from(watch.ipv6_count)] = address.octets();
                watch.ipv6_count += 1;
            }
        }
    }
    watch
}
