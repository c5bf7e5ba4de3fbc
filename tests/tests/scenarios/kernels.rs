//! What older kernels do not have, or have in another way: said at the start, and never a reason to fail without a word.
//! `cargo xtask test kernels` runs this on some of them.

use cutover_tests::scene::{Node, TARGET};
use cutover_tests::{Lab, Port, kernel, wait};

fn node(lab: &Lab) -> Node {
    Node::new(lab, TARGET, &lab.directory(), &Port::new(1))
}

#[test]
fn what_the_kernel_does_not_have_is_said_at_the_start() {
    let lab = Lab::new();
    let mut node = node(&lab);
    for attach in ["auto", "tc"] {
        let mark = node.agent.log().mark();
        node.agent.set("CutoverAttach", attach);
        node.agent.start();
        let way = if attach == "auto" && kernel::has(kernel::TCX) { "attach=tcx" } else { "attach=tc" };
        node.agent.log().wait_after(mark, wait::SOON, &["Kernel programs loaded", way]);
        let said = node.agent.log().since(mark);
        let is_said = said.iter().any(|line| line.text.contains("This kernel has no tcx"));
        assert_eq!(is_said, attach == "auto" && !kernel::has(kernel::TCX), "{attach}: {said:#?}");
        node.agent.kill();
    }
}

#[test]
fn tcx_is_refused_where_there_is_none() {
    let lab = Lab::new();
    let mut node = node(&lab);
    node.agent.set("CutoverAttach", "tcx");
    if kernel::has_tcx() {
        node.agent.start();
        return;
    }
    node.agent.spawn();
    assert_eq!(node.agent.wait_ended().code(), Some(78), "a wrong configuration");
    let said = node.agent.log_text();
    assert!(said.contains("CutoverAttach is tcx, which this kernel does not have"), "{said}");
}

/// Enough for a map of one page, and not for those of the agent.
const LITTLE: u64 = 64 * 1024;

/// As in a unit without `LimitMEMLOCK`. Run by hand as root, an agent raises the limit by itself.
#[test]
fn too_little_locked_memory_is_told_from_a_missing_privilege() {
    let lab = Lab::new();
    let mut node = node(&lab);
    node.agent.limit_locked_memory(LITTLE);
    if kernel::has(kernel::MAPS_COUNTED_BY_CGROUP) {
        node.agent.start();
        return;
    }
    node.agent.spawn();
    assert_eq!(node.agent.wait_ended().code(), Some(77), "a missing privilege");
    let said = node.agent.log_text();
    assert!(said.contains("the limit is 64 KiB; set LimitMEMLOCK=infinity"), "{said}");
}
