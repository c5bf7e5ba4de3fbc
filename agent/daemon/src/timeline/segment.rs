//! A migration as a sequence of stretches of time, each with the one thing that went on in it.

use super::migration::Migration;
use cutover_engine::BootTime;

/// A part of the broken time axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Panel {
    /// From the begin to `up`.
    Preparation,
    /// Until the machine announces itself.
    Waiting,
    /// From the announcement to its routes.
    CutOver,
    /// Until the priority is normal again.
    After,
}

impl Panel {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Preparation, Self::Waiting, Self::CutOver, Self::After];

    /// Its name.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Preparation => "Preparation",
            Self::Waiting => "Waiting for the machine",
            Self::CutOver => "Cut-over",
            Self::After => "Afterwards",
        }
    }

    /// From what to what.
    #[must_use]
    pub const fn subheading(self) -> &'static str {
        match self {
            Self::Preparation => "began → reported up",
            Self::Waiting => "reported up → announced",
            Self::CutOver => "announced → routed",
            Self::After => "routed, or over → normal again",
        }
    }
}

/// What goes on in a stretch of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentKind {
    /// The tap is being watched.
    Arming,
    /// `up` is being written.
    Reporting,
    /// The announcement is awaited.
    Waiting,
    /// The fast path wakes up.
    Taking,
    /// It writes the elevated routes.
    Routing,
    /// The routes are elevated, and the migration is not over.
    Elevated,
    /// The routes are elevated, and the migration is over.
    Converging,
    /// The migration is over, and nothing was announced.
    Unannounced,
}

impl SegmentKind {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Arming,
        Self::Reporting,
        Self::Waiting,
        Self::Taking,
        Self::Routing,
        Self::Elevated,
        Self::Converging,
        Self::Unannounced,
    ];

    /// Where it belongs.
    #[must_use]
    pub const fn panel(self) -> Panel {
        match self {
            Self::Arming | Self::Reporting => Panel::Preparation,
            Self::Waiting => Panel::Waiting,
            Self::Taking | Self::Routing => Panel::CutOver,
            Self::Elevated | Self::Converging | Self::Unannounced => Panel::After,
        }
    }

    /// In words.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Arming => "arming the tap",
            Self::Reporting => "reporting up",
            Self::Waiting => "waiting for the announcement",
            Self::Taking => "waking the fast path",
            Self::Routing => "installing elevated routes",
            Self::Elevated => "elevated, migration not over",
            Self::Converging => "elevated, network converging",
            Self::Unannounced => "migration over without an announcement",
        }
    }

    /// Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), and greys.
    #[must_use]
    pub const fn colour(self) -> &'static str {
        match self {
            Self::Arming => "#56b4e9",
            Self::Reporting => "#0072b2",
            Self::Waiting => "#b5b5b5",
            Self::Taking => "#e69f00",
            Self::Routing => "#d55e00",
            Self::Elevated => "#009e73",
            Self::Converging => "#cc79a7",
            Self::Unannounced => "#555555",
        }
    }
}

/// A stretch of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// What goes on.
    pub kind: SegmentKind,
    /// From when.
    pub from: BootTime,
    /// Until when.
    pub to: BootTime,
    /// It goes on.
    pub is_open: bool,
}

/// The stretches of a migration, without gaps and in order.
#[must_use]
pub fn segments(migration: &Migration) -> Vec<Segment> {
    let phases = &migration.phases;
    let mut line = Strip { at: migration.began_at(), until: migration.until, segments: Vec::new() };
    // The next thing that happened to a target: it was announced, or over without that.
    let next = phases.announced_at.or(phases.role_gone_at);
    let before_next = |at: &BootTime| next.is_none_or(|next| *at <= next);

    let armed_at = phases.armed_at.filter(before_next);
    let reported_at = phases.reported_at.filter(before_next);
    if let Some(armed) = armed_at {
        line.to(SegmentKind::Arming, armed);
    }
    if let Some(reported) = reported_at {
        line.to(SegmentKind::Reporting, reported);
    } else if next.is_none() && migration.is_running() {
        return line.end(if armed_at.is_some() { SegmentKind::Reporting } else { SegmentKind::Arming }, true);
    }
    let Some(next) = next else { return line.end(SegmentKind::Waiting, migration.is_running()) };
    line.to(SegmentKind::Waiting, next);
    if phases.announced_at.is_none() {
        return line.end(SegmentKind::Unannounced, migration.is_running());
    }
    if let Some(taken) = phases.taken_at {
        line.to(SegmentKind::Taking, taken);
    }
    if let Some(routed) = phases.routed_at {
        line.to(SegmentKind::Routing, routed);
    }
    match phases.role_gone_at {
        Some(over) => {
            line.to(SegmentKind::Elevated, over);
            line.end(SegmentKind::Converging, migration.is_running())
        }
        None => line.end(SegmentKind::Elevated, migration.is_running()),
    }
}

/// Grows to the right and never back: what came before its turn takes no room.
struct Strip {
    at: BootTime,
    until: BootTime,
    segments: Vec<Segment>,
}

impl Strip {
    fn to(&mut self, kind: SegmentKind, to: BootTime) {
        if to > self.at {
            self.segments.push(Segment { kind, from: self.at, to, is_open: false });
            self.at = to;
        }
    }

    fn end(mut self, kind: SegmentKind, is_open: bool) -> Vec<Segment> {
        let to = self.until.max(self.at);
        if is_open || to > self.at {
            self.segments.push(Segment { kind, from: self.at, to, is_open });
        }
        self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;
    use SegmentKind::{Arming, Converging, Elevated, Reporting, Routing, Taking, Unannounced, Waiting};
    use cutover_engine::machine::Phases;
    use std::time::Duration;

    /// Kinds and lengths in microseconds. Also checks what holds for all migrations.
    fn lengths(migration: &Migration) -> Vec<(SegmentKind, u128)> {
        let segments = segments(migration);
        assert_eq!(segments.first().map(|first| first.from), Some(migration.began_at()));
        assert_eq!(segments.last().map(|last| last.to), Some(migration.until));
        assert!(
            segments.windows(2).all(|pair| pair[0].to == pair[1].from && !pair[0].is_open),
            "{segments:?}"
        );
        assert_eq!(segments.last().map(|last| last.is_open), Some(migration.is_running()));
        segments.iter().map(|it| (it.kind, it.to.since(it.from).as_micros())).collect()
    }

    fn at(offset_us: u64) -> Option<BootTime> {
        Some(BEGAN + Duration::from_micros(offset_us))
    }

    #[test]
    fn all_phases() {
        let expected = [
            (Arming, 1_500),
            (Reporting, 4_500),
            (Waiting, 4_000_000),
            (Taking, 14),
            (Routing, 29),
            (Elevated, 493_957),
            (Converging, 30_000_000),
        ];
        assert_eq!(lengths(&migration("u", phases())), expected);
    }

    #[test]
    fn the_open_end_of_a_running_one_says_what_is_going_on() {
        let after = Duration::from_secs(60);
        let mut some = Phases { targeted_at: Some(BEGAN), ..Phases::default() };
        assert_eq!(lengths(&running("u", some, after)), [(Arming, 60_000_000)]);
        some.armed_at = at(10);
        assert_eq!(lengths(&running("u", some, after))[1..], [(Reporting, 59_999_990)]);
        some.reported_at = at(20);
        assert_eq!(lengths(&running("u", some, after))[2..], [(Waiting, 59_999_980)]);
        some.announced_at = at(1_000);
        assert_eq!(lengths(&running("u", some, after))[3..], [(Elevated, 59_999_000)]);
        some.role_gone_at = at(2_000);
        assert_eq!(lengths(&running("u", some, after))[3..], [(Elevated, 1_000), (Converging, 59_998_000)]);
        some.announced_at = None;
        assert_eq!(lengths(&running("u", some, after))[3..], [(Unannounced, 59_998_000)]);
    }

    #[test]
    fn phases_out_of_their_usual_order_overlap_with_nothing() {
        let late = Phases { role_gone_at: at(7_000), ..phases() };
        let kinds: Vec<_> = lengths(&migration("u", late)).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Arming, Reporting, Waiting, Taking, Routing, Converging]);
        let kept = Phases { armed_at: Some(BootTime(5)), reported_at: at(5_000_000), ..phases() };
        let kinds: Vec<_> = lengths(&migration("u", kept)).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Waiting, Taking, Routing, Elevated, Converging]);
        let never = Phases { targeted_at: Some(BEGAN), ended_at: at(9), ..Phases::default() };
        assert_eq!(lengths(&migration("u", never)), [(Waiting, 9)]);
    }
}
