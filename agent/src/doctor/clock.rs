//! Whether the time of day is kept in step with everybody else's.

#![expect(unsafe_code, reason = "adjtimex(2)")]

use super::command::answer;
use super::finding::{Area, Check, Finding};
use cutover_daemon::processes::Processes;
use std::io;
use std::time::Duration;

static SYNCHRONISED: Check = Check {
    area: Area::Clock,
    name: "synchronised",
    wants: "The clock is synchronised, to within 100 ms",
    why: "No decision of the agent depends on the time of day, but certificates of etcd are valid by it, Neutron judges heartbeats by it, and the logs of source and target can only be put side by side with it.",
};

pub(super) static CHECKS: &[&Check] = &[&SYNCHRONISED];

/// LIMIT: phases of a migration are told apart by their times in logs down to about this.
const OFFSET_MAX: Duration = Duration::from_millis(100);

/// What the kernel and chrony say.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct WallClock {
    pub(super) kernel: Option<KernelClock>,
    /// Programs that keep the clock.
    pub(super) keeper: Option<String>,
    /// What chrony says about itself.
    pub(super) chrony: Option<Tracking>,
}

/// What the kernel knows about how good its wall-clock time is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KernelClock {
    /// Whether somebody disciplines it.
    pub(super) is_synchronised: bool,
    /// How far off it is, as far as whoever does so knows.
    pub(super) estimated_error: Duration,
}

/// Asks the kernel how good its wall-clock time is; changes nothing.
fn kernel_clock() -> io::Result<KernelClock> {
    // SAFETY: a timex of zeros is valid, and with `modes` 0 it asks without changing anything.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex reads and writes one timex, which lives until the call returns.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let estimated_error_us = u64::try_from(state.esterror).unwrap_or(0);
    Ok(KernelClock {
        is_synchronised: state.status & libc::STA_UNSYNC == 0,
        estimated_error: Duration::from_micros(estimated_error_us),
    })
}

/// The part of `chronyc tracking` that matters.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Tracking {
    pub(super) offset: Duration,
    pub(super) is_synchronised: bool,
}

const KEEPERS: [&str; 4] = ["chronyd", "ntpd", "ntpsec", "systemd-timesyn"];

impl WallClock {
    pub(super) fn look(processes: &Processes) -> Self {
        let keeper = processes.named(&KEEPERS).next().map(|process| process.name.clone());
        let chrony = keeper
            .as_deref()
            .filter(|name| *name == "chronyd")
            .and_then(|_| tracking(&answer("chronyc", &["-n", "-c", "tracking"]).ok()?));
        Self { kernel: kernel_clock().ok(), keeper, chrony }
    }
}

/// Reads a line of comma separated values of `chronyc -c tracking`: the fifth is the clock's offset in seconds, the last the
/// state of leap seconds, which also says whether the clock is synchronised at all.
fn tracking(line: &str) -> Option<Tracking> {
    let fields: Vec<&str> = line.trim().split(',').collect();
    let offset: f64 = fields.get(4)?.parse().ok()?;
    let offset = Duration::try_from_secs_f64(offset.abs()).ok()?;
    Some(Tracking { offset, is_synchronised: *fields.last()? != "Not synchronised" })
}

pub(super) fn judge(seen: &WallClock) -> Vec<Finding> {
    let Some(kernel) = seen.kernel else {
        return vec![SYNCHRONISED.notice("could not ask the kernel", "nothing")];
    };
    let change = match seen.keeper.as_deref() {
        None => "install and start chrony, with the time servers of your site".to_owned(),
        Some("chronyd") => "see chronyc sources: none of its servers answers, or none is trusted".to_owned(),
        Some(name) => {
            format!("see why {name} does not synchronise: its servers do not answer, or are not trusted")
        }
    };
    let off = |offset: Duration, whose: &str| {
        SYNCHRONISED.warning(
            format!("the clock may be off by {:.0} ms, says {whose}", offset.as_secs_f64() * 1000.0),
            change.clone(),
        )
    };
    let finding = match &seen.chrony {
        Some(chrony) if !chrony.is_synchronised => SYNCHRONISED.warning("chrony is not synchronised", change),
        Some(chrony) if chrony.offset > OFFSET_MAX => off(chrony.offset, "chrony"),
        Some(chrony) => SYNCHRONISED
            .ok(format!("chrony is synchronised, {:.3} ms off", chrony.offset.as_secs_f64() * 1000.0)),
        None if !kernel.is_synchronised => {
            SYNCHRONISED.warning("the kernel says that nobody keeps the clock synchronised", change)
        }
        None if kernel.estimated_error > OFFSET_MAX => off(kernel.estimated_error, "the kernel"),
        None => SYNCHRONISED.ok("the kernel says that the clock is synchronised"),
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn levels() {
        let kernel = |is_synchronised, ms| {
            Some(KernelClock { is_synchronised, estimated_error: Duration::from_millis(ms) })
        };
        let chrony =
            |is_synchronised, ms| Some(Tracking { offset: Duration::from_millis(ms), is_synchronised });
        for (kernel, chrony, expected, part) in [
            (kernel(true, 0), None, Level::Ok, "synchronised"),
            (kernel(false, 0), None, Level::Warning, "nobody"),
            (kernel(true, 500), None, Level::Warning, "500 ms, says the kernel"),
            (kernel(true, 0), chrony(true, 1), Level::Ok, "1.000 ms off"),
            (kernel(true, 0), chrony(false, 0), Level::Warning, "chrony is not"),
            (kernel(true, 0), chrony(true, 200), Level::Warning, "200 ms, says chrony"),
            (None, None, Level::Notice, "could not"),
        ] {
            let found =
                judge(&WallClock { kernel, keeper: chrony.is_some().then(|| "chronyd".into()), chrony });
            assert_eq!(found[0].level, expected, "{found:?}");
            assert!(found[0].what.contains(part), "{found:?}");
        }
    }

    /// The shape of a line of chrony 4.3.
    #[test]
    fn chrony_is_read() {
        let line = |offset: &str, leap: &str| {
            format!(
                "A29FC87B,162.159.200.123,4,1700000000.123456789,{offset},0.000001,0.000020,-1.5,0.0,0.02,0.01,0.0005,64.2,{leap}\n"
            )
        };
        let read = tracking(&line("-0.250000000", "Normal")).unwrap();
        assert_eq!(read, Tracking { offset: Duration::from_millis(250), is_synchronised: true });
        assert!(!tracking(&line("0.0", "Not synchronised")).unwrap().is_synchronised);
        assert_eq!(tracking("506 Cannot talk to daemon\n"), None);
    }

    #[test]
    fn the_kernel_can_be_asked() {
        assert!(WallClock::look(&Processes::default()).kernel.is_some());
    }
}
