//! Reading a frame front to back, within its bounds, in a form that the kernel's verifier can follow.
//!
//! The same code reads a slice in user space and a packet in the kernel. It therefore compares addresses
//! and not lengths: the verifier learns how much of a packet may be read only from a comparison of a packet
//! pointer with the end of the packet, never from the length of a slice.

#![expect(unsafe_code, reason = "reads a frame between two addresses, which the verifier can follow")]

use core::marker::PhantomData;

/// The unread rest of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    next: *const u8,
    end: *const u8,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// A frame in memory, beginning with its Ethernet header.
    #[must_use]
    pub fn new(frame: &'a [u8]) -> Self {
        let range = frame.as_ptr_range();
        Self { next: range.start, end: range.end, bytes: PhantomData }
    }

    /// A frame between two addresses, beginning with its Ethernet header.
    ///
    /// # Safety
    /// `start` to `end` is one readable stretch of memory that nobody writes to during `'a`.
    #[must_use]
    #[inline(always)]
    pub const unsafe fn between(start: *const u8, end: *const u8) -> Self {
        Self { next: start, end, bytes: PhantomData }
    }

    /// The next `N` bytes and what follows them, or nothing if the frame ends before.
    #[inline(always)]
    pub(crate) fn split<const N: usize>(self) -> Option<(&'a [u8; N], Self)> {
        // INVARIANT: N is a few dozen bytes and no frame lies that close to the end of the address space, so
        // the sum does not wrap.
        let after = self.next.wrapping_add(N);
        if after > self.end {
            return None;
        }
        // SAFETY: `next` to `after` lies within the frame (checked above), which outlives `'a`; a byte array
        // has no alignment and no invalid values.
        let bytes = unsafe { &*self.next.cast::<[u8; N]>() };
        Some((bytes, Self { next: after, end: self.end, bytes: PhantomData }))
    }
}

#[cfg(test)]
mod tests {
    use super::Frame;

    #[test]
    fn bytes_come_in_order_and_stop_at_the_end() {
        let frame = Frame::new(&[1, 2, 3, 4, 5]);
        let (first, rest) = frame.split::<2>().unwrap();
        let (second, rest) = rest.split::<3>().unwrap();
        assert_eq!((first, second), (&[1, 2], &[3, 4, 5]));
        assert!(rest.split::<1>().is_none());
        assert!(frame.split::<6>().is_none());
        assert!(Frame::new(&[]).split::<1>().is_none());
    }
}
