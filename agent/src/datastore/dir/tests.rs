//! Real notifications.
