//! The text of BIRD's configuration. Owns every line and the reason that stands above it; decides nothing.

use crate::{
    Community, Family, KernelMetric, PREFERENCE_OF_METRIC_0, Parameters, Peer, Peering, Priorities, Sessions,
};
use std::fmt::{self, Display, Formatter, Write};

/// How often BIRD reads the kernel's routes again. It is told of changes anyway.
pub(super) const SCAN_S: u32 = 10;

/// How long a silent peer counts as there.
///
/// LIMIT: keepalives come every 8 s, and it takes three lost ones to give up a peer on a loaded host.
pub(super) const HOLD_S: u32 = 24;

/// How long routes outlive a daemon that is being restarted.
///
/// LIMIT: a restart takes seconds.
pub(super) const RESTART_S: u32 = 30;

/// What the filters set, as a comment.
pub(super) const PREFERENCES: &str = "\
#   250  this host's own route, elevated: the machine has arrived here
#   200  another host's, elevated: it has arrived there, although this host still has a route of its own
#   150  this host's own, normal
#   100  another host's, normal
";

/// Failure detection, as the sessions ask for it.
const BFD: &str = "\
# Watches the peers for the sessions below. With the intervals that BIRD takes by itself, that takes half a second.
protocol bfd {
}

";

/// Which BIRD reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// 1.6
    One,
    /// 2
    Two,
    /// 3
    Three,
}

/// The whole file.
pub(super) struct File<'host> {
    pub parameters: &'host Parameters,
    pub families: Vec<Family>,
    pub dialect: Dialect,
    pub metric: KernelMetric,
}

impl Display for File<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        for &family in &self.families {
            if let Some(priorities) = self.parameters.priorities(family) {
                self.filters(f, family, priorities)?;
            }
        }
        self.device(f)?;
        for &family in &self.families {
            self.kernel(f, family)?;
        }
        if self.parameters.sessions.has_bfd {
            f.write_str(BFD)?;
        }
        for &family in &self.families {
            for (number, peer) in self.parameters.peers_of(family).enumerate() {
                self.peer(f, family, number + 1, peer)?;
            }
        }
        if self.parameters.peers.is_empty() { self.sample(f) } else { Ok(()) }
    }
}

impl File<'_> {
    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (path, command, versions) = match (self.dialect, self.families.as_slice()) {
            (Dialect::Two, _) => ("/etc/bird/bird.conf", "bird", "BIRD 2"),
            (Dialect::Three, _) => ("/etc/bird/bird.conf", "bird --bird-version 3", "BIRD 3"),
            (Dialect::One, [Family::Ipv6]) => ("/etc/bird/bird6.conf", "bird1 --family ipv6", "BIRD 1.6"),
            (Dialect::One, _) => ("/etc/bird/bird.conf", "bird1 --family ipv4", "BIRD 1.6"),
        };
        let peering = match self.parameters.peering {
            Peering::Ibgp => "iBGP",
            Peering::Ebgp => "eBGP",
        };
        let router_id = self.parameters.router_id.map_or_else(
            || {
                "# router id 192.0.2.1;   BIRD takes the lowest address of the host if nobody says which."
                    .to_owned()
            },
            |id| format!("router id {id};"),
        );
        write!(
            f,
            "\
# {path} of a compute host, {peering}, for {versions}. Printed by `cutover bgp {command}` from the agent's
# settings: print it again when a priority or the interface prefix changes. docs/bgp.md explains the whole.

log syslog all;
{router_id}

# What BIRD prefers for one machine, the highest first (its own default for routes from BGP is 100, for routes that it
# finds in the kernel 10, which would make the route of a host where a machine has arrived lose):
#
{PREFERENCES}
"
        )
    }

    fn filters(&self, f: &mut Formatter<'_>, family: Family, priorities: Priorities) -> fmt::Result {
        let Priorities { normal, elevated } = priorities;
        let (digit, bits) = (family.digit(), family.bits());
        let interfaces = self.interfaces();
        write!(
            f,
            "\
# IPv{digit}: normal priority is metric {normal}, elevated priority {elevated}, as IPv{digit}NormalRoutePriority and
# IPv{digit}ElevatedRoutePriority of the agents. They have to be the same on all hosts.

# From the kernel: the agent's routes, which are the only ones to one address through a machine's interface.
filter cutover_learn{digit} {{
  if net.len = {bits} && ({interfaces}) then {{
    preference = 150;
    if krt_metric < {normal} then preference = 250;
    accept;
  }}
  preference = 10;
  accept;
}}

"
        )?;
        self.export(f, family, priorities)?;
        self.import(f, family, priorities)?;
        self.install(f, family, priorities)
    }

    /// To peers.
    fn export(
        &self,
        f: &mut Formatter<'_>,
        family: Family,
        Priorities { normal, .. }: Priorities,
    ) -> fmt::Result {
        let (digit, bits) = (family.digit(), family.bits());
        let interfaces = self.interfaces();
        write!(
            f,
            "\
# To peers: routes to this host's machines. What came over BGP is not passed on: this host is no router between others,
# and a route that it passed on would say that the machine runs here.
filter cutover_export{digit} {{
  if source = RTS_BGP then reject;
  if net.len != {bits} || !({interfaces}) then reject;
"
        )?;
        match self.parameters.peering {
            Peering::Ibgp => writeln!(f, "  bgp_local_pref = {PREFERENCE_OF_METRIC_0} - krt_metric;")?,
            Peering::Ebgp => {
                let community = Pair(self.parameters.community);
                write!(
                    f,
                    "\
  # Nobody but this line says that a route is elevated.
  bgp_community.delete([{community}]);
  if krt_metric < {normal} then bgp_community.add({community});
  # Where a router on the way cannot be taught the community, let the longer path lose there:
  # if krt_metric >= {normal} then {{ bgp_path.prepend({asn}); bgp_path.prepend({asn}); }}
",
                    asn = self.parameters.autonomous_system
                )?;
            }
        }
        f.write_str("  accept;\n}\n\n")
    }

    /// From peers.
    fn import(&self, f: &mut Formatter<'_>, family: Family, priorities: Priorities) -> fmt::Result {
        let (digit, bits) = (family.digit(), family.bits());
        let is_elevated = self.is_elevated(priorities);
        write!(
            f,
            "\
# From peers: elevated routes win over this host's own normal one, so that the host that a machine has just left
# sends to where it is, before its own route is gone.
filter cutover_import{digit} {{
  preference = 100;
  if net.len = {bits} && {is_elevated} then preference = 200;
  accept;
}}

"
        )
    }

    /// To the kernel.
    fn install(&self, f: &mut Formatter<'_>, family: Family, priorities: Priorities) -> fmt::Result {
        let (digit, bits) = (family.digit(), family.bits());
        let mapped = priorities.of_others().filter(|_| self.metric == KernelMetric::Mapped);
        let Some(Priorities { normal, elevated }) = mapped else {
            return write!(
                f,
                "\
# To the kernel: what came over BGP.
filter cutover_install{digit} {{
  if source = RTS_BGP then accept;
  reject;
}}

"
            );
        };
        let is_elevated = self.is_elevated(priorities);
        write!(
            f,
            "\
# To the kernel: what came over BGP, with one more than the metric that it has on the host where the machine is. Never with
# the metric of a route of this host's: of two such routes the kernel uses only one in IPv6, and BIRD 3 may put its own one in
# the place of the other, and leave none when it ends. (Setting krt_metric in an import filter has no effect with BIRD 1.)
filter cutover_install{digit} {{
  if source != RTS_BGP then reject;
  krt_metric = {normal};
  if net.len = {bits} && {is_elevated} then krt_metric = {elevated};
  accept;
}}

"
        )
    }

    /// The option of the kernel protocol, with its reason.
    pub(super) fn metric_option(&self, priorities: Priorities) -> String {
        let Priorities { normal, elevated } = priorities;
        match (self.metric, priorities.between()) {
            (KernelMetric::Fixed, Some(metric)) => format!(
                "  # Routes from BGP get this metric, whatever their priority is. It loses against this host's own elevated route
  # ({elevated}) and wins over its own normal one ({normal}), beside which BIRD only puts an elevated one. Were it the
  # metric that the route has on its own host (metric 0, and krt_metric set in the filter above), a change of priority
  # could not be one step: BIRD 2.0 leaves the old route in the kernel for good, later ones remove it before they add the
  # new one. Without this line it would be 32, which wins over everything.
  metric {metric};
"
            ),
            _ => "  # Without this line every route gets metric 32, whatever krt_metric says (BIRD 1 does without).
  metric 0;
"
            .to_owned(),
        }
    }

    /// A condition on a route from a peer.
    pub(super) fn is_elevated(&self, Priorities { normal, .. }: Priorities) -> String {
        match self.parameters.peering {
            Peering::Ibgp => format!("bgp_local_pref > {}", PREFERENCE_OF_METRIC_0 - normal),
            Peering::Ebgp => format!("{} ~ bgp_community", Pair(self.parameters.community)),
        }
    }

    /// A condition on a route from the kernel.
    pub(super) fn interfaces(&self) -> String {
        let machines = self.parameters.interface_prefixes.iter().map(|prefix| Pattern(prefix, "*"));
        let bridges = self.parameters.bridges.iter().map(|name| Pattern(name, ""));
        let conditions = machines.chain(bridges).map(|pattern| format!("ifname ~ {pattern}"));
        conditions.collect::<Vec<_>>().join(" || ")
    }

    fn device(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let excluded: String = self
            .parameters
            .interface_prefixes
            .iter()
            .map(|prefix| format!("-{}, ", Pattern(prefix, "*")))
            .collect();
        let channels = match self.dialect {
            Dialect::One => String::new(),
            Dialect::Two | Dialect::Three => {
                self.families.iter().map(|family| format!("  ipv{};\n", family.digit())).collect()
            }
        };
        write!(
            f,
            "\
protocol device {{
  scan time {SCAN_S};
}}

# The subnets of the host: next hops of other hosts are looked up in them. Machines' interfaces have none.
protocol direct {{
{channels}  interface {excluded}\"*\";
}}

"
        )
    }

    fn kernel(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        let digit = family.digit();
        let options = "  # See routes that others have put into the kernel: the agent's.
  learn;
  # Routes stay when BIRD stops, and are taken over when it starts.
  persist;
  graceful restart;
";
        let metric = self.parameters.priorities(family).map(|priorities| self.metric_option(priorities));
        // BIRD 1 takes krt_metric without the option, and has none for 0.
        let metric = metric.filter(|_| self.dialect != Dialect::One || self.metric == KernelMetric::Fixed);
        let metric = metric.unwrap_or_default();
        match self.dialect {
            Dialect::One => write!(
                f,
                "\
protocol kernel {{
{options}{metric}  scan time {SCAN_S};
  import filter cutover_learn{digit};
  export filter cutover_install{digit};
}}

"
            ),
            Dialect::Two | Dialect::Three => write!(
                f,
                "\
protocol kernel kernel{digit} {{
{options}{metric}  scan time {SCAN_S};
  ipv{digit} {{
    import filter cutover_learn{digit};
    export filter cutover_install{digit};
  }};
}}

"
            ),
        }
    }

    /// What to fill in where nobody said who the peers are.
    fn sample(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let address = if self.families.first() == Some(&Family::Ipv6) { "2001:db8::1" } else { "192.0.2.1" };
        let autonomous_system = (self.parameters.peering == Peering::Ebgp).then_some(64496);
        let peer = Peer { address: address.parse().map_err(|_| fmt::Error)?, autonomous_system };
        let mut text = String::new();
        self.peer(&mut text, self.families.first().copied().unwrap_or(Family::Ipv4), 1, &peer)?;
        f.write_str("# No peers were named (--peer). One block for each of them, as this:\n#\n")?;
        text.trim_end().lines().try_for_each(|line| writeln!(f, "# {line}"))
    }

    /// Whether a peer is told of more than the best path. Between ASes there is somebody in the middle, who tells everybody in
    /// order.
    pub(super) fn all_paths(&self, indent: &str) -> String {
        match (self.parameters.peering, self.dialect) {
            (Peering::Ebgp, _) => String::new(),
            (Peering::Ibgp, Dialect::Three) => format!(
                "\
{indent}# Take all paths (RFC 7911), tell only the best one: BIRD 3 has a path for each metric in the kernel, and would tell
{indent}# of the end of the elevated one before it tells of the normal one.
{indent}add paths rx;
"
            ),
            (Peering::Ibgp, Dialect::One | Dialect::Two) => format!(
                "\
{indent}# While this host sends to where a machine has arrived, it goes on announcing the route that it still has itself
{indent}# (RFC 7911). Otherwise, without a reflector, a third host can hear of its end before it hears of the new one.
{indent}# With a reflector that does not do the same, this changes nothing.
{indent}add paths on;
"
            ),
        }
    }

    /// What every session has if it was asked for.
    fn session(&self) -> String {
        let Sessions { password, has_bfd, hops, .. } = &self.parameters.sessions;
        let mut text = String::new();
        if let Some(hops) = hops {
            text.push_str(&format!(
                "  # The peer is behind other routers; its address is reached by a route that BIRD knows.\n  multihop {hops};\n"
            ));
        }
        if let Some(password) = password {
            text.push_str(
                "  # Both ends sign their packets (TCP MD5). Nobody but BIRD may read this file.\n",
            );
            // BIRD 2.0.12 does not know the line, later ones do what it says without it, and warn.
            if self.dialect == Dialect::Three {
                text.push_str("  authentication md5;\n");
            }
            text.push_str(&format!("  password \"{}\";\n", password.as_str()));
        }
        if *has_bfd {
            text.push_str(
                "  # A peer that does not answer is gone, whether it died or BIRD is being restarted there: BFD is part of BIRD. With
  # `bfd graceful;` routes outlive a restart, and those of a host that died stay for `graceful restart time`, too.
  bfd on;
",
            );
        }
        text
    }

    fn peer(&self, f: &mut impl Write, family: Family, number: usize, peer: &Peer) -> fmt::Result {
        let digit = family.digit();
        let own = self.parameters.autonomous_system;
        let theirs = peer.autonomous_system.unwrap_or(own);
        let address = peer.address;
        let source = self.parameters.sessions.source(family).map_or_else(String::new, |at| format!(" {at}"));
        let session = self.session();
        let filters = |indent: &str| {
            let all_paths = self.all_paths(indent);
            format!(
                "\
{indent}import filter cutover_import{digit};
{indent}export filter cutover_export{digit};
{indent}next hop self;
{all_paths}"
            )
        };
        let name = match self.dialect {
            Dialect::One => format!("peer{number}"),
            Dialect::Two | Dialect::Three => format!("peer{digit}_{number}"),
        };
        write!(
            f,
            "\
protocol bgp {name} {{
  local{source} as {own};
  neighbor {address} as {theirs};
{session}  connect delay time 1;
  connect retry time 5;
  error wait time 1, 10;
  # What a dead host has announced attracts traffic that long. It is less than elevated priority lasts
  # (LiveMigrationRouteConvergenceTime, 30 s): a source that has died does not come back into play.
  hold time {HOLD_S};
  # Routes outlive a restart of BIRD on either side.
  graceful restart on;
  graceful restart time {RESTART_S};
"
        )?;
        match self.dialect {
            Dialect::One => f.write_str(&filters("  "))?,
            Dialect::Two | Dialect::Three => write!(f, "  ipv{digit} {{\n{}  }};\n", filters("    "))?,
        }
        f.write_str("}\n\n")
    }
}

/// A community as BIRD spells it.
pub(super) struct Pair(pub Community);

impl Display for Pair {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Community(high, low) = self.0;
        write!(f, "({high}, {low})")
    }
}

/// What the name of an interface matches, in quotes: how it begins, and the rest.
///
/// A quoted text of BIRD's has no way to write a quote, and some characters mean something in a pattern. Each of these becomes a `?`,
/// which stands for any one.
struct Pattern<'name>(&'name str, &'static str);

impl Display for Pattern<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for byte in self.0.bytes() {
            let is_plain = byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
            f.write_char(if is_plain { char::from(byte) } else { '?' })?;
        }
        write!(f, "{}\"", self.1)
    }
}
