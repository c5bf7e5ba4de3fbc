//! What the program is made of, as a CycloneDX document: the crates that are linked into it and into the kernel programs that are inside of
//! it. Macros and what only builds are not.

use crate::step::Step;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The program, and the programs for the kernel that its build embeds.
const PROGRAM: &str = "cutover-agent";
const KERNEL_PROGRAMS: &str = "cutover-ebpf";
const KERNEL_TARGET: &str = "bpfel-unknown-none";

/// What cargo knows of every package of the workspace.
pub(super) fn metadata() -> Result<Value> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let targets = ["--filter-platform", &host, "--filter-platform", KERNEL_TARGET];
    let text = Step::cargo().args(["metadata", "--locked", "--format-version=1"]).args(targets).output()?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// Crates by name and version.
type Crate = (String, String);

/// What is linked.
pub(super) struct Sbom<'metadata> {
    packages: BTreeMap<Crate, &'metadata Value>,
    /// By cargo's name for a package, the packages that it depends on.
    depends: BTreeMap<&'metadata str, Vec<&'metadata str>>,
    /// SHA-256 of what was downloaded, by crate.
    checksums: BTreeMap<Crate, String>,
}

/// A crate.
pub(super) struct Part<'metadata> {
    pub(super) name: &'metadata str,
    pub(super) version: &'metadata str,
    pub(super) licence: String,
    /// Where its source is.
    pub(super) folder: &'metadata Path,
}

impl<'metadata> Sbom<'metadata> {
    /// Looks up what `cargo tree` says is linked. The metadata alone has every feature that anything in the workspace asks for, tests as well.
    pub(super) fn of(metadata: &'metadata Value) -> Result<Self> {
        let mut linked = BTreeSet::new();
        let tree = || {
            Step::cargo().args([
                "tree",
                "--locked",
                "--edges=normal,no-proc-macro",
                "--prefix=none",
                "--format={p}",
            ])
        };
        for tree in [
            tree().args(["--package", PROGRAM]),
            tree().args(["--package", KERNEL_PROGRAMS, "--target", KERNEL_TARGET]),
        ] {
            linked.extend(tree.output()?.lines().filter_map(name_and_version));
        }
        let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("Cargo.lock")?;
        Self::select(metadata, &linked, checksums(&lock))
    }

    fn select(
        metadata: &'metadata Value,
        linked: &BTreeSet<Crate>,
        checksums: BTreeMap<Crate, String>,
    ) -> Result<Self> {
        let mut packages = BTreeMap::new();
        for package in metadata["packages"].as_array().context("packages")? {
            let key = (text(package, "name")?.to_owned(), text(package, "version")?.to_owned());
            if linked.contains(&key) {
                packages.insert(key, package);
            }
        }
        if let Some((name, version)) = linked.iter().find(|key| !packages.contains_key(*key)) {
            bail!("cargo metadata does not know {name} {version}, which cargo tree has");
        }
        let mut depends = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().context("nodes")? {
            let dependencies = node["deps"].as_array().context("deps")?.iter();
            let is_normal = |dependency: &&Value| {
                dependency["dep_kinds"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
            };
            let dependencies = dependencies.filter(is_normal).filter_map(|it| it["pkg"].as_str());
            depends.insert(text(node, "id")?, dependencies.collect());
        }
        Ok(Self { packages, depends, checksums })
    }

    /// That of the program.
    pub(super) fn version(&self) -> Result<&str> {
        let program = self.packages.keys().find(|(name, _)| name == PROGRAM);
        program.map(|(_, version)| &**version).with_context(|| format!("{PROGRAM} is not linked into itself"))
    }

    /// What others have written, in order.
    pub(super) fn parts(&self) -> Result<Vec<Part<'metadata>>> {
        let others = self.packages.values().filter(|package| !package["source"].is_null());
        others.map(|package| part(package)).collect()
    }

    /// The document. `time` is in seconds since 1970.
    pub(super) fn document(&self, time: u64) -> Result<Value> {
        let identifiers: BTreeMap<&str, String> = self
            .packages
            .iter()
            .map(|((name, version), package)| {
                Ok((text(package, "id")?, format!("pkg:cargo/{name}@{version}")))
            })
            .collect::<Result<_>>()?;
        let (mut components, mut dependencies, mut program) = (Vec::new(), Vec::new(), Value::Null);
        for (key, package) in &self.packages {
            let part = part(package)?;
            let id = text(package, "id")?;
            let identifier = &identifiers[id];
            let mut component = json!({
                "type": "library", "bom-ref": identifier, "name": part.name, "version": part.version, "purl": identifier,
                "licenses": [{"expression": part.licence}],
            });
            if let Some(description) = package["description"].as_str() {
                component["description"] = description.trim().into();
            }
            if let Some(sum) = self.checksums.get(key) {
                component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
            }
            if part.name == PROGRAM {
                component["type"] = "application".into();
                component["name"] = "cutover".into();
                program = component;
            } else {
                components.push(component);
            }
            let on = self.depends.get(id).into_iter().flatten();
            let mut on: Vec<&String> = on.filter_map(|id| identifiers.get(id)).collect();
            let kernel_side = self.packages.iter().find(|((name, _), _)| name == KERNEL_PROGRAMS);
            if part.name == PROGRAM
                && let Some((_, package)) = kernel_side
            {
                on.push(&identifiers[text(package, "id")?]);
            }
            on.sort();
            on.dedup();
            dependencies.push(json!({"ref": identifier, "dependsOn": on}));
        }
        let date = Step::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ", &format!("--date=@{time}")]);
        Ok(json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": {"timestamp": date.answer().context("date failed")?, "component": program},
            "components": components, "dependencies": dependencies,
        }))
    }
}

fn part(package: &Value) -> Result<Part<'_>> {
    let manifest = Path::new(text(package, "manifest_path")?);
    // How licences were told apart before there were expressions.
    let licence = text(package, "license")?.replace('/', " OR ");
    Ok(Part {
        name: text(package, "name")?,
        version: text(package, "version")?,
        licence,
        folder: manifest.parent().context("a manifest is in a folder")?,
    })
}

fn text<'value>(value: &'value Value, name: &str) -> Result<&'value str> {
    value[name].as_str().with_context(|| format!("cargo metadata has a package without {name}: {value}"))
}

/// `NAME vVERSION`, and what `cargo tree` may add.
fn name_and_version(line: &str) -> Option<Crate> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((name.to_owned(), version.to_owned()))
}

/// What Cargo.lock has of downloads.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.and_then(|rest| rest.strip_suffix('"')).map(str::to_owned)
    };
    let blocks = lock.split("[[package]]");
    blocks
        .filter_map(|block| {
            Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"0f\"\n\n\
                    [[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(("a".into(), "1.0.0".into()), "0f".into())]));
    }

    /// The program, the kernel's, a crate that both have, one that only tests have, and one that only builds.
    fn metadata() -> Value {
        let package = |name: &str, source: Option<&str>| {
            json!({"name": name, "version": "1.0.0", "id": format!("id-{name}"), "source": source, "license": "MIT/Apache-2.0",
                   "manifest_path": format!("/src/{name}/Cargo.toml"), "description": null})
        };
        let on = |name: &str, kind: Option<&str>| json!({"pkg": format!("id-{name}"), "dep_kinds": [{"kind": kind}]});
        let registry = Some("registry+https://example.invalid");
        json!({
            "packages": [
                package(PROGRAM, None), package(KERNEL_PROGRAMS, None), package("both", registry),
                package("tested", registry), package("builds", registry),
            ],
            "resolve": {"nodes": [
                {"id": format!("id-{PROGRAM}"), "deps": [on("both", None), on("tested", Some("dev")), on("builds", Some("build"))]},
                {"id": format!("id-{KERNEL_PROGRAMS}"), "deps": [on("both", None)]},
                {"id": "id-both", "deps": []},
            ]},
        })
    }

    #[test]
    fn a_document_has_what_is_linked_and_nothing_else() {
        let linked = [PROGRAM, KERNEL_PROGRAMS, "both"].map(|name| (name.to_owned(), "1.0.0".to_owned()));
        let sums = BTreeMap::from([(linked[2].clone(), "0f".to_owned())]);
        let metadata = metadata();
        let sbom = Sbom::select(&metadata, &linked.clone().into(), sums).unwrap();
        assert_eq!(sbom.version().unwrap(), "1.0.0");
        let parts: Vec<&str> = sbom.parts().unwrap().iter().map(|part| part.name).collect();
        assert_eq!(parts, ["both"], "what others have written");
        let document = sbom.document(0).unwrap();
        assert_eq!(document["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(document["metadata"]["component"]["name"], "cutover");
        let components = document["components"].as_array().unwrap();
        let names: Vec<&str> = components.iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["both", KERNEL_PROGRAMS]);
        assert_eq!(components[0]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(components[0]["hashes"][0]["content"], "0f");
        let reference = |name: &str| format!("pkg:cargo/{name}@1.0.0");
        let of_program = document["dependencies"].as_array().unwrap().iter();
        let of_program = of_program.clone().find(|it| it["ref"] == reference(PROGRAM)).unwrap();
        assert_eq!(of_program["dependsOn"], json!([reference("both"), reference(KERNEL_PROGRAMS)]));
    }

    #[test]
    fn what_cargo_does_not_know_is_an_error() {
        let linked = BTreeSet::from([("unheard-of".to_owned(), "1.0.0".to_owned())]);
        let error = Sbom::select(&metadata(), &linked, BTreeMap::new()).err().unwrap().to_string();
        assert_eq!(error, "cargo metadata does not know unheard-of 1.0.0, which cargo tree has");
    }

    #[test]
    fn lines_of_the_tree_name_a_crate() {
        let named = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(name_and_version("aya v0.14.0"), named("aya", "0.14.0"));
        assert_eq!(name_and_version("cutover-agent v0.1.0 (/src/agent)"), named("cutover-agent", "0.1.0"));
        assert_eq!(name_and_version("aya v0.14.0 (*)"), named("aya", "0.14.0"));
        assert_eq!(name_and_version(""), None);
    }
}
