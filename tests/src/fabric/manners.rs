//! What holds behind a ToR in some [`Manner`](super::Manner) of configuration, whichever daemon it is.

use super::{CONVERGED, Fabric, Who};
use crate::{site, wait};

impl Fabric {
    /// Waits until the third host knows what the sites of source and target announce besides VMs.
    ///
    /// # Panics
    /// When it does not get to know.
    #[track_caller]
    pub fn wait_services(&self) {
        let third = self.router(Who::Third).speaker;
        for (number, autonomous_systems) in [(1, "64512 64513"), (2, "64512 64514")] {
            let knows = || third.path(site::service(number)).map(|path| path.autonomous_systems);
            let is_so = || knows().as_deref() == Some(autonomous_systems);
            wait::until(CONVERGED, format_args!("the service of host {number} is announced"), is_so);
        }
    }

    /// Checks that each session of each router is signed.
    ///
    /// # Panics
    /// When one is not.
    #[track_caller]
    pub fn assert_signed(&self) {
        for (who, sessions) in [(Who::Source, 2), (Who::Target, 2), (Who::Third, 2), (Who::Middle, 6)] {
            assert_eq!(self.router(who).signed_sessions(), sessions, "{who:?}");
        }
    }
}
