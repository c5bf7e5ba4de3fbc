//! What users install, in `target/dist`: a Debian package and one with its debug symbols, a tarball of the same files, a list of what the
//! program is made of (SBOM), and checksums.
//!
//! Everything is made from what is committed and from the program itself: man pages and completions are what the program says of its own
//! command line. The same program makes the same bytes, whenever and wherever it is packed: times are that of the last commit.

mod archive;
mod copyright;
mod debian;
mod pages;
mod sbom;
mod stage;
mod symbols;

use crate::step::{Step, say};
use crate::{RunOptions, setup, workspace};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use sbom::Sbom;
use stage::Stage;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(crate) struct Options {
    /// Pack this program instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    #[command(flatten)]
    setup: RunOptions,
}

/// A version of the packages.
struct Version<'text> {
    /// What cargo calls it.
    upstream: &'text str,
    /// How often it was packed.
    revision: u32,
}

/// How much time goes into making a package small.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// For users.
    All,
    /// For a test that installs it once.
    Little,
}

/// Builds what users run, optimised, and packs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_packing(options.setup.consent())?;
    let program = match &options.program {
        Some(program) => std::path::absolute(program)?,
        None => build()?,
    };
    let folder = workspace::target().join("dist");
    let _ = fs::remove_dir_all(&folder);
    let staged = Staged::make(&program, &folder)?;
    for path in staged.pack()? {
        let length = fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        say(format_args!("{length:>10} bytes  {}", path.display()));
    }
    staged.remove()
}

fn build() -> Result<PathBuf> {
    Step::cargo()
        .args(["build", "--locked", "--release", "--package", "cutover-agent", "--bin", "cutover"])
        .run()?;
    Ok(workspace::target().join("release/cutover"))
}

/// Packs a program that tests have been built with, once for each revision, each in a folder of its own: `FOLDER/REVISION`.
pub(crate) fn pack_for_tests(program: &Path, revisions: &[u32], folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let staged = Staged::make(program, folder)?;
    for revision in revisions {
        let folder = folder.join(revision.to_string());
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        debian::package(&staged.files, &staged.version(*revision), &folder, staged.time, Effort::Little)?;
    }
    staged.remove()
}

/// Everything in its place, and nothing packed yet.
struct Staged {
    /// Where the packages go, with a folder for what is here.
    folder: PathBuf,
    files: Stage,
    symbols: Stage,
    build_id: String,
    upstream: String,
    /// What the program is made of.
    bill: Vec<u8>,
    /// When the last commit was made.
    time: u64,
}

impl Staged {
    fn make(program: &Path, folder: &Path) -> Result<Self> {
        let metadata = sbom::metadata()?;
        let (sbom, time) = (Sbom::of(&metadata)?, committed_at()?);
        let work = folder.join(WORK);
        let (files, symbols) = (Stage::create(&work.join("files"))?, Stage::create(&work.join("symbols"))?);
        let build_id = symbols::split(program, &files, &symbols)?;
        files.fill()?;
        pages::add(program, &files)?;
        let mut bill = serde_json::to_vec_pretty(&sbom.document(time)?)?;
        bill.push(b'\n');
        files.write("usr/share/doc/cutover/sbom.cdx.json", &bill)?;
        let licences = copyright::text(&sbom.parts()?)?;
        files.write_compressed("usr/share/doc/cutover/THIRD-PARTY-LICENCES.gz", &licences)?;
        let upstream = sbom.version()?.to_owned();
        Ok(Self { folder: folder.to_owned(), files, symbols, build_id, upstream, bill, time })
    }

    fn version(&self, revision: u32) -> Version<'_> {
        Version { upstream: &self.upstream, revision }
    }

    /// Returns what there is then.
    fn pack(&self) -> Result<Vec<PathBuf>> {
        let (folder, time, version) = (&self.folder, self.time, self.version(1));
        let name = format!("cutover-{}-{}-linux", self.upstream, std::env::consts::ARCH);
        let bill = folder.join(format!("cutover-{}.cdx.json", self.upstream));
        fs::write(&bill, &self.bill).with_context(|| bill.display().to_string())?;
        let mut packed = vec![
            bill,
            // ORDER: before there is anything of dpkg's among the files.
            archive::tar(&self.files, &name, folder, time)?,
            archive::tar(&self.symbols, &format!("{name}-debug"), folder, time)?,
            debian::package(&self.files, &version, folder, time, Effort::All)?,
            debian::package_of_symbols(&self.symbols, &self.build_id, &version, folder, time)?,
        ];
        packed.push(archive::checksums(&packed, folder)?);
        Ok(packed)
    }

    fn remove(self) -> Result<()> {
        let work = self.folder.join(WORK);
        fs::remove_dir_all(&work).with_context(|| work.display().to_string())
    }
}

/// Where the files are while they are packed.
const WORK: &str = "work";

/// When the last commit was made, in seconds since 1970; `SOURCE_DATE_EPOCH` where there is no git.
fn committed_at() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => match Step::new("git").args(["log", "-1", "--format=%ct"]).answer() {
            Some(text) => text,
            None => bail!("this is no git repository: set SOURCE_DATE_EPOCH to the time of the sources"),
        },
    };
    text.parse().with_context(|| format!("{text:?} is no number of seconds"))
}
