//! The page of a host.

use super::document::{document, section};
use super::html::Html;
use super::{attention, endpoints, flight, journey};
use crate::control::Status;
use crate::timeline::{Migration, span};
use cutover_engine::BootTime;
use std::time::Duration;

/// After how many seconds a browser can be told to ask again, besides never.
const PERIODS: [u32; 3] = [2, 10, 60];

/// The one that the query of an address asks for.
#[must_use]
pub fn period(query: Option<&str>) -> Option<u32> {
    let asked: u32 = query?.strip_prefix("every=")?.parse().ok()?;
    PERIODS.into_iter().find(|period| *period == asked)
}

/// What is known of a host.
#[derive(Debug)]
pub struct Host<'a> {
    /// The answer of its agent.
    pub status: &'a Status,
    /// The newest finished migrations to it, in the order in which they ended.
    pub migrations: &'a [Migration],
    /// Why these cannot be read.
    pub unreadable: Option<&'a str>,
    /// When that was.
    pub now: BootTime,
    /// The same in nanoseconds since 1970.
    pub now_unix_ns: u64,
    /// After how many seconds the browser is to ask again, if it is.
    pub refresh: Option<u32>,
}

/// The page.
#[must_use]
pub fn host(host: &Host<'_>) -> String {
    let status = host.status;
    let concerns = attention::concerns(status);
    let (in_flight, asking) = (flight::count(status), concerns.len());
    let title = format!("{} – {in_flight} under way, {asking} to look at – Cutover", status.hostname);
    document(&title, host.refresh, |html| {
        html.words("a", &[("class", "skip"), ("href", "#content")], "Skip to the content");
        html.element("header", &[], |html| {
            html.words("h1", &[], &format!("Cutover on {}", status.hostname));
            html.words("p", &[], &format!("As of {}.", span::date(host.now_unix_ns)));
            navigation(html, host);
        });
        html.element("main", &[("id", "content")], |html| {
            section(html, "attention", "To look at", |html| {
                if concerns.is_empty() {
                    html.words("p", &[], "Everything is as it has to be.");
                } else {
                    attention::write(html, &concerns);
                }
            });
            section(html, "flight", &format!("Under way ({in_flight})"), |html| flight::write(html, host));
            section(html, "endpoints", &format!("Endpoints ({})", status.endpoints.len()), |html| {
                endpoints::write(html, status, host.now);
            });
            section(html, "last", "Last migrations to this host", |html| last(html, host));
            section(html, "agent", "The agent", |html| agent(html, status));
        });
    })
}

/// What is shown in place of the page while the loop does not answer. `busy` are the parts that have been busy, and for how long.
#[must_use]
pub fn unanswered(busy: &[(&str, Duration)]) -> String {
    document("No answer – Cutover", None, |html| {
        html.element("main", &[("id", "content")], |html| {
            html.words("h1", &[], "The agent does not say how things stand");
            html.words(
                "p",
                &[],
                "Its loop has not answered in time. Routes and watches stay as they are; ask again.",
            );
            if !busy.is_empty() {
                html.words("h2", &[], "Busy without a pause");
                html.element("ul", &[], |html| {
                    for (part, duration) in busy {
                        html.words("li", &[], &format!("{part}, for {}", span::text(*duration)));
                    }
                });
            }
        });
    })
}

fn navigation(html: &mut Html, host: &Host<'_>) {
    html.element("nav", &[("aria-label", "Sections")], |html| {
        html.element("ul", &[], |html| {
            for (place, name) in [
                ("#attention", "To look at"),
                ("#flight", "Under way"),
                ("#endpoints", "Endpoints"),
                ("#last", "Last migrations"),
                ("#agent", "The agent"),
            ] {
                html.element("li", &[], |html| html.words("a", &[("href", place)], name));
            }
        });
    });
    html.element("nav", &[("aria-label", "Asking again")], |html| {
        html.element("ul", &[], |html| {
            for period in [None].into_iter().chain(PERIODS.map(Some)) {
                let (place, name) = match period {
                    None => ("/".to_owned(), "Once".to_owned()),
                    Some(seconds) => (format!("/?every={seconds}"), format!("Every {seconds} s")),
                };
                let attributes = [("href", place.as_str()), ("aria-current", "true")];
                let is_chosen = usize::from(host.refresh == period);
                html.element("li", &[], |html| html.words("a", &attributes[..1 + is_chosen], &name));
            }
        });
    });
    html.new_line();
}

fn last(html: &mut Html, host: &Host<'_>) {
    if let Some(reason) = host.unreadable {
        html.words("p", &[], &format!("The record cannot be read: {reason}"));
    } else if host.migrations.is_empty() {
        html.words("p", &[], "None is known. The record begins anew when the host does.");
    } else {
        html.words(
            "p",
            &[],
            "The newest first. Each opens to what took how long and when each phase was. Of the parts of a migration each has a scale of its own.",
        );
    }
    for (number, migration) in host.migrations.iter().rev().enumerate() {
        let content = |html: &mut Html| {
            journey::strips(html, migration);
            journey::phases(html, "last-phases", number, migration, false);
            journey::identity(html, migration);
        };
        journey::block(
            html,
            ("last", number),
            false,
            |html| journey::summary(html, migration, false),
            content,
        );
    }
    if !host.migrations.is_empty() {
        journey::meanings(html);
    }
}

fn agent(html: &mut Html, status: &Status) {
    html.element("dl", &[], |html| {
        let mut fact = |name: &str, value: &str| {
            html.element("div", &[], |html| {
                html.words("dt", &[], name);
                html.words("dd", &[], value);
            });
            html.new_line();
        };
        fact("Version", &format!("{}, process {}", status.version, status.pid));
        fact("Role", &status.role);
        fact("Programs are attached with", &status.attach);
        let datastore = match (status.in_sync, status.complete) {
            (false, _) => "not in sync",
            (true, false) => "in sync, with resources that cannot be read",
            (true, true) => "in sync",
        };
        fact("Datastore", datastore);
        if let Some(felix) = &status.felix {
            fact("Felix", &felix.chains_text());
            for running in &felix.running {
                let text = format!("{}; {}", running.version_text(), running.settings_text());
                fact(&format!("Felix, process {}", running.pid), &text);
            }
        }
        let peers = match &status.peers.off {
            Some(reason) => format!("off: {reason}"),
            None => {
                format!("{} known, {} talked to", status.peers.known_hosts, status.peers.conversations.len())
            }
        };
        fact("Agents of other hosts", &peers);
        if let Some(libvirt) = &status.libvirt {
            use crate::libvirt::Standing;
            let standing = match libvirt.standing {
                Standing::Connected => "is heard",
                Standing::Absent => "is not here",
                Standing::Unheard => "is not heard",
            };
            fact("libvirt", standing);
        }
        fact("Routes in the kernel", &status.kernel_routes.len().to_string());
        fact(
            "Packets forwarded, received",
            &format!("{}, {}", status.tunnel.forwarded, status.tunnel.received),
        );
        for (name, kinds) in [("Announcements accepted", "accepted_"), ("Announcements refused", "refused_")]
        {
            let one = |(counter, count): (&String, &u64)| {
                let kind = counter.strip_prefix(kinds).filter(|_| *count > 0)?;
                Some(format!("{} {count}", kind.replace('_', " ")))
            };
            let counted: Vec<_> = status.announcements.iter().filter_map(one).collect();
            fact(name, &if counted.is_empty() { "none".to_owned() } else { counted.join(", ") });
        }
    });
}
