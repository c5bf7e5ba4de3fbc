//! What the kernel can do, found out by doing it once.

use super::finding::{Area, Check, Finding};
use cutover_daemon::agent::attach;
use cutover_daemon::bpf::probe;
use cutover_daemon::bpf::{Attachment, OpenError};
use cutover_daemon::logging::one_line;
use cutover_daemon::settings::{Attach, Settings};
use std::fs;
use std::io;
use std::path::PathBuf;

static RING_BUFFER: Check = Check {
    area: Area::Kernel,
    name: "ring-buffer",
    wants: "The kernel makes BPF ring buffers (Linux 5.8)",
    why: "The program on the tap tells the agent through one; there is no other way.",
};
static PROGRAMS: Check = Check {
    area: Area::Kernel,
    name: "programs",
    wants: "The kernel accepts the agent's programs and maps",
    why: "Without the program nobody hears the VM's announcement, and routes change only when the migration is reported as completed.",
};
static ATTACHING: Check = Check {
    area: Area::Kernel,
    name: "attaching",
    wants: "The program can be attached as CutoverAttach says",
    why: "A program that is not attached sees nothing. tcx (Linux 6.6) can be exchanged without a gap, and other programs do not get in its way.",
};
static BTF: Check = Check {
    area: Area::Kernel,
    name: "btf",
    wants: "The kernel takes type information",
    why: "bpftool prints maps with the names of their fields only with it.",
};
static PIN_PATH: Check = Check {
    area: Area::Kernel,
    name: "pin-path",
    wants: "CutoverPinPath is in a BPF file system, things can be pinned there, and they and the way to them are root's alone",
    why: "Armed watches and announcements outlive the agent only as pins; it does not start without, nor where somebody else than root could exchange them.",
};
static MEMORY_LOCK: Check = Check {
    area: Area::Kernel,
    name: "memory-lock",
    wants: "Before Linux 5.11, the limit of locked memory is high enough for the maps, or may be raised",
    why: "Such kernels count BPF maps as locked memory and refuse to make them above the limit.",
};

pub(super) static CHECKS: &[&Check] = &[&RING_BUFFER, &PROGRAMS, &ATTACHING, &BTF, &PIN_PATH, &MEMORY_LOCK];

/// LIMIT: watches, evidence, counters and the ring buffer together, with room to spare.
const LOCKED_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// What the kernel answered.
#[derive(Debug)]
pub(super) struct KernelFeatures {
    pub(super) ring_buffer: Result<(), Refusal>,
    pub(super) programs: Result<(), Refusal>,
    pub(super) attaching: Result<Attachment, Refusal>,
    pub(super) attach_wanted: Attach,
    pub(super) btf: Result<(), Refusal>,
    pub(super) pinning: Result<(), Refusal>,
    pub(super) pin_path: PathBuf,
    /// Whether maps count as locked memory, if that could be found out.
    pub(super) locks_memory: Option<bool>,
    /// RLIMIT_MEMLOCK.
    pub(super) locked_max_bytes: u64,
}

/// Why something does not work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) text: String,
    /// What mends it, if that is known better than what mends most of its kind.
    pub(super) change: Option<String>,
    /// This process may not even try.
    pub(super) lacks_privilege: bool,
}

impl Refusal {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(OpenError::Unsafe { refusal, .. }) = error.downcast_ref() {
            return Self { text: refusal.what(), change: Some(refusal.change()), lacks_privilege: false };
        }
        let mut cause = Some(error);
        let mut lacks_privilege = false;
        while let Some(error) = cause {
            let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            lacks_privilege |= error.downcast_ref().is_some_and(denied);
            cause = error.source();
        }
        Self { text: one_line(error).to_string(), change: None, lacks_privilege }
    }
}

impl KernelFeatures {
    pub(super) fn look(settings: &Settings) -> Self {
        let opened = |error: OpenError| Refusal::of(&error);
        let asked = |error: io::Error| Refusal::of(&error);
        probe::raise_locked_memory();
        Self {
            ring_buffer: probe::ring_buffer().map_err(asked),
            programs: probe::programs().map_err(opened),
            attaching: probe::attaching(attach(settings.cutover_attach)).map_err(opened),
            attach_wanted: settings.cutover_attach,
            btf: probe::type_information().map_err(asked),
            pinning: probe::pinning(&settings.cutover_pin_path).map_err(opened),
            pin_path: settings.cutover_pin_path.clone(),
            locks_memory: probe::maps_are_locked_memory().ok(),
            locked_max_bytes: locked_max_bytes(&fs::read_to_string("/proc/self/limits").unwrap_or_default()),
        }
    }
}

/// The soft limit in a file like /proc/self/limits.
fn locked_max_bytes(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") | None => u64::MAX,
        Some(bytes) => bytes.parse().unwrap_or(u64::MAX),
    }
}

pub(super) fn judge(seen: &KernelFeatures) -> Vec<Finding> {
    let mut findings = vec![
        judge_refusal(
            &RING_BUFFER,
            &seen.ring_buffer,
            "the kernel makes ring buffers",
            "install Linux 5.8 or newer",
        ),
        judge_refusal(
            &PROGRAMS,
            &seen.programs,
            "the kernel accepts programs and maps",
            "install Linux 5.8 or newer with CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT and CONFIG_NET_CLS_ACT",
        ),
        attaching(seen),
        match &seen.btf {
            Err(refusal) if !refusal.lacks_privilege => BTF.notice(
                format!("the kernel does not take type information: {}", refusal.text),
                "nothing, unless you inspect maps with bpftool: then a kernel with CONFIG_DEBUG_INFO_BTF",
            ),
            btf => judge_refusal(&BTF, btf, "the kernel takes type information", ""),
        },
        judge_refusal(
            &PIN_PATH,
            &seen.pinning,
            &format!("{} can be used", seen.pin_path.display()),
            "mount -t bpf bpf /sys/fs/bpf, and have it mounted read-write at boot; or set CutoverPinPath to a folder of such a mount",
        ),
    ];
    findings.push(memory_lock(seen));
    findings
}

fn judge_refusal(check: &'static Check, seen: &Result<(), Refusal>, fine: &str, change: &str) -> Finding {
    match seen {
        Ok(()) => check.ok(fine),
        Err(refusal) if refusal.lacks_privilege => {
            check.needs_root(format!("could not tell: {}", refusal.text))
        }
        Err(refusal) => check.error(refusal.text.clone(), refusal.change.as_deref().unwrap_or(change)),
    }
}

fn attaching(seen: &KernelFeatures) -> Finding {
    match &seen.attaching {
        Ok(Attachment::Tc) if seen.attach_wanted == Attach::Auto => ATTACHING.notice(
            "the kernel has no tcx; the agent uses a filter on the clsact qdisc",
            "nothing; or install Linux 6.6 or newer",
        ),
        Ok(attachment) => ATTACHING.ok(format!("taps are watched with {attachment}")),
        Err(refusal) => judge_refusal(
            &ATTACHING,
            &Err(refusal.clone()),
            "",
            "CutoverAttach = auto, and a kernel with CONFIG_NET_CLS_ACT and CONFIG_NET_SCH_INGRESS",
        ),
    }
}

fn memory_lock(seen: &KernelFeatures) -> Finding {
    match seen.locks_memory {
        None => MEMORY_LOCK.needs_root("could not tell whether maps count as locked memory"),
        Some(false) => MEMORY_LOCK.ok("maps do not count as locked memory"),
        Some(true) if seen.locked_max_bytes < LOCKED_MIN_BYTES => MEMORY_LOCK.warning(
            format!(
                "maps count as locked memory, of which this process may have {} KiB",
                seen.locked_max_bytes / 1024
            ),
            "LimitMEMLOCK=infinity in the unit of the agent, as dist/cutover.service has it",
        ),
        Some(true) => MEMORY_LOCK.ok("maps count as locked memory, of which there is or may be enough"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn healthy() -> KernelFeatures {
        KernelFeatures {
            ring_buffer: Ok(()),
            programs: Ok(()),
            attaching: Ok(Attachment::Tcx),
            attach_wanted: Attach::Auto,
            btf: Ok(()),
            pinning: Ok(()),
            pin_path: "/sys/fs/bpf/cutover".into(),
            locks_memory: Some(false),
            locked_max_bytes: 8 << 20,
        }
    }

    fn refusal(lacks_privilege: bool) -> Refusal {
        Refusal { text: "Invalid argument".into(), change: None, lacks_privilege }
    }

    fn problems(seen: &KernelFeatures) -> Vec<(String, Level)> {
        let found = judge(seen);
        let problems = found.iter().filter(|finding| finding.level != Level::Ok);
        assert!(found.iter().all(|finding| (finding.level == Level::Ok) == finding.change.is_none()));
        problems.map(|finding| (finding.check.id(), finding.level)).collect()
    }

    #[test]
    fn each_refusal_is_exactly_one_finding() {
        assert_eq!(problems(&healthy()), []);
        let no = || Err(refusal(false));
        for (seen, check, level) in [
            (KernelFeatures { ring_buffer: no(), ..healthy() }, "kernel.ring-buffer", Level::Error),
            (KernelFeatures { programs: no(), ..healthy() }, "kernel.programs", Level::Error),
            (
                KernelFeatures { attaching: Err(refusal(false)), ..healthy() },
                "kernel.attaching",
                Level::Error,
            ),
            (
                KernelFeatures { attaching: Ok(Attachment::Tc), ..healthy() },
                "kernel.attaching",
                Level::Notice,
            ),
            (KernelFeatures { btf: no(), ..healthy() }, "kernel.btf", Level::Notice),
            (KernelFeatures { pinning: no(), ..healthy() }, "kernel.pin-path", Level::Error),
            (KernelFeatures { locks_memory: Some(true), ..healthy() }, "kernel.memory-lock", Level::Warning),
            (KernelFeatures { locks_memory: None, ..healthy() }, "kernel.memory-lock", Level::Notice),
            (KernelFeatures { programs: Err(refusal(true)), ..healthy() }, "kernel.programs", Level::Notice),
        ] {
            assert_eq!(problems(&seen), [(check.to_owned(), level)]);
        }
        let asked_for_tc =
            KernelFeatures { attaching: Ok(Attachment::Tc), attach_wanted: Attach::Tc, ..healthy() };
        assert_eq!(problems(&asked_for_tc), []);
        let enough = KernelFeatures { locks_memory: Some(true), locked_max_bytes: u64::MAX, ..healthy() };
        assert_eq!(problems(&enough), []);
    }

    #[test]
    fn the_limit_is_read() {
        let line = |value: &str| {
            format!("Limit   Soft Limit\nMax locked memory         {value}   {value}   bytes\n")
        };
        assert_eq!(locked_max_bytes(&line("8388608")), 8_388_608);
        assert_eq!(locked_max_bytes(&line("unlimited")), u64::MAX);
    }

    #[test]
    fn a_missing_privilege_is_told_from_a_missing_feature() {
        let of = |errno| Refusal::of(&OpenError::Namespace { error: io::Error::from_raw_os_error(errno) });
        assert!(of(libc::EPERM).lacks_privilege);
        assert!(!of(libc::EINVAL).lacks_privilege);
    }
}
