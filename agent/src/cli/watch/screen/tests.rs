//! Screens of several sizes, drawn into memory.

use super::*;
use crate::example;
use cutover_engine::EndpointKey;
use cutover_engine::machine::Phases;
use cutover_engine::view::{MigrationView, RouteView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::time::Duration;

fn endpoint(number: usize) -> EndpointView {
    let key = EndpointKey {
        host: "b".into(),
        orchestrator: "openstack".into(),
        workload: format!("openstack/vm{number:05}"),
        endpoint: "port1".into(),
    };
    EndpointView {
        name: key.to_string(),
        key,
        interface: format!("tap{number}"),
        ifindex: Some(7),
        bridge: None,
        routes: vec![RouteView { destination: "10.0.0.1/32".into(), metric: 1024 }],
        ..example::endpoint()
    }
}

fn status(endpoints: Vec<EndpointView>) -> Status {
    Status { route_writes: 2, ..example::status(endpoints) }
}

fn draw(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let cells = terminal.backend().buffer().content();
    cells.chunks(usize::from(width)).map(|line| line.iter().map(|cell| cell.symbol()).collect()).collect()
}

#[test]
fn what_moves_is_on_top_and_says_what_it_waits_for() {
    let mut endpoints: Vec<_> = (0..5).map(endpoint).collect();
    endpoints[1].held = true;
    endpoints[3].role = "SOURCE".into();
    let target = &mut endpoints[4];
    (target.role, target.state, target.watch) = ("TARGET".into(), State::Target, Some(1));
    target.routes.clear();
    let mut screen = Screen::new(status(endpoints));
    screen.asked_at = BootTime(10_000_000_000);
    let phases = Phases { armed_at: Some(BootTime(6_000_000_000)), ..Phases::default() };
    let migration = MigrationView { uid: "u".into(), source: None, phases };
    screen.status.endpoints[1].migration = Some(migration);
    let lines = draw(&mut screen, 160, 20);
    assert!(lines[0].starts_with("host b   agent 0.1.0 (pid 1)   attach tcx   datastore in sync"));
    assert!(lines[1].starts_with("5 endpoints   Target 1   Live 0   TimeWait 0"), "{}", lines[1]);
    let parts = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(parts(2), "STATE ROLE STATUS INTERFACE METRIC PROGRESS ENDPOINT");
    assert_eq!(parts(3), "Base SOURCE up tap3 1024 leaving b-openstack-vm00003-port1");
    assert_eq!(parts(4), "Target TARGET up tap4 - armed for 4.00 s b-openstack-vm00004-port1");
    assert_eq!(parts(5), "Base - up tap1 1024 held b-openstack-vm00001-port1");
    assert_eq!(parts(6), "Base - up tap0 1024 - b-openstack-vm00000-port1");
    assert_eq!(parts(19), "1-5 of 5 q quit arrows, Page Up and Down, Home, End scroll");
}

#[test]
fn a_machine_that_arrived_shows_how_fast_and_for_how_long() {
    let mut arrived = endpoint(0);
    (arrived.role, arrived.state) = ("TARGET".into(), State::TimeWait);
    arrived.announcement = Some("RARP".into());
    (arrived.announced_to_routed_ns, arrived.elevated_for_seconds) = (Some(66_900), Some(20.04));
    let text = progress::text(&arrived, BootTime::default());
    assert_eq!(text, "RARP, routed in 66.9 µs, elevated for 20.0 s");
    let lines = draw(&mut Screen::new(status(vec![arrived])), 160, 6);
    assert!(lines[3].contains(&text), "{}", lines[3]);
}

#[test]
fn ten_thousand_endpoints_are_scrolled_through() {
    let mut endpoints: Vec<_> = (0..10_000).map(endpoint).collect();
    endpoints[9_000].state = State::Live;
    let mut screen = Screen::new(status(endpoints));
    let begin = clock::now();
    let first =
        |screen: &mut Screen| draw(screen, 160, 24)[3].trim_end().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(first(&mut screen), "b-openstack-vm09000-port1");
    for (scroll, expected) in [
        (Scroll::LineUp, "b-openstack-vm09000-port1"),
        (Scroll::LineDown, "b-openstack-vm00000-port1"),
        (Scroll::PageDown, "b-openstack-vm00020-port1"),
        (Scroll::PageUp, "b-openstack-vm00000-port1"),
        (Scroll::Bottom, "b-openstack-vm09980-port1"),
        (Scroll::PageDown, "b-openstack-vm09980-port1"),
        (Scroll::Top, "b-openstack-vm09000-port1"),
    ] {
        screen.scroll(scroll);
        assert_eq!(first(&mut screen), expected, "{scroll:?}");
    }
    // Two orders of magnitude more than it takes; drawing all rows would be far beyond it.
    assert!(clock::now().since(begin) < Duration::from_secs(2));
    screen.scroll(Scroll::Bottom);
    screen.take(status((0..3).map(endpoint).collect()));
    assert_eq!(first(&mut screen), "b-openstack-vm00000-port1", "what is gone leaves no hole");
}

#[test]
fn trouble_is_shown_above_what_was_last_known() {
    let mut screen = Screen::new(status(vec![endpoint(0)]));
    screen.trouble = Some("no agent answers".into());
    let lines = draw(&mut screen, 160, 6);
    assert!(lines[1].starts_with("no agent answers") && lines[3].contains("vm00000"), "{lines:?}");
    screen.take(status(Vec::new()));
    let lines = draw(&mut screen, 160, 6);
    assert!(lines[1].starts_with("0 endpoints") && lines[5].starts_with("none "), "{lines:?}");
}

#[test]
fn any_size_can_be_drawn() {
    let mut screen = Screen::new(status((0..50).map(endpoint).collect()));
    for (width, height) in [(1, 1), (2, 3), (20, 4), (80, 24), (400, 100)] {
        assert_eq!(draw(&mut screen, width, height).len(), usize::from(height));
        screen.scroll(Scroll::PageDown);
    }
}
