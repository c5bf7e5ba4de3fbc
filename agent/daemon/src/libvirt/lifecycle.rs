//! Which of libvirt's lifecycle events and states count, and as what. Numbers in, words out.
//!
//! The numbers are part of libvirt's public interface (include/libvirt/libvirt-domain.h), which only ever adds some. What is not
//! known here is taken by its kind, or not at all.

use super::What;

// virDomainEventType.
const STARTED: i32 = 2;
const SUSPENDED: i32 = 3;
const RESUMED: i32 = 4;
const STOPPED: i32 = 5;

/// `VIR_DOMAIN_EVENT_STARTED_MIGRATED`: the process that waits for a guest.
const STARTED_MIGRATED: i32 = 1;

// virDomainEventSuspendedDetailType.
const SUSPENDED_MIGRATED: i32 = 1;
const SUSPENDED_API_ERROR: i32 = 6;
const SUSPENDED_POSTCOPY: i32 = 7;
const SUSPENDED_POSTCOPY_FAILED: i32 = 8;

// virDomainState.
const RUNNING: i32 = 1;
const BLOCKED: i32 = 2;
const PAUSED: i32 = 3;
const SHUTDOWN: i32 = 4;
const SHUTOFF: i32 = 5;
const CRASHED: i32 = 6;
const PMSUSPENDED: i32 = 7;

// virDomainPausedReason.
const PAUSED_USER: i32 = 1;
const PAUSED_MIGRATION: i32 = 2;
const PAUSED_SAVE: i32 = 3;
const PAUSED_DUMP: i32 = 4;
const PAUSED_IOERROR: i32 = 5;
const PAUSED_WATCHDOG: i32 = 6;
const PAUSED_FROM_SNAPSHOT: i32 = 7;
const PAUSED_SHUTTING_DOWN: i32 = 8;
const PAUSED_SNAPSHOT: i32 = 9;
const PAUSED_CRASHED: i32 = 10;
const PAUSED_POSTCOPY: i32 = 12;
const PAUSED_POSTCOPY_FAILED: i32 = 13;
const PAUSED_API_ERROR: i32 = 14;

/// What a lifecycle event means, by its number and that of its detail.
pub(super) fn of_event(event: i32, detail: i32) -> Option<What> {
    match (event, detail) {
        // The first one comes for every stop in the course of a migration, also for `virsh suspend` while one is under way (libvirt
        // 11.3), which is how Nova makes one converge: it stays stopped here then, too. The others: the guest runs at the target
        // already, or nowhere, and never runs here again.
        (SUSPENDED, SUSPENDED_MIGRATED | SUSPENDED_POSTCOPY | SUSPENDED_POSTCOPY_FAILED) => {
            Some(What::Stopped)
        }
        // The migration has failed, and so has resuming: it belongs here, and somebody has to look after it.
        (SUSPENDED, SUSPENDED_API_ERROR) => Some(What::Running),
        // By an operator, a disk or a watchdog: it may go on here at any time, and nobody takes elsewhere what is sent to it.
        (SUSPENDED, _) => None,
        // Whoever resumed it, it runs. After a migration that was cancelled libvirt 11.3 says the same as after `virsh resume`.
        (RESUMED, _) => Some(What::Running),
        (STARTED, STARTED_MIGRATED) => Some(What::Present),
        (STARTED, _) => Some(What::Running),
        (STOPPED, _) => Some(What::Gone),
        // Defined, undefined, shutting down (a stop follows), crashed or asleep (the process is here).
        _ => None,
    }
}

/// What a state means, by its number and that of its reason.
pub(super) fn of_state(state: i32, reason: i32) -> What {
    match (state, reason) {
        (PAUSED, PAUSED_MIGRATION | PAUSED_POSTCOPY | PAUSED_POSTCOPY_FAILED) => What::Stopped,
        // Each of these is of a guest that is here. One that was paused and then migrated is paused by its user at the target.
        (
            PAUSED,
            PAUSED_USER | PAUSED_SAVE | PAUSED_DUMP | PAUSED_IOERROR | PAUSED_WATCHDOG | PAUSED_FROM_SNAPSHOT
            | PAUSED_SHUTTING_DOWN | PAUSED_SNAPSHOT | PAUSED_CRASHED | PAUSED_API_ERROR,
        ) => What::Running,
        // A process that is starting up (11) may be one that waits for a guest which runs at the source, and a reason that libvirt does not
        // know (0), or that is not known here, may be anything.
        (PAUSED, _) => What::Present,
        // Whatever the reason: one that a cancelled migration has left here, and one that runs here after post-copy, run here.
        (RUNNING | BLOCKED | SHUTDOWN | CRASHED | PMSUSPENDED, _) => What::Running,
        (SHUTOFF, _) => What::Gone,
        _ => What::Present,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use What::{Gone, Present, Running, Stopped};

    #[test]
    fn every_detail_that_libvirt_has() {
        // By libvirt 11.3, in the order of their numbers.
        let none = [None; 6];
        let expected: [(i32, &[Option<What>]); 9] = [
            (0, &none),
            (1, &none),
            (STARTED, &[Some(Running), Some(Present), Some(Running), Some(Running), Some(Running)]),
            (
                SUSPENDED,
                &[None, Some(Stopped), None, None, None, None, Some(Running), Some(Stopped), Some(Stopped)],
            ),
            (RESUMED, &[Some(Running); 5]),
            (STOPPED, &[Some(Gone); 7]),
            (6, &none),
            (7, &none),
            (8, &none),
        ];
        for (event, details) in expected {
            for (detail, &expected) in (0..).zip(details) {
                assert_eq!(of_event(event, detail), expected, "event {event}, detail {detail}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_taken_by_its_kind_or_not_at_all() {
        assert_eq!(of_event(SUSPENDED, 99), None);
        assert_eq!(of_event(RESUMED, 99), Some(Running));
        assert_eq!(of_event(STOPPED, 99), Some(Gone));
        assert_eq!(of_event(99, 0), None);
        assert_eq!(of_event(-1, -1), None);
    }

    #[test]
    fn every_state_and_reason_that_libvirt_has() {
        // By libvirt 11.3, in the order of their numbers.
        let paused = [
            Present, Running, Stopped, Running, Running, Running, Running, Running, Running, Running,
            Running,
            // Starting up, as a process that waits for a guest does: the guest runs at the source.
            Present, Stopped, Stopped, Running,
        ];
        let expected: [(i32, &[What]); 8] = [
            (0, &[Present]),
            // The last ones: a migration was cancelled, saving was, it woke up, it crashed, it came with post-copy, and that failed.
            (RUNNING, &[Running; 12]),
            (BLOCKED, &[Running]),
            (PAUSED, &paused),
            (SHUTDOWN, &[Running; 2]),
            (SHUTOFF, &[Gone; 8]),
            // It is kept after a crash, so its process is here.
            (CRASHED, &[Running; 2]),
            (PMSUSPENDED, &[Running]),
        ];
        for (state, reasons) in expected {
            for (reason, &expected) in (0..).zip(reasons) {
                assert_eq!(of_state(state, reason), expected, "state {state}, reason {reason}");
            }
        }
    }

    #[test]
    fn of_a_state_that_is_not_known_nothing_is_known() {
        for (state, reason) in [(PAUSED, 15), (PAUSED, -1), (8, 0), (-1, -1)] {
            assert_eq!(of_state(state, reason), Present, "state {state}, reason {reason}");
        }
        assert_eq!(of_state(RUNNING, 99), Running);
        assert_eq!(of_state(SHUTOFF, 99), Gone);
    }
}
