//! The committed inputs in `fuzz/corpus`, and how they are made: what real programs and kernels wrote, as far as there is a recording or the kernel
//! can be asked; else what the code itself writes.

use crate::{conntrack, own_namespace, peers, state_file};
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// LIMIT: of each format, and so that a repository is no store for them.
const FILES_MAX: usize = 40;
const BYTES_MAX: usize = 4096;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the inputs of a format are.
pub(super) fn folder(format: &str) -> PathBuf {
    root().join("fuzz/corpus").join(format)
}

/// The inputs of a format by name.
pub(super) fn inputs(format: &str) -> BTreeMap<String, Vec<u8>> {
    let entries =
        fs::read_dir(folder(format)).unwrap_or_else(|error| panic!("{}: {error}", folder(format).display()));
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Writes them. What somebody has put there under another name (`found-…`) stays.
fn write(format: &str, inputs: impl IntoIterator<Item = Vec<u8>>) {
    fs::create_dir_all(folder(format)).unwrap();
    let distinct: BTreeSet<Vec<u8>> = inputs.into_iter().filter(|bytes| bytes.len() <= BYTES_MAX).collect();
    let every = distinct.len().div_ceil(FILES_MAX).max(1);
    for (number, bytes) in distinct.iter().step_by(every).enumerate() {
        fs::write(folder(format).join(format!("{number:02}")), bytes).unwrap();
    }
}

#[test]
#[ignore = "writes fuzz/corpus anew, as root: see CONTRIBUTING.md"]
fn make_the_corpora() {
    write("channel_messages", peers::sample_messages());
    write("peer_record", [peers::sample_record()]);
    write(
        "event_record",
        (0..=4_u32).map(|kind| {
            let mut bytes = [7_u64.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
            bytes.extend([9_u32.to_ne_bytes(), kind.to_ne_bytes()].concat());
            bytes
        }),
    );
    let requests = [
        "status",
        "history",
        "departures",
        "release 3",
        "pause port 5d7a",
        "resume port 5d7a",
        "pause workload instance-1",
        "resume workload instance-1",
        "release many",
        "pause",
        "stop everything",
    ];
    write("control_request", requests.map(|request| format!("{request}\n").into_bytes()));
    write("conntrack", conntrack::samples_of_dumps());
    write("state_file", [state_file::fuzz::sample()]);
    let id = "0a4f3c52-8d4c-4e6f-9a43-0d2c7f1b9e11";
    let lines = [
        r#"{"connected":{"library":"9.0.0","daemon":"9.0.0"}}"#.to_owned(),
        r#""listed""#.to_owned(),
        r#""alive""#.to_owned(),
        r#"{"failed":"no connection"}"#.to_owned(),
        format!(r#"{{"found":{{"domain":"{id}","what":"running","at_ns":5}}}}"#),
        format!(r#"{{"told":{{"domain":"{id}","what":"stopped","at_ns":18446744073709551615}}}}"#),
    ];
    write("libvirt_line", lines.map(String::into_bytes));
    write_recorded();
    write_settings();
    own_namespace::in_a_namespace_of_its_own(write_dumped);
}

/// What a real Neutron wrote into etcd.
fn write_recorded() {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut files: Vec<_> =
        fs::read_dir(root().join("tests/vectors")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")) {
        for line in fs::read_to_string(path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            keys.extend(line["put"].as_str().or(line["delete"].as_str()).map(|key| key.as_bytes().to_vec()));
            values.extend(line.get("value").cloned());
        }
    }
    let keys_of_reports = [
        "/calico/felix/v2/no-region/host/compute-1/workload/openstack/openstack%2fvm-1/endpoint/port-1",
        "/calico/felix/v2/region-east/host/compute-1/workload/openstack/openstack-region-east%2fa%252fb/endpoint/p",
    ];
    keys.extend(keys_of_reports.map(|key| key.as_bytes().to_vec()));
    write("etcd_key", keys);
    let list = serde_json::json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpointList",
        "items": values.iter().filter(|value| value["kind"] == "WorkloadEndpoint").take(2).collect::<Vec<_>>(),
    });
    values.push(list);
    write("resource_json", values.iter().map(|value| value.to_string().into_bytes()));
    let mut texts: Vec<Vec<u8>> =
        values.iter().map(|value| serde_norway::to_string(value).unwrap().into_bytes()).collect();
    texts.push([&texts[0][..], b"---\n", &texts[1], b"...\n# the end\n"].concat());
    write("resource_yaml", texts);
}

/// Every block of settings in the pages, and the files that the packages bring.
fn write_settings() {
    let mut files =
        vec![b"\xff\xfeA\0 \0=\0 \x001\0\n\0".to_vec(), b"A = `a\nb`\nB = x\\\n y # z\n".to_vec()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(page) = fs::read_to_string(&path) else { continue };
        let blocks =
            page.split("```ini").skip(1).filter_map(|rest| rest.split_once('\n')?.1.split_once("```"));
        files.extend(blocks.map(|(block, _)| block.as_bytes().to_vec()));
    }
    write("ini", files);
}

/// What this kernel says of a network namespace like a host's.
fn write_dumped() {
    let run = |program: &str, arguments: &[&str], input: &str| {
        let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{program} {arguments:?}");
    };
    run(
        "ip",
        &["-batch", "-"],
        "\
        link set lo up
        link add tap1 type veth peer name tap4
        link add tap2 type veth peer name tap3
        link add br0 type bridge
        link set tap3 master br0
        link add cutover0 type vxlan dstport 4790 external gpe
        link set tap1 up
        link set tap2 up
        link set tap3 up
        link set tap4 up
        link set cutover0 up
        addr add 192.0.2.1/24 dev tap1
        addr add 2001:db8::1/64 dev tap1 nodad
        route add 10.65.0.2 dev tap1 proto 80 metric 1024 src 192.0.2.1
        route add 10.65.0.3/32 via 192.0.2.7
        route add 10.65.1.0/24 nexthop dev tap1 nexthop dev tap2
        route add fd00:65::2 dev tap2 proto 80 metric 512
        route add 10.65.0.2 dev cutover0 table 900 mtu 1400
        route add blackhole 10.65.0.4 table 900
        neigh add 10.65.0.2 lladdr 02:00:00:00:00:02 dev tap1 nud permanent
        neigh add proxy 10.65.0.9 dev tap1
        rule add iif cutover0 table 900 priority 90 protocol 80
",
    );
    // RTM_GETLINK, GETADDR, GETROUTE, GETNEIGH, GETRULE: `struct ifinfomsg` is the longest of their headers.
    let route = [18, 22, 26, 30, 34].map(|kind| dump(protocols::NETLINK_ROUTE, kind, &[0; 16]));
    write("route_netlink", route.into_iter().flatten().map(|(_, payload)| payload));
    run(
        "nft",
        &["-f", "-"],
        "\
        table ip calico {
            map cali-fw-dispatch { type ifname : verdict; elements = { \"tap1\" : goto cali-fw-tap1 } }
            chain cali-fw-tap1 { counter accept; }
            chain cali-tw-tap1 { accept; }
            chain filter-FORWARD { type filter hook forward priority 0; iifname vmap @cali-fw-dispatch; }
        }
        table ip6 filter {
            chain cali-fw-tap2 { accept; }
            chain cali-from-wl-dispatch { iifname \"tap2\" goto cali-fw-tap2; }
            chain FORWARD { type filter hook forward priority 0; jump cali-from-wl-dispatch; }
        }
",
    );
    // NFT_MSG_GETTABLE, GETCHAIN, GETRULE, GETSET.
    let tables = [1, 4, 7, 10].map(|kind| dump(protocols::NETLINK_NETFILTER, 10 << 8 | kind, &[0; 4]));
    write(
        "nf_tables",
        tables.into_iter().flatten().map(|(kind, payload)| [&kind.to_ne_bytes()[..], &payload].concat()),
    );
}

/// The types and payloads of the answers to a question for everything.
fn dump(protocol: isize, kind: u16, body: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut socket = Socket::new(protocol).unwrap();
    socket.bind_auto().unwrap();
    let flags = netlink_packet_core::NLM_F_REQUEST | netlink_packet_core::NLM_F_DUMP;
    let mut request = Vec::new();
    crate::netlink::netfilter::put(&mut request, kind, flags, 1, body);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0).unwrap();
    let mut found = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = socket.recv(&mut &mut *buffer, 0).unwrap();
        let mut rest = &buffer[..length];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                // NLMSG_ERROR, NLMSG_DONE.
                2 => panic!("the kernel refuses to dump {kind}: {:?}", message.payload()),
                3 => return found,
                kind => found.push((kind, message.payload().to_vec())),
            }
            rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
