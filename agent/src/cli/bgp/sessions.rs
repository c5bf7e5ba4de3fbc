//! What the sessions with peers have beyond the routes, from the command line; the password from a file, because arguments can be
//! read by everybody on the host.

use super::super::Failure;
use clap::Args;
use cutover_bgp::{Password, Peering, Sessions};
use cutover_daemon::settings::Settings;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// LIMIT: a password has 80 characters at most; whatever is longer than this is another file.
const BYTES_MAX: u64 = 4096;

/// The same for all peers.
#[derive(Debug, Args)]
pub struct SessionArguments {
    /// File with the password of the sessions in its first line (TCP MD5); it gets into what is printed
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Notice by BFD that a peer is gone
    #[arg(long)]
    pub bfd: bool,
    /// With eBGP, how many hops away peers are at most, if they are on no subnet of the host's
    #[arg(long, value_name = "HOPS", value_parser = clap::value_parser!(u8).range(2..))]
    pub multihop: Option<u8>,
    /// Address of the host that its sessions come from; once for each family
    #[arg(long = "source", value_name = "ADDRESS")]
    pub sources: Vec<IpAddr>,
}

impl SessionArguments {
    /// What they say.
    ///
    /// # Errors
    /// They contradict each other or the settings, or the password cannot be read or used.
    pub fn read(&self, peering: Peering, settings: &Settings) -> Result<Sessions, Failure> {
        let mut sessions = Sessions { has_bfd: self.bfd, hops: self.multihop, ..Sessions::default() };
        if self.multihop.is_some() && peering == Peering::Ibgp {
            return Err(Failure::usage(
                "--multihop: iBGP peers may be any number of hops away as it is; leave it out or use --peering ebgp",
            ));
        }
        for source in &self.sources {
            let before = match source {
                IpAddr::V4(address) => sessions.ipv4_source.replace(*address).map(IpAddr::V4),
                IpAddr::V6(address) => sessions.ipv6_source.replace(*address).map(IpAddr::V6),
            };
            if let Some(before) = before {
                return Err(Failure::usage(format!(
                    "--source {before} and --source {source}: the sessions of a family come from one address; leave one out"
                )));
            }
            if source.is_ipv6() && !settings.ipv6_support {
                return Err(Failure::usage(format!(
                    "--source {source}: Ipv6Support is false in the settings, so there are no IPv6 sessions; leave it out or set it to true"
                )));
            }
        }
        sessions.password = self.password_file.as_deref().map(password).transpose()?;
        Ok(sessions)
    }
}

/// The first line of a file.
fn password(path: &Path) -> Result<Password, Failure> {
    let name = path.display();
    let text = beginning(path)
        .map_err(|error| Failure::configuration(format!("--password-file {name}: {error}")))?;
    let line = text.lines().next().unwrap_or_default();
    line.parse().map_err(|expected| {
        Failure::configuration(format!("--password-file {name}: its first line has to be {expected}"))
    })
}

fn beginning(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> SessionArguments {
        SessionArguments { password_file: None, bfd: false, multihop: None, sources: Vec::new() }
    }

    #[track_caller]
    fn refusal(arguments: &SessionArguments, peering: Peering) -> String {
        arguments.read(peering, &Settings::default()).unwrap_err().to_string()
    }

    #[test]
    fn contradictions_are_refused() {
        let far = SessionArguments { multihop: Some(2), ..arguments() };
        assert!(refusal(&far, Peering::Ibgp).starts_with("--multihop: "));
        assert_eq!(far.read(Peering::Ebgp, &Settings::default()).unwrap().hops, Some(2));
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let two = SessionArguments { sources: addresses(&["10.0.0.1", "10.0.0.2"]), ..arguments() };
        assert!(refusal(&two, Peering::Ibgp).starts_with("--source 10.0.0.1 and --source 10.0.0.2: "));
        let both = SessionArguments { sources: addresses(&["10.0.0.1", "2001:db8::1"]), ..arguments() };
        let with_ipv6 = |ipv6_support| Settings { ipv6_support, ..Settings::default() };
        let sessions = both.read(Peering::Ibgp, &with_ipv6(true)).unwrap();
        assert!(sessions.ipv4_source.is_some() && sessions.ipv6_source.is_some());
        let refused = both.read(Peering::Ibgp, &with_ipv6(false)).unwrap_err().to_string();
        assert!(refused.starts_with("--source 2001:db8::1: Ipv6Support"), "{refused}");
    }

    #[test]
    fn the_password_is_the_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let given = SessionArguments { password_file: Some(path.clone()), ..arguments() };
        assert!(refusal(&given, Peering::Ibgp).contains("No such file"));
        for (content, is) in
            [("s3cret\nmore\n", Some("s3cret")), ("s3cret", Some("s3cret")), ("\nx", None), ("", None)]
        {
            std::fs::write(&path, content).unwrap();
            let read = given.read(Peering::Ibgp, &Settings::default());
            let password = read.as_ref().ok().and_then(|sessions| sessions.password.as_ref());
            assert_eq!(password.map(Password::as_str), is, "{content:?}: {read:?}");
        }
        assert!(!refusal(&given, Peering::Ibgp).contains("s3cret"));
    }
}
