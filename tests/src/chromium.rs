//! A headless Chromium on a host of the lab, driven over the DevTools protocol: how a page looks, and what of it somebody hears who cannot see.

use crate::host::Host;
use crate::lab::Lab;
use crate::wait;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

const PROGRAM: &str = "chromium-headless-shell";
/// How many were started: each has a folder of its own.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// LIMIT: for a busy machine; it takes a second on an idle one.
const START: Duration = Duration::from_secs(120);
/// LIMIT: of one answer.
const ANSWER: Duration = Duration::from_secs(60);

/// What the window is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The person prefers light on dark.
    pub is_dark: bool,
}

/// A node of the accessibility tree: what a screen reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Such as `heading` or `columnheader`.
    pub role: String,
    /// What is read.
    pub name: String,
}

/// The running browser with one page. It goes with this value.
#[derive(Debug)]
pub struct Chromium {
    child: Child,
    log: PathBuf,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// What came while something else was waited for.
    events: VecDeque<Value>,
}

impl Chromium {
    /// Starts it in the network namespace of a host.
    ///
    /// # Panics
    /// When Debian's chromium-headless-shell is not installed, or does not start.
    #[track_caller]
    #[must_use]
    pub fn start(lab: &Lab, host: &Host) -> Self {
        let folder = lab.folder().join(format!("chromium-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&folder).expect("space on the disk");
        let mut shell = host.namespace().command("sh");
        // It reads commands from descriptor 3, and writes messages to descriptor 4. As root it has no sandbox.
        let exec = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null";
        shell.args(["-c", exec, PROGRAM, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        shell.arg("--remote-debugging-pipe");
        shell
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .env("HOME", &folder)
            .env("TMPDIR", &folder);
        let log = folder.join("log");
        shell.stderr(File::create(&log).expect("a file"));
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let commands = child.stdin.take().expect("a pipe");
        let messages = read(child.stdout.take().expect("a pipe"));
        let mut browser =
            Self { child, log, commands, messages, session: None, calls: 0, events: VecDeque::new() };
        let target = browser.call_within(START, "Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = Some(session["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Log", "Runtime", "Accessibility", "DOM"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Shows a page in such a window. What the browser complains of (a violated policy, something that cannot be loaded) is returned.
    ///
    /// # Panics
    /// When the page is not there.
    #[track_caller]
    pub fn show(&mut self, url: &str, window: Window) -> Vec<String> {
        let scheme = if window.is_dark { "dark" } else { "light" };
        let (width, height) = (window.width, window.height);
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
        self.events.clear();
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(answer["errorText"], Value::Null, "{url}");
        let is_there = format!("location.href === {} && document.readyState === 'complete'", json!(url));
        let is_shown = || self.try_value(&is_there) == Some(Value::Bool(true));
        assert!(wait::holds_within(ANSWER, is_shown), "{url} is not shown");
        let complaints = self.events.drain(..).filter(|event| event["method"] == "Log.entryAdded");
        complaints.map(|event| event["params"]["entry"]["text"].to_string()).collect()
    }

    /// The value of an expression of JavaScript, which the tests may run whatever the page may not.
    ///
    /// # Panics
    /// When it has none.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        self.try_value(expression).unwrap_or_else(|| panic!("{expression} has no value"))
    }

    /// As [`Self::value`]; nothing also while the page is being replaced.
    #[track_caller]
    pub fn try_value(&mut self, expression: &str) -> Option<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true});
        let answer = self.try_call(ANSWER, "Runtime.evaluate", parameters).ok()?;
        answer["exceptionDetails"].is_null().then(|| answer["result"]["value"].clone())
    }

    /// Everything that a screen reader gets, in the order of the page.
    ///
    /// # Panics
    /// When the browser does not tell.
    #[track_caller]
    #[must_use]
    pub fn heard(&mut self) -> Vec<Heard> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().expect("a tree");
        let text = |node: &Value, what: &str| node[what]["value"].as_str().unwrap_or_default().to_owned();
        let is_heard = |node: &&Value| node["ignored"] != true;
        let heard = |node: &Value| Heard { role: text(node, "role"), name: text(node, "name") };
        nodes.iter().filter(is_heard).map(heard).collect()
    }

    /// Presses the Tab key, and says what has the focus then: its role and the text in it.
    ///
    /// # Panics
    /// When the browser does not tell.
    #[track_caller]
    pub fn tab(&mut self) -> String {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            self.call("Input.dispatchKeyEvent", key);
        }
        let focus = "document.activeElement.tagName + ' ' + document.activeElement.textContent.slice(0, 60)";
        self.value(focus).as_str().unwrap_or_default().to_owned()
    }

    /// Takes a picture of the page, at most so high, as base64 of PNG.
    ///
    /// # Panics
    /// When the browser does not.
    #[track_caller]
    #[must_use]
    pub fn picture(&mut self, height_max: u64) -> String {
        let size = "({width: innerWidth, height: document.documentElement.scrollHeight})";
        let size = self.value(size);
        let height = size["height"].as_u64().unwrap_or(0).min(height_max);
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1});
        let how = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        self.call("Page.captureScreenshot", how)["data"].as_str().expect("a picture").to_owned()
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.call_within(ANSWER, method, parameters)
    }

    #[track_caller]
    fn call_within(&mut self, limit: Duration, method: &str, parameters: Value) -> Value {
        self.try_call(limit, method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// What the browser answers, or what it has against it.
    #[track_caller]
    fn try_call(&mut self, limit: Duration, method: &str, parameters: Value) -> Result<Value, Value> {
        self.calls += 1;
        let mut command = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).expect("the browser reads");
        loop {
            let message = self.next(limit, method);
            if message["id"] != self.calls {
                self.events.push_back(message);
                continue;
            }
            return match &message["error"] {
                Value::Null => Ok(message["result"].clone()),
                error => Err(error.clone()),
            };
        }
    }

    #[track_caller]
    fn next(&mut self, limit: Duration, what: &str) -> Value {
        match self.messages.recv_timeout(wait::patient(limit)) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer: {what}"),
            Err(RecvTimeoutError::Disconnected) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                panic!("{what}: the browser is gone (is {PROGRAM} installed?):\n{log}")
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // It takes the processes that it has started with it, and may have ended by itself.
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        if !wait::holds_within(wait::SOON, || !matches!(self.child.try_wait(), Ok(None))) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The messages, from a thread that waits for them.
fn read(pipe: ChildStdout) -> Receiver<Value> {
    let (sender, messages) = channel();
    thread::spawn(move || {
        for message in BufReader::new(pipe).split(0) {
            let Ok(message) = message else { return };
            let Ok(message) = serde_json::from_slice(&message) else { return };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}
