//! Network settings below /proc/sys/net.
//!
//! Owns the paths, which settings a workload interface needs, and their reading and writing. A setting is only
//! written when it differs. Nothing outside /proc/sys/net is ever opened: names of interfaces are checked
//! before they become part of a path.
//!
//! KERNEL: /proc/sys/net shows the network namespace of the *thread* that looks a path up, not the one of the
//! mount. Everything here runs on the calling thread.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The value of `conf/default/rp_filter` if it cannot be read: strict.
const RP_FILTER_FALLBACK: &str = "1";

/// What happens when a setting cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// The interface is not ready.
    Required,
    /// A warning, once for each time that the interface is set up.
    Wanted,
    /// Nothing.
    BestEffort,
}

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    /// Below /proc/sys/net.
    pub(super) path: String,
    pub(super) value: String,
    pub(super) need: Need,
}

impl Setting {
    fn new(need: Need, value: &str, path: String) -> Self {
        Self { path, value: value.to_owned(), need }
    }
}

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}: {error}")]
pub(super) struct SettingError {
    path: PathBuf,
    value: String,
    #[source]
    pub(super) error: io::Error,
}

/// The settings of one network namespace.
#[derive(Debug)]
pub(super) struct Sysctls {
    root: PathBuf,
    rp_filter: String,
}

impl Sysctls {
    /// Reads what the operator set as the default for `rp_filter`.
    pub(super) fn new(root: &Path) -> Self {
        let default = fs::read_to_string(root.join("ipv4/conf/default/rp_filter"));
        let rp_filter = default.map_or_else(|_| RP_FILTER_FALLBACK.to_owned(), |text| text.trim().to_owned());
        Self { root: root.to_owned(), rp_filter }
    }

    /// What a workload interface needs for IPv4.
    pub(super) fn ipv4(&self, name: &str) -> Vec<Setting> {
        vec![
            Setting::new(Need::Required, "1", format!("ipv4/conf/{name}/route_localnet")),
            // Without it the kernel answers ARP for the gateway with up to 0.8 s delay.
            Setting::new(Need::Wanted, "0", format!("ipv4/neigh/{name}/proxy_delay")),
            Setting::new(Need::Required, "1", format!("ipv4/conf/{name}/proxy_arp")),
            Setting::new(Need::Required, "1", format!("ipv4/conf/{name}/forwarding")),
            Setting::new(Need::Required, &self.rp_filter, format!("ipv4/conf/{name}/rp_filter")),
        ]
    }

    /// What a workload interface needs for IPv6.
    pub(super) fn ipv6(name: &str) -> Vec<Setting> {
        vec![
            Setting::new(Need::BestEffort, "0", format!("ipv6/conf/{name}/accept_ra")),
            // KERNEL: the tap's link-local address, the guest's gateway, is made when the hypervisor opens the tap, and would
            // be tested for duplicates for one to two seconds, in which it does not answer. A guest may arrive earlier.
            Setting::new(Need::Wanted, "0", format!("ipv6/conf/{name}/accept_dad")),
            Setting::new(Need::Required, "1", format!("ipv6/conf/{name}/proxy_ndp")),
            Setting::new(Need::Required, "1", format!("ipv6/conf/{name}/forwarding")),
        ]
    }

    /// What the host needs to forward packets at all.
    pub(super) fn forwarding(&self) -> Vec<Setting> {
        let mut settings = vec![Setting::new(Need::Required, "1", "ipv4/ip_forward".into())];
        if self.root.join("ipv6").exists() {
            settings.push(Setting::new(Need::Required, "1", "ipv6/conf/all/forwarding".into()));
        }
        settings.push(Setting::new(Need::BestEffort, "1", "netfilter/nf_conntrack_acct".into()));
        settings
    }

    /// Whether the interface has IPv6: the kernel may have none, and an interface may have it switched off or an
    /// MTU that is too small for it.
    pub(super) fn has_ipv6(&self, name: &str) -> bool {
        let disabled = self.root.join(format!("ipv6/conf/{name}/disable_ipv6"));
        fs::read_to_string(disabled).is_ok_and(|value| value.trim() == "0")
    }

    /// Makes one setting. Says whether it had to be written.
    pub(super) fn ensure(&self, setting: &Setting) -> Result<bool, SettingError> {
        let path = self.root.join(&setting.path);
        let write = || {
            if fs::read_to_string(&path)?.trim() == setting.value {
                return Ok(false);
            }
            fs::write(&path, &setting.value)?;
            Ok(true)
        };
        write().map_err(|error| SettingError { path: path.clone(), value: setting.value.clone(), error })
    }
}

/// Whether `name` can be a part of a path without leading anywhere else, and means one interface only. The
/// kernel refuses such names for interfaces, too, apart from the last two.
pub(super) fn is_safe_name(name: &str) -> bool {
    let is_plain =
        |character: char| !(character == '/' || character.is_whitespace() || character.is_control());
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name.chars().all(is_plain)
        && !matches!(name, "." | ".." | "all" | "default")
}

/// For logs: `path=value` of each setting.
pub(super) fn describe(settings: &[Setting]) -> String {
    let mut text = String::new();
    for setting in settings {
        let separator = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{}={}", setting.path, setting.value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(root: &Path, path: &str, value: &str) -> PathBuf {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, value).unwrap();
        path
    }

    #[test]
    fn writes_only_what_differs() {
        let root = tempfile::tempdir().unwrap();
        let path = file(root.path(), "ipv4/conf/tap1/proxy_arp", "0\n");
        let sysctls = Sysctls::new(root.path());
        let setting = Setting::new(Need::Required, "1", "ipv4/conf/tap1/proxy_arp".into());
        assert!(sysctls.ensure(&setting).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1");
        assert!(!sysctls.ensure(&setting).unwrap());
    }

    #[test]
    fn an_error_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let setting = Setting::new(Need::Required, "1", "ipv4/conf/tap1/proxy_arp".into());
        let error = Sysctls::new(root.path()).ensure(&setting).unwrap_err().to_string();
        assert!(error.contains("ipv4/conf/tap1/proxy_arp to 1"), "{error}");
    }

    #[test]
    fn rp_filter_follows_the_operators_default() {
        let root = tempfile::tempdir().unwrap();
        let rp_filter = |sysctls: &Sysctls| sysctls.ipv4("tap1").pop().unwrap().value;
        assert_eq!(rp_filter(&Sysctls::new(root.path())), "1");
        file(root.path(), "ipv4/conf/default/rp_filter", "2\n");
        assert_eq!(rp_filter(&Sysctls::new(root.path())), "2");
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for good in ["tap1", "tap.100", "tap-a_b", "..tap"] {
            assert!(is_safe_name(good), "{good:?}");
        }
        for bad in
            ["", ".", "..", "../x", "a/b", "all", "default", "tap 1", "tap\n", "tap\0", "a234567890123456"]
        {
            assert!(!is_safe_name(bad), "{bad:?}");
        }
    }
}
