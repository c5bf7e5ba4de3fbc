//! A configuration file: a value has a name and the line where that is, and a fault a line that the file has.

use super::*;

pub(crate) fn file(bytes: &[u8]) {
    let Ok(text) = decode(bytes) else {
        let error = parse(bytes).expect_err("what is no text is no file");
        assert!((1..=bytes.len()).contains(&error.line), "{error}");
        return;
    };
    let lines = text.lines().count();
    match parse(bytes) {
        Ok(entries) => {
            let mut before = 0;
            for entry in entries {
                assert!(!entry.key.is_empty() && !entry.key.contains('\n'), "{entry:?}");
                assert!(before < entry.line && entry.line <= lines, "{entry:?}");
                before = entry.line;
                let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                if plain(&entry.key) && plain(&entry.value) {
                    let again = parse(format!("{} = {}", entry.key, entry.value).as_bytes());
                    assert_eq!(again, Ok(vec![FileEntry { line: 1, ..entry }]));
                }
            }
        }
        Err(error) => assert!((1..=lines).contains(&error.line), "{error}"),
    }
}
