//! Felix's tables in nf_tables, of both families and both modes, and what changed about which interface. Pure.

use super::dispatch::Filter;
use super::message::{Event, Family, Place};
use crate::felix::backend::{Backend, Name};
use cutover_engine::chains::{Chains, Pieces};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is known.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    filters: BTreeMap<Place, Filter>,
    touched: Touched,
}

/// What has to be looked at again.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Touched {
    Interfaces(BTreeSet<String>),
    All,
}

impl Default for Mirror {
    fn default() -> Self {
        let places = Family::BOTH.into_iter().flat_map(|family| {
            [Backend::Nftables, Backend::Iptables].map(|backend| Place { family, backend })
        });
        Self {
            filters: places.map(|place| (place, Filter::new(place.backend))).collect(),
            touched: Touched::All,
        }
    }
}

impl Mirror {
    fn filter(&mut self, place: Place) -> &mut Filter {
        self.filters.entry(place).or_insert_with(|| Filter::new(place.backend))
    }

    fn touch(&mut self, interface: &str) {
        if let Touched::Interfaces(interfaces) = &mut self.touched {
            interfaces.insert(interface.to_owned());
        }
    }

    /// A chain matters to its interface; one for dispatch, to all of them.
    fn touch_chain(&mut self, place: Place, chain: &str) {
        match place.backend.name(chain) {
            Some(Name::Endpoint(_, interface)) => self.touch(interface),
            _ => self.touched = Touched::All,
        }
    }

    /// Takes one event in. Told twice, or told again after a read that has it already, it makes no difference.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Table { exists: true, .. } | Event::Map { exists: true, .. } | Event::Generation(_) => {}
            Event::Table { place, exists: false } => {
                self.filter(place).clear();
                self.touched = Touched::All;
            }
            Event::Chain { place, name, exists } => {
                if let Some(Name::Endpoint(_, interface)) = place.backend.name(&name) {
                    self.touch(interface);
                }
                if exists {
                    self.filter(place).add_chain(name);
                } else {
                    self.filter(place).remove_chain(&name);
                }
            }
            Event::Rule { place, chain, handle, target } => {
                let before = self.filter(place).remove_rule(&chain, handle);
                for target in before.iter().chain(&target) {
                    self.touch_chain(place, target);
                }
                self.filter(place).add_rule(chain, handle, target);
            }
            Event::RuleGone { place, chain, handle } => {
                if let Some(target) = self.filter(place).remove_rule(&chain, handle) {
                    self.touch_chain(place, &target);
                }
            }
            Event::Map { place, direction, exists: false } => {
                self.filter(place).clear_map(direction);
                self.touched = Touched::All;
            }
            Event::Element { place, direction, interface, target } => {
                self.touch(&interface);
                self.filter(place).add_element(direction, interface, target);
            }
            Event::ElementGone { place, direction, interface } => {
                self.touch(&interface);
                self.filter(place).remove_element(direction, &interface);
            }
        }
    }

    /// The dispatch chains whose rules have to be read.
    pub(super) fn dispatch_chains(&self) -> Vec<(Place, String)> {
        let of = |(place, filter): (&Place, &Filter)| {
            let place = *place;
            filter.dispatch_chains().map(move |chain| (place, chain.clone())).collect::<Vec<_>>()
        };
        self.filters.iter().flat_map(of).collect()
    }

    /// What Felix works with here.
    pub(super) fn backends(&self) -> BTreeSet<Backend> {
        self.filters.iter().filter(|(_, filter)| !filter.is_empty()).map(|(place, _)| place.backend).collect()
    }

    /// What interfaces have about which something changed since the last call. `known` are those that had something before.
    pub(super) fn take_changes<'a>(
        &mut self,
        known: impl Iterator<Item = &'a String>,
    ) -> Vec<(String, Chains)> {
        let touched = std::mem::replace(&mut self.touched, Touched::Interfaces(BTreeSet::new()));
        let interfaces = match touched {
            Touched::Interfaces(interfaces) => interfaces,
            Touched::All => {
                let seen = self.filters.values().flat_map(Filter::interfaces).map(str::to_owned);
                seen.chain(known.cloned()).collect()
            }
        };
        interfaces
            .into_iter()
            .map(|interface| {
                let chains = self.chains(&interface);
                (interface, chains)
            })
            .collect()
    }

    fn chains(&self, interface: &str) -> Chains {
        Chains { ipv4: self.pieces(Family::Ipv4, interface), ipv6: self.pieces(Family::Ipv6, interface) }
    }

    /// Felix works with one backend. What it left in the other one, in another mode, is not more.
    fn pieces(&self, family: Family, interface: &str) -> Pieces {
        let of = |backend| {
            let filter = self.filters.get(&Place { family, backend });
            filter.map_or_else(Pieces::default, |filter| filter.pieces(interface))
        };
        fuller(of(Backend::Nftables), of(Backend::Iptables))
    }
}

/// The one of two sets that has more in it.
pub(in crate::felix) fn fuller(one: Pieces, other: Pieces) -> Pieces {
    if other.iter().count() > one.iter().count() { other } else { one }
}

#[cfg(test)]
mod tests;
