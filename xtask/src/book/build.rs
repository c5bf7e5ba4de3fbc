//! HTML of the pages, by mdBook. What comes out is looked at: every link in it leads to a file and, in a page, to an anchor.

use super::SUMMARY;
use super::markdown::Page;
use super::rules::led_to;
use crate::step::Step;
use crate::{setup, workspace};
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is not for readers, and where mdBook wants it.
const OF_MDBOOK: [(&str, &str); 3] =
    [("docs/book.toml", "book.toml"), ("docs/book.css", "book.css"), ("docs/book.js", "src/book.js")];

/// Builds it and returns the folder with its first page.
pub(super) fn build() -> Result<PathBuf> {
    let mdbook = setup::mdbook()?;
    let folder = workspace::target().join("book");
    let _ = fs::remove_dir_all(&folder);
    let source = folder.join("src");
    lay_out(&source)?;
    for (from, to) in OF_MDBOOK {
        copy_to(&workspace::root().join(from), &folder.join(to))?;
    }
    // Pages ask for this file, and the mdBook of Debian does not bring it. An empty one would not be put beside them.
    fs::create_dir_all(folder.join("theme/fonts"))?;
    fs::write(folder.join("theme/fonts/fonts.css"), "/* The reader's own fonts. */\n")?;
    Step::new(mdbook).args(["build".as_ref(), folder.as_os_str()]).run()?;
    let html = folder.join("html");
    let broken = broken_links(&html)?;
    if !broken.is_empty() {
        bail!("{} links of the book lead nowhere:\n{}", broken.len(), broken.join("\n"));
    }
    Ok(html)
}

/// Puts pages, and files that they link to, where they are in the repository. mdBook wants the table of contents at the root.
fn lay_out(to: &Path) -> Result<()> {
    let root = workspace::root();
    let pages = super::pages(root)?;
    let summary = pages.iter().find(|page| page.path == Path::new(SUMMARY)).context(SUMMARY)?;
    let text = fs::read_to_string(root.join(SUMMARY)).context(SUMMARY)?;
    fs::create_dir_all(to)?;
    fs::write(to.join("SUMMARY.md"), from_the_root(&text, summary)?)?;
    let in_book: BTreeSet<PathBuf> =
        summary.links.iter().filter_map(|link| led_to(summary, &link.target)).collect();
    for page in pages.iter().filter(|page| in_book.contains(&page.path)) {
        copy(root, to, &page.path)?;
        for link in page.links.iter().filter(|link| !link.target.contains("://")) {
            let file = link.target.split('#').next().unwrap_or_default();
            let Some(path) = led_to(page, file) else { continue };
            let is_page = path.extension().is_some_and(|extension| extension == "md");
            if !is_page {
                copy(root, to, &path)?;
            } else if !in_book.contains(&path) {
                bail!("{} links to {}, which is not in the book", page.path.display(), path.display());
            }
        }
    }
    Ok(())
}

/// The table of contents with links from the root of the repository.
fn from_the_root(text: &str, summary: &Page) -> Result<String> {
    let mut text = text.to_owned();
    for link in &summary.links {
        let path = led_to(summary, &link.target).with_context(|| link.target.clone())?;
        text = text.replace(&format!("({})", link.target), &format!("({})", path.display()));
    }
    Ok(text)
}

/// A file, or a folder with its files.
fn copy(root: &Path, to: &Path, path: &Path) -> Result<()> {
    let (from, place) = (root.join(path), to.join(path));
    if from.is_dir() {
        for entry in fs::read_dir(&from).with_context(|| from.display().to_string())? {
            copy(root, to, &path.join(entry?.file_name()))?;
        }
        return Ok(());
    }
    copy_to(&from, &place)
}

fn copy_to(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// Links in HTML files that lead nowhere.
fn broken_links(html: &Path) -> Result<Vec<String>> {
    let mut texts = BTreeMap::new();
    collect(html, &mut texts)?;
    if texts.is_empty() {
        bail!("mdBook made no page in {}", html.display());
    }
    let anchors: BTreeMap<&Path, BTreeSet<&str>> =
        texts.iter().map(|(path, text)| (path.as_path(), values(text, "id").collect())).collect();
    let mut broken = Vec::new();
    for (path, text) in &texts {
        for target in values(text, "href").chain(values(text, "src")) {
            if !leads_somewhere(path, target, &anchors) {
                let name = path.strip_prefix(html).unwrap_or(path);
                broken.push(format!("{}: {target}", name.display()));
            }
        }
    }
    Ok(broken)
}

fn leads_somewhere(page: &Path, target: &str, anchors: &BTreeMap<&Path, BTreeSet<&str>>) -> bool {
    if target.contains("://") || target.starts_with("data:") || target.starts_with("javascript:") {
        return true;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_owned(),
        _ => page.parent().unwrap_or(Path::new("/")).join(file),
    };
    // What is linked to may be in a folder above.
    let Ok(path) = path.canonicalize() else { return false };
    anchor.is_empty() || anchors.get(path.as_path()).is_some_and(|ids| ids.contains(anchor))
}

/// Values of an attribute in what mdBook writes, which has double quotes.
fn values<'a>(text: &'a str, attribute: &str) -> impl Iterator<Item = &'a str> {
    let mark = format!(" {attribute}=\"");
    let mut rest = text;
    std::iter::from_fn(move || {
        let at = rest.find(&mark)? + mark.len();
        let (value, behind) = rest[at..].split_once('"')?;
        rest = behind;
        Some(value)
    })
}

fn collect(folder: &Path, texts: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, texts)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            texts.insert(path, text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let text = "<a href=\"b.html#c\" id=\"d\">x</a> <code>href=&quot;no&quot;</code><img src=\"p.svg\">";
        assert_eq!(values(text, "href").collect::<Vec<_>>(), ["b.html#c"]);
        assert_eq!(values(text, "id").collect::<Vec<_>>(), ["d"]);
        assert_eq!(values(text, "src").collect::<Vec<_>>(), ["p.svg"]);
    }

    #[test]
    fn links_to_nothing_are_found() {
        let folder = std::env::temp_dir().join(format!("cutover-html-{}", std::process::id()));
        fs::create_dir_all(folder.join("docs")).unwrap();
        fs::write(folder.join("a.html"), "<h1 id=\"a\"></h1> <a href=\"docs/b.html#b\"> <a href=\"#x\">")
            .unwrap();
        fs::write(
            folder.join("docs/b.html"),
            "<h1 id=\"b\"></h1> <a href=\"../a.html#a\"> <a href=\"c.html\">",
        )
        .unwrap();
        let broken = broken_links(&folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
        assert_eq!(broken, ["a.html: #x", "docs/b.html: c.html"]);
    }

    #[test]
    fn the_table_of_contents_is_moved_to_the_root() {
        let text = "- [A](a.md)\n- [R](../R.md)\n";
        let summary = Page::parse(SUMMARY.into(), text);
        assert_eq!(from_the_root(text, &summary).unwrap(), "- [A](docs/a.md)\n- [R](R.md)\n");
    }
}
