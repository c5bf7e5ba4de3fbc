//! Files that are replaced as a whole: whoever reads one sees the old text or the new one, also if the daemon is killed while it writes. Nothing
//! is forced to the disk: what has to survive a crash of the host is not kept here.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Replaces `path`, or makes it, with this text and mode, by way of `beside` in the same folder.
pub(crate) fn replace(path: &Path, beside: &Path, mode: u32, text: &[u8]) -> io::Result<()> {
    // One that a crash left behind would keep its mode.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(beside)?;
    file.write_all(text)?;
    fs::rename(beside, path)
}

/// Replaces `NAME.json` by way of `NAME.json.new`, for root only.
pub(crate) fn replace_json(path: &Path, text: &[u8]) -> io::Result<()> {
    replace(path, &path.with_extension("json.new"), 0o600, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_a_crash_left_beside_it_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, beside) = (folder.path().join("a.json"), folder.path().join("a.json.new"));
        fs::write(&beside, "half").unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o666)).unwrap();
        replace_json(&path, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!beside.exists());
    }
}
