//! What a crash may leave of a file's content.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::super::memory::Inode;

/// What the device writes in one piece.
const PAGE: usize = 4096;
/// All combinations are tried if there are no more than this.
const EXHAUSTIVE: usize = 256;
/// Otherwise, combinations drawn at random, beside those that are always tried.
const DRAWN: usize = 64;
/// What another file left in the blocks.
const GARBAGE: u8 = 0xA5;

/// A generator of numbers for sampling (splitmix64), so that each run draws the same states.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// One change of a file's content.
#[derive(Debug, Clone)]
pub(super) enum FileChange {
    Length(u64),
    Data { offset: u64, bytes: Arc<[u8]> },
}

/// What happens to one pending piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    Zeroed,
    Garbage,
    CutAt(usize),
}

/// One way the content may come back.
#[derive(Debug, Clone)]
pub(super) struct ContentLeft {
    pub(super) inode: Arc<Inode>,
    pub(super) digest: u128,
    fates: Vec<Fate>,
}

impl fmt::Display for ContentLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fates.iter().all(|fate| *fate == Fate::Kept) {
            true => f.write_str("whole"),
            false => write!(f, "{:?}", self.fates),
        }
    }
}

/// The content on the device, and the pieces on their way there.
#[derive(Debug, Default)]
pub(super) struct Content {
    durable: Vec<u8>,
    pending: Vec<FileChange>,
    /// Computed once for each change.
    left: Option<Arc<[ContentLeft]>>,
}

impl Content {
    pub(super) fn change(&mut self, change: &FileChange) {
        self.left = None;
        match change {
            FileChange::Length(_) => self.pending.push(change.clone()),
            FileChange::Data { offset, bytes } => self.pending.extend(pages(*offset, bytes)),
        }
    }

    pub(super) fn sync(&mut self) {
        self.left = None;
        let pending = std::mem::take(&mut self.pending);
        for change in &pending {
            apply(&mut self.durable, change, Fate::Kept);
        }
    }

    /// What a crash now may leave; the first has lost everything, the last nothing.
    pub(super) fn left(&mut self, random: &mut Random) -> Arc<[ContentLeft]> {
        if let Some(left) = &self.left {
            return Arc::clone(left);
        }
        let mut seen = HashSet::new();
        let mut left: Vec<ContentLeft> = plans(&self.pending, random)
            .into_iter()
            .map(|fates| self.meet(fates))
            .filter(|left| seen.insert(left.digest))
            .collect();
        // Duplicates of the whole file may have come earlier; it is the last nevertheless.
        let whole = self.meet(vec![Fate::Kept; self.pending.len()]);
        left.retain(|left| left.digest != whole.digest);
        left.push(whole);
        let left: Arc<[ContentLeft]> = left.into();
        self.left = Some(Arc::clone(&left));
        left
    }

    /// The file after its blocks were given to another file.
    pub(super) fn reused(&self) -> ContentLeft {
        let bytes = vec![GARBAGE; self.durable.len()];
        ContentLeft::of(bytes, vec![Fate::Garbage])
    }

    fn meet(&self, fates: Vec<Fate>) -> ContentLeft {
        let mut bytes = self.durable.clone();
        for (change, fate) in self.pending.iter().zip(&fates) {
            apply(&mut bytes, change, *fate);
        }
        ContentLeft::of(bytes, fates)
    }
}

impl ContentLeft {
    fn of(bytes: Vec<u8>, fates: Vec<Fate>) -> Self {
        Self { digest: XxHash3_128::oneshot(&bytes), inode: Arc::new(Inode::new(bytes)), fates }
    }
}

/// A write, cut where the device cuts it.
fn pages(offset: u64, bytes: &[u8]) -> Vec<FileChange> {
    let first = PAGE - offset as usize % PAGE;
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let mut at = offset;
    std::iter::once(head)
        .chain(rest.chunks(PAGE))
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let change = FileChange::Data { offset: at, bytes: piece.into() };
            at += piece.len() as u64;
            change
        })
        .collect()
}

fn apply(content: &mut Vec<u8>, change: &FileChange, fate: Fate) {
    match (change, fate) {
        (_, Fate::Lost) => {}
        (FileChange::Length(len), _) => content.resize(*len as usize, 0),
        (FileChange::Data { offset, bytes }, fate) => {
            let (start, len) = (*offset as usize, bytes.len());
            let len = if let Fate::CutAt(at) = fate { at.min(len) } else { len };
            if content.len() < start + len {
                content.resize(start + len, 0);
            }
            let place = &mut content[start..start + len];
            match fate {
                Fate::Zeroed => place.fill(0),
                Fate::Garbage => place.fill(GARBAGE),
                _ => place.copy_from_slice(&bytes[..len]),
            }
        }
    }
}

/// The fates of the pending pieces that are tried.
fn plans(pending: &[FileChange], random: &mut Random) -> Vec<Vec<Fate>> {
    const FATES: [Fate; 4] = [Fate::Lost, Fate::Kept, Fate::Zeroed, Fate::Garbage];
    let count = pending.len();
    let mut plans = telling(pending);
    if let Some(all) = FATES.len().checked_pow(count as u32).filter(|all| *all <= EXHAUSTIVE) {
        let digit = |plan: usize, at: usize| FATES[plan / FATES.len().pow(at as u32) % FATES.len()];
        plans.extend((0..all).map(|plan| (0..count).map(|at| digit(plan, at)).collect()));
    } else {
        plans.extend((0..DRAWN).map(|_| {
            let mut draw = |change: &FileChange| match random.below(5) {
                4 => Fate::CutAt(random.below(size(change))),
                fate => FATES[fate],
            };
            pending.iter().map(&mut draw).collect()
        }));
    }
    plans
}

/// The fates that are always tried: nothing, each prefix, each prefix with a torn end, each piece
/// as the only one affected, the length without data.
fn telling(pending: &[FileChange]) -> Vec<Vec<Fate>> {
    let count = pending.len();
    let all = |fate: Fate| vec![fate; count];
    let mut plans = vec![all(Fate::Lost), all(Fate::Zeroed), all(Fate::Garbage)];
    for at in 0..count {
        let prefix = |end: Fate| {
            let fate = |nth: usize| if nth < at { Fate::Kept } else { Fate::Lost };
            let mut fates: Vec<Fate> = (0..count).map(fate).collect();
            fates[at] = end;
            fates
        };
        let alone = |fate: Fate, others: Fate| {
            let mut fates = all(others);
            fates[at] = fate;
            fates
        };
        let size = size(&pending[at]);
        plans.push(prefix(Fate::Kept));
        for cut in [1, size / 2, size / 2 / 512 * 512, size.saturating_sub(1)] {
            plans.push(prefix(Fate::CutAt(cut)));
            plans.push(alone(Fate::CutAt(cut), Fate::Kept));
        }
        for fate in [Fate::Lost, Fate::Zeroed, Fate::Garbage] {
            plans.push(alone(fate, Fate::Kept));
        }
        plans.push(alone(Fate::Kept, Fate::Lost));
    }
    plans
}

fn size(change: &FileChange) -> usize {
    match change {
        FileChange::Length(_) => 0,
        FileChange::Data { bytes, .. } => bytes.len(),
    }
}
