//! Which endpoint plays which part, seen from outside: by the log lines that operators match, in several
//! orders of the same writes. The calculation itself has its own tests.

use cutover_tests::resources::migration;
use cutover_tests::scene::{NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Directory, Lab, Port, wait};
use serde_json::{Value, json};

struct Stage {
    node: Node,
    directory: Directory,
    port: Port,
    _lab: Lab,
}

impl Stage {
    /// An agent on the host that is called compute2.
    fn new() -> Self {
        Self::with_port(Port::new(1))
    }

    fn with_port(port: Port) -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let mut node = Node::new(&lab, TARGET, &directory, &port);
        node.agent.set("CutoverEndpointGrace", 1);
        node.agent.start();
        Self { node, directory, port, _lab: lab }
    }

    /// Does something and waits for the role that follows from it.
    #[track_caller]
    fn emits(&self, role: &str, uid: &str, action: impl FnOnce()) {
        let mark = self.node.agent.log().mark();
        action();
        let wep = format!("wep={}", self.port.name_on(TARGET));
        let (role, uid) = (format!("role={role}"), format!("uid={uid}"));
        let parts = ["LiveMigrationCalculator: emitting role for WEP", &wep, &role, &uid];
        self.node.agent.log().wait_after(mark, wait::SOON, &parts);
    }

    /// Does something and waits until the agent has read it, then says how many roles were emitted.
    #[track_caller]
    fn emitted_after(&self, line: &[&str], action: impl FnOnce()) -> usize {
        let before = self.emitted();
        let mark = self.node.agent.log().mark();
        action();
        self.node.agent.log().wait_after(mark, wait::SOON, line);
        self.emitted() - before
    }

    fn emitted(&self) -> usize {
        let wep = format!("wep={}", self.port.name_on(TARGET));
        self.node.agent.log().matching(&["emitting role for WEP", &wep]).len()
    }

    fn put_endpoint(&self) {
        self.directory.put(&self.port.endpoint_on(TARGET, "e"));
    }

    /// A LiveMigration named after its uid, so that several can exist.
    fn put(&self, uid: &str, spec: &Value) {
        self.directory.put(&migration(uid, uid, spec));
    }

    fn delete(&self, uid: &str) {
        self.directory.delete(&migration(uid, uid, &Value::Null));
    }

    fn leaving(&self) -> Value {
        json!({"source": self.port.reference_on(TARGET), "target": self.port.reference_on("compute9")})
    }

    fn arriving(&self) -> Value {
        json!({"source": self.port.reference_on(SOURCE), "target": self.port.reference_on(TARGET)})
    }
}

#[test]
fn migration_first_then_endpoint() {
    let stage = Stage::new();
    stage.emitted_after(&["LiveMigration created/updated", "uid=a1"], || stage.put("a1", &stage.leaving()));
    assert_eq!(stage.emitted(), 0, "no role without an endpoint");
    stage.emits("SOURCE", "a1", || stage.put_endpoint());
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
}

#[test]
fn endpoint_first_then_migration() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    stage.emits("SOURCE", "a1", || stage.put("a1", &stage.leaving()));
    stage.emits("NO_ROLE", "", || stage.delete("a1"));
    stage.emits("TARGET", "a2", || stage.put("a2", &stage.arriving()));
    stage.node.wait_metrics(&stage.port, &[]);
}

#[test]
fn target_wins_over_source() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    stage.emits("SOURCE", "a1", || stage.put("a1", &stage.leaving()));
    stage.emits("TARGET", "a2", || stage.put("a2", &stage.arriving()));
}

#[test]
fn an_edited_source_moves_the_role() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    stage.emits("SOURCE", "a1", || stage.put("a1", &stage.leaving()));
    let other = Port::new(9);
    stage.emits("NO_ROLE", "", || {
        stage.put(
            "a1",
            &json!({"source": other.reference_on(TARGET), "target": other.reference_on("compute9")}),
        );
    });
}

#[test]
fn a_selector_chooses_its_target() {
    let mut port = Port::new(1);
    port.labels = vec![("app".into(), "moving".into())];
    let stage = Stage::with_port(port);
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    let source = stage.port.reference_on(SOURCE);
    let spec = json!({"source": source, "target": {"selector": "app == 'moving'"}});
    stage.emits("TARGET", "a1", || stage.put("a1", &spec));
    // A second one with the same selector, which then goes: still the target.
    let line = ["LiveMigration created/updated", "uid=a0"];
    assert_eq!(stage.emitted_after(&line, || stage.put("a0", &spec)), 0);
    assert_eq!(stage.emitted_after(&["LiveMigration deleted", "uid=a0"], || stage.delete("a0")), 0);
    stage.emits("NO_ROLE", "", || stage.delete("a1"));
}

#[test]
fn a_whole_workload_can_be_the_source() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    let workload = format!("openstack/{}", stage.port.workload);
    let source = json!({"workload": {
        "hostname": TARGET, "orchestratorID": "openstack", "workloadID": workload,
    }});
    let target = stage.port.reference_on("compute9");
    stage.emits("SOURCE", "a1", || stage.put("a1", &json!({"source": source, "target": target})));
}

#[test]
fn migrations_that_say_nothing_give_no_role_and_do_no_harm() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_metrics(&stage.port, &[NORMAL]);
    for (uid, spec) in [("b1", json!({})), ("b2", json!({"source": {}, "target": {}})), ("b3", Value::Null)] {
        stage.put(uid, &spec);
    }
    // Whatever became of those, the next one is read and does what it says.
    stage.emits("TARGET", "b4", || stage.put("b4", &stage.arriving()));
}

/// A host that is asked to migrate a VM to itself goes on as if nobody had asked.
#[test]
fn a_migration_to_its_own_source_suppresses_nothing() {
    let stage = Stage::new();
    stage.put_endpoint();
    stage.node.wait_settled(&stage.port);
    let mark = stage.node.watch.mark();
    let here = stage.port.reference_on(TARGET);
    let spec = json!({"source": here, "target": here});
    stage.emitted_after(&["LiveMigration created/updated", "uid=a1"], || stage.put("a1", &spec));
    stage.emitted_after(&["LiveMigration deleted", "uid=a1"], || stage.delete("a1"));
    assert_eq!(stage.node.watch.since(mark).writes_to(stage.node.tap().ifindex()), Vec::<&_>::new());
    assert!(stage.node.agent.log().matching(&["role=TARGET"]).is_empty());
}

/// The lines that operators and their tools match, whole.
#[test]
fn log_lines_are_exactly_those_of_the_contract() {
    let stage = Stage::new();
    let name = stage.port.name_on(TARGET);
    let document = stage.port.migration(SOURCE, TARGET, "u1");
    stage.directory.put(&document);
    stage.emits("TARGET", "u1", || stage.put_endpoint());
    let log = stage.node.agent.log();
    log.wait(wait::SOON, &["to=Target"]);
    stage.directory.delete(&document);
    log.wait(wait::SOON, &["LiveMigration deleted"]);
    let source = stage.port.name_on(SOURCE);
    for line in [
        format!(
            "LiveMigrationCalculator: LiveMigration created/updated lm={name} uid=u1 source={source} target={name}"
        ),
        format!("LiveMigrationCalculator: emitting role for WEP wep={name} role=TARGET uid=u1"),
        format!("Live migration state transition from=Base id={name} input=Target migrationUid=u1 to=Target"),
        format!("LiveMigrationCalculator: LiveMigration deleted lm={name} uid=u1"),
    ] {
        let found = log
            .lines()
            .iter()
            .any(|entry| entry.text.contains("INFO") && entry.text.trim_end().ends_with(&line));
        assert!(found, "no line ends with\n{line}\nin\n{}", stage.node.agent.log_text());
    }
}
