//! What is said about each change of a route.

use crate::applier::is_gone;
use crate::netlink::RouteChange;
use cutover_engine::wanted::WantedRoute;
use tracing::{debug, info, warn};

pub(super) fn log_change(change: &RouteChange, loud: bool) {
    let WantedRoute { destination, ifindex, metric, protocol, .. } = *change.route();
    let what = match change {
        RouteChange::Add(_) => "route added",
        RouteChange::Replace(_) => "route replaced",
        RouteChange::Remove(_) => "route removed",
    };
    if loud {
        info!(%destination, ifindex, metric, protocol, "{what}");
    } else {
        debug!(%destination, ifindex, metric, protocol, "{what}");
    }
}

/// An interface that is down or gone is nothing to worry about: its routes come with its next event.
pub(super) fn log_failure(change: &RouteChange, errno: i32, first: bool) {
    let WantedRoute { destination, ifindex, metric, .. } = *change.route();
    let error = std::io::Error::from_raw_os_error(errno);
    let expected = matches!(errno, libc::ENODEV | libc::ENETDOWN | libc::ENETUNREACH);
    if first && !expected && !is_gone(ifindex) {
        warn!(%destination, ifindex, metric, %error, "route not written, trying again");
    } else {
        debug!(%destination, ifindex, metric, %error, "route not written, trying again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::warnings;

    fn warned(ifindex: u32, errno: i32) -> bool {
        let destination = "10.65.0.2/32".parse().unwrap();
        let route = WantedRoute { destination, ifindex, metric: 1024, protocol: 3, source: None };
        !warnings(|| log_failure(&RouteChange::Add(route), errno, true)).is_empty()
    }

    #[test]
    fn a_route_that_is_refused_because_its_tap_went_is_no_warning() {
        let gone = i32::MAX.cast_unsigned();
        // KERNEL: a namespace's first interface is its loopback.
        for (ifindex, errno, wanted) in [
            (gone, libc::ENODEV, false),
            (gone, libc::EINVAL, false),
            (1, libc::ENETDOWN, false),
            (1, libc::EINVAL, true),
            (1, libc::EPERM, true),
        ] {
            assert_eq!(warned(ifindex, errno), wanted, "interface {ifindex}, errno {errno}");
        }
    }
}
