//! Text from files, which must not control the terminal.

use std::fmt::Write;

/// Whether a character does something else than being seen: it moves the cursor, changes colours,
/// or changes the direction of the text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// The text on one line, with control characters written out: `\n`, `\u{1b}`. A name from a file
/// cannot move the cursor or change colours.
pub fn one_line(text: &str) -> String {
    escape(text, is_control)
}

/// The text with its line breaks and tabs, other control characters written out.
pub fn printable(text: &str) -> String {
    escape(text, |c| is_control(c) && c != '\n' && c != '\t')
}

fn escape(text: &str, is_bad: impl Fn(char) -> bool) -> String {
    if !text.contains(&is_bad) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_bad(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON with the control characters escaped that JSON does not require to be.
pub fn printable_json(json: String) -> String {
    // Outside strings, JSON has no control characters but line breaks.
    let is_bad = |c: char| is_control(c) && c != '\n';
    if !json.contains(is_bad) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if is_bad(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_written_out() {
        assert_eq!(one_line("fc\u{1b}[31m.weight\n"), "fc\\u{1b}[31m.weight\\n");
        assert_eq!(one_line("a\u{9b}2Jb\u{202e}c"), "a\\u{9b}2Jb\\u{202e}c");
        assert_eq!(printable("a\n\tb\u{7f}"), "a\n\tb\\u{7f}");
        assert_eq!(one_line("größe π 重み"), "größe π 重み");
        let json = serde_json::to_string("\u{9b}2J\u{7f}\u{202e}").unwrap();
        let shown = printable_json(json);
        assert_eq!(shown, r#""\u009b2J\u007f\u202e""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), "\u{9b}2J\u{7f}\u{202e}");
    }
}
