//! The fast path's promise: sending a prepared batch allocates nothing when all is well.

#![expect(unsafe_code, reason = "an allocator that counts")]

use cutover_daemon::netlink::{RouteChange, RouteSocket, route};
use cutover_engine::wanted::WantedRoute;
use cutover_tests::namespace::Namespace;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: everything is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the promises of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn sending_a_prepared_batch_allocates_nothing() {
    let namespace = Namespace::create(&format!("cut{}nlhot", std::process::id()));
    namespace.ip("tuntap add dev tapone mode tap\nlink set tapone up");
    let ifindex = namespace.run(|| nix::net::if_::if_nametoindex("tapone")).expect("the interface exists");
    let changes = ["10.65.0.2/32", "10.65.0.3/32", "2001:db8::2/128", "2001:db8::3/128"].map(|destination| {
        let destination = destination.parse().expect("a prefix");
        RouteChange::Add(WantedRoute { destination, ifindex, metric: 512, protocol: 3, source: None })
    });
    let batch = route::prepare(changes);
    let mut socket = namespace.run(RouteSocket::open).expect("a socket");

    // The second time everything exists already, which is well, too.
    for _ in 0..2 {
        let before = ALLOCATIONS.get();
        let outcome = socket.send(&batch);
        assert_eq!(ALLOCATIONS.get(), before);
        assert!(outcome.expect("an outcome").is_success());
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "allocations are counted");
}
