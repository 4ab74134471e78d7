//! The enumeration of the states a crash may leave.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use super::content::{Content, ContentLeft, Random};
use super::ledger::Ledger;
use super::names::{Names, NamesLeft};
use super::{DirectoryId, FileId, Journal, Node, ROOT, SimulatedDisk, Step};
use crate::store::{Directory, MemoryDirectory};

/// States are enumerated in full at a crash point that has no more than this many, else this many
/// are drawn.
const EXHAUSTIVE: usize = 4096;
/// Combinations of the names in several directories that are tried, if there are more.
const COMBINATIONS: usize = 4096;
/// Bad states that are described in words.
const EXAMPLES: usize = 5;

/// What a crash left, as a directory that can be opened and written to.
#[derive(Debug)]
pub struct CrashState<'a> {
    /// The files. Temporary files among them have no live writer.
    pub directory: MemoryDirectory,
    /// What had been promised when the crash came.
    pub ledger: &'a Ledger,
    /// The number of steps that had been done.
    pub step: usize,
}

/// The result of checking the states.
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
        let mut walk = Walk::new(&journal, check);
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
    pub fn crash_once(&self, step: usize, draw: u64) -> MemoryDirectory {
        let journal = self.journal();
        let mut walk = Walk::new(&journal, |_| Ok(()));
        journal.steps.iter().take(step).for_each(|step| walk.advance(step));
        walk.random = Random::new(draw);
        let mut pick = Random::new(draw);
        let mut pick = |count: usize| match draw {
            0 => 0,
            1 => count - 1,
            _ => pick.below(count),
        };
        let mut left = walk.names_left();
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
    /// The names in each directory.
    names: Vec<Names>,
    files: Vec<Content>,
    /// Files without a name whose removal, from this directory, is not durable.
    freed: HashSet<(DirectoryId, FileId)>,
    ledger: Ledger,
    notes: usize,
    random: Random,
    seen: HashSet<(usize, u128)>,
    report: CrashReport,
    check: C,
}

/// One way the names of a directory and of all directories below it may come back.
#[derive(Clone)]
struct Tree {
    names: BTreeMap<DirectoryId, NamesLeft>,
}

impl Tree {
    fn of(directory: DirectoryId, names: NamesLeft) -> Self {
        Self { names: [(directory, names)].into() }
    }

    fn with(&self, below: &Self) -> Self {
        let mut names = self.names.clone();
        names.extend(below.names.clone());
        Self { names }
    }

    /// The names in a directory.
    fn of_directory(&self, directory: DirectoryId) -> &BTreeMap<String, Node> {
        &self.names[&directory].names
    }

    /// All paths and what they name, parents before what is in them.
    fn paths(&self) -> Vec<(String, Node)> {
        let mut paths = Vec::new();
        self.collect(ROOT, "", &mut paths);
        paths
    }

    fn collect(&self, directory: DirectoryId, prefix: &str, paths: &mut Vec<(String, Node)>) {
        for (name, node) in self.of_directory(directory) {
            let path = format!("{prefix}{name}");
            paths.push((path.clone(), *node));
            if let Node::Child(child) = node {
                self.collect(*child, &format!("{path}/"), paths);
            }
        }
    }
}

/// One choice of names, and for each file they reach the contents it may have.
struct Choice {
    left: Tree,
    /// What they are called.
    paths: Vec<(String, Node)>,
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

    fn store(&self, contents: &BTreeMap<FileId, &ContentLeft>) -> MemoryDirectory {
        self.directory(ROOT, Path::new(&MemoryDirectory::new().describe()), contents)
    }

    fn directory(
        &self,
        directory: DirectoryId,
        path: &Path,
        contents: &BTreeMap<FileId, &ContentLeft>,
    ) -> MemoryDirectory {
        let (mut named, mut children) = (BTreeMap::new(), BTreeMap::new());
        for (name, node) in self.left.of_directory(directory) {
            match node {
                Node::File(file) => {
                    named.insert(name.clone(), Arc::clone(&contents[file].inode));
                }
                Node::Child(child) => {
                    let below = self.directory(*child, &path.join(name), contents);
                    children.insert(name.clone(), below);
                }
            }
        }
        MemoryDirectory::of(path, named, children)
    }
}

impl<C: FnMut(&CrashState<'_>) -> Result<(), String>> Walk<C> {
    /// A walk over the steps of a disk.
    fn new(journal: &Journal, check: C) -> Self {
        Self {
            names: journal.names.iter().map(|_| Names::default()).collect(),
            files: (0..journal.files).map(|_| Content::default()).collect(),
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
            Step::Names(directory, change) => {
                self.freed.extend(change.frees.map(|file| (*directory, file)));
                self.names[*directory].change(change.clone());
            }
            Step::File(file, change) => self.files[*file].change(change),
            Step::SyncFile(file) => self.files[*file].sync(),
            Step::SyncNames(directory) => {
                self.freed.retain(|(other, _)| other != directory);
                self.names[*directory].sync();
            }
            Step::Note(note) => {
                self.ledger.note(note);
                self.notes += 1;
            }
        }
    }

    fn crash(&mut self, step: usize, last: &str) {
        let left = self.names_left();
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

    /// The ways in which the names of all directories may come back together; the first has lost
    /// everything, the last nothing.
    fn names_left(&mut self) -> Vec<Tree> {
        self.trees(ROOT, &mut HashMap::new())
    }

    fn trees(
        &mut self,
        directory: DirectoryId,
        known: &mut HashMap<DirectoryId, Vec<Tree>>,
    ) -> Vec<Tree> {
        let mut trees = Vec::new();
        for names in self.names[directory].left(&mut self.random) {
            let children = names.names.values().filter_map(|node| match node {
                Node::Child(child) => Some(*child),
                Node::File(_) => None,
            });
            let children: Vec<DirectoryId> = children.collect();
            let mut combined = vec![Tree::of(directory, names)];
            for child in children {
                if !known.contains_key(&child) {
                    let below = self.trees(child, known);
                    known.insert(child, below);
                }
                combined = self.combined(&combined, &known[&child]);
            }
            trees.append(&mut combined);
        }
        trees
    }

    /// Each of `these` with each of `those`. If there are too many, the extremes and some that are drawn.
    fn combined(&mut self, these: &[Tree], those: &[Tree]) -> Vec<Tree> {
        if these.len().saturating_mul(those.len()) <= COMBINATIONS {
            let with_each = |this: &Tree| those.iter().map(|that| this.with(that)).collect();
            return these.iter().flat_map::<Vec<Tree>, _>(with_each).collect();
        }
        let last = these.len() - 1;
        let first = those.iter().map(|that| these[0].with(that));
        let drawn: Vec<(usize, usize)> = (0..COMBINATIONS)
            .map(|_| (self.random.below(these.len()), self.random.below(those.len())))
            .collect();
        let drawn = drawn.into_iter().map(|(this, that)| these[this].with(&those[that]));
        let rest = those.iter().map(|that| these[last].with(that));
        first.chain(drawn).chain(rest).collect()
    }

    fn choice(&mut self, left: Tree) -> Choice {
        let paths = left.paths();
        let reached: BTreeSet<FileId> = paths
            .iter()
            .filter_map(|(_, node)| match node {
                Node::File(file) => Some(*file),
                Node::Child(_) => None,
            })
            .collect();
        let freed: HashSet<FileId> = self.freed.iter().map(|(_, file)| *file).collect();
        let mut files = Vec::new();
        for file in reached {
            let mut contents = self.files[file].left(&mut self.random);
            if freed.contains(&file) {
                let reused = self.files[file].reused();
                contents = std::iter::once(reused).chain(contents.iter().cloned()).collect();
            }
            files.push((file, contents));
        }
        Choice { left, paths, files }
    }

    /// Checks one state, unless the same was checked with the same promises.
    fn visit(&mut self, choice: &Choice, picked: Vec<usize>, moment: &Moment<'_>) {
        let contents = choice.contents(picked);
        let mut key = XxHash3_128::new();
        for (path, node) in &choice.paths {
            key.write(path.as_bytes());
            match node {
                Node::File(file) => {
                    key.write(&[0xFF]);
                    key.write(&contents[file].digest.to_le_bytes());
                }
                Node::Child(_) => key.write(&[0xFE]),
            }
        }
        if !self.seen.insert((self.notes, key.finish_128())) {
            self.report.repeated += 1;
            return;
        }
        self.report.states += 1;
        let directory = choice.store(&contents);
        let state = CrashState { directory, ledger: &self.ledger, step: moment.step };
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

/// The `nth` combination of contents, counting with one digit per file.
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
    let lost = choice.left.names.iter().flat_map(|(directory, left)| {
        left.lost.iter().map(move |change| match *directory {
            ROOT => format!("{:?}", change.changes),
            child => format!("{:?} in directory {child}", change.changes),
        })
    });
    let lost = lost.collect::<Vec<_>>().join(", ");
    let files = choice.paths.iter().map(|(path, node)| match node {
        Node::File(file) => format!("{path}: {}", contents[file]),
        Node::Child(_) => format!("{path}/"),
    });
    let files = files.collect::<Vec<_>>().join("; ");
    let Moment { step, last } = moment;
    format!("{why} [after step {step}: {last}; names lost: {lost}; files: {files}]")
}
