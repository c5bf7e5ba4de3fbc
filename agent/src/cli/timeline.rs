//! `cutover timeline`: finished and running migrations to this host, with the time of every phase.
//!
//! Finished ones come from the record in the run directory, running ones from the agent; without an agent the finished
//! ones are shown all the same. What is shown is in the files beside this one: a table, one migration in full, JSON,
//! a picture; the report of several hosts is the daemon's, as its page is. Nothing is changed anywhere.

mod detail;
mod json;
mod picture;
mod table;

use super::{ConfigFile, Failure, print, warn};
use cutover_daemon::browser::{self, Record};
use cutover_daemon::clock;
use cutover_daemon::control::{self, Status};
use cutover_daemon::migrations::{self, Finished, History};
use cutover_daemon::settings;
use cutover_daemon::timeline::{Departure, Migration};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Arguments of `cutover timeline`.
#[derive(Debug, clap::Args)]
pub struct TimelineArguments {
    /// Shows only the migration with this uid, or whose uid begins with this, and everything about it
    pub uid: Option<String>,
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How many migrations to show, the newest ones
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub last: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Draw them into this file instead of printing them
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub svg: Option<PathBuf>,
    /// Write them into this file, for a browser, with what the source of each has seen
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "svg"])]
    pub html: Option<PathBuf>,
    /// With --html: what `cutover timeline --json` has printed on other hosts
    #[arg(long, value_name = "FILE", requires = "html", num_args = 1..)]
    pub with: Vec<PathBuf>,
}

/// Shows what the run directory and the running agent know.
///
/// # Errors
/// The settings or the record cannot be read, there is no such migration, or the picture cannot be written.
pub fn run(arguments: &TimelineArguments) -> Result<(), Failure> {
    let settings = settings::load(&arguments.file.sources()?, &[]).settings;
    let run_dir = &settings.cutover_run_dir;
    // ORDER: the agent first. What ends after its answer is in the record then, and is found to be there twice.
    let status = ask(run_dir)?;
    let history = recorded(run_dir, migrations::read, control::history)?;
    let departures = departures(run_dir, status.as_ref())?;
    let agent_answered = status.is_some();
    let unreadable_lines = history.unreadable.iter().map(|unreadable| unreadable.lines).sum();
    let migrations = combine(history, status.as_ref());
    let host = settings.felix_hostname;
    let clock_error_ns = clock::wall_error_ns();
    let mut record = Record { host, clock_error_ns, migrations, departures, agent_answered };
    if let Some(path) = &arguments.html {
        return write_report(path, arguments, record);
    }
    if let Some(uid) = &arguments.uid {
        let begins = |it: &str| it.starts_with(uid.as_str());
        // What only leaves here is nothing that can be shown otherwise.
        let only_leaves = arguments.json
            && record.departures.iter().any(|it| begins(&it.uid))
            && !record.migrations.iter().any(|it| begins(&it.uid));
        if only_leaves {
            record.migrations.clear();
            record.departures.retain(|it| begins(&it.uid));
        } else {
            record.migrations = select(record.migrations, uid, run_dir)?;
            let is_selected = |it: &Departure| record.migrations.iter().any(|other| other.uid == it.uid);
            record.departures.retain(is_selected);
        }
    }
    keep_newest(&mut record, arguments.last);
    let migrations = &record.migrations;
    if let Some(path) = &arguments.svg {
        write(path, &picture::draw(migrations, &record.host))
    } else if arguments.json {
        print(&json::document(&record, unreadable_lines))
    } else if arguments.uid.is_some() {
        print(&detail::text(migrations))
    } else {
        print(&table::text(migrations))
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|error| Failure::other(format!("{}: cannot write: {error}", path.display())))
}

fn keep_newest(record: &mut Record, last: u32) {
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    record.migrations.drain(..record.migrations.len().saturating_sub(last));
    record.departures.drain(..record.departures.len().saturating_sub(last));
}

/// Writes what this host and others have recorded as one document.
fn write_report(path: &Path, arguments: &TimelineArguments, own: Record) -> Result<(), Failure> {
    let mut records = Vec::new();
    // Reports can be made where no agent runs and nothing was recorded.
    if own.agent_answered
        || !own.migrations.is_empty()
        || !own.departures.is_empty()
        || arguments.with.is_empty()
    {
        records.push(own);
    }
    for file in &arguments.with {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::other(format!(
                "{}: cannot read the timeline of a host: {error}; cutover timeline --json prints one",
                file.display()
            ))
        };
        let text = fs::read(file).map_err(|error| failed(&error))?;
        let mut record = json::read(&text).map_err(|error| failed(&error))?;
        if record.host.is_empty() {
            record.host = file.display().to_string();
        }
        records.push(record);
    }
    if let Some(uid) = &arguments.uid {
        only(&mut records, uid)?;
    }
    records.iter_mut().for_each(|record| keep_newest(record, arguments.last));
    write(path, &browser::report(&records))
}

/// Keeps what is about this uid, or about uids that begin like this.
fn only(records: &mut [Record], uid: &str) -> Result<(), Failure> {
    for record in &mut *records {
        record.migrations.retain(|it| it.uid.starts_with(uid));
        record.departures.retain(|it| it.uid.starts_with(uid));
    }
    if records.iter().all(|record| record.migrations.is_empty() && record.departures.is_empty()) {
        return Err(Failure::other(format!("no migration {uid} is in these records")));
    }
    Ok(())
}

/// Migrations away from this host: finished ones from the record, then running ones.
fn departures(run_dir: &Path, status: Option<&Status>) -> Result<Vec<Departure>, Failure> {
    let history = recorded(run_dir, migrations::read_departures, control::departures)?;
    let now = clock::now();
    let now = (now, clock::wall_unix_ns(now));
    let mut all: Vec<_> = history.finished.into_iter().map(Departure::finished).collect();
    let forwards = status.into_iter().flat_map(|status| &status.forwards);
    all.extend(forwards.map(|forward| Departure::running(forward, now)));
    Ok(all)
}

/// The agent's answer, if one answers.
fn ask(run_dir: &Path) -> Result<Option<Status>, Failure> {
    let socket = run_dir.join(control::SOCKET);
    match control::ask(run_dir) {
        Ok(status) => Ok(Some(status)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Failure::privilege(format!(
            "{}: only root may ask this of the agent; use sudo",
            socket.display()
        ))),
        Err(error) => {
            warn(format_args!(
                "{}: no agent answers: {error}; showing finished migrations only",
                socket.display()
            ));
            Ok(None)
        }
    }
}

/// What is in the files. Whoever may not read them may perhaps ask the agent (`CutoverStatusGroup`).
fn recorded<Line>(
    run_dir: &Path,
    from_files: fn(&Path) -> io::Result<History<Line>>,
    from_agent: fn(&Path) -> io::Result<History<Line>>,
) -> Result<History<Line>, Failure> {
    let history = match from_files(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            from_agent(run_dir).map_err(|_| error)
        }
        read => read,
    };
    let history = history.map_err(|error| {
        let text = format!("{}: cannot read the record of migrations: {error}", run_dir.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::privilege(format!("{text}; use sudo")),
            _ => Failure::other(text),
        }
    })?;
    for unreadable in &history.unreadable {
        warn(format_args!(
            "{}: lines that are no records of migrations are left out: {}, the first is line {}: {}",
            unreadable.path.display(),
            unreadable.lines,
            unreadable.first_line,
            unreadable.reason
        ));
    }
    Ok(history)
}

/// Finished migrations as they ended, then running ones as they began.
fn combine(history: History<Finished>, status: Option<&Status>) -> Vec<Migration> {
    let mut all: Vec<_> = history.finished.into_iter().map(Migration::finished).collect();
    let now = clock::now();
    let (wall_unix_ns, boot_id) = (clock::wall_unix_ns(now), clock::boot_id().ok());
    let mut running: Vec<_> = status
        .into_iter()
        .flat_map(|status| &status.endpoints)
        .filter_map(|endpoint| Migration::running(endpoint, now, wall_unix_ns, boot_id.clone()))
        .filter(|running| !all.iter().any(|finished| finished.is_the_same_as(running)))
        .collect();
    running.sort_by_key(Migration::began_at);
    all.extend(running);
    all
}

/// The migrations with this uid; with none, those of the only uid that begins like this.
fn select(mut migrations: Vec<Migration>, uid: &str, run_dir: &Path) -> Result<Vec<Migration>, Failure> {
    if !migrations.iter().any(|migration| migration.uid == uid) {
        let mut uids: Vec<_> =
            migrations.iter().map(|migration| &migration.uid).filter(|it| it.starts_with(uid)).collect();
        uids.sort_unstable();
        uids.dedup();
        match uids[..] {
            [only] => {
                let only = only.clone();
                migrations.retain(|migration| migration.uid == only);
                return Ok(migrations);
            }
            [] => {
                return Err(Failure::other(format!(
                    "{}: no migration {uid}; cutover timeline lists those of this host",
                    run_dir.display()
                )));
            }
            [first, second, ..] => {
                return Err(Failure::usage(format!(
                    "{uid} is the beginning of several uids, {first} and {second} among them; give more of it"
                )));
            }
        }
    }
    migrations.retain(|migration| migration.uid == uid);
    Ok(migrations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_daemon::timeline::samples::{migration, phases};

    fn uids(migrations: &[Migration]) -> Vec<&str> {
        migrations.iter().map(|migration| migration.uid.as_str()).collect()
    }

    #[test]
    fn a_uid_is_found_by_its_beginning_if_that_is_enough() {
        let all = || ["abc1", "abc2", "abc", "def", "def"].map(|uid| migration(uid, phases())).to_vec();
        let select = |uid| select(all(), uid, Path::new("/run/cutover"));
        assert_eq!(uids(&select("abc1").unwrap()), ["abc1"]);
        assert_eq!(uids(&select("abc").unwrap()), ["abc"], "the whole uid wins");
        assert_eq!(uids(&select("d").unwrap()), ["def", "def"], "every attempt");
        assert!(select("ab").unwrap_err().to_string().contains("abc and abc1"));
        assert!(select("x").unwrap_err().to_string().contains("no migration x"));
    }
}
