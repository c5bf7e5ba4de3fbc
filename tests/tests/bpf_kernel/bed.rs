//! A host with a tap, a pin path and an open kernel program, and how to look at all of it.

#![expect(unsafe_code, reason = "reads a record of the kernel program's")]

use aya::maps::{MapData, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType};
use cutover_common::MacAddr;
use cutover_common::abi::{Announcement, WATCH_IPV4_MAX, WATCH_IPV6_MAX, Watch};
use cutover_daemon::bpf::{Attach, Attachment, Kernel, OpenError, Options, cleanup};
use cutover_tests::frames::{self, Frame};
use cutover_tests::{Host, Lab, Tap, kernel, wait};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

pub(crate) const TAP: &str = "tapport1";
pub(crate) const TAP_MAC: MacAddr = MacAddr([0xfe, 0x16, 0x3e, 0, 0, 1]);
pub(crate) const OTHER_TAP: &str = "tapport2";
pub(crate) const OTHER_TAP_MAC: MacAddr = MacAddr([0xfe, 0x16, 0x3e, 0, 0, 2]);
pub(crate) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);
/// Every way that the kernel has.
#[track_caller]
pub(crate) fn ways() -> impl DoubleEndedIterator<Item = (Attach, Attachment)> + Clone {
    let tcx = kernel::has_tcx().then_some((Attach::Tcx, Attachment::Tcx));
    tcx.into_iter().chain([(Attach::Tc, Attachment::Tc), (Attach::Xdp, Attachment::Xdp)])
}

/// A host with a pin path. Whatever the test leaves in the kernel goes with it.
pub(crate) struct Bed {
    pub(crate) host: Host,
    pub(crate) pin_path: PathBuf,
    // Last, because it looks for what is left.
    pub(crate) lab: Lab,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        Self { host: lab.host("compute1"), pin_path: lab.pin_path("compute1"), lab }
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.host.namespace().run(work)
    }

    pub(crate) fn try_open(&self, attach: Attach) -> Result<Kernel, OpenError> {
        let options = Options { pin_path: self.pin_path.clone(), attach, debug_log: false };
        self.inside(|| Kernel::open(&options))
    }

    #[track_caller]
    pub(crate) fn open(&self, attach: Attach) -> Kernel {
        self.try_open(attach).unwrap()
    }

    pub(crate) fn plug(&self) -> Tap {
        self.host.plug(TAP, TAP_MAC)
    }

    #[track_caller]
    pub(crate) fn arm(&self, kernel: &mut Kernel, tap: &Tap, watch: &Watch) {
        self.inside(|| kernel.arm(tap.ifindex(), TAP, watch)).unwrap();
    }

    #[track_caller]
    pub(crate) fn disarm(&self, kernel: &mut Kernel, ifindex: u32, name: Option<&str>) {
        self.inside(|| kernel.disarm(ifindex, name)).unwrap();
        self.detach(kernel);
    }

    /// Detaches what nobody watches any more, as the agent does when nobody is awaited.
    #[track_caller]
    pub(crate) fn detach(&self, kernel: &mut Kernel) {
        while kernel.idle() > 0 {
            self.inside(|| kernel.detach_idle()).unwrap();
        }
    }

    /// Another tap of the host.
    pub(crate) fn plug_other(&self) -> Tap {
        self.host.plug(OTHER_TAP, OTHER_TAP_MAC)
    }

    /// Standard output of a command in the namespace of the host.
    #[track_caller]
    pub(crate) fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.host.namespace().command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the kernel has on the tap, by every way of attaching.
    pub(crate) fn attached(&self) -> String {
        self.attached_to(TAP)
    }

    /// The same of another one.
    pub(crate) fn attached_to(&self, tap: &str) -> String {
        let xdp_and_tc = self.output("bpftool", &["net", "show", "dev", tap]);
        let names: Vec<String> = self.inside(|| {
            if !kernel::has(kernel::TCX) {
                return Vec::new();
            }
            let (_, programs) = SchedClassifier::query_tcx(tap, TcAttachType::Ingress).unwrap();
            programs
                .iter()
                .map(|program| format!("tcx {} id {}", program.name_as_str().unwrap(), program.id()))
                .collect()
        });
        let qdiscs = self.output("tc", &["qdisc", "show", "dev", tap, "clsact"]);
        let lines = xdp_and_tc.lines().filter(|line| line.starts_with(tap)).map(str::to_owned);
        lines.chain(names).chain(qdiscs.lines().map(str::to_owned)).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn pins(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.pin_path.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Waits until the announcement that this arming waits for is latched.
#[track_caller]
pub(crate) fn wait_latched(kernel: &Kernel, generation: u64) {
    wait::until(wait::SOON, format_args!("generation {generation} is latched"), || {
        kernel.evidence(generation).unwrap().is_some()
    });
}

impl Drop for Bed {
    fn drop(&mut self) {
        let pin_path = self.pin_path.clone();
        let result = self.inside(move || cleanup(&pin_path, false));
        assert!(std::thread::panicking() || result.is_ok(), "{result:?}");
    }
}

pub(crate) fn watch(generation: u64) -> Watch {
    let mut ipv4 = [[0; 4]; WATCH_IPV4_MAX];
    ipv4[0] = ADDRESS.octets();
    let mut ipv6 = [[0; 16]; WATCH_IPV6_MAX];
    ipv6[0] = MAC.link_local();
    Watch { generation, flags: 0, ipv4_count: 1, ipv6_count: 1, mac: MAC.0, reserved: [0; 4], ipv4, ipv6 }
}

pub(crate) fn next(events: &mut RingBuf<MapData>) -> Option<Announcement> {
    let record = events.next()?;
    assert_eq!(record.len(), size_of::<Announcement>());
    // SAFETY: the program writes records of this type, of which every bit pattern is valid.
    Some(unsafe { record.as_ptr().cast::<Announcement>().read_unaligned() })
}

pub(crate) fn announcement() -> Frame {
    frames::garp_request(MAC, ADDRESS)
}
