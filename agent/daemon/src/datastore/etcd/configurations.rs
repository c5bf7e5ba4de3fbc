//! One look at the FelixConfigurations, for commands that show or need the settings of a host without running on it.

use super::connection::{Cluster, RequestError};
use super::keys::{Key, Keys};
use super::view::interpret;
use crate::datastore::resource::Resource;
use crate::settings::FelixConfiguration;
use etcd_client::GetOptions;

/// Reads every FelixConfiguration from whichever member answers, with one line for each that cannot be used.
///
/// # Errors
/// When none answers.
pub async fn configurations(
    cluster: &Cluster,
    keys: &Keys,
) -> Result<(Vec<FelixConfiguration>, Vec<String>), RequestError> {
    let member = cluster.connect_any(0).await?;
    let mut kv = member.kv();
    let all = GetOptions::new().with_prefix();
    let answer = member.ask("read", kv.get(keys.configurations(), Some(all))).await?;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for kv in answer.kvs() {
        let text = String::from_utf8_lossy(kv.key());
        let Some(key @ Key::Configuration(_)) = keys.parse(&text) else { continue };
        match interpret(&key, kv.value()) {
            Ok((Resource::Configuration(configuration), notices)) => {
                found.push(configuration);
                problems.extend(notices.into_iter().map(|notice| format!("{text}: {notice}")));
            }
            Ok(_) => {}
            Err(refusal) => problems.push(format!("{text}: {refusal}")),
        }
    }
    Ok((found, problems))
}
