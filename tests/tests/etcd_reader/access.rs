//! Who may read: TLS with client certificates, user and password, and what an agent says when it may not.

use crate::site::{RECOVERY, Site};
use cutover_tests::etcd::Security;
use cutover_tests::scene::NORMAL;
use std::fs;
use std::net::Ipv4Addr;

#[test]
fn tls_with_a_client_certificate() {
    let mut site = Site::with(1, Security::Tls);
    let files = site.etcd.certificates().clone();
    site.node.agent.set("EtcdCaFile", files.ca.display());
    site.node.agent.set("EtcdCertFile", files.certificate.display());
    site.node.agent.set("EtcdKeyFile", files.key.display());
    site.node.agent.start();
    site.node.wait_metrics(&site.port, &[NORMAL]);
    site.node.agent.terminate();

    // Without the certificate etcd refuses, which is said; the routes stay.
    let settings = fs::read_to_string(site.node.agent.configuration()).expect("the settings");
    let without =
        settings.lines().filter(|line| !line.starts_with("EtcdCert") && !line.starts_with("EtcdKey"));
    let without: String = without.map(|line| format!("{line}\n")).collect();
    fs::write(site.node.agent.configuration(), without).expect("space");
    let log = site.node.agent.log().mark();
    site.node.agent.start();
    site.node.agent.log().wait_after(log, RECOVERY, &["Datastore lost", &site.etcd.endpoint()]);
    assert!(site.node.has_metrics(&site.port, &[NORMAL]));
}

#[test]
fn an_unknown_authority_is_refused() {
    let mut site = Site::with(1, Security::Tls);
    let folder = site.lab.folder().join("other");
    fs::create_dir(&folder).expect("a folder");
    let other = cutover_tests::etcd::Certificates::create(&folder, &[Ipv4Addr::LOCALHOST.into()]);
    let files = site.etcd.certificates().clone();
    site.node.agent.set("EtcdCaFile", other.ca.display());
    site.node.agent.set("EtcdCertFile", files.certificate.display());
    site.node.agent.set("EtcdKeyFile", files.key.display());
    site.node.agent.start();
    site.node.agent.log().wait(RECOVERY, &["Datastore lost", "certificate"]);
    assert!(site.node.has_metrics(&site.port, &[]));
}

/// Nothing is tried without the certificate that the operator asked for (W26). One that is missing may come; a wrong one does not mend
/// itself.
#[test]
fn a_missing_or_wrong_file_stops_the_start() {
    let mut site = Site::with(1, Security::Tls);
    let files = site.etcd.certificates().clone();
    site.node.agent.set("EtcdCaFile", files.ca.display());
    site.node.agent.set("EtcdCertFile", files.certificate.display());
    site.node.agent.set("EtcdKeyFile", "/nowhere/client.key");
    for command in ["agent", "check-config"] {
        let output = site.node.agent.run(&[command]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{text}");
        assert!(text.contains("EtcdKeyFile /nowhere/client.key: cannot read the file"), "{text}");
    }
    site.node.agent.set("EtcdKeyFile", files.certificate.display());
    let output = site.node.agent.run(&["agent"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no private key"), "{output:?}");
}

#[test]
fn user_and_password() {
    let mut site = Site::new();
    site.etcd.require_password("felix", "right");
    site.node.agent.set("EtcdUsername", "felix");
    site.node.agent.set("EtcdPassword", "wrong");
    site.node.agent.start();
    let line = site.node.agent.log().wait(RECOVERY, &["Datastore lost", "log in", "authentication failed"]);
    assert!(!line.text.contains("wrong"), "{line:?}");
    site.node.agent.terminate();
    site.node.agent.set("EtcdPassword", "right");
    site.node.agent.start();
    site.node.wait_metrics_within(RECOVERY, &site.port, &[NORMAL]);
}
