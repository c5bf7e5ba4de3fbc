//! The classifier in the kernel against the classifier in user space: the same frames through `cutover_tc` and
//! `cutover_xdp` by BPF_PROG_TEST_RUN, judged by what the programs count, latch and report.
//!
//! KERNEL: a frame for a test run has at least an Ethernet header, and its tags stay in it for tc as well,
//! where the stack would have taken the outer one out. Newer kernels do not run tc programs on IP packets that
//! end in their header; behind a tag they do, and XDP takes all. The interface is the loopback, number 1.

#![expect(unsafe_code, reason = "reads records and counters of the kernel program's")]

#[path = "../../common/tests/frames/mod.rs"]
mod frames;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use cutover_common::abi::{Announcement, Evidence, Settings, WATCH_FLAG_FIRST_FRAME, Watch};
use cutover_common::{Counter, Counters, Frame, Verdict, classify, names};
use cutover_daemon::bpf::OBJECT;
use frames::*;
use std::collections::BTreeMap;

const LOOPBACK: u32 = 1;
const TC: usize = 0;
const XDP: usize = 1;
/// Frames for each of the eight watches: 80,000 in all.
const FRAMES_PER_WATCH: u32 = 10_000;
/// How often every outcome has to come up for the comparison to mean something.
const OUTCOME_MIN: u32 = 20;
/// KERNEL: TC_ACT_UNSPEC and XDP_PASS.
const RESULTS: [u32; 2] = [u32::MAX, 2];

#[test]
fn both_programs_agree_with_user_space() {
    let mut kernel = Kernel::load();
    let mut random = Random(0x5eed_c070);
    let mut outcomes = BTreeMap::new();
    let mut runs = [0; 2];
    for flags in 0..4 {
        for mac in [MAC.0, [0; 6]] {
            let watch = Watch { mac, ..watch_with(flags) };
            kernel.arm(&watch);
            for _ in 0..FRAMES_PER_WATCH {
                let frame = random.frame();
                let verdict = classify(Frame::new(&frame), &watch);
                *outcomes.entry(verdict).or_insert(0_u32) += 1;
                for program in [TC, XDP].into_iter().filter(|program| can_run(*program, &frame)) {
                    runs[program] += 1;
                    let observed = kernel.run(program, &frame, &watch);
                    assert_eq!(
                        observed, verdict,
                        "program {program}, flags {flags}, mac {mac:02x?}: {frame:02x?}"
                    );
                }
            }
        }
    }
    assert!(runs[TC] >= 70_000 && runs[XDP] == 80_000, "{runs:?}");
    for counter in Counter::ALL {
        let seen = outcomes.iter().filter(|(verdict, _)| counter_of(**verdict) == Some(*counter));
        let seen: u32 = seen.map(|(_, times)| times).sum();
        let has_no_verdict =
            matches!(counter, Counter::AlreadyAnnounced | Counter::RingFull | Counter::EvidenceFull);
        assert!(seen >= OUTCOME_MIN || has_no_verdict, "{} came up {seen} times", counter.name());
    }
}

#[test]
fn the_second_announcement_is_only_counted() {
    let mut kernel = Kernel::load();
    kernel.arm(&watch());
    let frame = rarp(MAC);
    for program in [TC, XDP] {
        kernel.test_run(program, &frame);
    }
    let counted = kernel.counted();
    assert_eq!((counted.accepted_rarp, counted.already_announced), (1, 1));
    assert!(kernel.events.next().is_some());
    assert!(kernel.events.next().is_none());
}

/// A reader that is away for long: the evidence is latched all the same, and what is missing is counted.
#[test]
fn a_full_ring_loses_records_but_no_evidence() {
    let mut kernel = Kernel::load();
    let frame = rarp(MAC);
    let mut generation = 0;
    while kernel.counted().ring_full == 0 {
        generation += 1;
        assert!(generation < 100_000, "the ring never fills");
        kernel.arm(&Watch { generation, ..watch() });
        kernel.test_run(TC, &frame);
        let evidence = kernel.evidence.get(&generation, 0).expect("it is latched");
        assert_eq!(evidence.ifindex, LOOPBACK);
        kernel.evidence.remove(&generation).unwrap();
    }
    assert_eq!(kernel.counted().accepted_rarp, generation);
    assert_eq!(kernel.counted().evidence_full, 0);
}

/// Whether the kernel accepts the frame for a test run.
fn can_run(program: usize, frame: &[u8]) -> bool {
    let header = match [frame[12], frame[13]] {
        IPV6_TYPE => 40,
        [0x08, 0x00] => 20,
        _ => 0,
    };
    program == XDP || frame.len() >= 14 + header
}

fn counter_of(verdict: Verdict) -> Option<Counter> {
    match verdict {
        Verdict::Ignored => None,
        Verdict::Accepted(kind) => Some(Counter::of_accepted(kind)),
        Verdict::Refused(refusal) => Some(Counter::of_refused(refusal)),
    }
}

/// Both programs, loaded with maps of their own.
struct Kernel {
    ebpf: Ebpf,
    watches: HashMap<MapData, u32, Watch>,
    evidence: HashMap<MapData, u64, Evidence>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    events: RingBuf<MapData>,
    before: Counters,
}

impl Kernel {
    fn load() -> Self {
        let mut ebpf = Ebpf::load(OBJECT).expect("loading programs needs root");
        let tc: &mut SchedClassifier = ebpf.program_mut(names::PROGRAM_TC).unwrap().try_into().unwrap();
        tc.load().unwrap();
        let xdp: &mut Xdp = ebpf.program_mut(names::PROGRAM_XDP).unwrap().try_into().unwrap();
        xdp.load().unwrap();
        let mut map = |name| ebpf.take_map(name).unwrap();
        Self {
            watches: map(names::MAP_WATCHES).try_into().unwrap(),
            evidence: map(names::MAP_EVIDENCE).try_into().unwrap(),
            settings: map(names::MAP_SETTINGS).try_into().unwrap(),
            counters: map(names::MAP_COUNTERS).try_into().unwrap(),
            events: map(names::MAP_EVENTS).try_into().unwrap(),
            ebpf,
            before: Counters::default(),
        }
    }

    fn arm(&mut self, watch: &Watch) {
        let first_frame = u32::from(watch.flags & WATCH_FLAG_FIRST_FRAME != 0);
        self.settings.set(0, Settings { first_frame }, 0).unwrap();
        self.watches.insert(LOOPBACK, watch, 0).unwrap();
    }

    /// Runs a frame through one program and says what the kernel made of it.
    fn run(&mut self, program: usize, frame: &[u8], watch: &Watch) -> Verdict {
        self.test_run(program, frame);
        let evidence = self.evidence.get(&watch.generation, 0).ok();
        let record = self.events.next().map(|record| {
            // SAFETY: the program writes records of this type, of which every bit pattern is valid.
            unsafe { record.as_ptr().cast::<Announcement>().read_unaligned() }
        });
        assert_eq!(
            record.map(|record| (record.generation, record.seen_at_ns, record.ifindex, record.kind)),
            evidence.map(|latched| (watch.generation, latched.seen_at_ns, LOOPBACK, latched.kind)),
        );
        assert!(self.events.next().is_none());
        let verdict = self.verdict(evidence);
        if evidence.is_some() {
            self.evidence.remove(&watch.generation).unwrap();
        }
        verdict
    }

    /// What was counted since the last time, as a verdict.
    fn verdict(&mut self, evidence: Option<Evidence>) -> Verdict {
        let now = self.counted();
        let before = std::mem::replace(&mut self.before, now);
        let changed: Vec<_> =
            Counter::ALL.iter().filter(|counter| now.value(**counter) != before.value(**counter)).collect();
        let candidates =
            all_verdicts().filter(|verdict| counter_of(*verdict).as_ref() == changed.first().copied());
        let verdict: Vec<_> = candidates.collect();
        assert!(changed.len() <= 1 && verdict.len() == 1, "{changed:?}");
        match verdict[0] {
            Verdict::Accepted(kind) => assert_eq!(evidence.map(|evidence| evidence.kind), Some(kind as u32)),
            _ => assert_eq!(evidence, None),
        }
        verdict[0]
    }

    fn test_run(&self, program: usize, frame: &[u8]) {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = if program == TC {
            let tc: &SchedClassifier = self.ebpf.program(names::PROGRAM_TC).unwrap().try_into().unwrap();
            tc.test_run(options)
        } else {
            let xdp: &Xdp = self.ebpf.program(names::PROGRAM_XDP).unwrap().try_into().unwrap();
            xdp.test_run(options)
        };
        let result = result.unwrap_or_else(|error| panic!("program {program}: {error:?}: {frame:02x?}"));
        assert_eq!(result.return_value, RESULTS[program], "the frame does not pass: {frame:02x?}");
    }

    /// Every counter, over all CPUs.
    fn counted(&self) -> Counters {
        let mut words = [0_u64; Counter::COUNT];
        for cpu in self.counters.get(&0, 0).unwrap().iter() {
            for counter in Counter::ALL {
                words[*counter as usize] += cpu.value(*counter);
            }
        }
        // SAFETY: `Counters` is one u64 for each counter in the order of their numbers.
        unsafe { std::mem::transmute(words) }
    }
}

/// Every verdict there is, found by its counter.
fn all_verdicts() -> impl Iterator<Item = Verdict> {
    use cutover_common::{AnnouncementKind as Kind, Refusal};
    let accepted = (1..).map_while(Kind::from_number).map(Verdict::Accepted);
    let refused = [
        Refusal::Truncated,
        Refusal::ArpFormat,
        Refusal::ArpOperation,
        Refusal::ZeroAddress,
        Refusal::UnknownMac,
        Refusal::ForeignMac,
        Refusal::ForeignAddress,
        Refusal::AdvertisementCode,
        Refusal::HopLimit,
        Refusal::Solicited,
        Refusal::ForeignTarget,
    ];
    accepted.chain(refused.map(Verdict::Refused)).chain([Verdict::Ignored])
}

/// Numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// An announcement or something like it; spoilt in most cases; with up to three tags.
    fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.sound_frame();
        match self.below(8) {
            0 | 1 => {}
            2 => frame.truncate(14 + self.below(frame.len() - 13)),
            3 => frame.extend((0..self.below(64)).map(|_| 0xaa)),
            4 => self.change_field(&mut frame),
            times => (4..times).for_each(|_| {
                let place = self.below(frame.len());
                frame[place] = self.byte();
            }),
        }
        for _ in 0..self.below(8).saturating_sub(4) {
            let tag = [TAG_8021Q, TAG_8021AD][self.below(2)];
            frame = tagged(&frame, tag, self.byte());
            if self.below(16) == 0 {
                frame.truncate(14 + self.below(frame.len() - 13));
            }
        }
        frame
    }

    fn sound_frame(&mut self) -> Vec<u8> {
        let mac = if self.below(4) == 0 { OTHER_MAC } else { MAC };
        let ipv4 = [IPV4, SECOND_IPV4, OTHER_IPV4, [0; 4]][self.below(4)];
        let ipv6 = [IPV6, MAC.link_local(), OTHER_IPV6][self.below(3)];
        match self.below(8) {
            0 => rarp(mac),
            1 => garp(1, mac, ipv4),
            2 => garp(2, mac, ipv4),
            3 => arp_request(mac, ipv4, OTHER_IPV4),
            4 | 5 => advertisement(mac, ipv6),
            6 => tcp(mac)[self.below(2)].clone(),
            _ => {
                let ethertype = [ARP, RARP, IPV6_TYPE, [self.byte(), self.byte()]][self.below(4)];
                let content: Vec<u8> = (0..self.below(80)).map(|_| self.byte()).collect();
                ethernet(mac, ethertype, &content)
            }
        }
    }

    /// Changes one of the fields that a rule looks at, if the frame is long enough to have it.
    fn change_field(&mut self, frame: &mut [u8]) {
        let arp_fields = [
            arp::HARDWARE_TYPE,
            arp::PROTOCOL_TYPE,
            arp::HARDWARE_LENGTH,
            arp::PROTOCOL_LENGTH,
            arp::OPERATION + 1,
            arp::SENDER_MAC,
            arp::SENDER_IP,
            arp::TARGET_IP,
        ];
        let na_fields = [
            na::VERSION,
            na::PAYLOAD_LENGTH + 1,
            na::NEXT_HEADER,
            na::HOP_LIMIT,
            na::TYPE,
            na::CODE,
            na::FLAGS,
            na::TARGET,
        ];
        let fields = if frame[12..14] == IPV6_TYPE { na_fields } else { arp_fields };
        let place = fields[self.below(fields.len())];
        if let Some(byte) = frame.get_mut(place) {
            *byte ^= 1 << self.below(8);
        }
    }
}
