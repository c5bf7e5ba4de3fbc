//! A stand-in for Felix: makes the tables, maps and chains that Felix makes for a tap, with the same names and in the same order, through
//! nft and iptables, and takes them away again. It enforces nothing.

use crate::namespace::Namespace;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What Felix programs the packet filter with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Its own tables in nftables.
    Nftables,
    /// iptables-nft.
    Iptables,
    /// iptables-legacy.
    Legacy,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Both families.
pub const BOTH: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// The stand-in on one host.
#[derive(Clone, Copy, Debug)]
pub struct Felix<'a> {
    namespace: &'a Namespace,
    mode: Mode,
}

impl<'a> Felix<'a> {
    /// Makes what is there without any tap, in both families.
    #[must_use]
    pub fn start(namespace: &'a Namespace, mode: Mode) -> Self {
        let felix = Self { namespace, mode };
        for family in BOTH {
            let (nft, iptables) = (
                format!(
                    "add table {0} calico\n\
                     add map {0} calico filter-cali-to-wl-dispatch {{ type ifname : verdict; }}\n\
                     add map {0} calico filter-cali-from-wl-dispatch {{ type ifname : verdict; }}\n",
                    nft_family(family)
                ),
                ":cali-to-wl-dispatch - -\n:cali-from-wl-dispatch - -\n\
                 -A cali-to-wl-dispatch -m comment --comment \"cali:end\" -j DROP\n\
                 -A cali-from-wl-dispatch -m comment --comment \"cali:end\" -j DROP\n",
            );
            felix.program(family, &nft, iptables);
        }
        felix
    }

    /// Makes everything that Felix has for a tap, in one transaction.
    pub fn add(&self, family: Family, tap: &str) {
        let f = nft_family(family);
        let nft = format!(
            "add chain {f} calico filter-cali-tw-{tap}\nadd chain {f} calico filter-cali-fw-{tap}\n\
             add element {f} calico filter-cali-to-wl-dispatch {{ \"{tap}\" : goto filter-cali-tw-{tap} }}\n\
             add element {f} calico filter-cali-from-wl-dispatch {{ \"{tap}\" : goto filter-cali-fw-{tap} }}\n"
        );
        let iptables = format!(
            ":cali-tw-{tap} - -\n:cali-fw-{tap} - -\n\
             -I cali-to-wl-dispatch 1 -o {tap} -m comment --comment \"cali:a\" -g cali-tw-{tap}\n\
             -I cali-from-wl-dispatch 1 -i {tap} -m comment --comment \"cali:b\" -g cali-fw-{tap}\n"
        );
        self.program(family, &nft, &iptables);
    }

    /// The chains of a tap and one of the two dispatch entries.
    pub fn add_half(&self, family: Family, tap: &str) {
        let f = nft_family(family);
        let nft = format!(
            "add chain {f} calico filter-cali-tw-{tap}\nadd chain {f} calico filter-cali-fw-{tap}\n\
             add element {f} calico filter-cali-to-wl-dispatch {{ \"{tap}\" : goto filter-cali-tw-{tap} }}\n"
        );
        let iptables = format!(
            ":cali-tw-{tap} - -\n:cali-fw-{tap} - -\n\
             -I cali-to-wl-dispatch 1 -o {tap} -m comment --comment \"cali:a\" -g cali-tw-{tap}\n"
        );
        self.program(family, &nft, &iptables);
    }

    /// The other half.
    pub fn add_rest(&self, family: Family, tap: &str) {
        let f = nft_family(family);
        let nft = format!(
            "add element {f} calico filter-cali-from-wl-dispatch {{ \"{tap}\" : goto filter-cali-fw-{tap} }}\n"
        );
        let iptables =
            format!("-I cali-from-wl-dispatch 1 -i {tap} -m comment --comment \"cali:b\" -g cali-fw-{tap}\n");
        self.program(family, &nft, &iptables);
    }

    /// Takes away what there is for a tap, as Felix does when its endpoint goes.
    pub fn remove(&self, family: Family, tap: &str) {
        let f = nft_family(family);
        let nft = format!(
            "delete element {f} calico filter-cali-to-wl-dispatch {{ \"{tap}\" }}\n\
             delete element {f} calico filter-cali-from-wl-dispatch {{ \"{tap}\" }}\n\
             delete chain {f} calico filter-cali-tw-{tap}\ndelete chain {f} calico filter-cali-fw-{tap}\n"
        );
        let iptables = format!(
            "-D cali-to-wl-dispatch -o {tap} -m comment --comment \"cali:a\" -g cali-tw-{tap}\n\
             -D cali-from-wl-dispatch -i {tap} -m comment --comment \"cali:b\" -g cali-fw-{tap}\n\
             -X cali-tw-{tap}\n-X cali-fw-{tap}\n"
        );
        self.program(family, &nft, &iptables);
    }

    fn program(&self, family: Family, nft: &str, iptables: &str) {
        let (program, arguments, text) = match (self.mode, family) {
            (Mode::Nftables, _) => ("nft", &["-f", "-"][..], nft.to_owned()),
            (Mode::Iptables, Family::Ipv4) => ("iptables-nft-restore", RESTORE, filter(iptables)),
            (Mode::Iptables, Family::Ipv6) => ("ip6tables-nft-restore", RESTORE, filter(iptables)),
            (Mode::Legacy, Family::Ipv4) => ("iptables-legacy-restore", RESTORE, filter(iptables)),
            (Mode::Legacy, Family::Ipv6) => ("ip6tables-legacy-restore", RESTORE, filter(iptables)),
        };
        let mut child = self
            .namespace
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nftables and iptables are installed");
        child.stdin.take().expect("it was piped").write_all(text.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{program}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `-w`: whoever else on the machine holds the lock of iptables is waited for.
const RESTORE: &[&str] = &["--noflush", "-w"];

fn filter(rules: &str) -> String {
    format!("*filter\n{rules}COMMIT\n")
}

const fn nft_family(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

/// A process that is called `calico-felix` and has these variables; it does nothing. It goes with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it in a namespace. `folder` gets a program of this name.
    ///
    /// # Panics
    /// When that cannot be done.
    #[must_use]
    pub fn start(namespace: &Namespace, folder: &Path, variables: &[(&str, &str)]) -> Self {
        let program = folder.join("calico-felix");
        if !program.exists() {
            let copied = Command::new("cp").args(["-L", "/bin/sleep"]).arg(&program).status();
            assert!(copied.is_ok_and(|status| status.success()), "coreutils are installed");
        }
        let mut command = namespace.command(&program);
        command.arg("1000").env_clear().envs(variables.iter().copied());
        Self(command.spawn().expect("a process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
