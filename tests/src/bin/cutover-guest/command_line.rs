//! What a guest is told about its interfaces on the kernel command line: `cutover.port=MAC,GATEWAY,ADDRESS,…`, once for
//! each interface; the first one has the default routes of what has no address of its own.

use std::net::{IpAddr, Ipv6Addr};

const PREFIX: &str = "cutover.port=";

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    /// Which one, as /sys spells it.
    pub(crate) mac: String,
    /// The link-local address of the host's tap.
    pub(crate) gateway: Ipv6Addr,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its place on the command line.
    pub(crate) number: usize,
}

/// All that the line names.
pub(crate) fn interfaces(line: &str) -> Result<Vec<Interface>, String> {
    let words = line.split_whitespace().filter_map(|word| word.strip_prefix(PREFIX));
    words.enumerate().map(|(number, word)| interface(word, number)).collect()
}

fn interface(word: &str, number: usize) -> Result<Interface, String> {
    let wrong = |part: &str| format!("{part:?} in {PREFIX}{word}");
    let mut parts = word.split(',');
    let mac = parts.next().unwrap_or_default().to_owned();
    let gateway = parts.next().unwrap_or_default();
    let gateway = gateway.parse().map_err(|_| wrong(gateway))?;
    let addresses = parts.map(|part| part.parse().map_err(|_| wrong(part))).collect::<Result<_, _>>()?;
    Ok(Interface { mac, gateway, addresses, number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_keep_their_order() {
        let line = "quiet cutover.port=fa:16:3e:00:00:01,fe80::1,10.65.0.2,2001:db8::2 \
                    cutover.port=fa:16:3e:00:00:02,fe80::2,10.65.0.3\n";
        let found = interfaces(line).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].mac, "fa:16:3e:00:00:01");
        assert_eq!(found[0].addresses.len(), 2);
        assert_eq!([found[0].number, found[1].number], [0, 1]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = interfaces("cutover.port=fa:16:3e:00:00:01,fe80::1,10.65.0.256").unwrap_err();
        assert!(error.contains("10.65.0.256"), "{error}");
        assert!(interfaces("cutover.port=").is_err());
        assert_eq!(interfaces("console=ttyS0").unwrap(), []);
    }
}
