//! What a domain's XML says about its ports. No I/O.
//!
//! Addresses are in the domain's metadata, because libvirt keeps them there, and takes them along when the domain moves:
//!
//! ```xml
//! <metadata>
//!   <cutover:ports xmlns:cutover="urn:cutover:libvirt:1">
//!     <cutover:port mac="52:54:00:00:00:01">
//!       <cutover:address>10.65.0.2</cutover:address>
//!     </cutover:port>
//!   </cutover:ports>
//! </metadata>
//! ```
//!
//! The tap is the one of the interface with the same hardware address. One port that is wrong does not cost the others.

use cutover_common::MacAddr;
use ipnet::IpNet;
use roxmltree::{Document, Node, ParsingOptions};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Of the elements in the metadata.
const NAMESPACE: &str = "urn:cutover:libvirt:1";

/// A domain with ports of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Domain {
    /// UUID in lower case, as libvirt tells of it in events.
    pub(super) uuid: String,
    pub(super) ports: Vec<Port>,
    /// One line for each port that cannot be used, with what to change.
    pub(super) problems: Vec<String>,
}

/// A port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Port {
    /// The endpoint: what the metadata say, else the hardware address without colons.
    pub(super) id: String,
    pub(super) mac: MacAddr,
    /// libvirt chooses the name of a tap that has none at the start of the domain.
    pub(super) tap: Option<String>,
    pub(super) addresses: BTreeSet<IpNet>,
}

/// Reads a domain. None if its metadata say nothing of ours.
///
/// # Errors
/// In words, when this is no domain.
pub(super) fn parse(xml: &str) -> Result<Option<Domain>, String> {
    let document = read(xml)?;
    let root = document.root_element();
    let Some(ports) = children(root, "metadata").flat_map(|node| node.children()).find(is_ports) else {
        return Ok(None);
    };
    let mut domain = Domain { uuid: uuid(root)?, ports: Vec::new(), problems: Vec::new() };
    for node in ports.children().filter(Node::is_element) {
        match port(root, node) {
            Ok(port) if domain.ports.iter().any(|other| other.id == port.id) => {
                domain.problems.push(format!("port {}: it is there twice; remove one of them", port.id));
            }
            Ok(port) => domain.ports.push(port),
            Err(problem) => domain.problems.push(problem),
        }
    }
    Ok(Some(domain))
}

/// Which domain it is, whatever its metadata say.
///
/// # Errors
/// In words, when this is no domain.
pub(super) fn uuid_of(xml: &str) -> Result<String, String> {
    uuid(read(xml)?.root_element())
}

fn read(xml: &str) -> Result<Document<'_>, String> {
    let options = ParsingOptions { allow_dtd: false, ..ParsingOptions::default() };
    Document::parse_with_options(xml, options).map_err(|error| error.to_string())
}

fn uuid(root: Node<'_, '_>) -> Result<String, String> {
    let uuid = children(root, "uuid").find_map(|node| node.text()).map(|text| text.trim().to_lowercase());
    // It becomes part of the names of files.
    let is_uuid =
        |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    uuid.filter(is_uuid).ok_or_else(|| "the domain has no uuid".to_owned())
}

fn is_ports(node: &Node<'_, '_>) -> bool {
    node.tag_name().namespace() == Some(NAMESPACE) && node.tag_name().name() == "ports"
}

fn children<'a, 'input>(
    node: Node<'a, 'input>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input> {
    node.children().filter(move |child| child.is_element() && child.tag_name().name() == name)
}

fn port(root: Node<'_, '_>, node: Node<'_, '_>) -> Result<Port, String> {
    if node.tag_name().name() != "port" {
        return Err(format!("metadata: {} is not known; write port", node.tag_name().name()));
    }
    let text = node.attribute("mac").ok_or("port: it has no mac; write that of its interface")?;
    let mac: MacAddr = text.parse().map_err(|error| format!("port {text}: mac: {error}"))?;
    let id = node.attribute("id").map_or_else(|| text.replace([':', '-'], "").to_lowercase(), str::to_owned);
    let interface = children(root, "devices")
        .flat_map(|devices| children(devices, "interface"))
        .find(|interface| hardware_address(*interface) == Some(mac))
        .ok_or_else(|| format!("port {text}: no interface has this mac; add one, or remove the port"))?;
    match interface.attribute("type") {
        Some("ethernet") => {}
        other => {
            return Err(format!(
                "port {text}: its interface is of type {}; a tap that packets are routed to is of type ethernet",
                other.unwrap_or("none")
            ));
        }
    }
    let tap = children(interface, "target").find_map(|target| target.attribute("dev")).map(str::to_owned);
    let mut addresses = BTreeSet::new();
    for address in children(node, "address") {
        let address = address.text().unwrap_or_default().trim();
        addresses.insert(network(address).map_err(|problem| format!("port {text}: {address:?} {problem}"))?);
    }
    if addresses.is_empty() {
        return Err(format!("port {text}: it has no address; add one"));
    }
    Ok(Port { id, mac, tap, addresses })
}

fn hardware_address(interface: Node<'_, '_>) -> Option<MacAddr> {
    children(interface, "mac").find_map(|mac| mac.attribute("address")?.parse().ok())
}

/// Which addresses a machine can have at all is the agent's rule, and asked of it with the whole document.
fn network(text: &str) -> Result<IpNet, String> {
    let net: Option<IpNet> =
        if text.contains('/') { text.parse().ok() } else { text.parse::<IpAddr>().ok().map(IpNet::from) };
    let net = net.ok_or("is no address; write one such as 10.65.0.2 or 2001:db8::2")?;
    // Cut off, as the agent would do it, the machine would get the addresses of others.
    if net != net.trunc() {
        let whole = net.trunc();
        return Err(format!("has bits beyond its length; write {} or {whole}", net.addr()));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01";

    fn domain(metadata: &str, interfaces: &str) -> String {
        format!(
            "<domain type='kvm'><name>vm1</name><uuid>{UUID}</uuid><metadata>{metadata}</metadata>\
             <devices>{interfaces}</devices></domain>"
        )
    }

    fn interface(kind: &str, mac: &str, target: &str) -> String {
        format!("<interface type='{kind}'><mac address='{mac}'/>{target}</interface>")
    }

    fn ports(inside: &str) -> String {
        format!("<other xmlns='urn:x'/><c:ports xmlns:c='{NAMESPACE}'>{inside}</c:ports>")
    }

    fn parsed(inside: &str, interfaces: &str) -> Domain {
        parse(&domain(&ports(inside), interfaces)).unwrap().unwrap()
    }

    #[test]
    fn a_port_is_its_interface_and_its_addresses() {
        let found = parsed(
            "<c:port mac='52:54:00:00:00:0A'><c:address>10.65.0.2</c:address><c:address> 2001:db8::2/128 </c:address></c:port>\
             <c:port id='web' mac='52:54:00:00:00:0b'><c:address>10.65.0.3/32</c:address></c:port>",
            &[
                interface("network", "52:54:00:00:00:01", "<target dev='vnet7'/>"),
                interface("ethernet", "52:54:00:00:00:0a", "<target dev='tap1' managed='no'/>"),
                interface("ethernet", "52:54:00:00:00:0b", ""),
            ]
            .concat(),
        );
        assert_eq!((found.uuid.as_str(), found.problems.as_slice()), (UUID, &[][..]));
        let [first, second] = found.ports.as_slice() else { panic!("{found:?}") };
        assert_eq!((first.id.as_str(), first.tap.as_deref()), ("52540000000a", Some("tap1")));
        let addresses: Vec<String> = first.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.65.0.2/32", "2001:db8::2/128"]);
        assert_eq!((second.id.as_str(), second.tap.as_deref()), ("web", None));
    }

    #[test]
    fn a_domain_that_says_nothing_of_ours_is_none_of_our_business() {
        let alone = interface("ethernet", "52:54:00:00:00:0a", "");
        for metadata in ["", "<ports/>", "<p:ports xmlns:p='urn:cutover:libvirt:2'/>"] {
            assert_eq!(parse(&domain(metadata, &alone)), Ok(None), "{metadata}");
        }
        assert_eq!(parse("<domain/>"), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_port_is_said_and_costs_no_other() {
        let good = "<c:port mac='52:54:00:00:00:0a'><c:address>10.65.0.2</c:address></c:port>";
        let interfaces = [
            interface("ethernet", "52:54:00:00:00:0a", "<target dev='tap1'/>"),
            interface("bridge", "52:54:00:00:00:0b", "<target dev='vnet1'/>"),
            interface("ethernet", "52:54:00:00:00:0c", "<target dev='tap3'/>"),
        ]
        .concat();
        for (bad, part) in [
            (good, "twice"),
            ("<c:prot/>", "prot is not known"),
            ("<c:port/>", "has no mac"),
            ("<c:port mac='52:54'/>", "52:54"),
            ("<c:port mac='52:54:00:00:00:0f'/>", "no interface has this mac"),
            ("<c:port mac='52:54:00:00:00:0b'><c:address>10.65.0.3</c:address></c:port>", "of type bridge"),
            ("<c:port mac='52:54:00:00:00:0c'/>", "no address"),
            ("<c:port mac='52:54:00:00:00:0c'><c:address>10.65.0.256</c:address></c:port>", "10.65.0.256"),
            ("<c:port mac='52:54:00:00:00:0c'><c:address>10.65.0.2/33</c:address></c:port>", "10.65.0.2/33"),
            (
                "<c:port mac='52:54:00:00:00:0c'><c:address>10.65.0.2/24</c:address></c:port>",
                "write 10.65.0.2 or 10.65.0.0/24",
            ),
            (
                "<c:port mac='52:54:00:00:00:0c'><c:address>2001:db8::2/64</c:address></c:port>",
                "write 2001:db8::2 or 2001:db8::/64",
            ),
        ] {
            let found = parsed(&format!("{good}{bad}"), &interfaces);
            assert_eq!(found.ports.len(), 1, "{bad}");
            assert!(found.problems.len() == 1 && found.problems[0].contains(part), "{bad}: {found:?}");
        }
        let nameless = domain(&ports(good), &interfaces).replace(UUID, "");
        assert!(parse(&nameless).unwrap_err().contains("uuid"));
        assert!(uuid_of(&nameless).unwrap_err().contains("uuid"));
    }

    #[test]
    fn a_domain_is_known_without_its_metadata() {
        assert_eq!(uuid_of(&domain("", "").replace(UUID, &UUID.to_uppercase())), Ok(UUID.to_owned()));
        assert!(uuid_of("<domain>").is_err());
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_and_nothing_worse(text in ".{0,300}") {
            let _ = parse(&text);
            let _ = parse(&domain(&ports(&text), &text));
        }
    }
}
