//! The lab's etcd: real members, each on a host of its own on the lab's bridge, and a client that writes to them one key at a
//! time, as the driver does. Starts, stops, freezes and cuts off members; knows no keys.
//!
//! Data is in memory: there is nothing to keep, and a busy disk would make every write slow. A member that was stopped
//! finds its data again.

mod history;

pub use history::{Write, Written};

use crate::host::Host;
use crate::lab::Lab;
use crate::wait;
use etcd_client::{
    Certificate, Client, CompactionOptions, ConnectOptions, DeleteOptions, Error, GetOptions, Identity,
    Permission, PermissionType, TlsOptions, Txn, TxnOp,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// etcd's own limit for the operations of one transaction.
const OPERATIONS_MAX: usize = 128;

/// How long members may take to elect one of them.
const START: Duration = Duration::from_secs(20);

/// How long one request may take before another member is asked.
const REQUEST: Duration = Duration::from_secs(2);

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + 'a>>;
type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// How clients have to introduce themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Security {
    /// Not at all.
    #[default]
    None,
    /// Over TLS with a client certificate.
    Tls,
}

/// A cluster.
#[derive(Debug)]
pub struct Etcd {
    work: Option<mpsc::Sender<Work>>,
    client: Option<JoinHandle<()>>,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    name: String,
    host: Host,
    arguments: Vec<String>,
    data: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Files for TLS, in PEM form.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// A client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
}

impl Etcd {
    /// A new, empty cluster of one.
    ///
    /// # Panics
    /// When Debian's etcd-server is not installed, or does not start.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, 1, Security::None)
    }

    /// A new, empty cluster of several members.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_with(lab: &Lab, members: usize, security: Security) -> Self {
        let folder = tempfile::Builder::new().prefix(lab.prefix()).tempdir_in("/dev/shm").expect("a folder");
        let hosts: Vec<Host> = (0..members).map(|number| lab.host(&format!("etcd{number}"))).collect();
        let addresses: Vec<IpAddr> = hosts.iter().map(|host| host.ipv4().into()).collect();
        let certificates =
            (security == Security::Tls).then(|| Certificates::create(folder.path(), &addresses));
        let cluster: Vec<String> =
            hosts.iter().map(|host| format!("{}=http://{}:2380", host.name(), host.ipv4())).collect();
        let members = hosts.into_iter().map(|host| {
            let data = folder.path().join(host.name());
            let arguments = arguments(&host, &cluster.join(","), certificates.as_ref());
            Member { name: host.name().to_owned(), host, arguments, data, child: Mutex::new(None) }
        });
        let mut etcd = Self { work: None, client: None, members: members.collect(), certificates, folder };
        for member in &etcd.members {
            member.start();
        }
        let (work, requests) = mpsc::channel();
        etcd.client = Some(etcd.follow(requests));
        etcd.work = Some(work);
        etcd.wait_answering();
        etcd
    }

    fn follow(&self, requests: mpsc::Receiver<Work>) -> JoinHandle<()> {
        // The client has a thread of its own, because sockets belong to the namespace of the thread that makes them.
        let namespace = self.members[0].host.namespace_shared();
        let mut connection = Connection {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
            endpoints: self.members.iter().map(|member| member.endpoint(self.scheme())).collect(),
            certificates: self.certificates.clone(),
            user: None,
            client: None,
            next: 0,
        };
        std::thread::spawn(move || {
            namespace.run(move || requests.into_iter().for_each(|work| work(&mut connection)));
        })
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// What to give to `EtcdEndpoints`.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> =
            self.members.iter().map(|member| member.endpoint(self.scheme())).collect();
        endpoints.join(",")
    }

    /// The same of a cluster of one.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoints()
    }

    /// With TLS: the files.
    ///
    /// # Panics
    /// Without TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("it was started with TLS")
    }

    /// From now on only `root` with this password may do anything, and `user` with the same may read and write.
    pub fn require_password(&self, user: &str, password: &str) {
        self.require(user, password, PermissionType::Readwrite);
    }

    /// The same, but `user` may only read.
    pub fn require_password_to_read(&self, user: &str, password: &str) {
        self.require(user, password, PermissionType::Read);
    }

    fn require(&self, user: &str, password: &str, may: PermissionType) {
        let (user, password) = (user.to_owned(), password.to_owned());
        let as_root = ("root".to_owned(), password.clone());
        self.ask(move |client| {
            let (user, password) = (user.clone(), password.clone());
            Box::pin(async move {
                client.user_add("root", password.clone(), None).await?;
                client.user_grant_role("root", "root").await?;
                client.role_add("all").await?;
                let everything = Permission::new(may, "").with_all_keys();
                client.role_grant_permission("all", everything).await?;
                client.user_add(user.clone(), password, None).await?;
                client.user_grant_role(user, "all").await?;
                client.auth_enable().await.map(drop)
            })
        });
        self.with_connection(move |connection| {
            connection.user = Some(as_root);
            connection.client = None;
        });
    }

    /// Waits until a majority answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_answering(&self) {
        drop(self.value("/"));
    }

    /// SIGKILL to a member.
    pub fn kill(&self, number: usize) {
        self.members[number].kill();
    }

    /// Starts a member that was killed, with the data that it had.
    pub fn restart(&self, number: usize) {
        self.members[number].start();
    }

    /// SIGSTOP: the member goes on to exist, but does nothing.
    pub fn freeze(&self, number: usize) {
        self.members[number].signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self, number: usize) {
        self.members[number].signal(Signal::SIGCONT);
    }

    /// Cuts a member off from the other members, but not from its clients.
    pub fn cut_off(&self, number: usize) {
        self.between(number, "add");
    }

    /// Undoes [`Self::cut_off`].
    pub fn rejoin(&self, number: usize) {
        self.between(number, "del");
    }

    fn between(&self, number: usize, verb: &str) {
        let own = &self.members[number].host;
        for (_, other) in self.members.iter().enumerate().filter(|(other, _)| *other != number) {
            let (here, there) = (own.ipv4(), other.host.ipv4());
            own.namespace().ip(&format!("route {verb} blackhole {there}/32"));
            other.host.namespace().ip(&format!("route {verb} blackhole {here}/32"));
        }
    }

    /// Which member an agent is connected to, by the other end of its connections.
    #[must_use]
    pub fn member_of(&self, host: &Host) -> Option<usize> {
        let output = host.namespace().command("ss").args(["-Htn", "state", "established"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.members.iter().position(|member| text.contains(&format!("{}:2379", member.host.ipv4())))
    }

    /// Keeps what there is, to come back to it.
    ///
    /// # Panics
    /// When etcdctl is not installed.
    pub fn save(&self, name: &str) {
        let path = self.folder.path().join(name);
        self.etcdctl(&["snapshot", "save", path.to_str().expect("a plain path")], true);
    }

    /// What an operator does after a disaster, to a cluster of one: the data of [`Self::save`] in a new data folder.
    ///
    /// # Panics
    /// When etcdctl is not installed.
    pub fn restore(&self, name: &str) {
        self.members[0].kill();
        fs::remove_dir_all(&self.members[0].data).expect("it had data");
        let (snapshot, data) = (self.folder.path().join(name), self.members[0].data.clone());
        let (name, peer) = (self.members[0].name.clone(), self.members[0].peer());
        let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
        self.etcdctl(
            &[
                "snapshot",
                "restore",
                &path(&snapshot),
                "--data-dir",
                &path(&data),
                "--name",
                &name,
                "--initial-cluster",
                &format!("{name}={peer}"),
                "--initial-advertise-peer-urls",
                &peer,
            ],
            false,
        );
        self.members[0].start();
        self.wait_answering();
    }

    fn etcdctl(&self, arguments: &[&str], online: bool) {
        let member = &self.members[0];
        let mut command = member.host.namespace().command("etcdctl");
        command.env("ETCDCTL_API", "3").args(arguments);
        if online {
            command.args(["--endpoints", &member.endpoint(self.scheme())]);
        }
        let output = command.output().expect("etcdctl is installed");
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Forgets the history up to now.
    pub fn compact(&self) {
        self.ask(|client| {
            Box::pin(async move {
                let revision = client.get("/", None).await?.header().expect("a header").revision();
                client.compact(revision, Some(CompactionOptions::new().with_physical())).await.map(drop)
            })
        });
    }

    /// Writes one key.
    pub fn put(&self, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.ask(move |client| {
            let (key, value) = (key.clone(), value.clone());
            Box::pin(async move { client.put(key, value, None).await.map(drop) })
        });
    }

    /// Writes many keys in as few revisions as etcd allows.
    pub fn put_many(&self, pairs: Vec<(String, String)>) {
        for chunk in pairs.chunks(OPERATIONS_MAX) {
            let puts: Vec<TxnOp> =
                chunk.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
            self.ask(move |client| {
                let transaction = Txn::new().and_then(puts.clone());
                Box::pin(async move { client.txn(transaction).await.map(drop) })
            });
        }
    }

    /// Deletes one key. It may be gone already.
    pub fn delete(&self, key: &str) {
        self.remove(key, None);
    }

    /// Deletes every key that begins with `prefix`.
    pub fn delete_all(&self, prefix: &str) {
        self.remove(prefix, Some(DeleteOptions::new().with_prefix()));
    }

    fn remove(&self, key: &str, options: Option<DeleteOptions>) {
        let key = key.to_owned();
        self.ask(move |client| {
            let (key, options) = (key.clone(), options.clone());
            Box::pin(async move { client.delete(key, options).await.map(drop) })
        });
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        self.values(key, None).pop().map(|(_, value)| value)
    }

    /// Every key that begins with `prefix`, with its value.
    #[must_use]
    pub fn all(&self, prefix: &str) -> Vec<(String, String)> {
        self.values(prefix, Some(GetOptions::new().with_prefix()))
    }

    fn values(&self, key: &str, options: Option<GetOptions>) -> Vec<(String, String)> {
        let key = key.to_owned();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.ask(move |client| {
            let (key, options) = (key.clone(), options.clone());
            Box::pin(async move {
                let found = client.get(key, options).await?;
                Ok(found.kvs().iter().map(|pair| (text(pair.key()), text(pair.value()))).collect())
            })
        })
    }

    /// Repeats a request to one member after the other until one answers.
    #[track_caller]
    fn ask<T: Send + 'static>(
        &self,
        request: impl for<'a> Fn(&'a mut Client) -> Answer<'a, T> + Send + 'static,
    ) -> T {
        self.with_connection(move |connection| connection.ask(&request))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn with_connection<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let request: Work = Box::new(move |connection| {
            // Whoever asked is waiting, unless his test has failed.
            let _ = answer.send(work(connection));
        });
        let sender = self.work.as_ref().expect("only dropping takes it");
        sender.send(request).expect("the client is there");
        answered.recv().expect("the client has not panicked")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(client) = self.client.take() {
            // Its panic has been noticed by whoever asked.
            let _ = client.join();
        }
        for member in &self.members {
            member.kill();
        }
    }
}

impl Member {
    fn endpoint(&self, scheme: &str) -> String {
        format!("{scheme}://{}:2379", self.host.ipv4())
    }

    fn peer(&self) -> String {
        format!("http://{}:2380", self.host.ipv4())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("nobody panics with the lock")
    }

    fn start(&self) {
        assert!(self.child().is_none(), "{} is running", self.name);
        let mut command = self.host.namespace().command("etcd");
        command.arg("--data-dir").arg(&self.data).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("etcd is installed");
        *self.child() = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child().as_ref().map(Child::id).expect("the member is running");
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is ours");
    }

    fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn arguments(host: &Host, cluster: &str, certificates: Option<&Certificates>) -> Vec<String> {
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://{}:2379", host.ipv4()), format!("http://{}:2380", host.ipv4()));
    let mut arguments = vec!["--name", host.name(), "--logger", "zap", "--log-level", "error"];
    arguments.extend(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    arguments.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    arguments.extend(["--initial-cluster", cluster, "--unsafe-no-fsync"]);
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let files =
        certificates.map(|files| [&files.server, &files.server_key, &files.ca].map(|file| path(file)));
    if let Some([certificate, key, ca]) = &files {
        arguments.extend(["--client-cert-auth", "--cert-file", certificate, "--key-file", key]);
        arguments.extend(["--trusted-ca-file", ca]);
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// The client of the tests: one member at a time, the next one when it does not answer.
struct Connection {
    runtime: tokio::runtime::Runtime,
    endpoints: Vec<String>,
    certificates: Option<Certificates>,
    user: Option<(String, String)>,
    client: Option<Client>,
    next: usize,
}

impl Connection {
    fn ask<T>(&mut self, request: &impl for<'a> Fn(&'a mut Client) -> Answer<'a, T>) -> Result<T, String> {
        let began_at = Instant::now();
        loop {
            let endpoint = self.endpoints[self.next % self.endpoints.len()].clone();
            let mut client = self.client.take();
            let options = self.options();
            let attempt = async {
                if client.is_none() {
                    client = Some(Client::connect([&endpoint], Some(options)).await?);
                }
                request(client.as_mut().expect("it was just made")).await
            };
            let result = self.runtime.block_on(async { tokio::time::timeout(REQUEST, attempt).await });
            let error = match result {
                Ok(Ok(answer)) => {
                    self.client = client;
                    return Ok(answer);
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if began_at.elapsed() > START {
                return Err(format!("{endpoint}: {error}"));
            }
            self.next += 1;
            wait::holds_within(Duration::from_millis(50), || false);
        }
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some(files) = &self.certificates {
            let read = |path: &Path| fs::read(path).expect("a file of ours");
            let identity = Identity::from_pem(read(&files.certificate), read(&files.key));
            let ca = Certificate::from_pem(read(&files.ca));
            options = options.with_tls(TlsOptions::new().ca_certificate(ca).identity(identity));
        }
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        options
    }
}

impl Certificates {
    /// An authority, a certificate for servers with these addresses, and one for a client.
    ///
    /// # Panics
    /// When openssl is not installed.
    #[must_use]
    pub fn create(folder: &Path, addresses: &[IpAddr]) -> Self {
        let path = |name: &str| folder.join(name);
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder).args(arguments.split(' ')).stdin(Stdio::null());
            let output = command.output().expect("openssl is installed");
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {new_key} -keyout ca.key -out ca.pem -days 2 -subj /CN=lab"));
        let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        fs::write(path("server.ext"), format!("subjectAltName={}\n", names.join(","))).expect("space");
        fs::write(path("client.ext"), "extendedKeyUsage=clientAuth\n").expect("space");
        for name in ["server", "client"] {
            openssl(&format!("req {new_key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ));
        }
        Self {
            ca: path("ca.pem"),
            certificate: path("client.pem"),
            key: path("client.key"),
            server: path("server.pem"),
            server_key: path("server.key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_and_go() {
        let lab = Lab::new();
        let etcd = Etcd::start(&lab);
        etcd.put("/a/1", "one");
        let many = (0..300).map(|number| (format!("/b/{number}"), number.to_string()));
        etcd.put_many(many.collect());
        assert_eq!(etcd.value("/a/1").as_deref(), Some("one"));
        assert_eq!(etcd.all("/b/").len(), 300);
        etcd.delete("/a/1");
        etcd.delete_all("/b/1");
        assert_eq!(etcd.value("/a/1"), None);
        assert_eq!(etcd.all("/b/").len(), 300 - 111);
    }
}
