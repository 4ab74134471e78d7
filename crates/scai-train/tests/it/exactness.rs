//! A training that was stopped and resumed ends as one that was not.

use scai_train::config::SaveInterval;
use scai_train::{Ended, Event, Stop};

use crate::support::{Small, assert_same, config, train, tree};

#[test]
fn a_training_resumed_after_every_iteration_ends_with_the_same_bits() {
    let (straight, resumed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut trainer = Small::new(config(straight.path())).unwrap();
    assert_eq!(train(&mut trainer), Ended::Finished);
    drop(trainer);

    for iterations in 1..=6 {
        let mut config = config(resumed.path());
        config.training.save_interval = SaveInterval::Every(1);
        let mut trainer = Small::new(config).unwrap();
        let found = trainer.resume().unwrap();
        assert_eq!(found.map_or(0, |found| found.iteration), iterations - 1);
        let stop = Stop::new();
        let stop_after = stop.clone();
        let mut observer = move |event: &Event<'_>| {
            if matches!(event, Event::Iteration { .. }) {
                stop_after.ask();
            }
        };
        trainer.train(&mut observer, &stop).unwrap();
    }
    for iteration in [2, 4, 6] {
        assert_same(&tree(straight.path(), iteration), &tree(resumed.path(), iteration));
    }
}

#[test]
fn a_training_that_chooses_when_to_save_ends_with_the_same_bits_however_often_it_is_resumed() {
    let straight = tempfile::tempdir().unwrap();
    train(&mut Small::new(config(straight.path())).unwrap());
    // What is affordable depends on the clock: every iteration, and as few as it may be.
    for (overhead, stop_at) in [(1.0, vec![]), (1e-6, vec![]), (1e-6, vec![1, 2, 5])] {
        let chosen = tempfile::tempdir().unwrap();
        let mut config = config(chosen.path());
        config.training.save_interval = SaveInterval::Auto;
        config.training.save_overhead = overhead;
        for last in stop_at.iter().copied().chain([6]) {
            let mut trainer = Small::new(config.clone()).unwrap();
            trainer.resume().unwrap();
            let stop = Stop::new();
            let ask = stop.clone();
            let mut observer = move |event: &Event<'_>| {
                if matches!(event, Event::Iteration { stats, .. } if stats.total_iterations == last)
                {
                    ask.ask();
                }
            };
            trainer.train(&mut observer, &stop).unwrap();
        }
        assert_same(&tree(straight.path(), 6), &tree(chosen.path(), 6));
    }
}

#[test]
fn threads_change_nothing() {
    let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (directory, threads) in [(&one, 1), (&three, 3)] {
        let mut config = config(directory.path());
        config.self_play.threads = threads;
        train(&mut Small::new(config).unwrap());
    }
    assert_same(&tree(one.path(), 6), &tree(three.path(), 6));
}

#[test]
fn another_seed_gives_another_network() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (directory, seed) in [(&one, 1), (&two, 2)] {
        let mut config = config(directory.path());
        config.seed = seed;
        config.training.iterations = 2;
        train(&mut Small::new(config).unwrap());
    }
    assert_ne!(tree(one.path(), 2), tree(two.path(), 2));
}

#[test]
fn a_stop_in_the_middle_of_an_iteration_saves_the_one_before_and_loses_nothing() {
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&mut Small::new(config(straight.path())).unwrap());

    let mut trainer = Small::new(config(stopped.path())).unwrap();
    let stop = Stop::new();
    let ask = stop.clone();
    let mut observer = move |event: &Event<'_>| {
        if matches!(event, Event::Learning { iteration: 4, steps: 1, .. }) {
            ask.ask();
        }
    };
    assert_eq!(trainer.train(&mut observer, &stop).unwrap(), Ended::Stopped);
    assert_eq!(trainer.training_stats().total_iterations, 3);
    drop(trainer);
    let mut trainer = Small::new(config(stopped.path())).unwrap();
    assert_eq!(trainer.resume().unwrap().unwrap().iteration, 3);
    train(&mut trainer);
    assert_same(&tree(straight.path(), 6), &tree(stopped.path(), 6));
}

#[test]
fn a_save_in_the_background_holds_the_state_at_its_call() {
    // Iteration 2 is written while 3 and 4 are under way; saved alone it must be the same.
    let (background, alone) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&mut Small::new(config(background.path())).unwrap());
    let mut short = config(alone.path());
    short.training.save_interval = SaveInterval::Every(1);
    let mut trainer = Small::new(short).unwrap();
    let stop = Stop::new();
    let ask = stop.clone();
    let mut observer = move |event: &Event<'_>| {
        if matches!(event, Event::Iteration { stats, .. } if stats.total_iterations == 2) {
            ask.ask();
        }
    };
    trainer.train(&mut observer, &stop).unwrap();
    drop(trainer);
    assert_same(&tree(background.path(), 2), &tree(alone.path(), 2));
}
