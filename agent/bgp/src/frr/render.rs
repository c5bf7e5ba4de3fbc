//! The text of FRR's configuration. Owns every line and the reason that stands above it; decides nothing.

use super::recipe::{Recipe, SUGGESTED_ELEVATED, SUGGESTED_NORMAL, ZEBRA_METRIC};
use crate::{Family, Parameters, Peering};
use std::fmt::{self, Display, Formatter};

/// How long routes outlive a daemon that is being restarted, and not a host that is gone.
///
/// LIMIT: a restart of all daemons takes seconds; a dead host's routes attract traffic for as long as this.
pub(super) const RESTART_S: u32 = 30;

/// How long a restarted bgpd waits for a peer that does not say that it is done.
///
/// LIMIT: peers in the same fabric take milliseconds; after an orderly stop there are no routes meanwhile.
pub(super) const DEFER_S: u32 = 5;

/// What differs between the families.
pub(super) struct Exchange {
    pub family: Family,
    pub recipe: Recipe,
}

/// The whole file.
pub(super) struct File<'parameters> {
    pub parameters: &'parameters Parameters,
    pub families: Vec<Exchange>,
}

impl Display for File<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.reasons(f)?;
        for exchange in &self.families {
            self.filters(f, exchange)?;
            self.own(f, exchange.family)?;
        }
        self.sessions(f)?;
        for exchange in &self.families {
            self.address_family(f, exchange.family)?;
        }
        f.write_str("exit\n")
    }
}

impl File<'_> {
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let peering = match self.parameters.peering {
            Peering::Ibgp => "iBGP",
            Peering::Ebgp => "eBGP",
        };
        write!(
            f,
            "\
! /etc/frr/frr.conf of a compute host, {peering}. Printed by `cutover bgp frr` from the agent's settings: print
! it again when a priority changes. docs/bgp-frr.md explains the whole. Tried with FRR 8.4, 10.3 and 10.7.
!
! FRR's daemons need these options, on Debian in /etc/frr/daemons:
!
!   bgpd=yes
!   zebra_options=\"  -A 127.0.0.1 -s 90000000 --v6-rr-semantics --retain -K 60\"
!
! --v6-rr-semantics: FRR 8 replaces an IPv6 route by deleting the old one first; for some ten microseconds there
! is none. --retain and -K 60: routes stay in the kernel while zebra is restarted.
!
"
        )?;
        self.numbers(f)?;
        f.write_str(
            "\
!
frr defaults traditional
service integrated-vtysh-config
log syslog informational
!
! zebra otherwise waits 10 ms for more changes before it looks at any.
zebra work-queue 0
!
! Next hops may be behind the default route.
ip nht resolve-via-default
ipv6 nht resolve-via-default
!
",
        )?;
        self.marks(f)
    }

    /// How routes are compared.
    pub(super) fn numbers(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\
! How a host prefers where a machine has arrived over its own route: zebra takes the high octet of a kernel
! metric for the distance, the rest for the metric.
!
",
        )?;
        for Exchange { family, recipe } in &self.families {
            let Recipe { normal, elevated, local_distance, remote_distance, normal_seen } = recipe;
            let digit = family.digit();
            writeln!(f, "!   IPv{digit}  local elevated   {elevated:<10}  distance 0")?;
            if let Some(distance) = remote_distance {
                writeln!(f, "!         remote elevated  from BGP    distance {distance}")?;
            }
            writeln!(
                f,
                "!         local normal     {normal:<10}  distance {local_distance}, metric {normal_seen} \
                 ({local_distance} x 2^24 + {normal_seen})"
            )?;
            let remote = if remote_distance.is_some() { "remote normal " } else { "remote, either" };
            writeln!(f, "!         {remote}   from BGP    distance 20 or 200")?;
            if remote_distance.is_none() {
                write!(
                    f,
                    "\
!
! WARNING: this is not the whole of what Cutover can do. With IPv{digit}NormalRoutePriority = {normal} a local route
! has distance 0, and nothing from BGP can win over that: the host that a machine leaves keeps its own route, and
! sends to where the machine no longer is, until the migration is completed. The other hosts follow at once.
! In the FelixConfiguration of all hosts, set
!   ipv{digit}NormalRoutePriority: {SUGGESTED_NORMAL}
!   ipv{digit}ElevatedRoutePriority: {SUGGESTED_ELEVATED}
! and print this file again.
!
"
                )?;
            }
            if !recipe.wins_at_once() {
                write!(
                    f,
                    "!
! IPv{digit}ElevatedRoutePriority is {elevated}. Routes from BGP have metric {ZEBRA_METRIC} in the kernel, so the \
host where a
! machine has arrived sends to the old host until zebra has taken that route away, some milliseconds.
! A priority below {ZEBRA_METRIC} avoids it.
!
"
                )?;
            }
        }
        Ok(())
    }

    /// By which routes between ASes are known.
    pub(super) fn marks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.parameters.peering == Peering::Ebgp {
            write!(
                f,
                "\
! The mark of elevated routes on the wire.
bgp community-list standard CUTOVER-ELEVATED seq 5 permit {}
! What begins on this host. Without it the host would pass on what it has learnt, and be a router between ToRs.
bgp as-path access-list CUTOVER-OWN seq 5 permit ^$
!
",
                self.parameters.community
            )?;
        }
        Ok(())
    }

    /// Why the filters are as they are, once for both families.
    pub(super) fn reasons(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\
! CUTOVER-KERNEL, from the kernel to BGP: only routes to one address with one of the two metrics, which are
! those of machines. (FRR cannot match the beginning of an interface's name.) LOCAL_PREF is 2147483647 less the
! kernel metric, as hosts with BIRD have it. Weight 0, because own routes otherwise have 32768, and weight counts
! before LOCAL_PREF.
!
! CUTOVER-IN, from peers: elevated routes win over the local normal one, other routes do not.
",
        )?;
        if let (Peering::Ebgp, Some(first)) = (self.parameters.peering, self.families.first()) {
            write!(
                f,
                "\
!
! CUTOVER-OUT, to peers: what begins here. Where a router on the way cannot be taught the community, put before
! `permit 10`
!   route-map CUTOVER-OUT4 permit 5
!    match as-path CUTOVER-OWN
!    match local-preference {preference}
!    set as-path prepend {asn} {asn}
! and the same for CUTOVER-OUT6, so that normal routes have the longer path. The hosts themselves go by the
! community all the same.
",
                preference = first.recipe.normal_preference(),
                asn = self.parameters.autonomous_system,
            )?;
        }
        f.write_str("!\n")
    }

    /// From the kernel to BGP, and from peers.
    pub(super) fn filters(
        &self,
        f: &mut Formatter<'_>,
        Exchange { family, recipe }: &Exchange,
    ) -> fmt::Result {
        let (digit, bits) = (family.digit(), family.bits());
        let Recipe { elevated, normal_seen, remote_distance, .. } = recipe;
        let (elevated_preference, normal_preference) =
            (recipe.elevated_preference(), recipe.normal_preference());
        let (ip, any) = match family {
            Family::Ipv4 => ("ip", "0.0.0.0/0"),
            Family::Ipv6 => ("ipv6", "::/0"),
        };
        let community = match self.parameters.peering {
            Peering::Ibgp => String::new(),
            Peering::Ebgp => format!(" set community {}\n", self.parameters.community),
        };
        write!(
            f,
            "\
{ip} prefix-list CUTOVER-VM{digit} seq 5 permit {any} ge {bits}
!
route-map CUTOVER-KERNEL{digit} permit 10
 description elevated
 match {ip} address prefix-list CUTOVER-VM{digit}
 match metric {elevated}
 set local-preference {elevated_preference}
 set weight 0
{community}exit
route-map CUTOVER-KERNEL{digit} permit 20
 description normal
 match {ip} address prefix-list CUTOVER-VM{digit}
 match metric {normal_seen}
 set local-preference {normal_preference}
 set weight 0
exit
!
"
        )?;
        let preferred = match remote_distance {
            Some(distance) => format!(" set distance {distance}\n"),
            None => String::new(),
        };
        let elevated_is = match self.parameters.peering {
            Peering::Ibgp => format!(" match local-preference {elevated_preference}\n"),
            Peering::Ebgp => {
                format!(" match community CUTOVER-ELEVATED\n set local-preference {elevated_preference}\n")
            }
        };
        write!(
            f,
            "\
route-map CUTOVER-IN{digit} permit 10
 match {ip} address prefix-list CUTOVER-VM{digit}
{elevated_is}{preferred}exit
route-map CUTOVER-IN{digit} permit 20
exit
!
"
        )?;
        Ok(())
    }

    /// To peers of other ASes.
    fn own(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        match self.parameters.peering {
            Peering::Ibgp => Ok(()),
            Peering::Ebgp => write!(
                f,
                "\
route-map CUTOVER-OUT{} permit 10
 match as-path CUTOVER-OWN
exit
!
",
                family.digit()
            ),
        }
    }

    /// The instance and the peers.
    fn sessions(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Parameters { autonomous_system, .. } = self.parameters;
        let router_id = self.parameters.router_id;
        let router_id = router_id.map_or_else(String::new, |id| format!(" bgp router-id {id}\n"));
        write!(
            f,
            "\
router bgp {autonomous_system}
{router_id} bgp log-neighbor-changes
 no bgp default ipv4-unicast
 ! Routes outlive a restart of bgpd on either side. A host that is gone keeps attracting traffic that long.
 bgp graceful-restart
 bgp graceful-restart restart-time {RESTART_S}
 ! A restarted bgpd installs nothing until all peers say that they are done, by default for up to six minutes.
 bgp graceful-restart select-defer-time {DEFER_S}
 ! A new session otherwise waits a second before it is told anything, and after a restart that is too late.
 coalesce-time 0
"
        )?;
        if self.parameters.peers.is_empty() {
            f.write_str(
                " ! No peers were named (--peer). Two lines for each of them, as these:\n \
                 ! neighbor 192.0.2.1 remote-as 64496\n ! neighbor 192.0.2.1 peer-group CUTOVER4\n",
            )?;
        }
        for Exchange { family, .. } in &self.families {
            let group = Group(*family);
            writeln!(f, " neighbor {group} peer-group\n neighbor {group} timers connect 5")?;
            self.session(f, *family)?;
            for peer in self.parameters.peers_of(*family) {
                let (address, number) = (peer.address, peer.autonomous_system.unwrap_or(*autonomous_system));
                writeln!(
                    f,
                    " neighbor {address} remote-as {number}\n neighbor {address} peer-group {group}"
                )?;
            }
        }
        f.write_str(" !\n")
    }

    /// What every session of a family has if it was asked for.
    fn session(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        let group = Group(family);
        let sessions = &self.parameters.sessions;
        if let Some(source) = sessions.source(family) {
            writeln!(f, " neighbor {group} update-source {source}")?;
        }
        if let Some(hops) = sessions.hops {
            writeln!(f, " neighbor {group} ebgp-multihop {hops}")?;
        }
        if let Some(password) = &sessions.password {
            write!(
                f,
                " ! Both ends sign their packets (TCP MD5). Nobody but FRR may read this file.
 neighbor {group} password {}
",
                password.as_str()
            )?;
        }
        if sessions.has_bfd {
            write!(
                f,
                " ! A peer that does not answer is gone, long before its hold time. Needs bfdd=yes in /etc/frr/daemons, on both ends.
 neighbor {group} bfd
"
            )?;
        }
        Ok(())
    }

    fn address_family(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        let digit = family.digit();
        let group = Group(family);
        write!(
            f,
            " address-family ipv{digit} unicast
  redistribute kernel route-map CUTOVER-KERNEL{digit}
  neighbor {group} activate
  neighbor {group} next-hop-self
  neighbor {group} route-map CUTOVER-IN{digit} in
"
        )?;
        if self.parameters.peering == Peering::Ebgp {
            writeln!(f, "  neighbor {group} route-map CUTOVER-OUT{digit} out")?;
        }
        f.write_str(" exit-address-family\n !\n")
    }
}

/// The name of a family's peer group.
#[derive(Clone, Copy)]
struct Group(Family);

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "CUTOVER{}", self.0.digit())
    }
}
