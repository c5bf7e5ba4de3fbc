//! The follower on a real kernel, in a network namespace of its own. Only root can have one, and only root runs agents.

use super::*;
use crate::own_namespace::in_a_namespace_of_its_own;
use cutover_engine::chains::{Piece, Pieces};
use netlink_packet_core::NLM_F_CREATE;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Small enough to be filled with few changes, and large enough for more of them than one poll takes.
const SMALL_BUFFER_BYTES: usize = 512 * 1024;
/// More than fit into it.
const MANY: u32 = 4_000;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 10 << 8;
const NEWCHAIN: u16 = 10 << 8 | 3;
const DELCHAIN: u16 = 10 << 8 | 5;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;

/// Who changes tables.
struct Writer(Socket);

impl Writer {
    fn open() -> Self {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        Self(socket)
    }

    /// One transaction each.
    fn write(&self, kind: u16, attributes: &[(u16, &str)]) {
        let body = attributes.iter().flat_map(|(kind, text)| {
            let mut bytes = u16::try_from(4 + text.len() + 1).unwrap().to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(text.bytes());
            bytes.push(0);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        });
        let body: Vec<u8> = body.collect();
        // NFPROTO_IPV4; the first and the last message name the subsystem instead.
        let message = |kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]| {
            let length = u32::try_from(20 + body.len()).unwrap();
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend((1 | flags).to_ne_bytes());
            bytes.extend([0; 8]);
            bytes.extend([family, 0]);
            bytes.extend(resource.to_be_bytes());
            bytes.extend(body);
            bytes
        };
        let batch = [
            message(BATCH_BEGIN, 0, 0, 10, &[]),
            message(kind, NLM_F_CREATE, 2, 0, &body),
            message(BATCH_END, 0, 0, 10, &[]),
        ];
        self.0.send_to(&batch.concat(), &SocketAddr::new(0, 0), 0).unwrap();
        // Without NLM_F_ACK only an error is answered.
        let answer = self.0.recv(&mut &mut [0_u8; 64][..], libc::MSG_DONTWAIT);
        assert!(answer.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "refused");
    }

    fn chain(&self, kind: u16, name: &str) {
        self.write(kind, &[(CHAIN_TABLE, "calico"), (CHAIN_NAME, name)]);
    }
}

type Told = Rc<RefCell<BTreeMap<String, Chains>>>;

/// Follows until it is as expected.
async fn wait_for<Tell: FnMut(Changes)>(
    follower: &mut Follower<Tell>,
    told: &Told,
    interface: &str,
    expected: Pieces,
) {
    let is = || told.borrow().get(interface).map_or_else(Pieces::default, |chains| chains.ipv4) == expected;
    let reached = tokio::time::timeout(Duration::from_secs(10), async {
        while !is() {
            let step = tokio::time::timeout(Duration::from_millis(5), follower.run()).await;
            assert!(step.is_err(), "{step:?}");
        }
    });
    assert!(reached.await.is_ok(), "{interface}: {:?}", told.borrow().get(interface));
}

/// KERNEL: until the buffer is empty, what comes is dropped without a further word. A read that is begun before that is out of date when
/// it ends, and nothing would ever say so.
#[test]
fn what_comes_while_the_buffer_is_still_full_is_not_missed() {
    in_a_namespace_of_its_own(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let told = Told::default();
            let tell = |changes: Changes| told.borrow_mut().extend(changes.interfaces);
            let mut follower = Follower::open(SMALL_BUFFER_BYTES, tell).unwrap();
            let writer = Writer::open();
            writer.write(NEWTABLE, &[(TABLE_NAME, "calico")]);
            writer.chain(NEWCHAIN, "filter-cali-tw-tap1");
            let there = Pieces::default().with(Piece::ToChain);
            wait_for(&mut follower, &told, "tap1", there).await;

            for number in 0..MANY {
                writer.chain(if number.is_multiple_of(2) { NEWCHAIN } else { DELCHAIN }, "other");
            }
            // One poll takes no more than its share of what waits.
            let step = tokio::time::timeout(Duration::ZERO, follower.run()).await;
            assert!(step.is_err() && follower.is_congested, "{step:?}");
            let waiting = follower.connection.waiting();
            assert!(waiting, "the buffer is not empty yet");
            std::thread::sleep(READ_AGAIN_AFTER + Duration::from_millis(50));
            let step = tokio::time::timeout(Duration::ZERO, follower.run()).await;
            assert!(step.is_err() && follower.connection.waiting(), "{step:?}");
            // Nobody hears of this.
            writer.chain(DELCHAIN, "filter-cali-tw-tap1");
            writer.chain(NEWCHAIN, "filter-cali-tw-tap2");
            wait_for(&mut follower, &told, "tap2", there).await;
            wait_for(&mut follower, &told, "tap1", Pieces::default()).await;
        });
    });
}

/// Whichever notification does not fit.
#[test]
fn a_flood_is_followed_to_its_end() {
    in_a_namespace_of_its_own(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let told = Told::default();
            let tell = |changes: Changes| told.borrow_mut().extend(changes.interfaces);
            let mut follower = Follower::open(4096, tell).unwrap();
            let writer = Writer::open();
            writer.write(NEWTABLE, &[(TABLE_NAME, "calico")]);
            let there = Pieces::default().with(Piece::ToChain);
            for round in 0..12 {
                for number in 0..round * 7 {
                    writer.chain(if number % 2 == 0 { NEWCHAIN } else { DELCHAIN }, "other");
                }
                let is_there = round % 2 == 0;
                writer.chain(if is_there { NEWCHAIN } else { DELCHAIN }, "filter-cali-tw-tap1");
                let expected = if is_there { there } else { Pieces::default() };
                // The pause between reads grows while they are disturbed; nothing disturbs them now.
                wait_for(&mut follower, &told, "tap1", expected).await;
            }
        });
    });
}
