//! A real Prometheus on a host of the lab, and the tool that comes with it.

use crate::host::Host;
use crate::http;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::wait;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Where it listens, on its host.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9090);
/// LIMIT: for a busy machine; it takes half a second on an idle one.
const START: Duration = Duration::from_secs(60);

/// The running server. It goes with this value.
#[derive(Debug)]
pub struct Prometheus {
    namespace: Arc<Namespace>,
    child: Child,
    log: PathBuf,
}

impl Prometheus {
    /// One that scrapes these targets several times a second, as the job `cutover`, with these rules.
    ///
    /// # Panics
    /// When Debian's prometheus is not installed, or does not start.
    #[track_caller]
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, targets: &[String], rules: &Path) -> Self {
        let folder = lab.folder().join("prometheus");
        fs::create_dir(&folder).expect("space on the disk");
        let configuration = json!({
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": [rules],
            "scrape_configs": [{"job_name": "cutover", "static_configs": [{"targets": targets}]}],
        });
        // JSON is YAML.
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration.to_string()).expect("space on the disk");
        let log = folder.join("log");
        let mut command = host.namespace().command("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("a file"));
        let child = command.spawn().expect("prometheus is installed");
        let server = Self { namespace: host.namespace_shared(), child, log };
        let is_ready = || http::get(&server.namespace, ADDRESS, "/-/ready").is_some_and(|it| it.code == 200);
        assert!(wait::holds_within(START, is_ready), "Prometheus is not ready:\n{}", server.log());
        server
    }

    /// What it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `data` of an answer of its interface.
    ///
    /// # Panics
    /// When it refuses.
    #[track_caller]
    #[must_use]
    pub fn ask(&self, path: &str) -> Value {
        let answer = http::get_soon(&self.namespace, ADDRESS, path);
        let document: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        assert_eq!(document["status"], "success", "{path}: {answer:?}");
        document["data"].clone()
    }

    /// The result of an expression.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    #[must_use]
    pub fn query(&self, expression: &str) -> Value {
        self.ask(&format!("/api/v1/query?query={}", encoded(expression)))["result"].clone()
    }

    /// The only value of an expression; nothing if it has none or several.
    #[track_caller]
    #[must_use]
    pub fn value(&self, expression: &str) -> Option<f64> {
        match self.query(expression).as_array()?.as_slice() {
            [one] => one["value"][1].as_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Waits until an expression has this value.
    ///
    /// # Panics
    /// When it does not; the message has what it is.
    #[track_caller]
    pub fn wait_value(&self, expression: &str, expected: f64) {
        if !wait::holds_within(wait::SOON, || self.value(expression) == Some(expected)) {
            panic!("{expression} is {}, not {expected}", self.query(expression));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For the query of a URL.
fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Runs promtool in a folder, with this on its standard input.
///
/// # Panics
/// When Debian's prometheus, which has it, is not installed.
#[must_use]
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.current_dir(folder).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It does not read what it is not interested in.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("its output")
}
