//! Which checkpoints to keep: pure functions from a list to a decision.

mod language;

use std::fmt;
use std::num::NonZeroU64;

use crate::error::Result;

/// Which checkpoints to keep. Each rule keeps some; the rest are deleted.
///
/// Written and read as text, `last:3, every:1000, within:2d, best:loss:min:2`, or `all`: the same in
/// Rust, Python, the command and the configuration.
///
/// ```
/// use scai_checkpoint::Retention;
///
/// let retention: Retention = "last:3, best:loss:min".parse()?;
/// assert_eq!(retention.to_string(), "last:3, best:loss:min:1");
/// assert!("last:0".parse::<Retention>().is_err());
/// # Ok::<(), scai_checkpoint::Error>(())
/// ```
///
/// The newest sound checkpoint and the pinned ones are always kept, and so are those known to be
/// damaged: a resume sets them aside, and they are never deleted. Without any rule everything is kept.
///
/// What this process saved counts as newer than what was there before, whatever the iterations are.
/// After a step back without a rollback, the checkpoints above it are all kept, and no rule counts
/// them. Superseded ones, which a rollback went past, are kept and not counted either.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retention {
    rules: Vec<Rule>,
}

/// A rule that keeps some checkpoints.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// The newest N; those that this process saved come first.
    Last(NonZeroU64),
    /// Those whose iteration is a multiple of this.
    Every(NonZeroU64),
    /// The best N by a statistic; those without it are not counted.
    Best {
        /// The key in `training_stats`. If no checkpoint has it, all are kept.
        statistic: String,
        /// Which end is good.
        goal: Goal,
        /// How many.
        count: NonZeroU64,
    },
    /// Those saved within this many seconds before now; those without a time are kept.
    Within(NonZeroU64),
}

/// Which end of a statistic is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The smaller the better, as for a loss.
    Min,
    /// The larger the better, as for an accuracy.
    Max,
}

/// What retention knows of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The iteration.
    pub iteration: u64,
    /// When it was saved, in seconds since 1970.
    pub saved_at: Option<i64>,
    /// It must not be deleted.
    pub pinned: bool,
    /// It cannot be loaded, as far as is known.
    pub damaged: bool,
    /// A rollback went past it.
    pub superseded: bool,
    /// How many saves this process had made before it saved this one; `None` if it did not.
    pub saved_here: Option<u64>,
    /// The statistics that are numbers.
    pub statistics: Vec<(String, f64)>,
}

/// Why a checkpoint is kept.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// There is no rule.
    NoRule,
    /// It is the newest sound one.
    Newest,
    /// It is pinned.
    Pinned,
    /// This call saved it, although there are later iterations.
    JustSaved,
    /// It cannot be loaded, and nothing damaged is deleted.
    Damaged,
    /// A rollback went past it.
    Superseded,
    /// This process saved an older iteration last: the run went back without a rollback.
    AboveStepBack,
    /// A rule asks for the best by a statistic that no checkpoint has: a wrong name must not delete
    /// everything.
    NoStatistic(String),
    /// A rule keeps it; for [`Rule::Last`] and [`Rule::Best`] with its rank, counted from 1.
    Rule(Rule, usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NoRule => f.write_str("no rule is set"),
            Reason::Newest => f.write_str("newest"),
            Reason::JustSaved => f.write_str("just saved"),
            Reason::Pinned => f.write_str("pinned"),
            Reason::Damaged => f.write_str("damaged or unreadable, never deleted"),
            Reason::Superseded => f.write_str("superseded, deleted only if asked for"),
            Reason::AboveStepBack => f.write_str("above the iteration saved last"),
            Reason::NoStatistic(name) => write!(f, "no checkpoint has a number `{name}`"),
            Reason::Rule(Rule::Last(count), rank) => write!(f, "last {count} (no. {rank})"),
            Reason::Rule(Rule::Every(step), _) => write!(f, "multiple of {step}"),
            Reason::Rule(Rule::Best { statistic, goal, .. }, rank) => {
                let end = if *goal == Goal::Min { "lowest" } else { "highest" };
                write!(f, "{end} {statistic} (no. {rank})")
            }
            Reason::Rule(Rule::Within(seconds), _) => {
                let (count, unit) = language::in_units(seconds.get());
                write!(f, "within {count} {unit}")
            }
        }
    }
}

impl Retention {
    /// Keeps everything.
    pub fn keep_all() -> Self {
        Self::default()
    }

    /// Keeps the newest `count`.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for 0; [`Retention::keep_all`] keeps everything.
    pub fn keep_last(count: u64) -> Result<Self> {
        format!("last:{count}").parse()
    }

    /// The rules of several texts, each of which may hold some; without any, everything is kept.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a text that is not a rule.
    pub fn of_rules(texts: &[String]) -> Result<Self> {
        if texts.is_empty() { Ok(Self::keep_all()) } else { texts.join(",").parse() }
    }

    /// The statistics by which the best are kept.
    pub fn statistics(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter_map(|rule| match rule {
            Rule::Best { statistic, .. } => Some(statistic.as_str()),
            _ => None,
        })
    }

    /// The rules; without any, everything is kept.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The reasons to keep each candidate, in the order given; without any it is deleted.
    ///
    /// `now` is in seconds since 1970.
    pub fn decide(&self, candidates: &[Candidate], now: i64) -> Vec<Vec<Reason>> {
        let mut reasons = vec![Vec::new(); candidates.len()];
        let counts = |i: &usize| !candidates[*i].damaged && !candidates[*i].superseded;
        let saved_last = candidates.iter().max_by_key(|candidate| candidate.saved_here);
        let saved_last = saved_last.filter(|candidate| candidate.saved_here.is_some());
        let is_above = |i: usize| saved_last.is_some_and(|l| candidates[i].iteration > l.iteration);
        let mut sound: Vec<usize> = (0..candidates.len()).filter(counts).collect();
        // A resume goes by the iteration alone. Of equal ones it takes the last, as in a list.
        let newest = sound.iter().copied().max_by_key(|&i| candidates[i].iteration);
        for (i, candidate) in candidates.iter().enumerate() {
            if Some(i) == newest {
                reasons[i].push(Reason::Newest);
            }
            if candidate.pinned {
                reasons[i].push(Reason::Pinned);
            }
            if candidate.damaged {
                reasons[i].push(Reason::Damaged);
            } else if candidate.superseded {
                reasons[i].push(Reason::Superseded);
            } else if self.rules.is_empty() {
                reasons[i].push(Reason::NoRule);
            } else if is_above(i) {
                reasons[i].push(Reason::AboveStepBack);
            }
        }
        sound.retain(|&i| !is_above(i));
        sound.sort_by_key(|&i| {
            let Candidate { saved_here, iteration, .. } = candidates[i];
            std::cmp::Reverse((saved_here.is_some(), iteration, i))
        });
        for rule in &self.rules {
            let kept = rule.keeps(candidates, &sound, now);
            if let (Rule::Best { statistic, .. }, true) = (rule, kept.is_empty()) {
                for &i in &sound {
                    reasons[i].push(Reason::NoStatistic(statistic.clone()));
                }
            }
            for (rank, i) in kept.into_iter().enumerate() {
                reasons[i].push(Reason::Rule(rule.clone(), rank + 1));
            }
        }
        reasons
    }
}

impl Rule {
    /// The candidates the rule keeps, best first. `sound` has the sound ones, newest first.
    fn keeps(&self, candidates: &[Candidate], sound: &[usize], now: i64) -> Vec<usize> {
        let sound = sound.iter().copied();
        match self {
            Rule::Last(count) => sound.take(at_most(*count)).collect(),
            Rule::Every(step) => {
                sound.filter(|&i| candidates[i].iteration.is_multiple_of(step.get())).collect()
            }
            Rule::Best { statistic, goal, count } => {
                let value = |i: usize| {
                    let found = candidates[i].statistics.iter().find(|(name, _)| name == statistic);
                    found.map(|&(_, value)| value).filter(|value| !value.is_nan())
                };
                // Newest first among equals, since the sort is stable.
                let mut ranked: Vec<(usize, f64)> =
                    sound.filter_map(|i| Some((i, value(i)?))).collect();
                ranked.sort_by(|(_, a), (_, b)| match goal {
                    Goal::Min => a.total_cmp(b),
                    Goal::Max => b.total_cmp(a),
                });
                ranked.into_iter().take(at_most(*count)).map(|(i, _)| i).collect()
            }
            Rule::Within(seconds) => {
                let since = now.saturating_sub(i64::try_from(seconds.get()).unwrap_or(i64::MAX));
                sound.filter(|&i| candidates[i].saved_at.is_none_or(|at| at >= since)).collect()
            }
        }
    }
}

fn at_most(count: NonZeroU64) -> usize {
    usize::try_from(count.get()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Retention {
        text.parse().unwrap()
    }

    fn candidate(iteration: u64) -> Candidate {
        Candidate {
            iteration,
            saved_at: Some(iteration as i64),
            pinned: false,
            damaged: false,
            superseded: false,
            saved_here: None,
            statistics: vec![("loss".into(), 100.0 - iteration as f64)],
        }
    }

    fn kept(retention: &Retention, candidates: &[Candidate], now: i64) -> Vec<u64> {
        let reasons = retention.decide(candidates, now);
        let kept = candidates.iter().zip(&reasons).filter(|(_, reasons)| !reasons.is_empty());
        kept.map(|(candidate, _)| candidate.iteration).collect()
    }

    #[test]
    fn rules_combine_by_union() {
        let all: Vec<Candidate> = (1..=10).map(candidate).collect();
        assert_eq!(kept(&Retention::keep_last(2).unwrap(), &all, 10), [9, 10]);
        let retention = of("last:1, every:4");
        assert_eq!(kept(&retention, &all, 10), [4, 8, 10]);
        assert_eq!(kept(&of("last:1, best:loss:max:2"), &all, 10), [1, 2, 10]);
        assert_eq!(kept(&of("last:1, best:loss:min:2"), &all, 10), [9, 10]);
        assert_eq!(kept(&of("within:3s"), &all, 10), [7, 8, 9, 10]);
        assert_eq!(kept(&Retention::keep_all(), &all, 10).len(), 10);
    }

    #[test]
    fn nan_is_never_best_and_damaged_ones_do_not_count() {
        let mut all: Vec<Candidate> = (1..=4).map(candidate).collect();
        all[3].damaged = true;
        all[0].statistics[0].1 = f64::NAN;
        all[1].pinned = true;
        // 4 is damaged and kept, 3 is the newest sound one, 2 is pinned and the best.
        assert_eq!(kept(&of("best:loss:max"), &all, 0), [2, 3, 4]);
        assert_eq!(kept(&Retention::keep_last(1).unwrap(), &all, 0), [2, 3, 4]);
    }

    #[test]
    fn the_best_by_a_statistic_that_nobody_has_deletes_nothing() {
        let all: Vec<Candidate> = (1..=4).map(candidate).collect();
        assert_eq!(kept(&of("last:1, best:los:min"), &all, 0), [1, 2, 3, 4]);
    }

    #[test]
    fn after_a_step_back_what_was_saved_since_counts_and_what_is_above_stays() {
        let saved = |(iteration, saved_here)| Candidate { saved_here, ..candidate(iteration) };
        let old = [(48, None), (49, None), (118, None), (119, None), (120, None)];
        let mut all: Vec<Candidate> = old.map(saved).into();
        all.insert(2, saved((50, Some(0))));
        all.insert(3, saved((51, Some(1))));
        assert_eq!(kept(&Retention::keep_last(3).unwrap(), &all, 0), [49, 50, 51, 118, 119, 120]);
        // Once the run has passed them, its own count first.
        all.push(saved((121, Some(2))));
        assert_eq!(kept(&Retention::keep_last(3).unwrap(), &all, 0), [50, 51, 121]);
        assert_eq!(kept(&Retention::keep_last(4).unwrap(), &all, 0), [50, 51, 120, 121]);
    }

    #[test]
    fn a_superseded_checkpoint_counts_for_no_rule_and_stays() {
        let mut all: Vec<Candidate> = (1..=6).map(candidate).collect();
        all[4].superseded = true;
        all[5].superseded = true;
        assert_eq!(kept(&Retention::keep_last(2).unwrap(), &all, 0), [3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn the_newest_sound_ones_always_stay(
            flags in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..20),
            count in 1_u64..5,
        ) {
            let all: Vec<Candidate> = flags
                .iter()
                .enumerate()
                .map(|(i, &(damaged, pinned))| Candidate { damaged, pinned, ..candidate(i as u64) })
                .collect();
            let kept = kept(&Retention::keep_last(count).unwrap(), &all, 0);
            let sound = all.iter().rev().filter(|c| !c.damaged).take(at_most(NonZeroU64::MIN.saturating_add(count - 1)));
            for must in sound.chain(all.iter().filter(|c| c.damaged || c.pinned)) {
                prop_assert!(kept.contains(&must.iteration));
            }
        }
    }
}
