//! BIRD's configurations.

use super::Verdict::{Error, Fine, Notice, Ok, Warning};
use super::{Case, File};

const MESH: (File, &str) = (File::Bird, include_str!("mesh.bird"));
const LOOPBACKS: (File, &str) = (File::Bird, include_str!("loopbacks.bird"));
const TELLER: (File, &str) = (File::Bird, include_str!("teller.bird"));
const METRIC: (File, &str) = (File::Bird1, include_str!("metric.bird1"));

#[test]
fn what_is_right_is_fine() {
    for file in [MESH, LOOPBACKS] {
        Case::of(file, &[]).is_fine();
    }
}

/// Without the filter the target's elevated route is not the best one there.
const WITHOUT_PREFERENCE: (&str, &str) = ("import filter from_kernel;", "import all;");
const NEXT_HOP_SELF: &str = "next hop self;";
/// BIRD wants both for `secondary`.
const SORTED: (&str, &str) = ("protocol device {}", "ipv4 table master4 sorted;\nprotocol device {}");
const DIRECT: (&str, &str) = ("neighbor 192.0.2.12 as 64601;", "neighbor 192.0.2.12 as 64601; direct;");

#[test]
fn with_add_paths_a_route_that_is_not_the_best_one_is_told() {
    for (option, expected) in [
        ("next hop self;", Error),
        ("next hop self; add paths on;", Notice),
        ("next hop self; add paths;", Notice),
        ("next hop self; add paths yes;", Notice),
        ("next hop self; add paths rx;", Error),
        ("next hop self; add paths tx;", Error),
        ("next hop self; add paths off;", Error),
        ("next hop self; add paths on; add paths no;", Error),
        ("next hop self; secondary;", Notice),
        ("next hop self; secondary off;", Error),
    ] {
        let case = Case::of(MESH, &[WITHOUT_PREFERENCE, SORTED, DIRECT, (NEXT_HOP_SELF, option)]);
        case.judge("local-elevated-wins", expected);
    }
    // A reflector passes on what it has learnt, and has no second choice.
    for (client, expected) in [("", Notice), ("rr client;", Error)] {
        let neighbour = format!("neighbor 192.0.2.12 as 64601; direct; {client}");
        let edits = [
            WITHOUT_PREFERENCE,
            SORTED,
            ("neighbor 192.0.2.12 as 64601;", &*neighbour),
            (NEXT_HOP_SELF, "next hop self; secondary on;"),
            ("if source = RTS_BGP || ifname", "if source = RTS_BGP then accept; if ifname"),
        ];
        Case::of(MESH, &edits).judge("local-elevated-wins", expected);
    }
    // Every peer has to be told.
    let two = [
        WITHOUT_PREFERENCE,
        (NEXT_HOP_SELF, "next hop self; add paths on;"),
        (
            "protocol bgp mate {",
            "protocol bgp third { local as 64601; neighbor 192.0.2.13 as 64601; ipv4 { import filter from_peer; export filter to_peer; }; }\n\
             protocol bgp mate {",
        ),
    ];
    Case::of(MESH, &two).judge("local-elevated-wins", Error);
    // In BIRD 1 they are options of the protocol.
    for (option, expected) in [("", Error), ("add paths on;", Notice), ("secondary yes;", Notice)] {
        let text = format!("  export filter to_peer; {option}");
        let edits = [("  export filter to_peer;", &*text), WITHOUT_PREFERENCE];
        Case::of(METRIC, &edits).judge("local-elevated-wins", expected);
    }
}

#[test]
fn bird_1_drops_a_metric_of_the_kernel_that_a_filter_of_bgp_sets() {
    Case::of(METRIC, &[]).judge("kernel-metric", Error);
    Case::of(METRIC, &[]).judge("remote-elevated-wins", Ok);
    let in_place = (
        "if source = RTS_BGP then accept; reject;",
        "if source = RTS_BGP then { krt_metric = 2147483647 - bgp_local_pref; accept; } reject;",
    );
    Case::of(METRIC, &[in_place]).judge("kernel-metric", Ok);
    let only_if_missing = (
        "if source = RTS_BGP then accept; reject;",
        "if source = RTS_BGP then { if !defined(krt_metric) then krt_metric = 768; accept; } reject;",
    );
    Case::of(METRIC, &[only_if_missing]).judge("kernel-metric", Ok);
    Case::of(METRIC, &[("persist;", "persist; metric 768;")]).judge("kernel-metric", Ok);
    // BIRD 2 keeps it. A file does not say that it is not BIRD 3, so that the metrics of the host's own routes are wrong there.
    let one_more = ("krt_metric = 2147483647 - bgp_local_pref;", "krt_metric = 2147483648 - bgp_local_pref;");
    let bird_2 = [
        ("protocol direct { ", "protocol direct { ipv4; "),
        (
            "persist; import filter from_kernel; export filter to_kernel;",
            "persist; metric 0; ipv4 { import filter from_kernel; export filter to_kernel; };",
        ),
        ("  next hop self;\n", "  ipv4 { next hop self;\n"),
        ("  export filter to_peer;\n", "  export filter to_peer; };\n"),
    ];
    Case::of((File::Bird, METRIC.1), &bird_2).judge("kernel-metric", Error);
    let bird_2 = [&bird_2[..], &[one_more]].concat();
    Case::of((File::Bird, METRIC.1), &bird_2).judge("kernel-metric", Ok);
}

#[test]
fn communities_and_paths_that_are_not_there_are_empty() {
    for (condition, expected) in [
        ("bgp_community ~ [(64601, 99)]", Ok),
        ("bgp_community ~ [(64601, *)]", Ok),
        ("(64601, 99) ~ bgp_community", Ok),
        ("bgp_community.len > 0", Ok),
        ("defined(bgp_community)", Ok),
        ("bgp_ext_community ~ [(rt, 64601, 99)]", Ok),
        ("bgp_large_community ~ [(64601, 1, 99)]", Ok),
        ("(64601, 1, 99) ~ bgp_large_community", Ok),
        ("bgp_path.len > 0", Ok),
        ("bgp_path.first = 64601 || bgp_path.last = 64601", Ok),
        ("bgp_path ~ [= * 64601 * =]", Ok),
        ("bgp_path ~ [64601, 64602]", Ok),
        ("defined(bgp_next_hop) || defined(ospf_metric1)", Ok),
        ("bgp_origin = ORIGIN_IGP", Ok),
        ("bgp_med > 100", Ok),
        ("bgp_med = 100", Ok),
        ("bgp_community !~ [(64601, 1)]", Error),
        ("bgp_path.len = 0", Error),
        ("bgp_path ~ [= * =]", Error),
        ("!defined(bgp_path)", Error),
        // It is less than everything, and nothing can be added to it.
        ("bgp_med < 100", Error),
        ("bgp_med + 1 > 100", Error),
    ] {
        let text = format!("filter to_peer {{\n  if {condition} then reject;");
        Case::of(MESH, &[("filter to_peer {", &*text)]).judge("announces", expected);
    }
    let first = ("filter to_peer {", "filter to_peer {\n  if bgp_community ~ [(64601, 99)] then reject;");
    Case::of(MESH, &[first]).is_fine();
    Case::of(METRIC, &[first]).judge("announces", Ok);
}

const OSPF: &str = "protocol ospf v2 loopbacks { area 0 { interface \"lo\" { stub; }; interface \"uplink*\" { type ptp; }; }; }";

#[test]
fn next_hops_are_resolved_by_whatever_has_their_network() {
    for (instead, expected) in [
        (OSPF, Fine),
        (
            "protocol ospf v2 loopbacks { ipv4 { import all; export none; }; area 0 { interface \"lo\"; }; }",
            Fine,
        ),
        ("protocol babel { ipv4 { import all; export all; }; interface \"uplink*\"; }", Fine),
        ("protocol rip { ipv4 { import all; export all; }; interface \"uplink*\"; }", Fine),
        ("protocol direct { ipv4; }", Fine),
        ("protocol static { ipv4; route 198.51.100.12/32 via 192.0.2.12; }", Fine),
        ("protocol static { ipv4; route 0.0.0.0/0 via 192.0.2.1; }", Fine),
        ("", Warning),
        ("protocol static { ipv4; route 203.0.113.0/24 via 192.0.2.1; }", Warning),
        ("protocol ospf v2 loopbacks { disabled; area 0 { interface \"lo\"; }; }", Warning),
        (
            "protocol ospf v2 loopbacks { ipv4 { import none; export all; }; area 0 { interface \"lo\"; }; }",
            Warning,
        ),
    ] {
        Case::of(LOOPBACKS, &[(OSPF, instead)]).judge("next-hop", expected);
    }
    for (session, channel, expected) in [
        ("direct;", "next hop self;", Fine),
        ("direct;", "next hop self; gateway direct;", Fine),
        ("direct;", "next hop self; gateway recursive;", Warning),
        ("", "next hop self; igp table underlay;", Fine),
    ] {
        let neighbour = format!("neighbor 198.51.100.12 as 64601; {session}");
        let edits = [
            (OSPF, "ipv4 table underlay;"),
            ("neighbor 198.51.100.12 as 64601;", &*neighbour),
            (NEXT_HOP_SELF, channel),
        ];
        Case::of(LOOPBACKS, &edits).judge("next-hop", expected);
    }
    // A session with eBGP looks nothing up, unless it is said to, or goes over several hops.
    for (option, expected) in [("", Fine), ("multihop;", Warning), ("multihop 2;", Warning)] {
        let neighbour = format!("neighbor 198.51.100.12 as 64602; {option}");
        let edits = [(OSPF, ""), ("neighbor 198.51.100.12 as 64601;", &*neighbour)];
        Case::of(LOOPBACKS, &edits).judge("next-hop", expected);
    }
}

#[test]
fn a_kernel_protocol_that_writes_nothing_has_nothing_to_lose() {
    let import = "import where ifname ~ \"tap*\";";
    for (export, expected) in [
        ("", Fine),
        ("export none;", Fine),
        ("export where false;", Fine),
        ("export filter { reject; };", Fine),
        ("export all;", Warning),
        ("export where source = RTS_BGP;", Warning),
    ] {
        let text = format!("{import} {export}");
        let case = Case::of(TELLER, &[(import, &*text)]);
        case.judge("restart", expected);
        case.judge("next-hop", Fine);
        case.judge("into-kernel", Error);
    }
    Case::of(TELLER, &[("import none;", "import all;")]).judge("next-hop", Warning);
}

#[test]
fn a_vm_need_not_be_told_of_the_others() {
    for (session, expected) in [
        ("local fe80::11 as 64601; neighbor fe80::21%tap7c1f as 64699;", Ok),
        ("local fe80::11 as 64601; neighbor fe80::21 % 'tap7c1f' as 64699;", Ok),
        ("local fe80::11%tap7c1f as 64601; neighbor fe80::21 as 64699;", Ok),
        ("local as 64601; neighbor fe80::21 as 64699; interface \"tap7c1f\";", Ok),
        ("local as 64601; neighbor range fe80::/10 as 64699; interface \"tap*\";", Ok),
        ("local fe80::11 as 64601; neighbor fe80::21%uplink1 as 64699;", Error),
        ("local as 64601; neighbor 192.0.2.13 as 64699;", Error),
    ] {
        let guest = format!(
            "protocol bgp guest {{ {session} ipv4 {{ import none; export where net = 0.0.0.0/0; }}; }}\nprotocol bgp mate {{"
        );
        let case = Case::of(MESH, &[("protocol bgp mate {", &*guest)]);
        case.judge("announces", expected);
        if expected == Ok {
            case.is_fine();
        }
    }
    // If there is nobody else, other hosts are told nothing.
    Case::of(
        MESH,
        &[("neighbor 192.0.2.12 as 64601;", "interface \"tap7c1f\"; neighbor fe80::21 as 64699;")],
    )
    .judge("announces", Error);
}

#[test]
fn local_variables_before_a_brace_do_not_hide_a_function() {
    let function = "function inside()\nprefix set ours;\n{ ours = [ 10.65.0.0/16+ ]; if net ~ ours then reject; }\nfilter to_peer {";
    let call = ("= 2147483647 - krt_metric;", "= 2147483647 - krt_metric; inside();");
    for (function, expected) in [
        // It depends on addresses.
        (function, Notice),
        ("function inside()\nint n;\n{ n = 32; if net.len = n then reject; }\nfilter to_peer {", Error),
        (
            "function inside()\nint n; bool b;\n{ n = 31; b = (net.len = n); if b then reject; }\nfilter to_peer {",
            Ok,
        ),
        ("function inside() { int n; n = 32; if net.len = n then reject; }\nfilter to_peer {", Error),
        // What is not there, or is not understood, may do anything.
        ("filter to_peer {", Notice),
        ("function inside() { case net.len { 32: reject; } }\nfilter to_peer {", Notice),
        ("filter to_peer\nint n;\n{ n = 32; if net.len = n then reject;", Error),
    ] {
        Case::of(MESH, &[("filter to_peer {", function), call]).judge("announces", expected);
    }
    Case::of(MESH, &[("filter to_peer {", function)]).judge("announces", Ok);
    Case::of(METRIC, &[("filter to_peer {", function), call]).judge("announces", Notice);
    let inline =
        ("export filter to_peer;", "export filter int n; { n = 32; if net.len = n then reject; accept; };");
    Case::of(MESH, &[inline]).judge("announces", Error);
}
