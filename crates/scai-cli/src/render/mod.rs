//! How things look: tables, sizes, colours, JSON.

pub(crate) mod tree;

use std::fmt::Display;
use std::io::Write;

use anstyle::Style;
use comfy_table::{CellAlignment, Table, presets};
use scai_inspect::text::printable_json;
use serde::Serialize;

pub(crate) use scai_inspect::text::{flat_list, one_line, printable, scalar};

/// Colours; anstream removes them if the output is not a terminal.
pub(crate) mod style {
    use anstyle::{AnsiColor, Style};

    pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
    pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
    pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
    pub(crate) const DIM: Style = Style::new().dimmed();
    pub(crate) const BOLD: Style = Style::new().bold();
}

/// `text` in a style.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A number of bytes, human-readable.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.1} {unit}") }
}

/// A whole number with commas: `1,234,567`.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 tensor`, `2 entries`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    let plural = match (n, noun.strip_suffix('y')) {
        (1, _) => noun.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        _ => format!("{noun}s"),
    };
    format!("{} {plural}", count(n))
}

/// A number with six significant digits.
pub(crate) fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value}");
    }
    let magnitude = value.abs();
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.5e}");
    }
    let digits = (6 - 1 - magnitude.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A measurement with three significant digits.
pub(crate) fn short(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    if !(1e-3..1e6).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let digits = (2 - magnitude.log10().floor() as i32).max(0) as usize;
    format!("{value:.digits$}")
}

/// `2026-11-23T08:00:00.000000+00:00` to the second.
pub(crate) fn time(timestamp: &str) -> String {
    let text = one_line(timestamp).replacen('T', " ", 1);
    text.get(..19).map_or_else(|| text.clone(), str::to_owned)
}

/// A table without lines, columns separated by two spaces; empty columns are left out.
///
/// Columns whose heading begins with `>` are aligned to the right. If no heading has more text than
/// that, there is no heading line.
pub(crate) fn table(headings: &[String], rows: Vec<Vec<String>>) -> Table {
    let used: Vec<bool> = (0..headings.len())
        .map(|i| rows.iter().any(|row| row.get(i).is_some_and(|cell| !cell.is_empty())))
        .collect();
    let keep = |cells: Vec<String>| {
        cells.into_iter().zip(&used).filter(|(_, used)| **used).map(|(cell, _)| cell)
    };
    let headings: Vec<String> = keep(headings.to_vec()).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let plain = |heading: &String| heading.trim_start_matches('>').to_owned();
    if headings.iter().any(|heading| !plain(heading).is_empty()) {
        table.set_header(headings.iter().map(|heading| paint(style::BOLD, plain(heading))));
    }
    table.add_rows(rows.into_iter().map(keep));
    for (i, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// Rows of a long table that are in memory at once.
const ROWS: usize = 1024;

/// Writes a table of `count` rows as [`table`] makes it, holding few of them at once: `row` is
/// called twice for each, first to find how wide the columns are.
pub(crate) fn write_long_table(
    out: &mut impl Write,
    headings: &[String],
    count: usize,
    row: &dyn Fn(usize) -> Vec<String>,
) -> std::io::Result<()> {
    let rows = |start: usize| (start..(start + ROWS).min(count)).map(row).collect::<Vec<_>>();
    if count <= ROWS {
        return write_table(out, &table(headings, rows(0)));
    }
    let mut widths = vec![0; headings.len()];
    for start in (0..count).step_by(ROWS) {
        let rows = rows(start);
        let used =
            |i: usize| rows.iter().any(|row| row.get(i).is_some_and(|cell| !cell.is_empty()));
        let used: Vec<bool> = (0..headings.len()).map(used).collect();
        let mut table = Table::new();
        table.add_rows(rows);
        let found = table.column_max_content_widths().into_iter().zip(used);
        for (width, (found, used)) in widths.iter_mut().zip(found) {
            *width = if used { found.max(*width) } else { *width };
        }
    }
    // A row that fills every column that is used, and nothing else, makes them as wide as they are
    // in the whole.
    let widest: Vec<String> = widths.iter().map(|&width| "x".repeat(width.into())).collect();
    for start in (0..count).step_by(ROWS) {
        let mut rows = rows(start);
        let len = rows.len();
        rows.push(widest.clone());
        let table = table(headings, rows);
        let header = usize::from(table.header().is_some());
        let (skipped, len) = if start > 0 { (header, len) } else { (0, header + len) };
        for line in table.lines().skip(skipped).take(len) {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

/// Writes a table without spaces at the ends of lines.
pub(crate) fn write_table(out: &mut impl Write, table: &Table) -> std::io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Writes a value as JSON, for scripts.
pub(crate) fn write_json(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", printable_json(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_commas_and_nouns_their_plural() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(2000, "entry"), "2,000 entries");
        assert_eq!(counted(0, "tensor"), "0 tensors");
    }

    #[test]
    fn sizes_and_numbers_are_short() {
        let sizes = [0, 1023, 1024, 1536, 10 << 20, (1 << 30) + (1 << 29), u64::MAX];
        let texts =
            ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 MiB", "1.50 GiB", "16384.0 PiB"];
        assert_eq!(sizes.map(size), texts);
        let numbers = [1.0, 0.123_456_789, 1234.5678, 1e-7, 123_456_789.5, f64::NAN];
        let texts = ["1", "0.123457", "1234.57", "1.00000e-7", "1.23457e8", "NaN"];
        assert_eq!(numbers.map(number), texts);
    }
}
