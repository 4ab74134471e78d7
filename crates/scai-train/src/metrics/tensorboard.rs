//! TensorBoard's event files, as far as scalars need them.
//!
//! A file is a sequence of records (`TFRecord`), numbers little-endian:
//!
//! ```text
//! u64  length of the data
//! u32  masked CRC-32C of the eight bytes of the length
//!      data: an `Event` in protobuf
//! u32  masked CRC-32C of the data
//! ```
//!
//! The messages are those of `tensorboard/compat/proto/event.proto` and `summary.proto`; fields
//! that are not used are left out. The first record of a file names the version of the format.

use prost::{Message, Oneof};

/// The version of the format, in the first record of a file.
const VERSION: &str = "brain.Event:2";
/// The prefix of an event file's name.
const PREFIX: &str = "events.out.tfevents.";

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, so that 0 is written: it is one of several kinds of value.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(enumeration = "SessionStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum SessionStatus {
    Unspecified = 0,
    Start = 1,
}

/// The name of a file that is created at `second`.
pub(super) fn file_name(second: i64) -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().replace('/', "_");
    format!("{PREFIX}{second:010}.{host}.{}", std::process::id())
}

/// The second in the name of an event file; `None` for any other name.
pub(super) fn created_at(name: &str) -> Option<i64> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

/// How a file starts. TensorBoard discards what earlier files have for the step `first` and later.
pub(super) fn start(wall_time: f64, first: u64) -> Vec<u8> {
    let version = Event { wall_time, step: 0, what: Some(What::FileVersion(VERSION.to_owned())) };
    let status = SessionLog { status: SessionStatus::Start.into() };
    let session = Event { wall_time, step: signed(first), what: Some(What::SessionLog(status)) };
    [version, session].iter().flat_map(record).collect()
}

/// The values of a step, in single precision.
pub(super) fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let value = values
        .iter()
        .map(|(name, value)| Scalar { tag: (*name).to_owned(), simple_value: Some(*value as f32) });
    let summary = Summary { value: value.collect() };
    record(&Event { wall_time, step: signed(step), what: Some(What::Summary(summary)) })
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

fn record(event: &Event) -> Vec<u8> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(length.len() + data.len() + 8);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_crc(&length).to_le_bytes());
    record.extend_from_slice(&data);
    record.extend_from_slice(&masked_crc(&data).to_le_bytes());
    record
}

/// CRC-32C, rotated and offset, so that a checksum of data that holds checksums is not weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Logging;
    use crate::metrics::{Metrics, file};

    /// Written by TensorBoard: `python tests/tensorboard.py golden`.
    const GOLDEN: &[u8] = include_bytes!("../../../../fixtures/train/tensorboard.events");

    /// The events in a file; checks their checksums.
    fn events(mut bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_at(8);
            let (length_crc, rest) = rest.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            let (data, rest) =
                rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (data_crc, rest) = rest.split_at(4);
            assert_eq!(data_crc, masked_crc(data).to_le_bytes());
            events.push(Event::decode(data).unwrap());
            bytes = rest;
        }
        events
    }

    fn ours() -> Vec<u8> {
        let values = [("loss/policy", 0.1), ("loss/value", 0.0), ("win_rate", f64::NAN)];
        let mut bytes = start(1_764_000_000.25, 101);
        bytes.extend(scalars(1_764_000_001.5, 101, &values));
        bytes.extend(scalars(1_764_000_002.75, 1 << 40, &[("größe", -1e30)]));
        bytes
    }

    #[test]
    fn the_bytes_are_those_of_tensorboard() {
        assert_eq!(ours(), GOLDEN);
    }

    #[test]
    fn what_tensorboard_writes_is_read_back() {
        let [version, start, first, second] = events(GOLDEN).try_into().unwrap();
        assert_eq!(version.what, Some(What::FileVersion(VERSION.to_owned())));
        assert_eq!(start.step, 101);
        assert_eq!(start.what, Some(What::SessionLog(SessionLog { status: 1 })));
        let Some(What::Summary(summary)) = first.what else { panic!("{first:?}") };
        let tags: Vec<&str> = summary.value.iter().map(|value| value.tag.as_str()).collect();
        assert_eq!(tags, ["loss/policy", "loss/value", "win_rate"]);
        assert_eq!(summary.value[1].simple_value, Some(0.0), "0 is a value");
        assert_eq!((second.step, second.wall_time), (1 << 40, 1_764_000_002.75));
    }

    #[test]
    fn a_resumed_run_has_tensorboard_discard_what_comes_after_its_checkpoint() {
        for (resumed_at, first) in [(None, 0), (Some(3), 4)] {
            let directory = tempfile::tempdir().unwrap();
            let logging = Logging { json: false, ..Logging::default() };
            Metrics::open(directory.path(), &logging, resumed_at).unwrap();
            let [name] = file::names(directory.path()).unwrap().try_into().unwrap();
            let mut bytes = Vec::new();
            file::rewrite(&directory.path().join(name), |content| {
                bytes = content.to_vec();
                bytes.clone()
            })
            .unwrap();
            let [_, start] = events(&bytes).try_into().unwrap();
            assert_eq!(start.step, first);
            assert_eq!(start.what, Some(What::SessionLog(SessionLog { status: 1 })));
        }
    }

    #[test]
    fn the_time_is_in_the_name() {
        assert_eq!(created_at(&file_name(1_764_000_000)), Some(1_764_000_000));
        assert_eq!(created_at("events.out.tfevents.x.host.1"), None);
        assert_eq!(created_at("metrics.jsonl"), None);
    }
}
