//! The server with real connections.

use super::super::{Limits, Source};
use super::*;
use crate::control::Request;
use crate::observe::ClientAuth;
use crate::observe::metrics::tests::observed;
use crate::progress::Progress;
use crate::settings::PageAccess;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// A loop that answers, and the way to it.
fn source(answers: bool) -> Source {
    with_page(answers, None)
}

/// The same, with a page for these.
fn with_page(answers: bool, page: Option<PageAccess>) -> Source {
    let (requests, mut asked) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(request) = asked.recv().await {
            match request {
                Request::Observe(reply) if answers => drop(reply.send(Box::new(observed()))),
                // Kept, as a loop that does not come back keeps it.
                other => kept.push(other),
            }
        }
    });
    let limits = Limits {
        silence: Duration::from_secs(90),
        overrides: BTreeMap::new(),
        page,
        run_dir: "/nowhere".into(),
    };
    Source {
        requests,
        progress: Progress::default(),
        limits: watch::Sender::new(limits).subscribe(),
        last: Arc::default(),
    }
}

async fn started(pages: Pages, tls: Option<Tls>) -> (SocketAddr, watch::Sender<Option<Listening>>) {
    let address = nobodys_address();
    let wanted = watch::Sender::new(Some(listening(address, tls)));
    tokio::spawn(run("a test", wanted.subscribe(), pages));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (address, wanted)
}

fn listening(address: SocketAddr, tls: Option<Tls>) -> Listening {
    Listening { host: address.ip().to_string(), port: address.port(), tls }
}

/// A loopback address of this process's, with a number for each call: tests run at the same time.
fn nobodys_address() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high, low, CALLS.fetch_add(1, Ordering::Relaxed)], 9091))
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A server that refuses may reset the connection.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

#[tokio::test]
async fn metrics_are_served_in_the_format_that_is_asked_for() {
    let (address, _wanted) = started(Pages::Metrics(source(true)), None).await;
    let answer = ask(address, &get("/metrics")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.contains("\ncutover_loop_answers 1"), "{answer}");
    let header = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1\r\n\r\n";
    let answer = ask(address, &get("/metrics").replace("\r\n\r\n", &format!("\r\n{header}"))).await;
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404 "));
    let post = get("/metrics").replace("GET", "POST");
    assert!(ask(address, &post).await.starts_with("HTTP/1.1 405 "));
}

#[tokio::test]
async fn the_page_is_served_with_what_a_browser_has_to_know() {
    let (address, _wanted) = started(Pages::Metrics(with_page(true, Some(PageAccess::Loopback))), None).await;
    let answer = ask(address, &get("/?every=2").replace("test", "localhost:8080")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for header in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        &format!("content-security-policy: {}", crate::browser::POLICY),
    ] {
        assert!(answer.contains(&format!("\r\n{header}\r\n")), "{header} is not in\n{answer}");
    }
    assert!(answer.contains("<h1>Cutover on host</h1>"), "{answer}");
    assert!(answer.contains("<meta http-equiv=\"refresh\" content=\"2\">"), "{answer}");
    assert!(ask(address, &get("/metrics")).await.starts_with("HTTP/1.1 200 "));
    let (address, _wanted) = started(Pages::Page(with_page(true, Some(PageAccess::Loopback))), None).await;
    assert!(ask(address, &get("/metrics")).await.starts_with("HTTP/1.1 404 "), "they were not asked for");
    let (address, _wanted) = started(Pages::Metrics(source(true)), None).await;
    assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404 "), "the page was not");
}

/// The second is a name of somebody's who makes a browser on this host ask this agent.
#[tokio::test]
async fn the_page_is_for_who_is_here_unless_it_is_for_everybody() {
    let code = async |access, host: &str, is_local| {
        let request = hyper::Request::get("/").header("Host", host).body(()).unwrap();
        Pages::Metrics(with_page(true, Some(access))).answer(request, is_local).await.unwrap().status()
    };
    use PageAccess::{Loopback, Metrics};
    for (access, host, is_local, expected) in [
        (Loopback, "localhost", true, 200),
        (Loopback, "LocalHost:9091", true, 200),
        (Loopback, "127.0.0.1:8080", true, 200),
        (Loopback, "[::1]:9091", true, 200),
        (Loopback, "[::1]", true, 200),
        (Loopback, "evil.example", true, 403),
        (Loopback, "evil.example:9091", true, 403),
        (Loopback, "localhost.evil.example", true, 403),
        (Loopback, "10.0.0.1", true, 403),
        (Loopback, "localhost", false, 403),
        (Metrics, "compute1.example:9091", false, 200),
        (Metrics, "10.0.0.1", true, 200),
    ] {
        assert_eq!(code(access, host, is_local).await, expected, "{access:?} {host} {is_local}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_answer_is_a_page_of_its_own() {
    let request = hyper::Request::get("/").body(()).unwrap();
    let pages = Pages::Page(with_page(false, Some(PageAccess::Metrics)));
    let answer = pages.answer(request, false).await.unwrap();
    assert_eq!(answer.status(), 503);
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8(body.to_vec()).unwrap().contains("does not say how things stand"));
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_answer_leaves_what_is_known_without_it() {
    let pages = Pages::Metrics(source(false));
    let request = hyper::Request::get("/metrics").body(()).unwrap();
    let answer = pages.answer(request, true).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert!(page.contains("\ncutover_loop_answers 0"), "{page}");
    assert!(!page.contains("cutover_endpoints"), "{page}");
    let pages = Pages::Health(source(false));
    let ready = hyper::Request::get("/readiness").body(()).unwrap();
    assert_eq!(pages.clone().answer(ready, true).await.unwrap().status(), 503);
    let live = hyper::Request::get("/liveness").body(()).unwrap();
    assert_eq!(pages.answer(live, true).await.unwrap().status(), 200, "nothing is stuck yet");
}

#[tokio::test]
async fn who_sends_too_much_or_nothing_does_not_keep_others_from_being_served() {
    let (address, _wanted) = started(Pages::Health(source(true)), None).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX - 1 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(ask(address, &get("/liveness")).await.starts_with("HTTP/1.1 200 "));
    let long = format!("GET /liveness HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEADER_BYTES));
    let answer = ask(address, &long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET /liveness HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS + 1));
    let answer = ask(address, &many).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // With one more, everybody waits until those who are silent are turned away.
    silent.push(TcpStream::connect(address).await.unwrap());
    let begun = std::time::Instant::now();
    assert!(ask(address, &get("/liveness")).await.starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() < 2 * CONNECTION, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn it_follows_its_settings_and_waits_for_an_address_that_is_taken() {
    let (address, wanted) = started(Pages::Health(source(true)), None).await;
    wanted.send_replace(None);
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let there = nobodys_address();
    let taken = TcpListener::bind(there).await.unwrap();
    wanted.send_replace(Some(listening(there, None)));
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(taken);
    while !ask_if_there(there).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask_if_there(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    stream.write_all(get("/liveness").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer.starts_with("HTTP/1.1 200 ")
}

/// Certificates for a server and a client, of one authority, and a stranger's.
fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=lab"));
    openssl(&format!("req -x509 {new} -keyout stranger.key -out stranger.pem -days 2 -subj /CN=stranger"));
    std::fs::write(folder.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    std::fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req {new} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
        ));
    }
}

/// Whether a client with this certificate, if with one, gets an answer. openssl plays it.
async fn is_served(folder: &Path, address: SocketAddr, client: Option<&str>) -> bool {
    let mut command = tokio::process::Command::new("openssl");
    command.current_dir(folder).args(["s_client", "-quiet", "-verify_return_error", "-CAfile", "ca.pem"]);
    command.args(["-connect", &address.to_string()]);
    if let Some(client) = client {
        command.args(["-cert", &format!("{client}.pem"), "-key", &format!("{client}.key")]);
    }
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("openssl is installed");
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(get("/metrics").as_bytes()).await;
    let output = child.wait_with_output().await.unwrap();
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn clients_over_tls_have_to_show_what_the_settings_ask_for() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    certificates(folder);
    for (client_auth, nobody, client, stranger) in [
        (ClientAuth::None, true, true, true),
        (ClientAuth::RequireAny, false, true, true),
        (ClientAuth::VerifyIfGiven, true, true, false),
        (ClientAuth::RequireAndVerify, false, true, false),
    ] {
        let tls = Tls {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            authorities: Some(folder.join("ca.pem")),
            client_auth,
        };
        let (address, _wanted) = started(Pages::Metrics(source(true)), Some(tls)).await;
        assert!(!ask(address, &get("/metrics")).await.contains("200 OK"), "not without TLS");
        for (who, is_welcome) in [(None, nobody), (Some("client"), client), (Some("stranger"), stranger)] {
            assert_eq!(is_served(folder, address, who).await, is_welcome, "{client_auth:?} {who:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_is_read_anew_and_a_missing_one_closes_the_door() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path();
    certificates(folder);
    let tls = Tls {
        certificate: folder.join("now.pem"),
        key: folder.join("server.key"),
        authorities: None,
        client_auth: ClientAuth::None,
    };
    let (address, _wanted) = started(Pages::Metrics(source(true)), Some(tls)).await;
    assert!(!is_served(folder, address, None).await);
    std::fs::copy(folder.join("server.pem"), folder.join("now.pem")).unwrap();
    assert!(is_served(folder, address, None).await);
}

#[tokio::test]
async fn a_name_is_listened_on_with_its_ipv4_address_and_nothing_means_everywhere() {
    let by_name = bind("localhost", 0).await.unwrap();
    assert_eq!(by_name.local_addr().unwrap().ip(), std::net::Ipv4Addr::LOCALHOST);
    let everywhere = bind("", 0).await.unwrap();
    assert!(everywhere.local_addr().unwrap().ip().is_unspecified());
    assert!(bind("[127.0.0.1]", 0).await.is_ok());
}
