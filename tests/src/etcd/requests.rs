//! What is asked of a cluster: keys, their history, and who may use them.

use super::Etcd;
use etcd_client::{CompactionOptions, DeleteOptions, GetOptions, Permission, PermissionType, Txn, TxnOp};

/// etcd's own limit for the operations of one transaction.
const OPERATIONS_MAX: usize = 128;

impl Etcd {
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

    /// Forgets the history up to now.
    pub fn compact(&self) {
        self.ask(|client| {
            Box::pin(async move {
                let revision = client.get("/", None).await?.header().expect("a header").revision();
                client.compact(revision, Some(CompactionOptions::new().with_physical())).await.map(drop)
            })
        });
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
}
