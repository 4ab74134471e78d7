//! What must be true of a directory of checkpoints, kept by the test: the engine is not asked.

use std::collections::{BTreeMap, BTreeSet};

use scai_checkpoint::retention::{Goal, Rule};

/// What a name holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    #[default]
    Nothing,
    /// The state of this save, bit by bit.
    Save(u64),
    /// Something that is refused, by the digest of its bytes.
    Damage(u128),
}

/// A directory as it lies there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    /// What is held by iteration; an iteration without a file is not among them.
    pub(crate) files: BTreeMap<u64, Held>,
    pub(crate) pins: BTreeSet<u64>,
    /// What was set aside or kept from being replaced: of which iteration, and what.
    pub(crate) aside: BTreeSet<(u64, Held)>,
    pub(crate) latest: Held,
    pub(crate) drafts: usize,
}

impl Contents {
    pub(crate) fn held(&self, iteration: u64) -> Held {
        self.files.get(&iteration).copied().unwrap_or_default()
    }

    /// What the newest iteration holds, sound or not.
    pub(crate) fn newest(&self) -> Held {
        self.files.last_key_value().map(|(_, held)| *held).unwrap_or_default()
    }

    /// The iterations that hold a sound state.
    pub(crate) fn sound(&self) -> BTreeSet<u64> {
        let sound = self.files.iter().filter(|(_, held)| matches!(held, Held::Save(_)));
        sound.map(|(iteration, _)| *iteration).collect()
    }

    pub(crate) fn has_damage(&self) -> bool {
        self.files.values().any(|held| matches!(held, Held::Damage(_)))
    }
}

/// What an operation may change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effects {
    /// It saves: the iteration, and which save.
    pub(crate) save: Option<(u64, u64)>,
    /// It is another manager that saves, which knows nothing of what is there.
    pub(crate) by_rival: bool,
    /// The device forgot what was written, so that a save may be damaged.
    pub(crate) forgetful: bool,
    /// It removes what these rules do not keep.
    pub(crate) retention: Option<Vec<Rule>>,
    /// The damage that is seen at a glance, and so never removed.
    pub(crate) obvious: BTreeSet<u64>,
    /// It sets or takes away a pin.
    pub(crate) pin: Option<(u64, bool)>,
    /// It may set damaged files aside.
    pub(crate) sets_aside: bool,
    /// It succeeded: what it was to change has changed.
    pub(crate) acknowledged: bool,
    /// A store operation failed, so that not all of it was done.
    pub(crate) disturbed: bool,
    /// It syncs the names when it succeeds.
    pub(crate) syncs: bool,
}

/// What a power failure may leave of an iteration.
#[derive(Debug, Clone, Default)]
struct Since {
    /// Everything that the name held since the names were synced for certain.
    held: BTreeSet<Held>,
    pinned: BTreeSet<bool>,
    /// Whether the name may come back with anything in it.
    garbage: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) now: Contents,
    since: BTreeMap<u64, Since>,
    /// What was set aside when the names were synced for certain.
    aside: BTreeSet<(u64, Held)>,
    /// What the manager saved or loaded.
    pub(crate) known: BTreeMap<u64, Held>,
    /// What saves of the manager left that may have failed. It may replace these, or keep them.
    failed: BTreeSet<(u64, Held)>,
    /// The iterations that the manager saved, the last one last.
    pub(crate) saved: Vec<u64>,
}

impl Model {
    /// A directory of which every bit is durable, and a manager that knows nothing of it.
    pub(crate) fn durable(now: Contents) -> Self {
        let mut model =
            Self { aside: now.aside.clone(), now, since: BTreeMap::new(), ..Self::default() };
        model.settle();
        model
    }

    fn iterations(&self, other: &Contents) -> BTreeSet<u64> {
        let files = self.now.files.keys().chain(other.files.keys()).chain(self.since.keys());
        files.chain(&self.now.pins).chain(&other.pins).copied().collect()
    }

    /// What is there now is what any power failure leaves.
    fn settle(&mut self) {
        self.aside = self.now.aside.clone();
        for iteration in self.iterations(&Contents::default()) {
            let held = BTreeSet::from([self.now.held(iteration)]);
            let pinned = BTreeSet::from([self.now.pins.contains(&iteration)]);
            self.since.insert(iteration, Since { held, pinned, garbage: false });
        }
    }

    /// Holds what an operation left against what it may have done; it is what is there from then on.
    pub(crate) fn advance(&mut self, effects: &Effects, left: Contents) -> Result<(), String> {
        for iteration in self.iterations(&left) {
            self.check_file(effects, &left, iteration)
                .and_then(|()| self.check_pin(effects, &left, iteration))
                .map_err(|why| format!("iteration {iteration}: {why}"))?;
        }
        if let Some(lost) = self.now.aside.difference(&left.aside).next() {
            return Err(format!("{lost:?} was set aside and is gone"));
        }
        self.check_aside(effects, &left)?;
        let took = !self.now.files.is_empty() || left.aside != self.now.aside;
        if left.files.is_empty() && took && !matches!(left.latest, Held::Save(_)) {
            return Err("it looks as if no checkpoint had ever been there".to_owned());
        }
        self.check_removed(effects, &left)?;
        let certain = effects.acknowledged && !effects.disturbed && !effects.forgetful;
        if certain && effects.save.is_some() && left.newest() != left.latest {
            return Err(format!("`latest.pt` holds {:?}", left.latest));
        }
        self.remember(effects, &left);
        let own = effects.save.filter(|_| !effects.by_rival);
        self.failed.extend(own.map(|(iteration, _)| (iteration, left.held(iteration))));
        let saved = own.filter(|_| effects.acknowledged);
        if let Some((iteration, _)) = saved {
            self.known.insert(iteration, left.held(iteration));
            self.saved = self.order(effects);
        }
        self.now = left;
        if certain && effects.syncs {
            self.settle();
        }
        Ok(())
    }

    /// Whether a save replaces something that the manager neither saved nor loaded.
    pub(crate) fn is_unread(&self, iteration: u64) -> bool {
        let held = self.now.held(iteration);
        held != Held::Nothing && self.known.get(&iteration) != Some(&held)
    }

    /// The iterations that the manager saved, after a save.
    fn order(&self, effects: &Effects) -> Vec<u64> {
        let new = effects.save.map(|(iteration, _)| iteration);
        let before = self.saved.iter().copied().filter(|iteration| Some(*iteration) != new);
        before.chain(new).collect()
    }

    fn check_aside(&self, effects: &Effects, left: &Contents) -> Result<(), String> {
        let unread = effects.save.map(|(iteration, _)| (iteration, self.now.held(iteration)));
        let unread = unread.filter(|(iteration, held)| {
            *held != Held::Nothing && (effects.by_rival || self.is_unread(*iteration))
        });
        let new: BTreeSet<_> = left.aside.difference(&self.now.aside).copied().collect();
        // Of damage it matters that there is some of it: a copy is read through the same faults.
        let is_of_it = |kept: &(u64, Held), unread: (u64, Held)| {
            let damaged = |held| matches!(held, Held::Damage(_));
            *kept == unread || kept.0 == unread.0 && damaged(kept.1) && damaged(unread.1)
        };
        let may_keep = |kept: &(u64, Held)| {
            self.failed.contains(kept) || unread.is_some_and(|unread| is_of_it(kept, unread))
        };
        match unread {
            Some(unread) if self.failed.contains(&unread) => Ok(()),
            Some(unread)
                if effects.acknowledged
                    && !left.aside.contains(&unread)
                    && !new.iter().any(|kept| is_of_it(kept, unread)) =>
            {
                Err(format!("{unread:?} was replaced unread"))
            }
            _ if effects.sets_aside || effects.forgetful || effects.disturbed => Ok(()),
            _ if new.iter().all(may_keep) => Ok(()),
            _ => Err(format!("{new:?} was set aside")),
        }
    }

    fn check_file(&self, effects: &Effects, left: &Contents, iteration: u64) -> Result<(), String> {
        let (was, is) = (self.now.held(iteration), left.held(iteration));
        if let Some((_, writer)) = effects.save.filter(|(saved, _)| *saved == iteration) {
            let saved = Held::Save(writer);
            return match is {
                is if is == saved => Ok(()),
                is if is == was && !effects.acknowledged => Ok(()),
                Held::Damage(_) if effects.forgetful => Ok(()),
                Held::Nothing if effects.forgetful && !effects.acknowledged => Ok(()),
                is => Err(format!("it holds {is:?} after {saved:?} over {was:?}")),
            };
        }
        if was == is {
            return Ok(());
        }
        // A `latest.pt` that is all there is gets the name of its iteration.
        let adopts = effects.save.is_some() && self.now.files.is_empty();
        if adopts && was == Held::Nothing && is == self.now.latest {
            return Ok(());
        }
        let aside = matches!(was, Held::Damage(_)) && left.aside.contains(&(iteration, was));
        if is == Held::Nothing && effects.sets_aside && aside {
            return Ok(());
        }
        let redundant = effects
            .retention
            .as_ref()
            .is_some_and(|rules| !self.must_stay(effects, rules, iteration));
        if is == Held::Nothing && redundant {
            return Ok(());
        }
        Err(format!("it held {was:?} and holds {is:?}"))
    }

    fn check_pin(&self, effects: &Effects, left: &Contents, iteration: u64) -> Result<(), String> {
        let (was, is) = (self.now.pins.contains(&iteration), left.pins.contains(&iteration));
        let asked = effects.pin.filter(|(pinned, _)| *pinned == iteration).map(|(_, pin)| pin);
        let stale = effects.sets_aside && left.held(iteration) == Held::Nothing && !is;
        let right = match asked {
            Some(asked) if effects.acknowledged => is == asked,
            Some(asked) => is == was || is == asked,
            None => is == was || stale,
        };
        if right { Ok(()) } else { Err(format!("its pin was {was} and is {is}")) }
    }

    /// Whether retention must leave an iteration alone.
    ///
    /// Damage that nobody came across is deleted where a sound file would be.
    fn must_stay(&self, effects: &Effects, rules: &[Rule], iteration: u64) -> bool {
        let saved = effects.save.map(|(saved, _)| saved);
        let mut rivals = match self.now.held(iteration) {
            Held::Damage(_) => self.now.files.keys().copied().collect(),
            _ => self.now.sound(),
        };
        rivals.extend(saved);
        let there = |iteration: &u64| {
            Some(*iteration) == saved || self.now.held(*iteration) != Held::Nothing
        };
        let order: Vec<u64> = self.order(effects).into_iter().filter(there).collect();
        self.now.pins.contains(&iteration)
            || saved == Some(iteration)
            || effects.obvious.contains(&iteration)
            || kept(rules, &rivals, &order).contains(&iteration)
    }

    /// Where nothing is damaged and nothing failed, retention removes all that it may.
    fn check_removed(&self, effects: &Effects, left: &Contents) -> Result<(), String> {
        let Some(rules) = &effects.retention else { return Ok(()) };
        let exact = effects.acknowledged && !effects.disturbed && !effects.forgetful;
        if !exact || self.now.has_damage() {
            return Ok(());
        }
        // A `latest.pt` that was all there was is a checkpoint from the next save on.
        let stays = |iteration: &u64| {
            self.now.held(*iteration) == Held::Nothing || self.must_stay(effects, rules, *iteration)
        };
        match left.files.keys().find(|iteration| !stays(iteration)) {
            Some(spared) => Err(format!("no rule keeps iteration {spared}")),
            None => Ok(()),
        }
    }

    /// Adds what a power failure may leave from now on.
    fn remember(&mut self, effects: &Effects, left: &Contents) {
        let mut iterations = self.iterations(left);
        // A save that does not read back had its name for a moment, whatever it has now.
        iterations.extend(effects.save.map(|(saved, _)| saved));
        for iteration in iterations {
            let (was, is) = (self.now.held(iteration), left.held(iteration));
            let was_pinned = self.now.pins.contains(&iteration);
            let since = self.since.entry(iteration).or_default();
            since.held.extend([was, is]);
            since.pinned.extend([was_pinned, left.pins.contains(&iteration)]);
            // The blocks of what was removed may be somebody else's before the removal is durable.
            since.garbage |= was != Held::Nothing && is == Held::Nothing;
            if effects.save.is_some_and(|(saved, _)| saved == iteration) {
                since.garbage |= effects.forgetful;
                if effects.acknowledged && !effects.forgetful {
                    since.held = [is].into();
                    since.garbage = false;
                }
            }
        }
    }

    /// The disk damages a file, and what it damaged is durable.
    pub(crate) fn damage(&mut self, left: Contents) {
        self.now = left;
        self.settle();
    }

    /// Holds what a power failure left against what it may leave; `before` is the model before the
    /// operation in the midst of which the power failed.
    pub(crate) fn check_crash(&self, before: Option<&Self>, left: &Contents) -> Result<(), String> {
        for iteration in self.iterations(left) {
            let mut since = self.since_of(iteration);
            if let Some(before) = before {
                let earlier = before.since_of(iteration);
                let gone = self.now.held(iteration) == Held::Nothing
                    && before.now.held(iteration) != Held::Nothing;
                since.garbage |= earlier.garbage || gone;
                since.held.extend(earlier.held);
                since.pinned.extend(earlier.pinned);
            }
            let (is, pinned) = (left.held(iteration), left.pins.contains(&iteration));
            let garbage = since.garbage && matches!(is, Held::Damage(_));
            if !since.held.contains(&is) && !garbage {
                return Err(format!("iteration {iteration} holds {is:?}, it may hold {since:?}"));
            }
            if !since.pinned.contains(&pinned) {
                return Err(format!("iteration {iteration} pinned: {pinned}, against {since:?}"));
            }
        }
        let aside = before.map_or(&self.aside, |before| &before.aside);
        match aside.difference(&left.aside).next() {
            Some(lost) => Err(format!("{lost:?} was set aside and is gone")),
            None => Ok(()),
        }
    }

    fn since_of(&self, iteration: u64) -> Since {
        self.since.get(&iteration).cloned().unwrap_or_else(|| Since {
            held: [Held::Nothing].into(),
            pinned: [false].into(),
            garbage: false,
        })
    }
}

/// What the rules keep of some iterations, of which the manager saved those of `order`, the last one
/// last. The statistic of a state is its iteration.
fn kept(rules: &[Rule], among: &BTreeSet<u64>, order: &[u64]) -> BTreeSet<u64> {
    if rules.is_empty() {
        return among.clone();
    }
    // Above the last save, all stay and none counts.
    let last = order.last().copied().unwrap_or(u64::MAX);
    let mut kept: BTreeSet<u64> = among.range(last.saturating_add(1)..).copied().collect();
    kept.extend(among.last());
    let counted = || among.range(..=last).copied();
    let rank = |iteration: &u64| (order.contains(iteration), *iteration);
    let mut newest_first: Vec<u64> = counted().collect();
    newest_first.sort_by_key(|iteration| std::cmp::Reverse(rank(iteration)));
    for rule in rules {
        match rule {
            Rule::Last(count) => kept.extend(newest_first.iter().take(count.get() as usize)),
            Rule::Best { goal: Goal::Max, count, .. } => {
                kept.extend(counted().rev().take(count.get() as usize))
            }
            Rule::Best { count, .. } => kept.extend(counted().take(count.get() as usize)),
            Rule::Every(step) => {
                kept.extend(counted().filter(|iteration| iteration.is_multiple_of(step.get())));
            }
            // No test takes that long.
            _ => kept.extend(among),
        }
    }
    kept
}
