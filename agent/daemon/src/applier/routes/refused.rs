//! What the kernel refuses, in words: for `cutover status` and the doctor. Pure.

use cutover_engine::wanted::WantedRoute;
use std::io;

/// Why the last change of a route failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    /// Positive `errno` value.
    pub(super) errno: i32,
    /// It was to go.
    pub(super) is_removal: bool,
}

impl Refusal {
    /// The route as `ip route` writes it, and the reason.
    pub(super) fn describe(self, route: &WantedRoute, interface: Option<String>) -> (String, String) {
        let is_gone = interface.is_none();
        let interface = interface.unwrap_or_else(|| format!("if{}", route.ifindex));
        let name = format!("{} dev {interface} metric {}", route.destination, route.metric);
        let reason = if is_gone { "the interface is gone".to_owned() } else { self.reason(route) };
        (name, if self.is_removal { format!("cannot be removed: {reason}") } else { reason })
    }

    /// KERNEL: what these errors mean for a route straight to an interface that is there (fib_create_info in
    /// net/ipv4/fib_semantics.c, fib6_nh_init and ip6_route_info_create in net/ipv6/route.c; measured on 6.18). Routes of others are
    /// never the reason: ours goes in front of them or takes their place.
    fn reason(self, route: &WantedRoute) -> String {
        let is_ipv6 = route.destination.addr().is_ipv6();
        match (self.errno, route.source) {
            (libc::ENETDOWN, _) => "the interface is down".to_owned(),
            (libc::EACCES, _) if is_ipv6 => "IPv6 is switched off on the interface (disable_ipv6)".to_owned(),
            (libc::ENODEV, _) if is_ipv6 => {
                "no IPv6 on the interface: the MTU is less than 1280, or the kernel has none".to_owned()
            }
            (libc::EINVAL, Some(source)) => {
                format!("the source address {source} is not an address of this host")
            }
            (errno, _) => io::Error::from_raw_os_error(errno).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_described_as_ip_route_would_write_the_route() {
        let route = |destination: &str, source: Option<&str>| WantedRoute {
            destination: destination.parse().unwrap(),
            ifindex: 7,
            metric: 1024,
            protocol: 3,
            source: source.map(|source| source.parse().unwrap()),
        };
        let (ipv4, ipv6) = (route("10.65.0.2/32", None), route("2001:db8::2/128", None));
        let with_source = route("10.65.0.2/32", Some("192.0.2.1"));
        for (route, errno, is_removal, expected) in [
            (ipv4, libc::ENETDOWN, false, "the interface is down"),
            (ipv6, libc::EACCES, false, "IPv6 is switched off on the interface (disable_ipv6)"),
            (ipv4, libc::EACCES, false, "Permission denied (os error 13)"),
            (with_source, libc::EINVAL, false, "the source address 192.0.2.1 is not an address of this host"),
            (ipv4, libc::EINVAL, false, "Invalid argument (os error 22)"),
            (ipv4, libc::EPERM, true, "cannot be removed: Operation not permitted (os error 1)"),
        ] {
            let refusal = Refusal { errno, is_removal };
            assert_eq!(refusal.describe(&route, Some("tap1".into())).1, expected);
        }
        let refusal = Refusal { errno: libc::EPERM, is_removal: false };
        assert_eq!(refusal.describe(&ipv4, Some("tap1".into())).0, "10.65.0.2/32 dev tap1 metric 1024");
        let gone = Refusal { errno: libc::ENODEV, is_removal: false }.describe(&ipv6, None);
        let expected = ("2001:db8::2/128 dev if7 metric 1024", "the interface is gone");
        assert_eq!((gone.0.as_str(), gone.1.as_str()), expected);
    }
}
