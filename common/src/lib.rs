//! What crosses the border between the kernel program and the agent.
//!
//! Owns the frame classifier, the judgement about packets of the tunnel, the layout of every map value and ring-buffer record, and the names under
//! which programs, maps and pins are known. It refuses to do anything else: no allocation, no I/O, no
//! clock. The tc program, the XDP program, the agent, the tests and the fuzzers all use this one copy.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod announcement;
pub mod classifier;
pub mod counter;
pub mod frame;
pub mod leaving;
pub mod mac;
pub mod names;
pub mod tunnel;

pub use announcement::{AnnouncementKind, Refusal, Verdict};
pub use classifier::classify;
pub use counter::{Counter, Counters};
pub use frame::Frame;
pub use mac::MacAddr;
