//! The ready command: what it is asked, and what waits for its answer.

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;
use crate::model::{Endpoint, Policy};
use crate::wanted::Status::{AsReported, Down, Up};
use crate::wanted::{Question, WantedCheck};
use std::path::Path;
use std::sync::Arc;

/// Tells a host that there is such a command.
fn command(host: &mut Host, path: &str) {
    let policy = Policy { ready_command: Some(Arc::from(Path::new(path))), ..host.engine.policy.clone() };
    host.tell(Fact::PolicyChanged(Box::new(policy)));
}

fn check(host: &Host) -> Option<&WantedCheck> {
    host.wanted().checks.get(&host.key())
}

fn question(host: &Host) -> Arc<Question> {
    Arc::clone(&check(host).expect("a question").question)
}

fn say_yes(host: &mut Host, question: Arc<Question>) {
    let endpoint = host.key();
    host.tell(Fact::EndpointReady { endpoint, question });
}

/// A running endpoint on a host with a command that has not answered.
fn asked() -> Host {
    let mut host = Host::quiet("b");
    command(&mut host, "/check");
    host.tell(written("b"));
    host
}

/// The same with the answer yes.
fn ready() -> Host {
    let mut host = asked();
    let question = question(&host);
    say_yes(&mut host, question);
    assert_eq!((host.status(), check(&host)), (Some(Up), None));
    host
}

fn with_another_prefix() -> Endpoint {
    let mut other = endpoint();
    other.prefixes.insert("172.16.0.9/32".parse().unwrap());
    other
}

#[test]
fn nobody_is_asked_without_a_command() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!((host.status(), check(&host)), (Some(Up), None));
}

#[test]
fn up_waits_for_the_answer_and_routes_do_not() {
    let mut host = asked();
    assert_eq!((host.status(), host.metric()), (Some(AsReported), Some(NORMAL)));
    let asked = question(&host);
    assert_eq!((asked.interface.as_str(), asked.ifindex, asked.mac), ("tap1", 5, Some(MAC)));
    assert_eq!(asked.prefixes, endpoint().prefixes);
    say_yes(&mut host, asked);
    assert_eq!((host.status(), check(&host)), (Some(Up), None));
}

#[test]
fn nobody_is_asked_before_the_interface_is_set_up() {
    let mut host = Host::quiet("b");
    host.appliers = false;
    command(&mut host, "/check");
    host.tell(written("b"));
    assert_eq!(check(&host), None);
    host.tell(Fact::InterfaceConfigured { ifindex: 5, ready: true });
    assert!(check(&host).is_some());
}

#[test]
fn an_answer_about_what_was_before_is_none() {
    let mut host = asked();
    let early = question(&host);
    host.tell(Fact::EndpointWritten(host.key(), with_another_prefix()));
    assert_ne!(question(&host), early);
    say_yes(&mut host, early);
    assert_eq!(host.status(), Some(AsReported));
    let now = question(&host);
    say_yes(&mut host, now);
    assert_eq!(host.status(), Some(Up));
}

/// A port in service is not taken out of it because a policy engine is slow: nothing is written.
#[test]
fn a_change_of_a_live_endpoint_asks_again_and_takes_nothing_back() {
    let mut host = ready();
    host.tell(Fact::EndpointWritten(host.key(), with_another_prefix()));
    assert_eq!((host.status(), host.wanted().routes.len()), (Some(AsReported), 3));
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.status(), Some(Down), "without a carrier it is down, whoever says what");
    host.tell(Fact::LinkSeen(link(5, true)));
    let now = question(&host);
    say_yes(&mut host, now);
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn rewrites_carrier_and_gaps_ask_nothing_again() {
    let mut host = ready();
    host.tell(written("b"));
    host.tell(Fact::LinkSeen(link(5, false)));
    host.tell(Fact::LinkSeen(link(5, true)));
    host.tell(removed("b"));
    host.pass(ms(500));
    host.tell(written("b"));
    assert_eq!((host.status(), check(&host)), (Some(Up), None));
}

/// Whoever was asked about something else meanwhile may have forgotten.
#[test]
fn an_old_answer_does_not_come_back_with_what_it_was_about() {
    let mut host = ready();
    host.tell(Fact::EndpointWritten(host.key(), with_another_prefix()));
    host.tell(written("b"));
    assert_eq!(question(&host).prefixes, endpoint().prefixes);

    let mut host = ready();
    command(&mut host, "/other");
    command(&mut host, "/check");
    assert_eq!(&*question(&host).command, Path::new("/check"));
}

#[test]
fn another_tap_another_command_and_another_endpoint_ask_again() {
    let mut host = ready();
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(check(&host), None);
    host.tell(Fact::LinkSeen(link(6, true)));
    assert_eq!(question(&host).ifindex, 6);

    let mut host = ready();
    command(&mut host, "/other");
    assert_eq!((&*question(&host).command, host.status()), (Path::new("/other"), Some(AsReported)));
    host.tell(Fact::PolicyChanged(Box::new(Policy { hostname: "b".into(), ..Policy::default() })));
    assert_eq!((host.status(), check(&host)), (Some(Up), None));

    let mut host = ready();
    host.tell(removed("b"));
    host.pass(ms(5_000));
    host.tell(written("b"));
    assert!(check(&host).is_some(), "what was gone for good is another one");
}

#[test]
fn a_target_is_asked_about_first_and_up_only_then() {
    let mut host = Host::quiet("b");
    command(&mut host, "/check");
    host.tell(written("a"));
    host.tell(migration_written("u1", "a", "b"));
    host.tell(written("b"));
    let wanted = check(&host).expect("a question").clone();
    assert!(wanted.is_awaited);
    assert_eq!((wanted.role.to_string().as_str(), wanted.migration_uid.as_str()), ("TARGET", "u1"));
    assert!(host.watch().is_some(), "the watch waits for nobody");
    assert_eq!((host.status(), host.due()), (Some(AsReported), None));
    say_yes(&mut host, wanted.question);
    assert_eq!(host.status(), Some(Up));
    assert!(host.due().is_some(), "Nova waits for it");
}

/// The machine does not wait for anybody, and what is due is written when the answer is there.
#[test]
fn an_announcement_takes_effect_while_the_answer_is_awaited() {
    let mut host = Host::quiet("b");
    command(&mut host, "/check");
    host.tell(written("a"));
    host.tell(migration_written("u1", "a", "b"));
    host.tell(written("b"));
    host.announce();
    assert_eq!((host.state(), host.metric(), host.status()), (State::Live, Some(ELEVATED), Some(AsReported)));
    host.tell(migration_removed("b"));
    assert_eq!((host.state(), host.status()), (State::TimeWait, Some(AsReported)));
    let asked = question(&host);
    say_yes(&mut host, asked);
    assert_eq!(host.status(), Some(Up));
    assert!(host.due().is_some());
}

#[test]
fn a_machine_that_is_not_here_is_not_asked_about() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b"));
    host.tell(written("a"));
    assert!(host.not_here());
    command(&mut host, "/check");
    assert_eq!((host.status(), check(&host)), (Some(AsReported), None));
}
