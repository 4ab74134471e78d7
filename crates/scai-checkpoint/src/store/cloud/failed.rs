//! What a store answers, as errors of this crate.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use object_store::Error as Refusal;

use crate::error::{Error, Place};

/// The error of a request about the object at `url`.
pub(super) fn failed(action: &'static str, url: &str, refusal: Refusal) -> Error {
    let place = Place { path: Some(PathBuf::from(url)), ..Place::default() };
    match refusal {
        Refusal::NotFound { .. } if !is_about_bucket(&refusal) => {
            Error::NotFound { path: PathBuf::from(url) }
        }
        refusal => Error::Io { place: Box::new(place), action, source: as_io(refusal) },
    }
}

/// As an error of the operating system would be, with what to check.
pub(super) fn as_io(refusal: Refusal) -> io::Error {
    let text = everything(&refusal);
    let (kind, advice) = judged(&refusal, &text.to_lowercase());
    let message = if advice.is_empty() { text } else { format!("{advice} ({text})") };
    io::Error::new(kind, message)
}

fn judged(refusal: &Refusal, text: &str) -> (ErrorKind, &'static str) {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match refusal {
        Refusal::AlreadyExists { .. } | Refusal::Precondition { .. } => {
            (ErrorKind::AlreadyExists, "")
        }
        _ if is_about_bucket(refusal) => {
            (ErrorKind::NotFound, "there is no such bucket or container; check its name")
        }
        Refusal::NotFound { .. } => (ErrorKind::NotFound, ""),
        Refusal::Unauthenticated { .. } => {
            (ErrorKind::PermissionDenied, "the store does not accept the credentials; check them")
        }
        _ if has(&["signaturedoesnotmatch", "invalidaccesskeyid", "expiredtoken"]) => {
            (ErrorKind::PermissionDenied, "the store does not accept the credentials; check them")
        }
        _ if has(&["permanentredirect", "authorizationheadermalformed", "wrong region"])
            || has(&["received redirect without location"]) =>
        {
            (ErrorKind::InvalidInput, "the bucket is in another region; check `AWS_REGION`")
        }
        Refusal::PermissionDenied { .. } => (
            ErrorKind::PermissionDenied,
            "the credentials do not allow this; check what they may do",
        ),
        _ if has(&["quota", "insufficientstorage", "507 "]) => {
            (ErrorKind::StorageFull, "the store has no room left, or a quota is used up")
        }
        _ if has(&["instance metadata", "169.254.169.254"]) => (
            ErrorKind::PermissionDenied,
            "no credentials were found; set those of the store, such as `AWS_ACCESS_KEY_ID` and \
             `AWS_SECRET_ACCESS_KEY`",
        ),
        _ if has(&["timed out", "timeout"]) => (
            ErrorKind::TimedOut,
            "the store did not answer in time; check the endpoint and the network",
        ),
        _ if has(&["connect", "dns"]) => (
            ErrorKind::NotConnected,
            "the store cannot be reached; check the endpoint and the network",
        ),
        _ => (ErrorKind::Other, ""),
    }
}

fn is_about_bucket(refusal: &Refusal) -> bool {
    let text = everything(refusal).to_lowercase();
    ["nosuchbucket", "containernotfound", "bucket does not exist"].iter().any(|w| text.contains(w))
}

/// The message with those of its causes, each once; of what a store answers as XML, what it says there.
fn everything(refusal: &Refusal) -> String {
    let text = with_causes(refusal);
    let between = |begin: &str, end: &str| {
        let from = text.find(begin)? + begin.len();
        Some(&text[from..from + text[from..].find(end)?])
    };
    match between("<Code>", "</Code>") {
        Some(code) => {
            let message = between("<Message>", "</Message>").unwrap_or_default();
            let before = text.find("<?xml").or_else(|| text.find("<Error")).unwrap_or(0);
            let request = text[..before].trim_end_matches([' ', ':', '\n']);
            format!("{code}: {message}: {request}")
        }
        None => text,
    }
}

fn with_causes(refusal: &Refusal) -> String {
    let mut text = refusal.to_string();
    let mut cause = refusal.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
