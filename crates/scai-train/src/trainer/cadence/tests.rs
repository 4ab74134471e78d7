use proptest::prelude::*;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn auto(overhead: f64) -> Cadence {
    let training = Training {
        save_interval: SaveInterval::Auto,
        save_overhead: overhead,
        ..Training::default()
    };
    Cadence::new(&training, 0)
}

/// Training whose iterations and saves always take the same time.
#[derive(Debug, Clone, Copy)]
struct Constant {
    iteration: Duration,
    /// How long training waits in the call of a save.
    waited: Duration,
    /// How long a save runs in the background.
    background: Duration,
    /// The part of that by which it slows down the iterations beside it.
    slower: f64,
}

impl Constant {
    /// What a save costs.
    fn cost(&self) -> Duration {
        self.waited + self.background.mul_f64(self.slower)
    }

    /// Trains for `iterations` iterations after `from`, and returns those that were saved.
    fn train(&self, cadence: &mut Cadence, from: u64, iterations: u64) -> Vec<u64> {
        // A save ends in the iteration during which it has run long enough.
        let beside = self.background.as_nanos().div_ceil(self.iteration.as_nanos().max(1)).max(1);
        let beside = u32::try_from(beside).unwrap();
        let slowed = self.iteration + self.background.mul_f64(self.slower) / beside;
        let (mut saved, mut left) = (Vec::new(), 0_u32);
        for iteration in from + 1..=from + iterations {
            cadence.observe_iteration(if left > 0 { slowed } else { self.iteration });
            if left == 1 {
                cadence.end_save(Some(self.background));
            }
            left = left.saturating_sub(1);
            if cadence.is_due(iteration) {
                cadence.begin_save(iteration, self.waited);
                saved.push(iteration);
                left = beside;
            }
        }
        saved
    }

    /// The interval after training long enough.
    fn interval(&self, overhead: f64) -> u64 {
        let mut cadence = auto(overhead);
        let needed = self.cost().as_secs_f64() / (overhead * self.iteration.as_secs_f64());
        // Each save doubles the interval, or it is long enough already.
        self.train(&mut cadence, 0, 4 * needed as u64 + 1000);
        cadence.interval()
    }
}

fn constant() -> impl Strategy<Value = Constant> {
    let ranges = (10_000..5_000_000_u64, 0..500_000_u64, 0..2_000_000_u64, 0.0..=1.0);
    ranges.prop_map(|(iteration, waited, background, slower)| Constant {
        iteration: Duration::from_micros(iteration),
        waited: Duration::from_micros(waited),
        background: Duration::from_micros(background),
        slower,
    })
}

/// Times of a clock that is rounded and of a division: nanoseconds in milliseconds.
const ROUNDING: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_saves_cost_stays_within_the_share_and_uses_it(
        constant in constant(),
        overhead in 0.01..1.0_f64,
    ) {
        let interval = constant.interval(overhead) as f64;
        let cost = constant.cost().as_secs_f64();
        let iteration = constant.iteration.as_secs_f64();
        prop_assert!(cost / (interval * iteration) <= overhead * (1.0 + ROUNDING));
        let shorter = (interval - 1.0) * iteration;
        prop_assert!(interval == 1.0 || cost / shorter >= overhead * (1.0 - ROUNDING));
    }

    #[test]
    fn dearer_saves_are_rarer_and_longer_iterations_or_a_larger_share_make_them_more_frequent(
        constant in constant(),
        overhead in 0.01..0.5_f64,
        factor in 2..4_u32,
    ) {
        let interval = constant.interval(overhead);
        let dearer = Constant {
            waited: constant.waited * factor,
            background: constant.background * factor,
            ..constant
        };
        prop_assert!(dearer.interval(overhead) >= interval);
        let longer = Constant { iteration: constant.iteration * factor, ..constant };
        prop_assert!(longer.interval(overhead) <= interval);
        prop_assert!(constant.interval(overhead * f64::from(factor).min(2.0)) <= interval);
    }

    #[test]
    fn whatever_is_measured_the_interval_is_at_least_1_and_at_most_doubles(
        steps in prop::collection::vec((any_time(), any_time(), any_time(), any::<bool>()), 1..60),
        overhead in 1e-9..=1.0_f64,
    ) {
        let mut cadence = auto(overhead);
        let mut before = cadence.interval();
        for (at, (iteration, waited, background, ends)) in (1..).zip(steps) {
            cadence.observe_iteration(iteration);
            if cadence.is_due(at) {
                cadence.begin_save(at, waited);
                prop_assert!(!cadence.is_due(at) && !cadence.is_due(at + 1_000_000));
            } else if ends {
                cadence.end_save((!background.is_zero()).then_some(background));
            }
            let interval = cadence.interval();
            prop_assert!((1..=before.saturating_mul(2)).contains(&interval));
            prop_assert!(cadence.next(at) > at);
            before = interval;
        }
    }
}

/// Any time, including zero and the longest possible.
fn any_time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        any::<u64>().prop_map(Duration::from_nanos),
        (0..10_000_u64).prop_map(ms),
    ]
}

const TYPICAL: Constant =
    Constant { iteration: ms(100), waited: ms(1), background: ms(30), slower: 0.5 };

#[test]
fn a_number_is_due_at_its_multiples() {
    let training = Training { save_interval: SaveInterval::Every(10), ..Training::default() };
    let mut cadence = Cadence::new(&training, 15);
    assert_eq!(TYPICAL.train(&mut cadence, 15, 30), [20, 30, 40]);
    assert_eq!((cadence.next(0), cadence.next(9), cadence.next(10)), (10, 10, 20));
    assert!(!cadence.is_due(0));
    assert_eq!(cadence.interval(), 10);
}

#[test]
fn the_first_save_comes_after_the_first_iteration_and_the_interval_doubles_up_to_what_is_affordable()
 {
    // A save costs 16 ms, and a hundredth of an iteration is 1 ms.
    assert_eq!(TYPICAL.train(&mut auto(0.01), 0, 80), [1, 3, 7, 15, 31, 47, 63, 79]);
    let mut resumed = auto(0.01);
    resumed.skip(500);
    assert_eq!(TYPICAL.train(&mut resumed, 500, 10), [501, 503, 507]);
}

#[test]
fn one_save_that_takes_long_changes_nothing_and_lasting_trouble_does() {
    let mut cadence = auto(0.01);
    TYPICAL.train(&mut cadence, 0, 200);
    let at = *TYPICAL.train(&mut cadence, 200, 16).last().unwrap();
    assert_eq!(cadence.interval(), 16);
    let slow = Constant { waited: ms(60_000), ..TYPICAL };
    assert_eq!(slow.train(&mut cadence, at, 17), [at + 16]);
    assert_eq!(cadence.interval(), 16);
    slow.train(&mut cadence, at + 17, 32);
    assert_eq!(cadence.interval(), 32);
}

#[test]
fn iterations_that_become_longer_are_not_taken_for_the_cost_of_a_save() {
    let mut cadence = auto(0.01);
    // Before there are enough positions, an iteration plays and does not learn.
    let (short, long) = (ms(10), ms(10_000));
    cadence.observe_iteration(short);
    cadence.begin_save(1, ms(1));
    cadence.observe_iteration(long);
    cadence.end_save(Some(ms(30)));
    let Cadence::Auto(affordable) = &cadence else { panic!("it is a number") };
    assert!((affordable.costs.median() - 0.031).abs() < 1e-9, "{affordable:?}");
    let usual = Constant { iteration: long, ..TYPICAL };
    let saved = usual.train(&mut cadence, 2, 20);
    assert_eq!(saved[saved.len() - 10..], (13..=22).collect::<Vec<_>>());
}

#[test]
fn a_save_that_failed_or_ran_beside_no_iteration_measures_nothing() {
    let mut cadence = auto(0.01);
    TYPICAL.train(&mut cadence, 0, 200);
    let interval = cadence.interval();
    for (at, background) in (1000..).zip([None, Some(ms(60_000))].repeat(RECENT)) {
        cadence.begin_save(at, ms(60_000));
        if background.is_none() {
            cadence.observe_iteration(ms(60_000));
        }
        cadence.end_save(background);
        assert_eq!((cadence.interval(), cadence.next(at)), (interval, at + interval));
    }
}

#[test]
fn times_of_zero_are_no_harm() {
    let nothing = Duration::ZERO;
    for (iteration, waited) in [(nothing, nothing), (ms(1), nothing), (nothing, ms(1))] {
        let constant = Constant { iteration, waited, background: nothing, slower: 0.0 };
        let mut cadence = auto(0.01);
        let saved = constant.train(&mut cadence, 0, 20);
        let expected = if waited.is_zero() { 1 } else { 16 };
        assert_eq!(cadence.interval(), expected, "{constant:?}: {saved:?}");
    }
}
