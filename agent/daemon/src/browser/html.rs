//! Writes HTML. Tags and names of attributes are the program's; everything else is escaped, and only here.

use crate::logging::printable;

/// LIMIT: of one text, in characters: longer than any name or reason that says something. A datastore may hold megabytes under one name.
const TEXT_MAX: usize = 400;

/// Name and value.
pub(super) type Attribute<'a> = (&'static str, &'a str);

/// A document that grows.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// The document's kind, which comes before everything.
    pub(super) fn doctype() -> Self {
        Self("<!DOCTYPE html>\n".to_owned())
    }

    /// An element with whatever `content` puts into it.
    pub(super) fn element(
        &mut self,
        tag: &'static str,
        attributes: &[Attribute<'_>],
        content: impl FnOnce(&mut Self),
    ) {
        self.open(tag, attributes);
        content(self);
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push('>');
    }

    /// An element with a text.
    pub(super) fn words(&mut self, tag: &'static str, attributes: &[Attribute<'_>], text: &str) {
        self.element(tag, attributes, |html| html.text(text));
    }

    /// An element that never has content.
    pub(super) fn void(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.open(tag, attributes);
    }

    /// The style, which is the program's.
    pub(super) fn style(&mut self, style: &'static str) {
        self.element("style", &[], |html| html.0.push_str(style));
    }

    /// A text. What cannot be seen in it is written out, and what is too long ends with an ellipsis.
    pub(super) fn text(&mut self, text: &str) {
        self.escaped(text, TEXT_MAX);
    }

    /// For people who read the source.
    pub(super) fn new_line(&mut self) {
        self.0.push('\n');
    }

    /// The whole of it.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn open(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.escaped(value, TEXT_MAX);
            self.0.push('"');
        }
        self.0.push('>');
    }

    fn escaped(&mut self, text: &str, most: usize) {
        let end = text.char_indices().nth(most).map(|(end, _)| end);
        for character in printable(&text[..end.unwrap_or(text.len())]).chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                character => self.0.push(character),
            }
        }
        if end.is_some() {
            self.0.push('…');
        }
    }
}

/// `one` of these, or so many of `several`.
pub(super) fn counted(count: usize, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_or_an_attribute_becomes_markup() {
        let mut html = Html::default();
        let hostile = "</p><script>alert('x')</script>\" onload=\"y\n\u{202e}&";
        html.words("p", &[("title", hostile)], hostile);
        let escaped =
            "&lt;/p&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot; onload=&quot;y\\n\\u{202e}&amp;";
        assert_eq!(html.finish(), format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn a_text_has_a_greatest_length() {
        let mut html = Html::default();
        html.text(&"ä".repeat(TEXT_MAX));
        html.text(&"<".repeat(1 << 20));
        let text = html.finish();
        assert_eq!(text, format!("{}{}…", "ä".repeat(TEXT_MAX), "&lt;".repeat(TEXT_MAX)));
    }

    #[test]
    fn elements_are_closed_in_their_order() {
        let mut html = Html::default();
        html.element("ul", &[("class", "x")], |html| {
            html.words("li", &[], "a");
            html.void("br", &[]);
        });
        assert_eq!(html.finish(), "<ul class=\"x\"><li>a</li><br></ul>");
        assert_eq!(
            (counted(1, "host", "hosts"), counted(0, "host", "hosts")),
            ("1 host".into(), "0 hosts".into())
        );
    }
}
