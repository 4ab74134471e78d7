//! Hostile files, made by code: what an attacker would send who knows the format.
//!
//! Each is made from one honest file (see [`crate::forge::honest`]), or from the same state in the
//! format this crate writes or in torch's format before 1.6.

mod legacy;
mod opcodes;
mod pickle;
mod sealed;
mod tensors;
mod zip;

use crate::forge::{Archive, Member, honest};

/// What must become of a hostile file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It is refused, with these words in the message.
    Refused(&'static str),
    /// It is refused, or loads as the honest file it was made from.
    RefusedOrSame,
    /// It loads as the honest file it was made from: what was changed means nothing.
    Same,
    /// It says something else than the honest file, however strange, and loads as what it says.
    Loads,
}

/// A hostile file.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) expect: Expect,
    /// The bytes; made when they are needed, as some are long.
    pub(crate) make: Box<dyn Fn() -> Vec<u8>>,
}

/// A list of hostile files.
#[derive(Default)]
pub(crate) struct Cases(pub(crate) Vec<Case>);

impl Cases {
    fn add(
        &mut self,
        name: impl Into<String>,
        expect: Expect,
        make: impl Fn() -> Vec<u8> + 'static,
    ) {
        self.0.push(Case { name: name.into(), expect, make: Box::new(make) });
    }

    /// A file that must be refused with these words.
    fn refused(
        &mut self,
        name: impl Into<String>,
        words: &'static str,
        make: impl Fn() -> Vec<u8> + 'static,
    ) {
        self.add(name, Expect::Refused(words), make);
    }

    /// The honest archive after a change, which must be refused with these words.
    fn archive(
        &mut self,
        name: impl Into<String>,
        words: &'static str,
        change: impl Fn(&mut Archive) + 'static,
    ) {
        self.refused(name, words, move || {
            let mut archive = honest();
            change(&mut archive);
            archive.bytes()
        });
    }

    /// The honest archive with another pickle, which must be refused with these words.
    fn pickle(
        &mut self,
        name: impl Into<String>,
        words: &'static str,
        pickle: impl Fn() -> Vec<u8> + 'static,
    ) {
        self.refused(name, words, move || with_pickle(pickle()));
    }
}

/// All hostile files.
pub(crate) fn all() -> Cases {
    let mut cases = Cases::default();
    zip::add(&mut cases);
    pickle::add(&mut cases);
    opcodes::add(&mut cases);
    tensors::add(&mut cases);
    legacy::add(&mut cases);
    sealed::add(&mut cases);
    cases
}

/// The honest archive with another pickle.
fn with_pickle(pickle: Vec<u8>) -> Vec<u8> {
    let mut archive = honest();
    *archive.member("data.pkl") = Member::with_descriptor("archive/data.pkl", pickle);
    archive.bytes()
}

/// A pickle of protocol 2 with these opcodes and a `STOP`.
fn program(parts: &[&[u8]]) -> Vec<u8> {
    [b"\x80\x02", parts.concat().as_slice(), b"."].concat()
}
