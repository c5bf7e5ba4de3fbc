//! `cutover write-pages`, a hidden command for those who pack: man pages, and completions of shells.
//!
//! They are made from the description of the command line that parses it, so they say what the program of this version takes.

use super::{Arguments, Failure};
use clap::{Command, CommandFactory as _};
use clap_complete::aot::{Shell, generate_to};
use clap_mangen::Man;
use std::fs;
use std::path::Path;

/// Commands of administrators.
const SECTION: &str = "8";

/// Writes them all into a folder that is there: one page for the program and one for each command, `cutover-COMMAND.8`.
pub(super) fn write(folder: &Path) -> Result<(), Failure> {
    let cannot = |error| Failure::other(format!("{}: cannot write: {error}", folder.display()));
    let mut command = offered(&Arguments::command());
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "cutover", folder).map_err(cannot)?;
    }
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    write_manual(&command, folder).map_err(cannot)
}

/// The same without hidden commands, which completions offer otherwise.
fn offered(command: &Command) -> Command {
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("cutover").version(env!("CARGO_PKG_VERSION")).subcommands(commands)
}

fn write_manual(command: &Command, folder: &Path) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write_manual(command, folder)?;
    }
    let source = concat!("cutover ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).section(SECTION).manual("Cutover").source(source);
    let mut text = Vec::new();
    man.render(&mut text)?;
    fs::write(folder.join(man.get_filename()), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_offered_is_what_help_shows() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let command = Arguments::command();
        let (hidden, shown): (Vec<_>, Vec<_>) =
            command.get_subcommands().partition(|command| command.is_hide_set());
        assert!(!hidden.is_empty() && shown.len() > 5);
        // How each shell's file has a command, and not only its name in a sentence.
        for (shell, before, after) in
            [("_cutover", "\n'", ":"), ("cutover.bash", "cutover,", ")"), ("cutover.fish", "-a \"", "\"")]
        {
            let text = read(shell);
            let is_offered =
                |command: &&&Command| text.contains(&format!("{before}{}{after}", command.get_name()));
            let missing = shown.iter().find(|command| !is_offered(command));
            assert!(missing.is_none(), "{shell} lacks {:?}", missing.map(|command| command.get_name()));
            let offered = hidden.iter().find(is_offered);
            assert!(offered.is_none(), "{shell} offers {:?}", offered.map(|command| command.get_name()));
        }
        for command in shown {
            let text = read(&format!("cutover-{}.8", command.get_name()));
            assert!(text.contains(&format!(".TH cutover-{} 8", command.get_name())), "{text}");
        }
        let pages = fs::read_dir(folder.path()).unwrap().flatten();
        let pages: BTreeSet<String> = pages.map(|page| page.file_name().into_string().unwrap()).collect();
        assert!(hidden.iter().all(|command| !pages.contains(&format!("cutover-{}.8", command.get_name()))));
    }
}
