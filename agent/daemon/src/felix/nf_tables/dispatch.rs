//! The filter of one table as far as it is about interfaces: chains, dispatch entries, and what follows for each interface. Pure.

use crate::felix::backend::{Backend, Direction, Name};
use cutover_engine::chains::{Piece, Pieces};
use std::collections::{BTreeMap, BTreeSet};

/// What Felix has in one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::felix) struct Filter {
    backend: Backend,
    /// Chains of interfaces and for dispatch.
    chains: BTreeSet<String>,
    /// The rules of dispatch chains that lead somewhere, and where.
    rules: BTreeMap<(String, u64), String>,
    /// The same the other way round.
    led_to: BTreeMap<String, BTreeSet<(String, u64)>>,
    /// The elements of dispatch maps, and where they lead.
    elements: BTreeMap<(Direction, String), String>,
}

impl Filter {
    pub(in crate::felix) const fn new(backend: Backend) -> Self {
        Self {
            backend,
            chains: BTreeSet::new(),
            rules: BTreeMap::new(),
            led_to: BTreeMap::new(),
            elements: BTreeMap::new(),
        }
    }

    pub(in crate::felix) fn add_chain(&mut self, name: String) {
        self.chains.insert(name);
    }

    pub(super) fn remove_chain(&mut self, name: &str) {
        self.chains.remove(name);
    }

    /// A rule of a dispatch chain. With the same handle as another, it is that one.
    pub(in crate::felix) fn add_rule(&mut self, chain: String, handle: u64, target: Option<String>) {
        self.remove_rule(&chain, handle);
        if let Some(target) = target {
            self.led_to.entry(target.clone()).or_default().insert((chain.clone(), handle));
            self.rules.insert((chain, handle), target);
        }
    }

    /// Returns where it led.
    pub(super) fn remove_rule(&mut self, chain: &str, handle: u64) -> Option<String> {
        let rule = (chain.to_owned(), handle);
        let target = self.rules.remove(&rule)?;
        if let Some(rules) = self.led_to.get_mut(&target) {
            rules.remove(&rule);
            if rules.is_empty() {
                self.led_to.remove(&target);
            }
        }
        Some(target)
    }

    pub(super) fn add_element(&mut self, direction: Direction, interface: String, target: Option<String>) {
        let element = (direction, interface);
        match target {
            Some(target) => self.elements.insert(element, target),
            None => self.elements.remove(&element),
        };
    }

    pub(super) fn remove_element(&mut self, direction: Direction, interface: &str) {
        self.elements.remove(&(direction, interface.to_owned()));
    }

    /// A map is gone, with all that was in it.
    pub(super) fn clear_map(&mut self, direction: Direction) {
        self.elements.retain(|(of, _), _| *of != direction);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.backend);
    }

    /// Whether there is anything of Felix's.
    pub(in crate::felix) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.elements.is_empty()
    }

    /// The dispatch chains that there are.
    pub(super) fn dispatch_chains(&self) -> impl Iterator<Item = &String> {
        let leads = |name: &&String| matches!(self.backend.name(name), Some(Name::Root(_) | Name::Branch(_)));
        self.chains.iter().filter(leads)
    }

    /// Every interface that something here is about.
    pub(in crate::felix) fn interfaces(&self) -> impl Iterator<Item = &str> {
        let of_chains =
            self.chains.iter().chain(self.led_to.keys()).filter_map(|name| match self.backend.name(name) {
                Some(Name::Endpoint(_, interface)) => Some(interface),
                _ => None,
            });
        of_chains.chain(self.elements.keys().map(|(_, interface)| interface.as_str()))
    }

    /// What there is for an interface.
    pub(in crate::felix) fn pieces(&self, interface: &str) -> Pieces {
        let directions = [
            (Direction::To, "tw", Piece::ToChain, Piece::ToDispatch),
            (Direction::From, "fw", Piece::FromChain, Piece::FromDispatch),
        ];
        let prefix = if self.backend == Backend::Nftables { "filter-" } else { "" };
        let mut pieces = Pieces::default();
        for (direction, word, chain, dispatch) in directions {
            let name = format!("{prefix}cali-{word}-{interface}");
            if self.chains.contains(&name) {
                pieces = pieces.with(chain);
            }
            let by_map = self.elements.get(&(direction, interface.to_owned())) == Some(&name);
            if by_map || self.is_dispatched(&name, direction) {
                pieces = pieces.with(dispatch);
            }
        }
        pieces
    }

    /// Whether packets get to a chain from the root of a direction: straight, or over a branch that the root leads to.
    fn is_dispatched(&self, chain: &str, direction: Direction) -> bool {
        self.leading_to(chain).any(|from| match self.backend.name(from) {
            Some(Name::Root(of)) => of == direction,
            Some(Name::Branch(of)) if of == direction => {
                let is_root = |from: &str| self.backend.name(from) == Some(Name::Root(direction));
                self.leading_to(from).any(is_root)
            }
            _ => false,
        })
    }

    /// The chains with a rule that leads to a chain.
    fn leading_to(&self, chain: &str) -> impl Iterator<Item = &str> {
        self.led_to.get(chain).into_iter().flatten().map(|(chain, _)| chain.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(filter: &Filter) -> Vec<Piece> {
        filter.pieces("tap1").others().iter().collect()
    }

    #[test]
    fn a_map_leads_to_the_chain_of_its_key() {
        let mut filter = Filter::new(Backend::Nftables);
        assert_eq!(missing(&filter), Piece::ALL);
        filter.add_chain("filter-cali-tw-tap1".into());
        filter.add_chain("filter-cali-fw-tap1".into());
        assert_eq!(missing(&filter), [Piece::ToDispatch, Piece::FromDispatch]);
        filter.add_element(Direction::To, "tap1".into(), Some("filter-cali-tw-tap1".into()));
        filter.add_element(Direction::From, "tap1".into(), Some("filter-cali-fw-tap2".into()));
        assert_eq!(missing(&filter), [Piece::FromDispatch], "the other one leads elsewhere");
        filter.add_element(Direction::From, "tap1".into(), Some("filter-cali-fw-tap1".into()));
        assert!(missing(&filter).is_empty());
        filter.clear_map(Direction::To);
        assert_eq!(missing(&filter), [Piece::ToDispatch]);
    }

    #[test]
    fn rules_lead_there_straight_or_over_a_branch_of_the_root() {
        let mut filter = Filter::new(Backend::Iptables);
        filter.add_chain("cali-tw-tap1".into());
        filter.add_chain("cali-fw-tap1".into());
        filter.add_rule("cali-from-wl-dispatch".into(), 1, Some("cali-fw-tap1".into()));
        filter.add_rule("cali-to-wl-dispatch-4".into(), 2, Some("cali-tw-tap1".into()));
        assert_eq!(missing(&filter), [Piece::ToDispatch], "nothing leads to the branch");
        filter.add_rule("cali-to-wl-dispatch".into(), 3, Some("cali-to-wl-dispatch-4".into()));
        assert!(missing(&filter).is_empty());
        // Replaced in place, as iptables does with changed rules.
        filter.add_rule("cali-to-wl-dispatch".into(), 3, Some("cali-to-wl-dispatch-5".into()));
        assert_eq!(missing(&filter), [Piece::ToDispatch]);
        filter.remove_rule("cali-from-wl-dispatch", 1);
        assert_eq!(missing(&filter), [Piece::ToDispatch, Piece::FromDispatch]);
        filter.add_rule("cali-from-wl-dispatch".into(), 9, None);
        assert_eq!(filter.rules.len(), 2);
    }
}
