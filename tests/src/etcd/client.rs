//! The client of the tests, in a thread of its own: one member at a time, the next one when it does not answer.

use super::{Certificates, Etcd};
use crate::wait;
use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use std::fs;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long members may take to elect one of them.
///
/// LIMIT: twenty times as long as on a machine that has nothing else to do.
pub(super) const START: Duration = Duration::from_secs(60);

/// How long one request may take before another member is asked.
const REQUEST: Duration = Duration::from_secs(2);

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + 'a>>;
pub(super) type Work = Box<dyn FnOnce(&mut Connection) + Send>;

impl Etcd {
    pub(super) fn follow(&self, requests: mpsc::Receiver<Work>) -> JoinHandle<()> {
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

    /// Repeats a request to one member after the other until one answers.
    #[track_caller]
    pub(super) fn ask<T: Send + 'static>(
        &self,
        request: impl for<'a> Fn(&'a mut Client) -> Answer<'a, T> + Send + 'static,
    ) -> T {
        self.with_connection(move |connection| connection.ask(&request))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn with_connection<T: Send + 'static>(
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

/// To one of the members.
pub(super) struct Connection {
    runtime: tokio::runtime::Runtime,
    endpoints: Vec<String>,
    certificates: Option<Certificates>,
    pub(super) user: Option<(String, String)>,
    pub(super) client: Option<Client>,
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
            if began_at.elapsed() > wait::patient(START) {
                return Err(format!("{endpoint}: {error}"));
            }
            self.next += 1;
            wait::holds_within(Duration::from_millis(50), || false);
        }
    }

    /// Whether this member answers with what a majority has agreed on.
    pub(super) fn answers(&self, number: usize) -> bool {
        let (endpoint, options) = (self.endpoints[number].clone(), self.options());
        let attempt = async { Client::connect([endpoint], Some(options)).await?.get("/", None).await };
        let result = self.runtime.block_on(async { tokio::time::timeout(REQUEST, attempt).await });
        matches!(result, Ok(Ok(_)))
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
