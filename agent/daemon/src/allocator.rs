//! What the C library's allocator is told, so that a start does not leave the daemon large for good.
//!
//! Reading the datastore of a full host takes tens of megabytes for a moment, in many small pieces. The allocator
//! would keep them, for each thread on its own. It decides nothing else; the agent and its command line call it.

#![expect(unsafe_code, reason = "mallopt(3) and malloc_trim(3)")]

/// All threads take memory from one pool. To be called before there are threads.
///
/// LIMIT: one pool for a handful of threads. Nothing that is in a hurry allocates.
pub fn share_one_pool() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it sets a number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives memory that is not in use back to the system. Takes some milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; it only touches memory that the allocator knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
}
