//! What systemd is told, with a socket in its place.

use cutover_tests::{Agent, Lab, wait};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// Of `WatchdogSec`.
const WATCHDOG: Duration = Duration::from_millis(400);

/// The words of a datagram.
fn hear(socket: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn systemd_hears_that_the_agent_is_ready_how_it_stands_that_it_lives_and_that_it_stops() {
    let lab = Lab::new();
    let host = lab.host("compute1");
    let mut agent = Agent::new(&lab, &host, &lab.directory());
    let path = lab.folder().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
    agent.set_environment("NOTIFY_SOCKET", path.display());
    agent.set_environment("WATCHDOG_USEC", WATCHDOG.as_micros());
    agent.start();
    let heard = wait::for_some(wait::SOON, "the agent is ready", || {
        hear(&socket).filter(|it| it.contains("READY=1"))
    });
    assert!(heard.contains("STATUS="), "{heard}");
    let in_sync = "STATUS=datastore in sync; 0 endpoints, 0 migrating";
    if !heard.contains(in_sync) {
        let said = |it: &String| it.contains(in_sync);
        wait::for_some(Duration::from_secs(20), "the line says so", || hear(&socket).filter(said));
    }
    // systemd restarts an agent that lets one pass by.
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    for _ in 0..10 {
        wait::for_some(wait::SOON, "a sign of life", || hear(&socket).filter(|it| it.contains("WATCHDOG=1")));
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    assert!(longest < wait::patient(WATCHDOG), "{longest:?} without a sign of life");
    agent.terminate();
    let mut rest = std::iter::from_fn(|| hear(&socket));
    assert!(rest.any(|it| it.contains("STOPPING=1")), "it did not say that it stops");
}
