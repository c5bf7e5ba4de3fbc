//! What a datastore gives to a new resource: a uid and the time of its creation.

use crate::cli::Failure;
use cutover_daemon::clock;
use serde_json::Value;

/// The kernel makes a random UUID (version 4) each time this is read.
const UUID_SOURCE: &str = "/proc/sys/kernel/random/uuid";

pub(in crate::cli) fn uid() -> Result<String, Failure> {
    let text = std::fs::read_to_string(UUID_SOURCE)
        .map_err(|error| Failure::other(format!("{UUID_SOURCE}: cannot make a uid: {error}; mount /proc")))?;
    Ok(text.trim().to_owned())
}

/// Makes a document the document of a new resource.
pub(in crate::cli) fn renew(document: &mut Value) -> Result<(), Failure> {
    document["metadata"]["uid"] = uid()?.into();
    document["metadata"]["creationTimestamp"] = clock::wall_text().into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_random_uuids() {
        let (a, b) = (uid().unwrap(), uid().unwrap());
        assert_ne!(a, b);
        assert_eq!((a.len(), a.as_bytes()[14]), (36, b'4'));
    }
}
