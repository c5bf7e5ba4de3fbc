//! Ten thousand endpoints at once, beside BIRD with the receive buffer that it has.

use cutover_tests::full_host::FullHost;
use cutover_tests::{Bird, Release};

#[test]
fn bird_hears_of_every_route_of_a_full_host() {
    let _turn = super::turn();
    let mut full = FullHost::new(|_| {});
    let configuration =
        full.agent.run_ok(&["bgp", "bird", "--router-id", "192.0.2.1", "--peer", "192.168.77.99"]);
    // What is not heard of would be seen by a scan.
    let configuration = configuration.replace("scan time 10;", "scan time 3600;");
    let bird = Bird::start(&full.lab, &full.host, &configuration, Release::Bird2);
    bird.wait_established(0);
    full.fill_restart_and_empty(bird.pid(), || {
        let answer = bird.ask(&["show", "route", "where", "source = RTS_INHERIT", "count"]);
        answer.lines().filter_map(|line| line.split(' ').next()?.parse::<usize>().ok()).sum()
    });
}
