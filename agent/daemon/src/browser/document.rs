//! The frame of every document: head, style and policy.

use super::html::Html;

const STYLE: &str = include_str!("style.css");

/// What the policy knows the style by. A test says what it has to be when the style is changed.
macro_rules! style_hash {
    () => {
        "eyDnBqt/bu1NpHIMDtGBVVRd/27P1ZjJxFjBIZnPLFM="
    };
}

/// What a browser may do with a document: apply this one style, and nothing else. It may neither run nor load anything, send a form or be
/// shown inside another page.
pub const POLICY: &str = concat!(
    "default-src 'none'; style-src 'sha256-",
    style_hash!(),
    "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
);

/// A document with this title. `refresh` is after how many seconds the browser is to ask again.
pub(super) fn document(title: &str, refresh: Option<u32>, body: impl FnOnce(&mut Html)) -> String {
    let mut html = Html::doctype();
    html.element("html", &[("lang", "en")], |html| {
        html.element("head", &[], |html| {
            html.void("meta", &[("charset", "utf-8")]);
            // In a file there are no headers that could say so. Nobody minds that frames have to be forbidden by a header.
            let policy = POLICY.trim_end_matches("; frame-ancestors 'none'");
            html.void("meta", &[("http-equiv", "Content-Security-Policy"), ("content", policy)]);
            html.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
            html.void("meta", &[("name", "color-scheme"), ("content", "light dark")]);
            html.void("meta", &[("name", "referrer"), ("content", "no-referrer")]);
            if let Some(seconds) = refresh {
                html.void("meta", &[("http-equiv", "refresh"), ("content", &seconds.to_string())]);
            }
            html.words("title", &[], title);
            html.style(STYLE);
        });
        html.new_line();
        html.element("body", &[], body);
    });
    html.new_line();
    html.finish()
}

/// A table that can be scrolled by itself, also with the keyboard, where the window is narrower than it.
pub(super) fn table(
    html: &mut Html,
    id: &str,
    caption: &str,
    columns: &[&str],
    rows: impl FnOnce(&mut Html),
) {
    let wide = [("class", "wide"), ("role", "region"), ("aria-labelledby", id), ("tabindex", "0")];
    html.element("div", &wide, |html| {
        html.element("table", &[], |html| {
            html.words("caption", &[("id", id)], caption);
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    columns.iter().for_each(|column| html.words("th", &[("scope", "col")], column));
                });
            });
            html.new_line();
            html.element("tbody", &[], rows);
        });
    });
    html.new_line();
}

/// A section with its heading, which other places can lead to.
pub(super) fn section(html: &mut Html, id: &'static str, heading: &str, content: impl FnOnce(&mut Html)) {
    html.element("section", &[("aria-labelledby", id)], |html| {
        html.words("h2", &[("id", id)], heading);
        html.new_line();
        content(html);
    });
    html.new_line();
}
