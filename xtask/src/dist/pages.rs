//! Man pages and completions of shells: what the program writes of its own command line.

use super::stage::Stage;
use crate::step::Step;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// Where each shell looks for completions, and how it wants them to be called.
const COMPLETIONS: [(&str, &str); 3] = [
    ("cutover.bash", "usr/share/bash-completion/completions/cutover"),
    ("_cutover", "usr/share/zsh/vendor-completions/_cutover"),
    ("cutover.fish", "usr/share/fish/vendor_completions.d/cutover.fish"),
];

/// Has the program write them, and puts them where they are looked for.
pub(super) fn add(program: &Path, stage: &Stage) -> Result<()> {
    let folder = stage.root().with_extension("pages");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Step::new(program).args(["write-pages"]).args([&folder]).run()?;
    for (name, place) in COMPLETIONS {
        let path = folder.join(name);
        stage.write(place, &fs::read(&path).with_context(|| path.display().to_string())?)?;
    }
    let mut pages = 0;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|section| section == "8") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            stage.write_compressed(&format!("usr/share/man/man8/{name}.gz"), &fs::read(&path)?)?;
            pages += 1;
        }
    }
    if pages == 0 {
        bail!("{} has written no man page", program.display());
    }
    Ok(())
}
