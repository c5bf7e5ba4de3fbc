//! What a site that has a configuration of FRR adds to it: lists and route-maps, and in comments where they are used and which
//! lines have to be there. Loaded as it is, it changes nothing. Owns this text; the numbers and the maps are those of the whole
//! configuration.
//!
//! What comes from others stays the site's decision: the maps take nothing away but what no host with VMs may pass on.

use super::render::{DEFER_S, Exchange, File, RESTART_S};
use crate::{Family, Peering};
use std::fmt::{self, Display, Formatter};

/// The text to add to a file.
pub(super) struct Snippet<'parameters>(pub File<'parameters>);

impl Display for Snippet<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(file) = self;
        self.head(f)?;
        file.numbers(f)?;
        f.write_str("!\n")?;
        file.marks(f)?;
        self.reasons(f)?;
        for exchange in &file.families {
            file.filters(f, exchange)?;
            self.out(f, exchange.family)?;
        }
        self.general(f)?;
        for Exchange { family, .. } in &file.families {
            self.address_family(f, *family)?;
        }
        Ok(())
    }
}

impl Snippet<'_> {
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let peering = match self.0.parameters.peering {
            Peering::Ibgp => "iBGP",
            Peering::Ebgp => "eBGP",
        };
        write!(
            f,
            "\
! Route priority for a compute host that has an frr.conf, {peering}. Printed by `cutover bgp frr --snippet` from the
! agent's settings: print it again when a priority changes. docs/bgp-frr.md explains the whole. Tried with FRR 8.4, 10.3
! and 10.7.
!
! This text only defines lists and route-maps. Put it above `router bgp` in /etc/frr/frr.conf, or load it into the FRR that
! runs: `vtysh -f FILE`. Nothing changes until the lines below, in comments, are where they belong. Then: `vtysh -C`, and
! `cutover doctor --frr-conf /etc/frr/frr.conf`, which plays a migration with all of it.
!
! zebra needs --v6-rr-semantics --retain -K 60 among zebra_options in /etc/frr/daemons (docs/bgp-frr.md says why).
!
"
        )
    }

    fn reasons(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\
! CUTOVER-KERNEL, from the kernel to BGP: routes to one address with one of the two metrics, which are those of
! machines. LOCAL_PREF is 2147483647 less the kernel metric, as hosts with BIRD have it. Weight 0, because own routes
! otherwise have 32768, and weight counts before LOCAL_PREF.
!
! CUTOVER-IN, from peers: elevated routes win over the local normal one. It takes everything.
",
        )?;
        if let (Peering::Ebgp, Some(first)) = (self.0.parameters.peering, self.0.families.first()) {
            write!(
                f,
                "\
!
! CUTOVER-OUT, to peers: of routes to one address only those that begin here, and of all others everything. Where a
! router on the way cannot be taught the community, put before `permit 10`
!   route-map CUTOVER-OUT4 permit 5
!    match as-path CUTOVER-OWN
!    match local-preference {preference}
!    set as-path prepend {asn} {asn}
! and the same for CUTOVER-OUT6.
",
                preference = first.recipe.normal_preference(),
                asn = self.0.parameters.autonomous_system,
            )?;
        }
        f.write_str("!\n")
    }

    /// A host that passes on what it has learnt says that the machine runs there; what else the site tells is its own business.
    fn out(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        if self.0.parameters.peering == Peering::Ibgp {
            return Ok(());
        }
        let (digit, ip) = (family.digit(), ip(family));
        write!(
            f,
            "\
route-map CUTOVER-OUT{digit} permit 10
 match as-path CUTOVER-OWN
exit
route-map CUTOVER-OUT{digit} deny 20
 match {ip} address prefix-list CUTOVER-VM{digit}
exit
route-map CUTOVER-OUT{digit} permit 30
exit
!
"
        )
    }

    fn general(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\
! Outside of all blocks: zebra otherwise waits 10 ms for more changes before it looks at any; next hops may be behind the
! default route.
!
!   zebra work-queue 0
!   ip nht resolve-via-default
!   ipv6 nht resolve-via-default
!
! In `router bgp`: routes outlive a restart of bgpd on either side, a restarted bgpd does not wait for minutes, and tells its
! peers in time what it has.
!
!   bgp graceful-restart
!   bgp graceful-restart restart-time {RESTART_S}
!   bgp graceful-restart select-defer-time {DEFER_S}
!   coalesce-time 0
!
"
        )
    }

    fn address_family(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        let (digit, ip) = (family.digit(), ip(family));
        let is_external = self.0.parameters.peering == Peering::Ebgp;
        write!(
            f,
            "\
! In `address-family ipv{digit} unicast` of `router bgp`:
!
!   redistribute kernel route-map CUTOVER-KERNEL{digit}
!
! If `redistribute kernel` has a route-map already, put before its other entries, in place of that line,
! `route-map … permit 1`, `match {ip} address prefix-list CUTOVER-VM{digit}`, `call CUTOVER-KERNEL{digit}`.
!
! In the same block, "
        )?;
        let peers: Vec<String> =
            self.0.parameters.peers_of(family).map(|peer| peer.address.to_string()).collect();
        let sample = if family == Family::Ipv4 { "192.0.2.1" } else { "2001:db8::1" };
        if peers.is_empty() {
            writeln!(
                f,
                "for each neighbour that is told of machines, or their peer-group, in place of {sample}:\n!"
            )?;
        } else {
            f.write_str("for these neighbours, or their peer-group instead:\n!\n")?;
        }
        let sample = [sample.to_owned()];
        let peers = if peers.is_empty() { &sample[..] } else { &peers };
        for peer in peers {
            writeln!(f, "!   neighbor {peer} next-hop-self")?;
        }
        for peer in peers {
            writeln!(f, "!   neighbor {peer} route-map CUTOVER-IN{digit} in")?;
            if is_external {
                writeln!(f, "!   neighbor {peer} route-map CUTOVER-OUT{digit} out")?;
            }
        }
        let out = if is_external {
            format!(", `call CUTOVER-OUT{digit}` in those of `out`")
        } else {
            String::new()
        };
        write!(
            f,
            "\
!
! A neighbour has one route-map in each direction. If there is one already, keep it, and put into those of its entries that
! permit routes of machines: `call CUTOVER-IN{digit}` in those of `in`{out}.
!
"
        )
    }
}

/// How route-maps call a family.
const fn ip(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ipv6",
    }
}
