//! `state.json`: a memory that is understood is written and understood as the same.

use super::*;

/// One with several endpoints.
#[cfg(test)]
pub(crate) fn sample() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut file = StateFile::new(dir.path()).unwrap();
    file.boot_id = "5d1f3b0c-0000-4000-8000-000000000000".to_owned();
    file.save(tests::three()).unwrap();
    fs::read(&file.path).unwrap()
}

pub(crate) fn document(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Document>(bytes) else { return };
    let Document { boot_id, settings, mut memory, .. } = document;
    let mut file = StateFile {
        path: PathBuf::new(),
        boot_id: boot_id.clone(),
        entries: BTreeMap::new(),
        others: Memory::default(),
        settings: settings.clone(),
        settings_changed: false,
        is_written: false,
    };
    file.take(memory.clone()).expect("a memory has a text");
    let text = file.text().expect("as above");
    let again: Document = serde_json::from_str(&text).expect("it is one of ours");
    // The file has them in order, each once: the last one that is there.
    let endpoints: BTreeMap<_, _> =
        std::mem::take(&mut memory.endpoints).into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    memory.endpoints = endpoints.into_values().collect();
    assert_eq!((again.version, again.boot_id, again.settings), (VERSION, boot_id, settings));
    assert_eq!(again.memory, memory);
}
