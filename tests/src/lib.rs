//! The lab. To be written.
