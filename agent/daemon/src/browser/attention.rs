//! What somebody should look at: everything that is not as it has to be, each kind with its reasons.

use super::html::{Html, counted};
use crate::control::Status;
use crate::libvirt::Standing;
use crate::timeline::span;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: reasons of one kind. `cutover status` has all.
const REASONS_MAX: usize = 20;

/// Something that is not as it has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Concern {
    what: String,
    reasons: Vec<String>,
}

/// All of it, the most important first.
pub(super) fn concerns(status: &Status) -> Vec<Concern> {
    let mut concerns = Vec::new();
    let mut add = |what: String, reasons: Vec<String>| concerns.push(Concern { what, reasons });
    let named = |reasons: &BTreeMap<String, String>| -> Vec<String> {
        reasons.iter().map(|(name, reason)| format!("{name}: {reason}")).collect()
    };
    for (part, ms) in &status.stuck {
        let busy_for = span::text(Duration::from_millis(*ms));
        add(format!("{part} makes no progress: busy for {busy_for} without a pause"), Vec::new());
    }
    let kept = &status.losses.view;
    if kept.count() > 0 {
        let mut reasons: Vec<_> = status.losses.hint.iter().cloned().collect();
        reasons.extend(kept.endpoints.iter().chain(&kept.interfaces).cloned());
        let what = format!(
            "{} kept that the datastore does not show any more: mend the settings or the datastore; or, if they are really gone: cutover release {}",
            kept.count(),
            kept.count()
        );
        add(what, reasons);
    }
    if !status.losses.refused_settings.is_empty() {
        add("Settings are refused".to_owned(), named(&status.losses.refused_settings));
    }
    if let Some(felix) = &status.felix {
        if !felix.conflicts.is_empty() {
            add("Felix and this agent get in each other's way".to_owned(), felix.conflicts.clone());
        }
        if let Some(reason) = &felix.unreadable {
            add("Felix's chains cannot be seen".to_owned(), vec![reason.clone()]);
        }
    }
    if let Some(trouble) = &status.datastore_trouble {
        let since = span::text(Duration::from_millis(trouble.for_ms));
        add(format!("The datastore has not been followed for {since}"), vec![trouble.reason.clone()]);
    } else if !status.in_sync {
        add("The datastore has not been read in full yet".to_owned(), Vec::new());
    }
    if let Some(recall) = &status.from_memory {
        let (endpoints, watched) = (recall.view.endpoints, recall.view.watched);
        add(
            format!(
                "The agent works with what it remembers of {}, {watched} of them watched",
                counted(endpoints, "endpoint", "endpoints")
            ),
            Vec::new(),
        );
    }
    for (reasons, one, several) in [
        (&status.quarantine, "resource cannot be read", "resources cannot be read"),
        (
            &status.refused_routes,
            "change of a route is refused by the kernel",
            "changes of routes are refused by the kernel",
        ),
        (&status.unarmed, "watch cannot be armed", "watches cannot be armed"),
        (
            &status.unprepared,
            "interface cannot be set up completely",
            "interfaces cannot be set up completely",
        ),
        (
            &status.peers.troubles,
            "obstacle between this agent and those of other hosts",
            "obstacles between this agent and those of other hosts",
        ),
        (
            &status.peers.bad_records,
            "record of another host cannot be read",
            "records of other hosts cannot be read",
        ),
    ] {
        if !reasons.is_empty() {
            add(counted(reasons.len(), one, several), named(reasons));
        }
    }
    if let Some(report) = status.libvirt.as_ref().filter(|it| it.standing == Standing::Unheard) {
        add("libvirt is not heard".to_owned(), report.why.iter().cloned().collect());
    }
    for (what, error) in [
        ("Tracked connections cannot be handed over", &status.handover_error),
        ("The tunnel is not as it has to be", &status.tunnel.error),
    ] {
        if let Some(error) = error {
            add(what.to_owned(), vec![error.clone()]);
        }
    }
    concerns
}

pub(super) fn write(html: &mut Html, concerns: &[Concern]) {
    html.element("ul", &[("class", "concerns")], |html| {
        for concern in concerns {
            html.element("li", &[], |html| {
                html.words("strong", &[], &concern.what);
                if concern.reasons.is_empty() {
                    return;
                }
                html.element("ul", &[], |html| {
                    for reason in concern.reasons.iter().take(REASONS_MAX) {
                        html.words("li", &[], reason);
                    }
                    if let Some(more) =
                        concern.reasons.len().checked_sub(REASONS_MAX).filter(|more| *more > 0)
                    {
                        html.words("li", &[], &format!("and {more} more, which cutover status shows"));
                    }
                });
            });
            html.new_line();
        }
    });
    html.new_line();
}
