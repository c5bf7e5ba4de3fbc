//! `docs/unsafe.md`: where Cutover does what the compiler cannot check, and why each of these places is right.
//!
//! The lint `unsafe_code` is denied; a file that needs it says what for. Clippy asks for a proof before each block. The page is made of both, so
//! that a reviewer finds them in one place. Tests and benchmarks are not in it.

use crate::workspace;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What runs on a host, on either side of the system call.
const FOLDERS: [&str; 3] = ["agent", "common", "ebpf"];

const PAGE: &str = "docs/unsafe.md";

const INTRODUCTION: &str = "\
# Unsafe code

The compiler refuses `unsafe` in every crate (`unsafe_code = \"deny\"`), except in the files below, each of which says what it does with it. Clippy refuses a block without a proof, and one with two unsafe operations
(`undocumented_unsafe_blocks`, `multiple_unsafe_ops_per_block`). These are the proofs, in the order of the code. The page is made of the sources
(`CUTOVER_REGENERATE=1 cargo test -p xtask the_committed_page`) and compared with them by a test. Tests and benchmarks are not in it.
";

/// A file with unsafe code.
#[derive(PartialEq, Eq, Debug)]
struct File {
    /// From the root of the workspace.
    path: PathBuf,
    purpose: String,
    proofs: Vec<String>,
}

/// Those below a folder, in order.
fn files(folder: &Path) -> Result<Vec<File>> {
    let mut paths = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let name = path.strip_prefix(workspace::root()).unwrap_or(&path).to_owned();
            files.extend(purpose(&text).map(|purpose| File { path: name, purpose, proofs: proofs(&text) }));
        }
    }
    Ok(files)
}

/// What a file says that it needs unsafe code for, if it has any.
fn purpose(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("expect(unsafe_code").or_else(|| text.split_once("unsafe_code,"))?;
    let (_, rest) = rest.split_once("reason = \"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// The comments that begin with SAFETY, each in one line.
fn proofs(text: &str) -> Vec<String> {
    let mut proofs = Vec::new();
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("// SAFETY: ") else { continue };
        let mut proof = first.to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with("// ")) {
            proof.push(' ');
            proof.push_str(more.trim_start_matches("// "));
        }
        proofs.push(proof);
    }
    proofs
}

fn page(files: &[File]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for File { path, purpose, proofs } in files {
        write!(page, "\n## {}\n\nWhat it does: {purpose}.\n\n", path.display()).expect("memory");
        for proof in proofs {
            writeln!(page, "* {proof}").expect("memory");
        }
    }
    page
}

#[test]
fn the_committed_page_of_unsafe_code() {
    let found = FOLDERS.map(|folder| files(&workspace::root().join(folder)).expect("sources"));
    let files: Vec<File> = found.into_iter().flatten().collect();
    assert!(files.len() > 20, "{files:#?}");
    let path = workspace::root().join(PAGE);
    let page = page(&files);
    if std::env::var_os("CUTOVER_REGENERATE").is_some() {
        fs::write(&path, &page).expect("space on the disk");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "run CUTOVER_REGENERATE=1 cargo test -p xtask the_committed_page");
}

#[test]
fn purpose_and_proofs_of_a_file() {
    let text = "//! A file.\n\n#![expect(\n    unsafe_code,\n    reason = \"a call\"\n)]\n\nfn one() {\n    // SAFETY: it is \n    // right.\n    \
                unsafe { call() };\n    // Not a proof.\n    // SAFETY: as above.\n    unsafe { call() };\n}\n";
    assert_eq!(purpose(text).as_deref(), Some("a call"));
    assert_eq!(proofs(text), ["it is right.", "as above."]);
    assert_eq!(purpose("#![expect(unsafe_code, reason = \"b\")]\n").as_deref(), Some("b"));
    assert_eq!(purpose("fn safe() {}\n"), None);
}
