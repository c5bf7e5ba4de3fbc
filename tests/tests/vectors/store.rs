//! Where a replay writes: one key at a time, as the driver does.

use cutover_tests::{Agent, Directory, Host, Lab};

/// A datastore of agents.
pub(crate) trait Store {
    /// An agent that reads it.
    fn agent(&self, lab: &Lab, host: &Host) -> Agent;
    fn put(&self, key: &str, value: &str);
    fn delete(&self, key: &str);
}

/// A directory: one file for each key.
pub(crate) struct Files(pub(crate) Directory);

impl Files {
    fn name(key: &str) -> String {
        let parts: Vec<_> = key.rsplitn(4, '/').collect();
        format!("{}.{}.{}.json", parts[2], parts[1], parts[0])
    }
}

impl Store for Files {
    fn agent(&self, lab: &Lab, host: &Host) -> Agent {
        Agent::new(lab, host, &self.0)
    }

    fn put(&self, key: &str, value: &str) {
        self.0.put_text(&Self::name(key), value);
    }

    fn delete(&self, key: &str) {
        self.0.delete_file(&Self::name(key));
    }
}
