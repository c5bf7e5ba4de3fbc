//! One full read of the kernel: which dumps are still to come, and what the answers prove.
//!
//! Owns the order of the dumps and the doubt about those of IPv6 routes ([`crate::netlink::walk`]): absence from one counts only if
//! nobody changed IPv6 routes meanwhile, or if a question about the one interface says the same. Absence of a neighbour that the
//! monitor knew counts only if a question about that neighbour says so. [`super`] sends the requests.

use super::connection::MonitorError;
use crate::netlink::dump::{self, ANY_PROTOCOL, Question};
use crate::netlink::mirror::Mirror;
use crate::netlink::route::ObservedRoute;
use crate::netlink::subscriber::failed;
use crate::netlink::walk::Walk;
use crate::netlink::witness::Witness;
use cutover_engine::BootTime;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use tracing::debug;

/// LIMIT: so many interfaces are cheaper to ask about than another dump of everything.
const INTERFACES_FEW: usize = 16;
/// LIMIT: somebody who changes IPv6 routes now and then leaves one of so many dumps undisturbed.
const DUMPS_MAX: u32 = 3;
/// LIMIT: an interface with more routes than one walk can tell stays as it is known until somebody else pauses.
const QUESTIONS_MAX: u32 = 3;

/// A full read that is going on.
#[derive(Debug)]
pub(super) struct FullRead {
    steps: VecDeque<Question>,
    pub(super) current: Question,
    pub(super) sequence: u32,
    pub(super) protocols: BTreeSet<u8>,
    /// It is about nothing else, and no full read.
    pub(super) is_of_neighbours: bool,
    /// Nothing is known so far, or notifications were lost: every interface is asked about, not only where something is missing.
    pub(super) is_thorough: bool,
    /// The table changed while it was read: what is missing may have been skipped.
    pub(super) interrupted: bool,
    /// Notifications were lost: nothing follows from this read.
    pub(super) overrun: bool,
    /// When it was begun.
    pub(super) began_at: BootTime,
    /// When the next part of the answer has to be there.
    pub(super) answer_by: Option<BootTime>,
    walk: Walk,
    ipv6: Ipv6,
}

/// What is certain about IPv6 routes.
#[derive(Debug)]
struct Ipv6 {
    witness: Option<Witness>,
    dumps: u32,
    /// Each answer of the last dump came from one walk.
    is_one_walk: bool,
    questions: u32,
    certain: Certain,
}

#[derive(Debug)]
enum Certain {
    Everything,
    OnInterfaces(BTreeSet<u32>),
}

impl FullRead {
    /// A read of everything, with routes of these protocols. `ask` sends the first request and returns its sequence number.
    pub(super) fn begin<E>(
        protocols: BTreeSet<u8>,
        is_thorough: bool,
        (began_at, answer_by): (BootTime, Option<BootTime>),
        ask: impl FnOnce(Question) -> Result<u32, E>,
    ) -> Result<Self, E> {
        let mut steps = dump::full(&protocols);
        let current = steps.pop_front().unwrap_or(Question::Links);
        let sequence = ask(current)?;
        Ok(Self { steps, protocols, is_thorough, ..Self::of(current, sequence, (began_at, answer_by)) })
    }

    /// A read of neighbours alone.
    pub(super) fn of_neighbours<E>(
        times: (BootTime, Option<BootTime>),
        ask: impl FnOnce(Question) -> Result<u32, E>,
    ) -> Result<Self, E> {
        let sequence = ask(Question::Neighbours)?;
        Ok(Self { is_of_neighbours: true, ..Self::of(Question::Neighbours, sequence, times) })
    }

    fn of(current: Question, sequence: u32, (began_at, answer_by): (BootTime, Option<BootTime>)) -> Self {
        Self {
            steps: VecDeque::new(),
            current,
            sequence,
            protocols: BTreeSet::new(),
            is_of_neighbours: false,
            is_thorough: false,
            interrupted: false,
            overrun: false,
            began_at,
            answer_by,
            walk: Walk::default(),
            ipv6: Ipv6 {
                witness: None,
                dumps: 0,
                is_one_walk: true,
                questions: 0,
                certain: Certain::OnInterfaces(BTreeSet::new()),
            },
        }
    }

    /// An entry of the current answer came in this datagram.
    pub(super) fn entry(&mut self, datagram: u64, bytes: usize) {
        self.walk.entry(datagram, bytes);
    }

    /// The current answer is refused in a way that says that it could not be had, not that it is empty.
    pub(super) fn could_not_answer(&mut self) {
        match self.current {
            // Asked again, or left as it is.
            Question::RoutesOn { .. } => self.walk = Walk::not_one(),
            _ => self.interrupted = true,
        }
    }

    /// Takes in that the current answer is over. Returns the next step, unless the read is over.
    pub(super) fn answered(&mut self, mirror: &Mirror) -> Option<Question> {
        let is_one_walk = std::mem::take(&mut self.walk).is_one();
        match self.current {
            step if step.is_ipv6_table() => self.ipv6.is_one_walk &= is_one_walk,
            Question::RoutesOn { ifindex } => self.answered_about(ifindex, is_one_walk),
            // KERNEL (measured on 6.18): if neighbours change while they are dumped, the dump can miss permanent ones, and none of its
            // messages says so. LIMIT: one question takes some ten microseconds, so all of a full host's a part of a second; with
            // older kernels each waits for whoever has the lock for links (RTNL).
            Question::Neighbours => {
                self.steps.extend(mirror.unseen_neighbours().map(|key| Question::Neighbour { key }))
            }
            _ => {}
        }
        if self.steps.front() == Some(&Question::Neighbours) && !matches!(self.current, Question::Links) {
            self.confirm(mirror);
        }
        let next = self.steps.pop_front()?;
        if next.is_ipv6_table() && self.ipv6.witness.is_none() {
            // ORDER: before the request.
            self.ipv6.witness =
                Witness::open().inspect_err(|error| debug!(%error, "nobody sees who disturbs a dump")).ok();
        }
        Some(next)
    }

    fn answered_about(&mut self, ifindex: u32, is_one_walk: bool) {
        self.ipv6.questions += 1;
        if is_one_walk {
            if let Certain::OnInterfaces(interfaces) = &mut self.ipv6.certain {
                interfaces.insert(ifindex);
            }
        } else if self.ipv6.questions < QUESTIONS_MAX {
            self.steps.push_front(Question::RoutesOn { ifindex });
            return;
        }
        self.ipv6.questions = 0;
    }

    /// All tables of routes are read: what else has to be asked?
    fn confirm(&mut self, mirror: &Mirror) {
        if !self.current.is_ipv6_table() {
            return;
        }
        self.ipv6.dumps += 1;
        let witness = self.ipv6.witness.take();
        if self.ipv6.is_one_walk || witness.is_some_and(|witness| witness.saw_nothing()) {
            self.ipv6.certain = Certain::Everything;
            return;
        }
        let interfaces = if self.is_thorough { mirror.workloads() } else { mirror.with_unseen_ipv6_routes() };
        let steps: Vec<Question> = if interfaces.len() > INTERFACES_FEW && self.ipv6.dumps < DUMPS_MAX {
            self.ipv6.is_one_walk = true;
            dump::full(&self.protocols).into_iter().filter(|step| step.is_ipv6_table()).collect()
        } else {
            interfaces.into_iter().map(|ifindex| Question::RoutesOn { ifindex }).collect()
        };
        debug!(questions = steps.len(), "others change IPv6 routes: what is missing is asked for again");
        for step in steps.into_iter().rev() {
            self.steps.push_front(step);
        }
    }

    /// Whether this route is gone if it was in no answer.
    pub(super) fn proves_absence_of(&self, route: &ObservedRoute) -> bool {
        let was_asked_for =
            self.protocols.contains(&ANY_PROTOCOL) || self.protocols.contains(&route.protocol);
        let is_certain = match &self.ipv6.certain {
            _ if route.destination.addr().is_ipv4() => true,
            Certain::Everything => true,
            Certain::OnInterfaces(interfaces) => interfaces.contains(&route.ifindex),
        };
        !self.interrupted && was_asked_for && is_certain
    }
}

/// A family or table that the kernel does not have reads as empty; anything else makes the read worthless.
pub(super) fn refused(read: &mut FullRead, error: io::Error) -> Result<(), MonitorError> {
    match (read.current, error.raw_os_error()) {
        (
            Question::Routes { ipv6: true, .. },
            Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT),
        ) => Ok(()),
        // KERNEL: the main table of IPv4 is made with its first route (`fib_new_table`).
        (Question::Routes { ipv6: false, .. }, Some(libc::ENOENT)) => Ok(()),
        // The interface is gone, and its routes with it.
        (Question::RoutesOn { .. }, Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        // The neighbour is gone, or its interface.
        (Question::Neighbour { .. }, Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
        (Question::RoutesOn { .. }, _) | (_, Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
            read.could_not_answer();
            Ok(())
        }
        _ => Err(failed("dump")(error).into()),
    }
}
