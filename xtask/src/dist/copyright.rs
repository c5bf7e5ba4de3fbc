//! The licences of what is linked into the program, with their texts: they ask to go along with it.

use super::sbom::Part;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

/// Beginnings of the names of files with a licence, or with what one asks to pass on, in lower case.
const NAMES: [&str; 5] = ["licen", "copying", "copyright", "notice", "unlicense"];

/// Each part with its licence, and then each text once, with those whose it is.
pub(super) fn text(parts: &[Part<'_>]) -> Result<Vec<u8>> {
    let mut list = String::from("The program cutover contains the following parts.\n\n");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in parts {
        let name = format!("{} {}", part.name, part.version);
        writeln!(list, "{name}: {}", part.licence)?;
        for entry in fs::read_dir(part.folder).with_context(|| part.folder.display().to_string())? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            if path.is_file() && NAMES.iter().any(|beginning| file.starts_with(beginning)) {
                let text = fs::read(&path).with_context(|| path.display().to_string())?;
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                texts.entry(text).or_default().push(name.clone());
            }
        }
    }
    for (text, names) in texts {
        write!(list, "\n{}\n{}:\n\n{text}\n", "=".repeat(79), names.join(", "))?;
    }
    Ok(list.into_bytes())
}
