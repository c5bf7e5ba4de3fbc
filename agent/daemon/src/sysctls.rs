//! Network settings below /proc/sys/net.
//!
//! Owns their reading and writing; which ones there are is in [`table`], what those of the host were before the agent in
//! [`former`]. A setting is only written when it differs. Nothing outside /proc/sys/net is ever opened: names of
//! interfaces are checked before they become part of a path.
//!
//! KERNEL: /proc/sys/net shows the network namespace of the *thread* that looks a path up, not the one of the
//! mount. Everything here runs on the calling thread.

pub mod former;
pub mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use table::{Ipv6Device, Setting, Value};

/// Where they are.
pub const ROOT: &str = "/proc/sys/net";

/// The value of `conf/default/rp_filter` if it cannot be read: strict.
const RP_FILTER_FALLBACK: &str = "1";

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {path} to {value}: {error}")]
pub struct SettingError {
    path: PathBuf,
    value: String,
    /// What the kernel said.
    #[source]
    pub error: io::Error,
}

/// A setting that is to be another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SysctlChange {
    /// Below /proc/sys/net.
    pub path: String,
    /// What it is.
    pub is: String,
    /// What it would be set to.
    pub to_be: String,
}

/// The settings of one network namespace.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    rp_filter: String,
    /// What would have been written, for whoever writes nothing.
    noted: Option<Mutex<Vec<SysctlChange>>>,
}

impl Sysctls {
    /// Reads what the operator set as the default for `rp_filter`.
    pub fn new(root: &Path) -> Self {
        let default = fs::read_to_string(root.join("ipv4/conf/default/rp_filter"));
        let rp_filter = default.map_or_else(|_| RP_FILTER_FALLBACK.to_owned(), |text| text.trim().to_owned());
        Self { root: root.to_owned(), rp_filter, noted: None }
    }

    /// The same, but what is to be written is noted and not written.
    pub fn noting(root: &Path) -> Self {
        Self { noted: Some(Mutex::default()), ..Self::new(root) }
    }

    /// What was noted since the last call.
    pub fn take_noted(&self) -> Vec<SysctlChange> {
        let noted = self.noted.iter();
        noted
            .flat_map(|noted| std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner)))
            .collect()
    }

    fn put(&self, path: &str, value: &str) -> io::Result<()> {
        let Some(noted) = &self.noted else { return fs::write(self.root.join(path), value) };
        let change = SysctlChange { path: path.to_owned(), is: self.read(path)?, to_be: value.to_owned() };
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(change);
        Ok(())
    }

    /// What a setting is now.
    pub fn read(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.root.join(path))?.trim().to_owned())
    }

    /// What it should be.
    pub fn value<'a>(&'a self, setting: &Setting) -> &'a str {
        match setting.value {
            Value::Fixed(value) => value,
            Value::DefaultRpFilter => &self.rp_filter,
        }
    }

    /// What of IPv6 there is on an interface.
    pub fn ipv6_device(&self, interface: &str) -> Ipv6Device {
        match self.read(&format!("ipv6/conf/{interface}/disable_ipv6")) {
            Ok(value) if value == "0" => Ipv6Device::Enabled,
            Ok(_) => Ipv6Device::Disabled,
            Err(_) => Ipv6Device::Absent,
        }
    }

    /// Makes one setting. Says whether it had to be written.
    pub fn ensure(&self, setting: &Setting) -> Result<bool, SettingError> {
        let value = self.value(setting);
        let write = || {
            if self.read(&setting.path)? == value {
                return Ok(false);
            }
            self.put(&setting.path, value)?;
            Ok(true)
        };
        write().map_err(|error| self.error(&setting.path, value, error))
    }

    /// Writes a setting, whatever it was.
    pub fn write(&self, path: &str, value: &str) -> Result<(), SettingError> {
        self.put(path, value).map_err(|error| self.error(path, value, error))
    }

    /// Why a sysctl could not be set.
    pub fn error(&self, path: &str, value: &str, error: io::Error) -> SettingError {
        SettingError { path: self.root.join(path), value: value.to_owned(), error }
    }
}

/// Whether `name` can be a part of a path without leading anywhere else, and means one interface only. The
/// kernel refuses such names for interfaces, too, apart from the last two.
pub fn is_safe_name(name: &str) -> bool {
    let is_plain =
        |character: char| !(character == '/' || character.is_whitespace() || character.is_control());
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name.chars().all(is_plain)
        && !matches!(name, "." | ".." | "all" | "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::wanted::Ipv6;
    use table::Need;

    fn file(root: &Path, path: &str, value: &str) -> PathBuf {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, value).unwrap();
        path
    }

    fn proxy_arp() -> Setting {
        let (path, value) = ("ipv4/conf/tap1/proxy_arp".into(), Value::Fixed("1"));
        Setting { path, value, need: Need::Required }
    }

    #[test]
    fn writes_only_what_differs() {
        let root = tempfile::tempdir().unwrap();
        let path = file(root.path(), "ipv4/conf/tap1/proxy_arp", "0\n");
        let sysctls = Sysctls::new(root.path());
        assert!(sysctls.ensure(&proxy_arp()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1");
        assert!(!sysctls.ensure(&proxy_arp()).unwrap());
    }

    #[test]
    fn an_error_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let error = Sysctls::new(root.path()).ensure(&proxy_arp()).unwrap_err().to_string();
        assert!(error.contains("ipv4/conf/tap1/proxy_arp to 1"), "{error}");
    }

    #[test]
    fn rp_filter_follows_the_operators_default() {
        let root = tempfile::tempdir().unwrap();
        let rp_filter = |sysctls: &Sysctls| {
            let settings =
                table::of_interface("tap1", Ipv6::LeftAlone, Ipv6Device::Absent, table::Keeper::Agent);
            let setting = settings.iter().find(|setting| setting.path.ends_with("rp_filter")).unwrap();
            sysctls.value(setting).to_owned()
        };
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
