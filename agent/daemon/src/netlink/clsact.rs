//! The clsact qdisc and our filters on it: of taps on kernels without tcx, of the tunnel's device on all.
//!
//! A filter outlives the agent by nature, and is found again by its name at its fixed place. Only such filters
//! are ever touched; whether a qdisc may be removed is for the caller to know. What others have attached is counted by its header
//! and not read any further: it may be of a kind that nobody here knows.

use super::inquiry;
use cutover_common::names::{PROGRAM_FORWARD, PROGRAM_RECEIVE, PROGRAM_TC};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const QDISC: &str = "clsact";
// Classes of clsact, linux/pkt_sched.h: TC_H_MIN_INGRESS and TC_H_MIN_EGRESS.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff2 };
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };
const QDISC_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// First of all filters: one that ends the processing of a frame would hide it.
const PRIORITY: u32 = 1;
/// Our place within the priority, so that a filter of somebody else can have the same one.
const HANDLE: u32 = 0xc7;

/// Where a filter of ours is, and what it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hook {
    class: TcHandle,
    program: &'static str,
}

/// What comes from the guest of a tap.
pub(crate) const TAP: Hook = Hook { class: INGRESS, program: PROGRAM_TC };
/// What goes into the tunnel.
pub(crate) const TUNNEL_EGRESS: Hook = Hook { class: EGRESS, program: PROGRAM_FORWARD };
/// What comes out of the tunnel.
pub(crate) const TUNNEL_INGRESS: Hook = Hook { class: INGRESS, program: PROGRAM_RECEIVE };

/// A filter or qdisc cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} on {}: {error}", place(*ifindex))]
pub struct ClsactError {
    /// What was tried.
    pub step: &'static str,
    /// Where; 0 for every interface.
    pub ifindex: u32,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

fn place(ifindex: u32) -> String {
    if ifindex == 0 { "any interface".to_owned() } else { format!("interface {ifindex}") }
}

/// Makes the qdisc; whether there was none before.
pub(crate) fn add_qdisc(ifindex: u32) -> Result<bool, ClsactError> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex));
    match transact(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(ClsactError { step: "add a clsact qdisc", ifindex, error }),
    }
}

/// Removes the qdisc; the interface may be gone.
pub(crate) fn remove_qdisc(ifindex: u32) -> Result<(), ClsactError> {
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex));
    ignore_absence(transact(message, NLM_F_ACK)).map_err(|error| ClsactError {
        step: "remove the clsact qdisc",
        ifindex,
        error,
    })
}

/// Whether nobody has a filter on the qdisc.
pub(crate) fn is_unused(ifindex: u32) -> Result<bool, ClsactError> {
    Ok(filters(ifindex, INGRESS, ANY)?.is_empty() && filters(ifindex, EGRESS, ANY)?.is_empty())
}

/// Whether our filter is there on a tap.
pub(crate) fn has_filter(ifindex: u32) -> Result<bool, ClsactError> {
    Ok(our_filter(ifindex, TAP)?.is_some())
}

/// The number of the program that our filter on a tap runs, if the filter is there: 0 if the kernel does not say.
pub(crate) fn running(ifindex: u32) -> Result<Option<u32>, ClsactError> {
    running_at(ifindex, TAP)
}

/// The same of one of our hooks.
pub(crate) fn running_at(ifindex: u32, hook: Hook) -> Result<Option<u32>, ClsactError> {
    Ok(our_filter(ifindex, hook)?.map(|filter| options(&filter).find_map(program_id).unwrap_or(0)))
}

/// Every interface that has such a qdisc, whoever made it, or one of kind `ingress`, which has the same place.
pub(crate) fn interfaces() -> Result<BTreeSet<u32>, ClsactError> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let has_place = |found: &&Answer| found.header.parent == TcHandle::CLSACT;
    match transact(request, NLM_F_DUMP) {
        Ok(found) => {
            Ok(found.iter().filter(has_place).map(|found| found.header.index.cast_unsigned()).collect())
        }
        // A kernel without traffic control.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(BTreeSet::new()),
        Err(error) => Err(ClsactError { step: "list qdiscs", ifindex: 0, error }),
    }
}

/// Whether an interface has one now. What a dump leaves out need not be gone.
pub(crate) fn has_qdisc(ifindex: u32) -> Result<bool, ClsactError> {
    let mut message = qdisc(ifindex);
    // Of either kind.
    message.attributes.clear();
    match transact(RouteNetlinkMessage::GetQueueDiscipline(message), NLM_F_ACK) {
        // KERNEL: it need not be shown to whoever asks (`qdisc_get_notify`), but a question about none is an error.
        Ok(_) => Ok(true),
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(ClsactError { step: "look for the qdisc", ifindex, error }),
    }
}

/// Puts our filter on a tap with this program, instead of the program that was there.
pub(crate) fn put_filter(ifindex: u32, program: BorrowedFd<'_>) -> Result<(), ClsactError> {
    put_filter_at(ifindex, TAP, program)
}

/// The same at one of our hooks.
pub(crate) fn put_filter_at(ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<(), ClsactError> {
    let mut message = filter(ifindex, hook);
    let descriptor = program.as_raw_fd().cast_unsigned();
    message.attributes = vec![
        TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(hook.program.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]),
    ];
    // KERNEL: without NLM_F_EXCL the kernel replaces the filter at this handle under RCU (`cls_bpf_change`):
    // every frame meets the old program or the new one.
    transact(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_ACK | NLM_F_CREATE)
        .map_err(|error| ClsactError { step: "put the filter", ifindex, error })?;
    Ok(())
}

/// Removes our filter from a tap, if it is there; whether it was.
pub(crate) fn remove_filter(ifindex: u32) -> Result<bool, ClsactError> {
    if !has_filter(ifindex)? {
        return Ok(false);
    }
    let message = RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, TAP));
    ignore_absence(transact(message, NLM_F_ACK)).map_err(|error| ClsactError {
        step: "remove the filter",
        ifindex,
        error,
    })?;
    Ok(true)
}

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: ifindex.cast_signed(),
        handle: QDISC_HANDLE,
        parent: TcHandle::CLSACT,
        ..TcHeader::default()
    };
    message.attributes.push(TcAttribute::Kind(QDISC.to_owned()));
    message
}

/// Our filter, without saying what it does.
fn filter(ifindex: u32, hook: Hook) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = TcHeader {
        index: ifindex.cast_signed(),
        handle: HANDLE.into(),
        parent: hook.class,
        info: every_protocol_at(PRIORITY),
        ..TcHeader::default()
    };
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message
}

const fn every_protocol_at(priority: u32) -> u32 {
    priority << 16 | (libc::ETH_P_ALL as u16).to_be() as u32
}

/// What a kernel's answer is about.
struct Answer {
    header: TcHeader,
    /// All of it as it came, if it may be ours.
    message: Vec<u8>,
}

fn is_at_our_place(found: &Answer) -> bool {
    u32::from(found.header.handle) == HANDLE && found.header.info >> 16 == PRIORITY
}

fn our_filter(ifindex: u32, hook: Hook) -> Result<Option<TcMessage>, ClsactError> {
    let found = filters(ifindex, hook.class, every_protocol_at(PRIORITY))?.into_iter().find(is_at_our_place);
    let read = found.and_then(|found| TcMessage::parse(&found.message).ok());
    Ok(read.filter(|filter| options(filter).any(|option| is_its_name(option, hook))))
}

/// For [`filters`]: of every priority and protocol.
const ANY: u32 = 0;

/// The filters of a class, without the entries that only stand for a priority.
///
/// KERNEL: of others than what `info` names, the kernel tells nothing (`tcf_chain_dump`): an uplink can have thousands.
fn filters(ifindex: u32, parent: TcHandle, info: u32) -> Result<Vec<Answer>, ClsactError> {
    let mut message = TcMessage::default();
    message.header = TcHeader { index: ifindex.cast_signed(), parent, info, ..TcHeader::default() };
    match transact(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP) {
        Ok(found) => Ok(found.into_iter().filter(|found| u32::from(found.header.handle) != 0).collect()),
        Err(error) if is_absence(&error) => Ok(Vec::new()),
        Err(error) => Err(ClsactError { step: "list filters", ifindex, error }),
    }
}

/// Options of a filter that runs a program; none of any other.
fn options(filter: &TcMessage) -> impl Iterator<Item = &TcFilterBpfOption> {
    let all = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    all.flatten().filter_map(|option| match option {
        TcOption::Bpf(option) => Some(option),
        _ => None,
    })
}

fn is_its_name(option: &TcFilterBpfOption, hook: Hook) -> bool {
    matches!(option, TcFilterBpfOption::ProgName(name) if name == hook.program)
}

fn program_id(option: &TcFilterBpfOption) -> Option<u32> {
    match option {
        TcFilterBpfOption::ProgId(id) => Some(*id),
        _ => None,
    }
}

/// KERNEL: ENODEV without the interface; EINVAL or ENOENT without the qdisc or the filter, by kernel version.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT))
}

fn ignore_absence<T>(result: io::Result<T>) -> io::Result<()> {
    match result {
        Err(error) if !is_absence(&error) => Err(error),
        _ => Ok(()),
    }
}

/// One request in the network namespace of the calling thread, with every answer about a qdisc or filter.
fn transact(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Answer>> {
    let mut found = Vec::new();
    for (kind, payload) in inquiry::ask(&message, flags)? {
        if !matches!(kind, libc::RTM_NEWQDISC | libc::RTM_NEWTFILTER) {
            continue;
        }
        let header = TcHeader::parse(payload.as_slice()).map_err(inquiry::invalid)?;
        let mut one = Answer { header, message: Vec::new() };
        if is_at_our_place(&one) {
            one.message = payload;
        }
        found.push(one);
    }
    Ok(found)
}
