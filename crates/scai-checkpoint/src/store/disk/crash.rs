//! The enumeration of the states a crash may leave.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::content::{Content, ContentLeft, Random};
use super::ledger::Ledger;
use super::names::{Names, NamesLeft};
use super::{FileId, SimulatedDisk, Step};
use crate::store::MemoryStore;

/// States are enumerated in full at a crash point that has no more than this many, else this many
/// are drawn.
const EXHAUSTIVE: usize = 4096;
/// Bad states that are told in words.
const EXAMPLES: usize = 5;

/// What a crash left, as a store that can be opened and written to.
#[derive(Debug)]
pub struct CrashState<'a> {
    /// The files. Drafts among them have no living writer.
    pub store: MemoryStore,
    /// What had been promised when the crash came.
    pub ledger: &'a Ledger,
    /// The number of steps that had been done.
    pub step: usize,
}

/// What came of checking the states.
#[derive(Debug, Default)]
pub struct CrashReport {
    /// Moments at which the power failed.
    pub points: usize,
    /// Different states that were checked.
    pub states: usize,
    /// States that had been checked before, with the same promises.
    pub repeated: usize,
    /// Moments with too many states to enumerate, so that some were drawn.
    pub sampled: usize,
    /// States in which the check failed.
    pub bad: usize,
    /// Some of those, in words.
    pub examples: Vec<String>,
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, states, repeated, sampled, bad, examples } = self;
        write!(f, "{states} states ({repeated} repeated) at {points} points ")?;
        write!(f, "({sampled} sampled), {bad} bad")?;
        examples.iter().try_for_each(|example| write!(f, "\n  {example}"))
    }
}

impl SimulatedDisk {
    /// Checks every state that a power failure may leave, at any moment so far.
    ///
    /// Each state comes with what had been promised by then; `check` says what is wrong with it.
    pub fn crash_everywhere(
        &self,
        check: impl FnMut(&CrashState<'_>) -> Result<(), String>,
    ) -> CrashReport {
        self.crash_from(0, check)
    }

    /// Checks every state that a power failure may leave once `first` steps are done.
    pub fn crash_from(
        &self,
        first: usize,
        check: impl FnMut(&CrashState<'_>) -> Result<(), String>,
    ) -> CrashReport {
        let journal = self.journal();
        let mut walk = Walk::new(journal.files, check);
        let mut last = "nothing".to_owned();
        for done in 0..=journal.steps.len() {
            if done >= first {
                walk.crash(done, &last);
            }
            if let Some(step) = journal.steps.get(done) {
                walk.advance(step);
                last = describe(step);
            }
        }
        walk.report
    }

    /// One state that a power failure may leave once `step` steps are done.
    ///
    /// `draw` chooses it: 0 loses everything that was not durable, 1 nothing, and any other number
    /// draws one.
    pub fn crash_once(&self, step: usize, draw: u64) -> MemoryStore {
        let journal = self.journal();
        let mut walk = Walk::new(journal.files, |_| Ok(()));
        journal.steps.iter().take(step).for_each(|step| walk.advance(step));
        walk.random = Random::new(draw);
        let mut pick = Random::new(draw);
        let mut pick = |count: usize| match draw {
            0 => 0,
            1 => count - 1,
            _ => pick.below(count),
        };
        let mut left = walk.names.left(&mut walk.random);
        let choice = walk.choice(left.swap_remove(pick(left.len())));
        let picked = choice.files.iter().map(|(_, left)| pick(left.len())).collect();
        choice.store(&choice.contents(picked))
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::File(file, super::FileChange::Data { offset, bytes }) => {
            format!("write {} bytes at {offset} of file {file}", bytes.len())
        }
        step => format!("{step:?}"),
    }
}

/// The device and what is on its way there, at one moment.
struct Walk<C> {
    names: Names,
    files: Vec<Content>,
    /// Files without a name whose removal is not durable.
    freed: HashSet<FileId>,
    ledger: Ledger,
    notes: usize,
    random: Random,
    seen: HashSet<(usize, u128)>,
    report: CrashReport,
    check: C,
}

/// One choice of names, and for each file they reach the contents it may have.
struct Choice {
    left: NamesLeft,
    files: Vec<(FileId, Arc<[ContentLeft]>)>,
}

impl Choice {
    fn count(&self) -> usize {
        self.files.iter().fold(1, |count, (_, left)| count.saturating_mul(left.len()))
    }

    /// The content of each file, by the numbers that were picked.
    fn contents(&self, picked: Vec<usize>) -> BTreeMap<FileId, &ContentLeft> {
        let files = self.files.iter().zip(picked);
        files.map(|((file, left), picked)| (*file, &left[picked])).collect()
    }

    fn store(&self, contents: &BTreeMap<FileId, &ContentLeft>) -> MemoryStore {
        let named = self.left.names.iter();
        let named = named.map(|(name, file)| (name.clone(), Arc::clone(&contents[file].inode)));
        MemoryStore::of(named.collect())
    }
}

impl<C: FnMut(&CrashState<'_>) -> Result<(), String>> Walk<C> {
    /// A walk over the steps of a disk that had so many files.
    fn new(files: usize, check: C) -> Self {
        Self {
            names: Names::default(),
            files: (0..files).map(|_| Content::default()).collect(),
            freed: HashSet::new(),
            ledger: Ledger::default(),
            notes: 0,
            random: Random::new(0x5CA1),
            seen: HashSet::new(),
            report: CrashReport::default(),
            check,
        }
    }

    fn advance(&mut self, step: &Step) {
        match step {
            Step::Names(change) => {
                self.freed.extend(change.frees);
                self.names.change(change.clone());
            }
            Step::File(file, change) => self.files[*file].change(change),
            Step::SyncFile(file) => self.files[*file].sync(),
            Step::SyncNames => {
                self.freed.clear();
                self.names.sync();
            }
            Step::Note(note) => {
                self.ledger.note(note);
                self.notes += 1;
            }
        }
    }

    fn crash(&mut self, step: usize, last: &str) {
        let left = self.names.left(&mut self.random);
        let choices: Vec<Choice> = left.into_iter().map(|left| self.choice(left)).collect();
        let total = choices.iter().fold(0_usize, |sum, choice| sum.saturating_add(choice.count()));
        let moment = Moment { step, last };
        self.report.points += 1;
        if total <= EXHAUSTIVE {
            for choice in &choices {
                for nth in 0..choice.count() {
                    self.visit(choice, pick(choice, nth), &moment);
                }
            }
            return;
        }
        self.report.sampled += 1;
        for choice in &choices {
            self.visit(choice, pick(choice, 0), &moment);
            let whole = choice.files.iter().map(|(_, left)| left.len() - 1).collect();
            self.visit(choice, whole, &moment);
        }
        for _ in 0..EXHAUSTIVE {
            let choice = &choices[self.random.below(choices.len())];
            let drawn =
                choice.files.iter().map(|(_, left)| self.random.below(left.len())).collect();
            self.visit(choice, drawn, &moment);
        }
    }

    fn choice(&mut self, left: NamesLeft) -> Choice {
        let reached: std::collections::BTreeSet<FileId> = left.names.values().copied().collect();
        let mut files = Vec::new();
        for file in reached {
            let mut contents = self.files[file].left(&mut self.random);
            if self.freed.contains(&file) {
                let reused = self.files[file].reused();
                contents = std::iter::once(reused).chain(contents.iter().cloned()).collect();
            }
            files.push((file, contents));
        }
        Choice { left, files }
    }

    /// Checks one state, unless the same was checked with the same promises.
    fn visit(&mut self, choice: &Choice, picked: Vec<usize>, moment: &Moment<'_>) {
        let contents = choice.contents(picked);
        let mut key = XxHash3_128::new();
        for (name, file) in &choice.left.names {
            key.write(name.as_bytes());
            key.write(&[0xFF]);
            key.write(&contents[file].digest.to_le_bytes());
        }
        if !self.seen.insert((self.notes, key.finish_128())) {
            self.report.repeated += 1;
            return;
        }
        self.report.states += 1;
        let store = choice.store(&contents);
        let state = CrashState { store, ledger: &self.ledger, step: moment.step };
        if let Err(why) = (self.check)(&state) {
            self.report.bad += 1;
            if self.report.examples.len() < EXAMPLES {
                self.report.examples.push(tell(&why, choice, &contents, moment));
            }
        }
    }
}

struct Moment<'a> {
    step: usize,
    last: &'a str,
}

/// The `nth` combination of contents, counting with one digit a file.
fn pick(choice: &Choice, mut nth: usize) -> Vec<usize> {
    let digit = |(_, left): &(FileId, Arc<[ContentLeft]>)| {
        let digit = nth % left.len();
        nth /= left.len();
        digit
    };
    choice.files.iter().map(digit).collect()
}

fn tell(
    why: &str,
    choice: &Choice,
    contents: &BTreeMap<FileId, &ContentLeft>,
    moment: &Moment<'_>,
) -> String {
    let lost = choice.left.lost.iter().map(|change| format!("{:?}", change.changes));
    let lost = lost.collect::<Vec<_>>().join(", ");
    let files = choice.left.names.iter();
    let files = files.map(|(name, file)| format!("{name}: {}", contents[file]));
    let files = files.collect::<Vec<_>>().join("; ");
    let Moment { step, last } = moment;
    format!("{why} [after step {step}: {last}; names lost: {lost}; files: {files}]")
}
