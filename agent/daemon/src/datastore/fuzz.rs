//! A resource file: its documents lie in it one behind the other, a refusal names a line that it has, and an endpoint has a name that
//! stands for it.

use super::Document;
use super::documents::split;
use super::resource::{Format, Resource, check_key, parse, parse_name};

pub(crate) fn json(bytes: &[u8]) {
    text(bytes, Format::Json);
}

pub(crate) fn yaml(bytes: &[u8]) {
    text(bytes, Format::Yaml);
}

fn text(bytes: &[u8], format: Format) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let documents = match split(text, format) {
        Ok(documents) => documents,
        Err(refusal) => {
            let line = refusal.line.expect("a line");
            // The end of a file can be on a line of its own.
            let lines = 1 + text.matches('\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {}", refusal.reason);
            assert!(!refusal.reason.is_empty() && !refusal.reason.contains('\n'), "{:?}", refusal.reason);
            return;
        }
    };
    let mut end = 0;
    for Document { range, body, parsed, item } in documents {
        assert!(range.start <= body.start && body.end <= range.end && range.end <= text.len());
        // The items of a list lie in the same document.
        assert!(range.start >= end || (item.is_some() && range.end == end));
        end = range.end;
        assert!(text.is_char_boundary(range.start) && text.is_char_boundary(range.end));
        if let Some(item) = item {
            assert_eq!(parse(&item.to_string(), Format::Json).as_ref(), Ok(&parsed));
        }
        for notice in &parsed.notices {
            assert!(!notice.contains('\n'), "{notice:?}");
        }
        if let Resource::Endpoint(key, _) = &parsed.resource {
            assert_eq!(check_key(key), Ok(()));
            let (namespace, _) = key.workload.split_once('/').expect("a namespace");
            assert_eq!(parse_name(namespace, &key.to_string()).as_ref(), Some(key), "{key}");
        }
    }
}
