//! How protocols 0 and 1 write strings: in lines, with escapes.

/// The bytes of a string literal of Python 2, quotes included.
pub(super) fn unquote(line: &[u8]) -> Option<Box<[u8]>> {
    let (&quote, rest) = line.split_first()?;
    let (&last, inner) = rest.split_last()?;
    if !matches!(quote, b'\'' | b'"') || last != quote {
        return None;
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escaped = match bytes.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'x' => (hexadecimal(bytes.next()?)? << 4 | hexadecimal(bytes.next()?)?) as u8,
            same @ (b'\\' | b'\'' | b'"') => same,
            other => {
                out.push(b'\\');
                other
            }
        };
        out.push(escaped);
    }
    Some(out.into())
}

/// The text of a line in which characters beyond Latin-1 are escaped; as WTF-8 if it has lone surrogates.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Option<Result<String, Vec<u8>>> {
    let mut out = Vec::with_capacity(line.len());
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let len = match (byte, bytes.peek()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                encode(byte.into(), &mut out)?;
                continue;
            }
        };
        bytes.next();
        let mut code = 0_u32;
        for _ in 0..len {
            code = code.checked_mul(16)? | hexadecimal(bytes.next()?)?;
        }
        encode(code, &mut out)?;
    }
    Some(String::from_utf8(out).map_err(|error| error.into_bytes()))
}

fn hexadecimal(byte: u8) -> Option<u32> {
    char::from(byte).to_digit(16)
}

/// Appends a code point in UTF-8, a surrogate in the three bytes it would have.
fn encode(code: u32, out: &mut Vec<u8>) -> Option<()> {
    match char::from_u32(code) {
        Some(c) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None if (0xd800..0xe000).contains(&code) => {
            let continuation = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
            out.extend([0xe0 | (code >> 12) as u8, continuation(6), continuation(0)]);
        }
        None => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_protocol_0_are_the_strings_that_python_wrote() {
        let unquoted = |line: &str| unquote(line.as_bytes()).map(Vec::from);
        assert_eq!(unquoted(r"'it\'s \x00\n\\ \d'"), Some(b"it's \0\n\\ \\d".to_vec()));
        assert_eq!(unquoted(r#""it's""#), Some(b"it's".to_vec()));
        assert_eq!(
            (unquoted("'a"), unquoted("a"), unquoted(r"'\'"), unquoted("'")),
            (None, None, None, None)
        );
        let text = |line: &[u8]| raw_unicode_escape(line);
        assert_eq!(text(b"a\\u20ac\xe9\\n"), Some(Ok("a\u{20ac}\u{e9}\\n".into())));
        assert_eq!(text(b"\\U0001f600"), Some(Ok("\u{1f600}".into())));
        assert_eq!(text(b"\\ud800"), Some(Err(vec![0xed, 0xa0, 0x80])));
        assert_eq!((text(b"\\u12"), text(b"\\U00110000")), (None, None));
    }
}
