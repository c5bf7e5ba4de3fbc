//! BIRD on a lab host: carries the routes of taps to its neighbours by iBGP, with their kernel metric as LOCAL_PREF,
//! and writes what it learns to the kernel with that metric. Knows no guests.

use crate::host::Host;
use crate::lab::Lab;
use crate::wait;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// LIMIT: the shortest pause between attempts that BIRD knows is a second, and neighbours do not start together.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(30);

/// The metric of what BIRD writes to the kernel, between elevated and normal: a host's own elevated route wins over it, and
/// it wins over a host's own normal route, which BIRD lets it do only if it is an elevated one. It is the same for every
/// route because BIRD (2.0.12, with `metric 0` and `krt_metric` in the export filter) leaves the route of a former metric in
/// the kernel.
pub const KERNEL_METRIC: u32 = 768;

/// What is the same on every host. LOCAL_PREF is the largest number of 31 bits less the metric, so the better metric is
/// the better route. Between a guest here and one elsewhere the elevated one wins, and this host's among equals.
const COMMON: &str = "\
filter from_kernel {
  preference = 150;
  if krt_metric < 1024 then preference = 250;
  accept;
}
filter to_peer {
  if source = RTS_BGP || ifname !~ \"tap*\" then reject;
  bgp_local_pref = 2147483647 - krt_metric;
  accept;
}
filter from_peer {
  if bgp_local_pref > 2147482623 then preference = 200;
  accept;
}
filter to_kernel {
  if source = RTS_BGP then accept;
  reject;
}
protocol device { scan time 10; }
template kernel learning { learn; scan time 10; }
protocol kernel kernel4 from learning {
  metric 768;
  ipv4 { import filter from_kernel; export filter to_kernel; };
}
protocol kernel kernel6 from learning {
  metric 768;
  ipv6 { import filter from_kernel; export filter to_kernel; };
}
";

/// A running BIRD. It ends with this value.
#[derive(Debug)]
pub struct Router {
    child: Child,
    control: PathBuf,
    peers: usize,
    namespace: Arc<crate::namespace::Namespace>,
}

impl Router {
    /// Starts BIRD on `host` with a session to each of `peers`.
    ///
    /// # Panics
    /// When Debian's bird2 is not installed.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, peers: &[&Host]) -> Self {
        // KERNEL: without it, the second of two updates in a row waits for the acknowledgement of the first (Nagle), which
        // the peer holds back for 40 ms. BIRD does not set TCP_NODELAY.
        let own = host.ipv4();
        host.namespace().ip(&format!(
            "route change 192.168.77.0/24 dev eth0 proto kernel scope link src {own} quickack 1"
        ));
        let path = |suffix: &str| lab.folder().join(format!("{}.bird.{suffix}", host.name()));
        let configuration = path("conf");
        fs::write(&configuration, text(host, peers)).expect("space on the disk");
        let mut command = host.namespace().command("bird");
        command.arg("-f").arg("-c").arg(&configuration).arg("-s").arg(path("ctl"));
        let log = fs::File::create(path("log")).expect("space on the disk");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("Debian's bird2 is installed");
        Self { child, control: path("ctl"), peers: peers.len(), namespace: host.namespace_shared() }
    }

    /// Waits until every session is up.
    ///
    /// # Panics
    /// When that does not come about; the message has what BIRD says.
    #[track_caller]
    pub fn wait_established(&self) {
        let up = || self.protocols().matches("Established").count() == self.peers;
        assert!(wait::holds_within(ESTABLISHED_WITHIN, up), "sessions are down:\n{}", self.protocols());
    }

    fn protocols(&self) -> String {
        let mut command: Command = self.namespace.command("birdc");
        command.arg("-s").arg(&self.control).args(["show", "protocols"]);
        let output = command.stdin(Stdio::null()).output().expect("bird2 has birdc");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(host: &Host, peers: &[&Host]) -> String {
    let mut text = format!("router id {};\n{COMMON}", host.ipv4());
    for (number, peer) in peers.iter().enumerate() {
        text += &format!(
            "protocol bgp peer{number} {{\n  \
               local {own} as 65000;\n  neighbor {there} as 65000;\n  direct;\n  \
               connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  \
               ipv4 {{ import filter from_peer; export filter to_peer; next hop self; gateway direct; }};\n  \
               ipv6 {{ import filter from_peer; export filter to_peer; next hop address {ipv6}; gateway direct; }};\n\
             }}\n",
            own = host.ipv4(),
            there = peer.ipv4(),
            ipv6 = host.ipv6(),
        );
    }
    text
}
