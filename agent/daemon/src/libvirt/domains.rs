//! Which domains libvirt has spoken of, so that one that went while nobody listened is told to be gone. No I/O.

use super::line::Word;
use super::{Event, What};
use cutover_engine::BootTime;
use std::collections::BTreeSet;

/// The active domains, as far as they have been heard of. Those that are gone are forgotten.
#[derive(Debug, Default)]
pub(super) struct Domains {
    known: BTreeSet<String>,
    /// Those that a new connection has not shown yet.
    unseen: BTreeSet<String>,
}

impl Domains {
    /// A new connection: it shows every active domain, then says that these were all.
    pub(super) fn begin(&mut self) {
        self.unseen.clone_from(&self.known);
    }

    /// A domain, as a new connection shows it or as an event tells of it. Known ones are told again: what
    /// happened to them meanwhile is not known, and nothing comes of hearing the same twice.
    pub(super) fn take(&mut self, word: Word) -> Event {
        let at = word.at();
        let Word { domain, what, .. } = word;
        self.unseen.remove(&domain);
        if what == What::Gone {
            self.known.remove(&domain);
        } else {
            self.known.insert(domain.clone());
        }
        Event { domain, what, at }
    }

    /// Every active domain has been shown: the others are gone.
    pub(super) fn listed(&mut self, at: BootTime) -> Vec<Event> {
        let gone = std::mem::take(&mut self.unseen);
        self.known.retain(|domain| !gone.contains(domain));
        gone.into_iter().map(|domain| Event { domain, what: What::Gone, at }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use What::{Gone, Running, Stopped};

    fn word(domain: &str, what: What) -> Word {
        Word { domain: domain.to_owned(), what, at_ns: 1 }
    }

    #[test]
    fn what_went_while_nobody_listened_is_gone_and_told_once() {
        let mut domains = Domains::default();
        domains.begin();
        domains.take(word("a", Running));
        domains.take(word("b", Stopped));
        assert_eq!(domains.listed(BootTime(2)), []);
        domains.take(word("c", Running));
        domains.take(word("c", Gone));
        domains.begin();
        let found = domains.take(word("a", Running));
        assert_eq!(found, Event { domain: "a".into(), what: Running, at: BootTime(1) }, "it is told again");
        let gone = Event { domain: "b".into(), what: Gone, at: BootTime(3) };
        assert_eq!(domains.listed(BootTime(3)), [gone]);
        domains.begin();
        domains.take(word("a", Running));
        assert_eq!(domains.listed(BootTime(4)), []);
    }

    #[test]
    fn a_listing_that_breaks_off_says_nothing_about_what_it_did_not_come_to() {
        let mut domains = Domains::default();
        domains.take(word("a", Running));
        domains.take(word("b", Running));
        domains.begin();
        domains.take(word("a", Running));
        domains.begin();
        domains.take(word("b", Running));
        assert_eq!(domains.listed(BootTime(2)).len(), 1, "a is missing from the listing that was whole");
    }
}
