//! What Felix has programmed for an interface, as far as it decides whether packets pass.
//!
//! Felix drops what comes from or goes to a workload's interface that it does not know. It knows one when its packet filter has
//! a chain for each direction and a dispatch entry that leads there. Names and tables are the observer's business.

use core::fmt;

/// One of the things without which Felix drops the packets of an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Piece {
    /// The chain for packets to the workload.
    ToChain,
    /// The chain for packets from the workload.
    FromChain,
    /// The dispatch entry that leads packets to the workload there.
    ToDispatch,
    /// The dispatch entry that leads packets from the workload there.
    FromDispatch,
}

impl Piece {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ToChain, Self::FromChain, Self::ToDispatch, Self::FromDispatch];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToChain => "chain to",
            Self::FromChain => "chain from",
            Self::ToDispatch => "dispatch to",
            Self::FromDispatch => "dispatch from",
        }
    }
}

/// A set of pieces of one address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pieces(u8);

impl Pieces {
    /// Every piece.
    pub const ALL: Self = Self(0b1111);

    /// Whether there is none in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a piece is in it.
    #[must_use]
    pub const fn contains(self, piece: Piece) -> bool {
        self.0 & piece.bit() != 0
    }

    /// The same with a piece.
    #[must_use]
    pub const fn with(self, piece: Piece) -> Self {
        Self(self.0 | piece.bit())
    }

    /// The same without a piece.
    #[must_use]
    pub const fn without(self, piece: Piece) -> Self {
        Self(self.0 & !piece.bit())
    }

    /// What is not in it.
    #[must_use]
    pub const fn others(self) -> Self {
        Self(Self::ALL.0 & !self.0)
    }

    /// What is in one of the two.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = Piece> {
        Piece::ALL.into_iter().filter(move |piece| self.contains(*piece))
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Pieces of both families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Chains {
    /// Of IPv4.
    pub ipv4: Pieces,
    /// Of IPv6.
    pub ipv6: Pieces,
}

impl Chains {
    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// In words, one entry for each piece: `ipv4 chain to`.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let of = |family: &'static str, pieces: Pieces| {
            pieces.iter().map(move |piece| format!("{family} {}", piece.name()))
        };
        of("ipv4", self.ipv4).chain(of("ipv6", self.ipv6)).collect()
    }
}

impl fmt::Display for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_a_set() {
        let two = Pieces::default().with(Piece::ToChain).with(Piece::FromDispatch);
        assert_eq!(two.iter().collect::<Vec<_>>(), [Piece::ToChain, Piece::FromDispatch]);
        assert_eq!(two.others().iter().collect::<Vec<_>>(), [Piece::FromChain, Piece::ToDispatch]);
        assert_eq!(two.or(two.others()), Pieces::ALL);
        assert!(two.without(Piece::ToChain).without(Piece::FromDispatch).is_empty());
        let chains = Chains { ipv4: Pieces::default().with(Piece::FromChain), ipv6: two };
        assert_eq!(chains.to_string(), "ipv4 chain from, ipv6 chain to, ipv6 dispatch from");
    }
}
