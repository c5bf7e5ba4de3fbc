//! Pages of `docs/` that are made from tables of the code.

use std::path::Path;

/// Checks that the committed page is what the table makes, or writes it, if CUTOVER_REGENERATE is set.
pub(crate) fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("CUTOVER_REGENERATE").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "run CUTOVER_REGENERATE=1 cargo test -p cutover-daemon the_committed_page");
}
