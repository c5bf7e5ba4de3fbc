//! To be written.
use serde::{Deserialize, Serialize};

/// To be written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Selector(pub String);
