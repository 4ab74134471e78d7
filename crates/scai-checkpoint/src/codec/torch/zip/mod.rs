//! The part of the zip format that PyTorch's container uses: records stored as they are (the code
//! of a TorchScript model may be deflated), ZIP64.
//!
//! ```text
//! local header, name, extra fields | data | [data descriptor]   one for each record, no gaps
//! central directory                                              one entry for each record
//! [ZIP64 end record, ZIP64 locator]                              if numbers do not fit
//! end record, comment                                            the last bytes of the file
//! ```
//!
//! Zip says many things twice, and readers differ in which they trust. Here a file is refused if
//! two copies disagree, or if a byte belongs to nothing.

pub(super) mod inflate;
pub(super) mod members;
pub(super) mod read;
pub(super) mod write;

/// `PK\x03\x04`: a record follows.
pub(super) const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// `PK\x01\x02`: an entry of the central directory.
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
/// `PK\x05\x06`: the end record.
const END: [u8; 4] = *b"PK\x05\x06";
/// `PK\x06\x06`: the ZIP64 end record.
const END64: [u8; 4] = *b"PK\x06\x06";
/// `PK\x06\x07`: where the ZIP64 end record is.
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
/// `PK\x07\x08`: sizes and checksum after the data.
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";

const LOCAL_LEN: usize = 30;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR64_LEN: usize = 20;

/// The extra field with 64-bit sizes and offset.
const EXTRA_ZIP64: u16 = 1;
/// The extra field PyTorch pads with, `FB`.
const EXTRA_PADDING: u16 = 0x4246;

/// Records as they are.
const STORED: u16 = 0;
/// Deflated records.
const DEFLATED: u16 = 8;

/// Names are UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
/// Sizes and checksum follow the data.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// How hard the program that deflated a record tried.
const FLAGS_EFFORT: u16 = 0b110;

/// In a 32-bit field: the value is in the ZIP64 extra field.
const IN_ZIP64: u32 = u32::MAX;
/// In a 16-bit field: the value is in the ZIP64 end record.
const IN_ZIP64_COUNT: u16 = u16::MAX;

/// A record: a named run of bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<N = String> {
    /// Its name without the archive's folder: `data.pkl`, `data/0`.
    pub(super) name: N,
    /// Where its local header begins.
    pub(super) header: u64,
    /// Where its data begin.
    pub(super) data: u64,
    /// The length of its data.
    pub(super) size: u64,
    /// The bytes they take in the file if they are deflated, which only other programs do.
    pub(super) deflated: Option<u64>,
    /// The CRC-32 of its data; zero if it was not computed.
    pub(super) crc: u32,
}

/// The name of a record that is written. Most are numbers, which need no allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// One of a few.
    Fixed(&'static str),
    /// A storage: `data/0` and so on, from this byte on.
    Storage([u8; STORAGE_LEN], u8),
}

/// The folder of storages.
const STORAGES: &[u8] = b"data/";
/// The folder and ten digits.
const STORAGE_LEN: usize = STORAGES.len() + 10;

impl Name {
    pub(super) fn storage(number: u32) -> Self {
        let mut name = [0; STORAGE_LEN];
        let (mut rest, mut start) = (number, STORAGE_LEN);
        while rest > 0 || start == STORAGE_LEN {
            start -= 1;
            name[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        start -= STORAGES.len();
        name[start..start + STORAGES.len()].copy_from_slice(STORAGES);
        Self::Storage(name, start as u8)
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Fixed(name) => name.as_bytes(),
            Self::Storage(name, start) => &name[usize::from(*start)..],
        }
    }
}

impl Record {
    /// The bytes that the data take in the file.
    pub(super) fn stored(&self) -> u64 {
        self.deflated.unwrap_or(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_storage_is_named_by_its_number() {
        for number in [0, 9, 10, 4096, 999_999_999, u32::MAX] {
            assert_eq!(Name::storage(number).as_bytes(), format!("data/{number}").as_bytes());
        }
    }
}
