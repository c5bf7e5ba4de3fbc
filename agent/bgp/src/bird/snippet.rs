//! What a site that has a configuration of BIRD adds to it: functions, and in comments where they are called and which lines
//! have to be there. Loaded as it is, it changes nothing. Owns this text; the numbers and conditions are those of the whole
//! configuration.
//!
//! What comes from others stays the site's decision: the functions decide about nobody but this host's own VMs.

use super::render::{Dialect, File, HOLD_S, PREFERENCES, Pair, RESTART_S, SCAN_S};
use crate::{Family, KernelMetric, PREFERENCE_OF_METRIC_0, Peering, Priorities};
use std::fmt::{self, Display, Formatter};

/// The text to add to a file.
pub(super) struct Snippet<'host>(pub File<'host>);

impl Display for Snippet<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        for (family, priorities) in self.families() {
            self.functions(f, family, priorities)?;
        }
        for (family, priorities) in self.families() {
            self.kernel(f, family, priorities)?;
        }
        for (family, _) in self.families() {
            self.session(f, family)?;
        }
        Ok(())
    }
}

impl Snippet<'_> {
    fn families(&self) -> impl Iterator<Item = (Family, Priorities)> {
        let Self(File { parameters, families, .. }) = self;
        families.iter().filter_map(|&family| Some((family, parameters.priorities(family)?)))
    }

    fn head(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (file, command, versions) = match (self.0.dialect, self.0.families.as_slice()) {
            (Dialect::Two, _) => ("bird.conf", "bird", "BIRD 2"),
            (Dialect::Three, _) => ("bird.conf", "bird --bird-version 3", "BIRD 3"),
            (Dialect::One, [Family::Ipv6]) => ("bird6.conf", "bird1 --family ipv6", "BIRD 1.6"),
            (Dialect::One, _) => ("bird.conf", "bird1 --family ipv4", "BIRD 1.6"),
        };
        let peering = match self.0.parameters.peering {
            Peering::Ibgp => "iBGP",
            Peering::Ebgp => "eBGP",
        };
        let own = if file == "bird6.conf" { "cutover6.conf" } else { "cutover.conf" };
        write!(
            f,
            "\
# Route priority for a compute host that has a {file}, {peering}, for {versions}. Printed by
# `cutover bgp {command} --snippet` from the agent's settings: print it again when a priority or the interface prefix
# changes. docs/bgp-bird.md explains the whole.
#
# This text only defines functions. Save it as /etc/bird/{own}, and put above all protocols of /etc/bird/{file}
#
#   include \"{own}\";
#
# Nothing changes until the lines below, in comments, are in the blocks that {file} has. A line that is there already with
# another value is replaced. Then: `bird -p`, and `cutover doctor --bird-conf /etc/bird/{file}`, which plays a migration with
# all of it.
#
# What BIRD prefers for one machine, the highest first:
#
{PREFERENCES}
"
        )
    }

    fn functions(&self, f: &mut Formatter<'_>, family: Family, priorities: Priorities) -> fmt::Result {
        let Priorities { normal, elevated } = priorities;
        let (digit, bits) = (family.digit(), family.bits());
        let (interfaces, is_elevated) = (self.0.interfaces(), self.0.is_elevated(priorities));
        write!(
            f,
            "\
# IPv{digit}: normal priority is metric {normal}, elevated priority {elevated}, as IPv{digit}NormalRoutePriority and
# IPv{digit}ElevatedRoutePriority of the agents. They have to be the same on all hosts.

# From the kernel: takes the agent's routes, which are the only ones to one address through a machine's interface.
function cutover_learn{digit}() {{
  if net.len = {bits} && ({interfaces}) then {{
    preference = 150;
    if krt_metric < {normal} then preference = 250;
    accept;
  }}
}}

# To peers: takes routes to this host's machines. Of those to one address, what came over BGP is not passed on: it would say
# that the machine runs here. (On a host that is a route reflector, leave that line out.)
function cutover_export{digit}() {{
  if net.len = {bits} then {{
    if source = RTS_BGP then reject;
    if {interfaces} then {{
"
        )?;
        match self.0.parameters.peering {
            Peering::Ibgp => writeln!(f, "      bgp_local_pref = {PREFERENCE_OF_METRIC_0} - krt_metric;")?,
            Peering::Ebgp => {
                let community = Pair(self.0.parameters.community);
                write!(
                    f,
                    "      bgp_community.delete([{community}]);
      if krt_metric < {normal} then bgp_community.add({community});
      # Where a router on the way cannot be taught the community, let the longer path lose there:
      # if krt_metric >= {normal} then {{ bgp_path.prepend({asn}); bgp_path.prepend({asn}); }}
",
                    asn = self.0.parameters.autonomous_system
                )?;
            }
        }
        write!(
            f,
            "      accept;
    }}
  }}
}}

# From peers: says what is preferred, and leaves it to the filter that calls it whether the route is taken.
function cutover_import{digit}() {{
  if net.len = {bits} then {{
    preference = 100;
    if {is_elevated} then preference = 200;
  }}
}}

"
        )?;
        if let Some(Priorities { normal, elevated }) = self.mapped(priorities) {
            write!(
                f,
                "\
# To the kernel: one more than the metric that the route has on the host where the machine is.
function cutover_install{digit}() {{
  if source = RTS_BGP && net.len = {bits} then {{
    krt_metric = {normal};
    if {is_elevated} then krt_metric = {elevated};
  }}
}}

"
            )?;
        }
        Ok(())
    }

    /// The metrics of other hosts' routes, where these show their priority.
    fn mapped(&self, priorities: Priorities) -> Option<Priorities> {
        priorities.of_others().filter(|_| self.0.metric == KernelMetric::Mapped)
    }

    fn kernel(&self, f: &mut Formatter<'_>, family: Family, priorities: Priorities) -> fmt::Result {
        let digit = family.digit();
        let is_mapped = self.mapped(priorities).is_some();
        let metric = match (is_mapped, self.0.dialect, priorities.between()) {
            (false, _, Some(metric)) => format!("#   metric {metric};\n"),
            (true, Dialect::One, _) | (false, _, None) => String::new(),
            (true, _, _) => "#   metric 0;\n".to_owned(),
        };
        let meaning = if is_mapped {
            "\
# With metric 0 every route has the krt_metric that its filter gives it; those to which it gives none have 0, the best.
#
"
        } else {
            "\
# The metric is that of all routes that BIRD writes, whatever their priority: between elevated and normal. Without it that
# would be 32, which wins over this host's own routes.
#
"
        };
        let meaning = if metric.is_empty() { "" } else { meaning };
        let (import, all) = (Call::new("learn", digit), "import all");
        write!(
            f,
            "\
# In `protocol kernel` for IPv{digit}:
#
#   learn;
#   persist;
#   graceful restart;
#   scan time {SCAN_S};
{metric}#
{meaning}# First in its import filter (in place of `{all};`: import filter {{ {import} accept; }};):
#
#   {import}
#
"
        )?;
        if is_mapped {
            let export = Call::new("install", digit);
            write!(
                f,
                "\
# First in its export filter (in place of `export all;`: export filter {{ {export} accept; }};), which has to
# let through what came over BGP:
#
#   {export}

"
            )
        } else {
            f.write_str(
                "\
# Its export filter has to let through what came over BGP. `export all;` does, and
#
#   export where source = RTS_BGP;

",
            )
        }
    }

    fn session(&self, f: &mut Formatter<'_>, family: Family) -> fmt::Result {
        let digit = family.digit();
        let (import, export) = (Call::new("import", digit), Call::new("export", digit));
        let peers: Vec<String> =
            self.0.parameters.peers_of(family).map(|peer| peer.address.to_string()).collect();
        let with =
            if peers.is_empty() { "each peer that is told of machines".to_owned() } else { peers.join(", ") };
        let block = match self.0.dialect {
            Dialect::One => String::new(),
            Dialect::Two | Dialect::Three => format!(", in its block `ipv{digit}`"),
        };
        let paths: String = self.0.all_paths("").lines().map(comment).collect();
        write!(
            f,
            "\
# In `protocol bgp` with {with}, or in their template:
#
#   hold time {HOLD_S};
#   graceful restart on;
#   graceful restart time {RESTART_S};
#
# A host that died attracts traffic for the hold time; elevated priority lasts longer (LiveMigrationRouteConvergenceTime).
#
# In the same place{block}:
#
#   next hop self;
{paths}#
# In its import filter, which has to accept routes of machines, where it accepts them (in place of `import all;`:
# import filter {{ {import} accept; }};):
#
#   {import}
#
# First in its export filter (in place of `export all;`: export filter {{ {export} accept; }}; in place of
# `export none;`: export filter {{ {export} reject; }};):
#
#   {export}

"
        )
    }
}

/// A line of an addition.
fn comment(line: &str) -> String {
    format!("#   {line}\n")
}

/// A call of one of the functions.
struct Call {
    name: &'static str,
    digit: u8,
}

impl Call {
    const fn new(name: &'static str, digit: u8) -> Self {
        Self { name, digit }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, digit } = self;
        write!(f, "cutover_{name}{digit}();")
    }
}
