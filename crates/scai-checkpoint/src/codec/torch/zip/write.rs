//! Headers of records, as PyTorch writes them but with sizes and checksum in front of the data.

use super::{
    CENTRAL, END, END_LEN, END64, END64_LEN, EXTRA_PADDING, EXTRA_ZIP64, FLAG_UTF8, IN_ZIP64,
    IN_ZIP64_COUNT, LOCAL, LOCAL_LEN, LOCATOR64, Name, Record,
};

/// The folder all records are in. PyTorch takes the file's name; readers take any.
const FOLDER: &str = "archive/";

/// The version of the format that ZIP64 needs, 4.5.
const VERSION: u16 = 45;

/// Padding is a field of its own with a header of four bytes.
const EXTRA_HEADER: usize = 4;

/// Where the data of a record with `size` bytes begin, if its header begins at `header` and the
/// data are to lie at a multiple of `align`.
pub(in super::super) fn data_offset(name: &Name, header: u64, size: u64, align: u64) -> u64 {
    let fixed = LOCAL_LEN + FOLDER.len() + name.as_bytes().len() + zip64_len(size) + EXTRA_HEADER;
    (header + fixed as u64).next_multiple_of(align)
}

fn zip64_len(size: u64) -> usize {
    if size >= IN_ZIP64.into() { EXTRA_HEADER + 16 } else { 0 }
}

/// Makes `out` the local header of `record`, whose data have the checksum `crc`, padded up to where
/// the data begin.
pub(in super::super) fn local_header(record: &Record<Name>, crc: u32, out: &mut Vec<u8>) {
    let len = (record.data - record.header) as usize;
    let extra_len = len - LOCAL_LEN - FOLDER.len() - record.name.as_bytes().len();
    out.clear();
    out.extend(LOCAL);
    common(out, record, crc);
    out.extend((extra_len as u16).to_le_bytes());
    name(out, record);
    if record.size >= IN_ZIP64.into() {
        zip64(out, &[record.size, record.size]);
    }
    out.extend(EXTRA_PADDING.to_le_bytes());
    let padding = len - out.len() - 2;
    out.extend((padding as u16).to_le_bytes());
    out.resize(len, b'Z');
}

/// The central directory and all that follows it. The comment ends the file.
pub(in super::super) fn directory(records: &[Record<Name>], at: u64, comment: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(directory_len(records, at, comment.len()));
    for record in records {
        out.extend(CENTRAL);
        out.extend(VERSION.to_le_bytes());
        common(&mut out, record, record.crc);
        let mut wide = Vec::new();
        if record.size >= IN_ZIP64.into() {
            wide.extend([record.size, record.size]);
        }
        if record.header >= IN_ZIP64.into() {
            wide.push(record.header);
        }
        let extra_len = if wide.is_empty() { 0 } else { EXTRA_HEADER + 8 * wide.len() };
        out.extend((extra_len as u16).to_le_bytes());
        // No comment, disk 0, no attributes.
        out.extend([0; 10]);
        out.extend(narrow(record.header).to_le_bytes());
        name(&mut out, record);
        if !wide.is_empty() {
            zip64(&mut out, &wide);
        }
    }
    let len = out.len() as u64;
    let count = records.len() as u64;
    let end64 = at + len;
    if needs_end64(records.len(), at, len) {
        out.extend(END64);
        out.extend((END64_LEN as u64 - 12).to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 8]);
        for number in [count, count, len, at] {
            out.extend(number.to_le_bytes());
        }
        out.extend(LOCATOR64);
        out.extend(0_u32.to_le_bytes());
        out.extend(end64.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    out.extend(END);
    out.extend([0; 4]);
    let count = u16::try_from(count).unwrap_or(IN_ZIP64_COUNT);
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(narrow(len).to_le_bytes());
    out.extend(narrow(at).to_le_bytes());
    out.extend((comment.len() as u16).to_le_bytes());
    out.extend(comment);
    out
}

/// The length of what [`directory`] returns, which does not depend on the checksums.
pub(in super::super) fn directory_len(records: &[Record<Name>], at: u64, comment: usize) -> usize {
    let entries: usize = records
        .iter()
        .map(|record| {
            let wide = 2 * usize::from(record.size >= IN_ZIP64.into())
                + usize::from(record.header >= IN_ZIP64.into());
            let extra = if wide == 0 { 0 } else { EXTRA_HEADER + 8 * wide };
            super::CENTRAL_LEN + FOLDER.len() + record.name.as_bytes().len() + extra
        })
        .sum();
    let wide = needs_end64(records.len(), at, entries as u64);
    let end64 = if wide { END64_LEN + super::LOCATOR64_LEN } else { 0 };
    entries + end64 + END_LEN + comment
}

fn needs_end64(count: usize, at: u64, len: u64) -> bool {
    count >= IN_ZIP64_COUNT.into() || at >= IN_ZIP64.into() || len >= IN_ZIP64.into()
}

/// What local header and central directory share, from the version needed to the name's length.
fn common(out: &mut Vec<u8>, record: &Record<Name>, crc: u32) {
    out.extend(VERSION.to_le_bytes());
    out.extend(FLAG_UTF8.to_le_bytes());
    // Stored; no time, so that equal states make equal files.
    out.extend([0; 6]);
    out.extend(crc.to_le_bytes());
    out.extend(narrow(record.size).to_le_bytes());
    out.extend(narrow(record.size).to_le_bytes());
    out.extend(((FOLDER.len() + record.name.as_bytes().len()) as u16).to_le_bytes());
}

fn name(out: &mut Vec<u8>, record: &Record<Name>) {
    out.extend(FOLDER.as_bytes());
    out.extend(record.name.as_bytes());
}

fn zip64(out: &mut Vec<u8>, numbers: &[u64]) {
    out.extend(EXTRA_ZIP64.to_le_bytes());
    out.extend((8 * numbers.len() as u16).to_le_bytes());
    for number in numbers {
        out.extend(number.to_le_bytes());
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(IN_ZIP64)
}
