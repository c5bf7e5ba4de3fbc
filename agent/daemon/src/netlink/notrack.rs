//! The table by which connection tracking is kept away from what this host passes on to another one, through nf_tables.
//!
//! Owns its form: one chain in front of connection tracking with a rule for what comes from the interfaces of virtual machines, which
//! accepts it, and one for what the routes lead to a certain device, which is not tracked. So it takes effect with the routes, and the
//! rules are the same all the time. In the network namespace of the calling thread.
//!
//! Why: what is translated on its way out of the source reaches the target under another address than its connection has there, and
//! nothing of it is a connection that the target knows.

use super::attributes::Attributes;
use super::netfilter::{self, put};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::SocketAddr;
use std::io;
use std::ops::ControlFlow;

/// Of family inet.
pub(crate) const TABLE: &str = "cutover";
const CHAIN: &str = "forwarded";

/// LIMIT: the answers to a dozen messages, with the messages.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;
/// LIMIT: the kernel waits for other transactions at most.
const TIMEOUT_S: i64 = 5;
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
const IFNAMSIZ: usize = 16;

/// NFNL_SUBSYS_NFTABLES, and NFPROTO_INET.
const SUBSYSTEM: u16 = 10;
const INET: u8 = 1;
/// NFNL_MSG_BATCH_*.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// NFT_MSG_*.
mod kind {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const GETTABLE: u16 = 1;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const NEWRULE: u16 = 6;
}

/// NFTA_*.
mod attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const META_REGISTER: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const COMPARE_REGISTER: u16 = 1;
    pub(super) const COMPARE_OPERATION: u16 = 2;
    pub(super) const COMPARE_DATA: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const IMMEDIATE_REGISTER: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const FIB_REGISTER: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
}

const PRE_ROUTING: u32 = 0;
/// In front of connection tracking, which has -200 (NF_IP_PRI_RAW).
const PRIORITY: i32 = -300;
const ACCEPT: u32 = 1;
const REGISTER_OF_VERDICTS: u32 = 0;
const REGISTER: u32 = 1;
/// NFT_META_IIFNAME, NFT_CMP_EQ, NFT_FIB_RESULT_OIFNAME, NFTA_FIB_F_DADDR.
const INPUT_NAME: u32 = 6;
const EQUAL: u32 = 0;
const OUTPUT_NAME: u32 = 2;
const OF_DESTINATION: u32 = 1 << 1;

/// Makes the table, in place of one of that name. `from` are how the names of the interfaces of virtual machines begin.
///
/// # Errors
/// What the kernel says: `ENOENT` or `EOPNOTSUPP` where it lacks nf_tables or a part of it.
pub(crate) fn install<'a>(from: impl Iterator<Item = &'a str>, to: &str) -> io::Result<()> {
    let mut batch = Batch::new();
    // What is not there cannot be deleted, so it is made first.
    batch.push(kind::NEWTABLE, NLM_F_CREATE, table());
    batch.push(kind::DELTABLE, 0, table());
    batch.push(kind::NEWTABLE, NLM_F_CREATE, table());
    batch.push(kind::NEWCHAIN, NLM_F_CREATE, chain());
    for prefix in from {
        batch.push(kind::NEWRULE, NLM_F_CREATE, rule(|expressions| accept_from(expressions, prefix)));
    }
    batch.push(kind::NEWRULE, NLM_F_CREATE, rule(|expressions| untracked_to(expressions, to)));
    batch.commit()
}

/// Takes it away; whether it was there.
///
/// # Errors
/// What the kernel says.
pub(crate) fn remove() -> io::Result<bool> {
    let mut batch = Batch::new();
    batch.push(kind::DELTABLE, 0, table());
    match batch.commit() {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether it is there.
///
/// # Errors
/// What the kernel says.
pub(crate) fn is_there() -> io::Result<bool> {
    let mut datagram = Vec::new();
    put(&mut datagram, (SUBSYSTEM << 8) | kind::GETTABLE, NLM_F_REQUEST | NLM_F_ACK, 1, &table());
    match converse(&datagram, 1) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether there is none, or a kernel that has no such thing: no nfnetlink at all, no nf_tables, or not all of its expressions.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    const ABSENT: [i32; 5] =
        [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::EINVAL];
    error.raw_os_error().is_some_and(|code| ABSENT.contains(&code))
}

fn header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn table() -> Vec<u8> {
    let mut attributes = Attributes::after(&header(INET, 0));
    attributes.put(attribute::TABLE, &text(TABLE));
    attributes.into_bytes()
}

fn chain() -> Vec<u8> {
    let mut attributes = Attributes::after(&header(INET, 0));
    attributes.put(attribute::TABLE, &text(TABLE));
    attributes.put(attribute::CHAIN_NAME, &text(CHAIN));
    attributes.nest(attribute::CHAIN_HOOK, |hook| {
        hook.put(attribute::HOOK_NUMBER, &PRE_ROUTING.to_be_bytes());
        hook.put(attribute::HOOK_PRIORITY, &PRIORITY.to_be_bytes());
    });
    attributes.put(attribute::CHAIN_POLICY, &ACCEPT.to_be_bytes());
    attributes.put(attribute::CHAIN_TYPE, &text("filter"));
    attributes.into_bytes()
}

fn rule(expressions: impl FnOnce(&mut Attributes)) -> Vec<u8> {
    let mut attributes = Attributes::after(&header(INET, 0));
    attributes.put(attribute::TABLE, &text(TABLE));
    attributes.put(attribute::RULE_CHAIN, &text(CHAIN));
    attributes.nest(attribute::RULE_EXPRESSIONS, expressions);
    attributes.into_bytes()
}

fn accept_from(expressions: &mut Attributes, prefix: &str) {
    expression(expressions, "meta", |meta| {
        meta.put(attribute::META_KEY, &INPUT_NAME.to_be_bytes());
        meta.put(attribute::META_REGISTER, &REGISTER.to_be_bytes());
    });
    // Only as many bytes are compared as there are.
    compare(expressions, prefix.as_bytes());
    expression(expressions, "immediate", |immediate| {
        immediate.put(attribute::IMMEDIATE_REGISTER, &REGISTER_OF_VERDICTS.to_be_bytes());
        immediate.nest(attribute::IMMEDIATE_DATA, |data| {
            data.nest(attribute::DATA_VERDICT, |verdict| {
                verdict.put(attribute::VERDICT_CODE, &ACCEPT.to_be_bytes());
            });
        });
    });
}

fn untracked_to(expressions: &mut Attributes, device: &str) {
    expression(expressions, "fib", |fib| {
        fib.put(attribute::FIB_REGISTER, &REGISTER.to_be_bytes());
        fib.put(attribute::FIB_RESULT, &OUTPUT_NAME.to_be_bytes());
        fib.put(attribute::FIB_FLAGS, &OF_DESTINATION.to_be_bytes());
    });
    let mut name = device.as_bytes().to_vec();
    name.resize(IFNAMSIZ, 0);
    compare(expressions, &name);
    expression(expressions, "notrack", |_| {});
}

fn compare(expressions: &mut Attributes, value: &[u8]) {
    expression(expressions, "cmp", |compare| {
        compare.put(attribute::COMPARE_REGISTER, &REGISTER.to_be_bytes());
        compare.put(attribute::COMPARE_OPERATION, &EQUAL.to_be_bytes());
        compare.nest(attribute::COMPARE_DATA, |data| data.put(attribute::DATA_VALUE, value));
    });
}

fn expression(expressions: &mut Attributes, name: &str, data: impl FnOnce(&mut Attributes)) {
    expressions.nest(attribute::LIST_ELEMENT, |element| {
        element.put(attribute::EXPRESSION_NAME, &text(name));
        element.nest(attribute::EXPRESSION_DATA, data);
    });
}

/// Messages that the kernel carries out all together, or none of them.
struct Batch {
    datagram: Vec<u8>,
    last: u32,
}

impl Batch {
    fn new() -> Self {
        let mut datagram = Vec::new();
        put(&mut datagram, BATCH_BEGIN, NLM_F_REQUEST, 0, &header(0, SUBSYSTEM));
        Self { datagram, last: 0 }
    }

    fn push(&mut self, kind: u16, flags: u16, body: Vec<u8>) {
        self.last += 1;
        // KERNEL: before 6.10 begin and end of a batch are never acknowledged.
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        put(&mut self.datagram, (SUBSYSTEM << 8) | kind, flags, self.last, &body);
    }

    fn commit(mut self) -> io::Result<()> {
        put(&mut self.datagram, BATCH_END, NLM_F_REQUEST, self.last + 1, &header(0, SUBSYSTEM));
        converse(&self.datagram, self.last)
    }
}

/// Sends requests, and waits for the answer to the one with this number, or the first error.
fn converse(datagram: &[u8], last: u32) -> io::Result<()> {
    let socket = netfilter::open(RECEIVE_BUFFER_BYTES, TIMEOUT_S).map_err(|error| error.error)?;
    socket.send_to(datagram, &SocketAddr::new(0, 0), 0)?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let answered = netfilter::receive_until(&socket, &mut buffer, |answer| match answer.error() {
        Some(0) if answer.sequence == last => ControlFlow::Break(Ok(())),
        Some(0) | None => ControlFlow::Continue(()),
        Some(code) => ControlFlow::Break(Err(io::Error::from_raw_os_error(code))),
    });
    answered?.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::own_namespace::in_a_namespace_of_its_own;

    #[test]
    fn it_is_there_until_it_is_removed() {
        in_a_namespace_of_its_own(|| {
            assert!(!is_there().unwrap() && !remove().unwrap());
            for _ in 0..2 {
                install(["tap", "cali"].into_iter(), "cutover0").unwrap();
                assert!(is_there().unwrap());
            }
            assert!(remove().unwrap() && !is_there().unwrap());
        });
    }

    #[test]
    fn a_kernel_without_it_is_told_from_one_that_refuses() {
        for (code, expected) in
            [(libc::EPROTONOSUPPORT, true), (libc::EOPNOTSUPP, true), (libc::EPERM, false)]
        {
            assert_eq!(is_absent(&io::Error::from_raw_os_error(code)), expected, "{code}");
        }
        assert!(!is_absent(&io::Error::other("anything else")));
    }
}
