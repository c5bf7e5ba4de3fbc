//! A compute host: a network namespace with an uplink. Configures addresses only; forwarding, sysctls, routes
//! and neighbours are the agent's business.

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::tap::Tap;
use cutover_common::MacAddr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A host.
#[derive(Debug)]
pub struct Host {
    name: String,
    number: u32,
    namespace: Arc<Namespace>,
}

impl Host {
    pub(crate) fn create(lab: &Lab, name: &str, number: u32) -> Self {
        let namespace = Arc::new(Namespace::create(&format!("{}{name}", lab.prefix())));
        let host = Self { name: name.to_owned(), number, namespace };
        let bridge = lab.bridge();
        host.namespace.ip(&format!(
            "link add eth0 type veth peer name host{number} netns {bridge}\n\
             link set eth0 up\n\
             addr add {ipv4}/24 dev eth0\n\
             addr add {ipv6}/64 dev eth0 nodad",
            bridge = bridge.name(),
            ipv4 = host.ipv4(),
            ipv6 = host.ipv6(),
        ));
        bridge.ip(&format!("link set host{number} master br0 up"));
        host
    }

    /// Its name, as endpoints spell it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its namespace, for threads that outlive the borrow.
    #[must_use]
    pub fn namespace_shared(&self) -> Arc<Namespace> {
        Arc::clone(&self.namespace)
    }

    /// Its address on the uplink.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, u8::try_from(self.number).expect("a lab has few hosts"))
    }

    /// Its address on the uplink.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, u16::try_from(self.number).expect("a lab has few hosts"))
    }

    /// A tap as Nova plugs it before a VM starts: persistent, up, without carrier because nobody has opened it.
    ///
    /// # Panics
    /// Without root, or when the name is taken.
    #[must_use]
    pub fn plug(&self, name: &str, mac: MacAddr) -> Tap {
        Tap::plug(self.namespace_shared(), name, mac)
    }

    /// As [`Self::plug`], many in one go.
    ///
    /// # Panics
    /// Without root, or when a name is taken.
    #[must_use]
    pub fn plug_many(&self, taps: &[(String, MacAddr)]) -> Vec<Tap> {
        Tap::plug_many(&self.namespace, taps)
    }

    /// A virtual cable in place of a tap, as containers have it: `name` here, `eth0` in the guest's namespace.
    /// Both ends go with either namespace.
    pub fn plug_cable(&self, name: &str, mac: MacAddr, guest: &Namespace) {
        self.namespace.ip(&format!(
            "link add {name} address {mac} type veth peer name eth0 netns {guest}\nlink set {name} up",
            guest = guest.name(),
        ));
        guest.ip("link set eth0 up");
    }

    /// What QEMU sends to another host becomes so slow that the migration of a guest of 128 MiB takes twenty seconds. Everything else
    /// is as fast as before.
    ///
    /// # Panics
    /// When it is so already.
    pub fn slow_migrations_down(&self) {
        self.shape(&[
            "qdisc add dev eth0 root handle 1: htb",
            "class add dev eth0 parent 1: classid 1:3 htb rate 20mbit burst 256k quantum 60000",
            // libvirt takes ports from 49152 on for what QEMU sends.
            "filter add dev eth0 parent 1: protocol ip u32 \
             match ip protocol 6 0xff match ip dport 49152 0xc000 flowid 1:3",
        ]);
    }

    /// Everything is as fast as before [`Self::slow_migrations_down`].
    ///
    /// # Panics
    /// When it was not slow.
    pub fn speed_migrations_up(&self) {
        self.shape(&["qdisc del dev eth0 root"]);
    }

    fn shape(&self, lines: &[&str]) {
        for line in lines {
            let status = self.namespace.command("tc").args(line.split_whitespace()).status();
            let status = status.expect("iproute2");
            assert!(status.success(), "tc {line}: {status}");
        }
    }

    /// The number of a link, if there is one of this name.
    #[must_use]
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        self.namespace.run(|| nix::net::if_::if_nametoindex(name).ok())
    }
}
