//! The saves of a training as its observer sees them: when, how long, and where the time went.

use std::path::Path;
use std::time::Duration;

use scai_train::config::SaveInterval;
use scai_train::metrics::Recorder;
use scai_train::{Config, Event, Observer as _, Stop};
use serde_json::Value as Json;

use crate::support::{Small, config};

/// The events of saves in a training, as programs see them.
fn events(config: &Config, stop_at: Option<u64>) -> Vec<Json> {
    let mut trainer = Small::new(config.clone()).unwrap();
    trainer.resume().unwrap();
    let stop = Stop::new();
    let ask = stop.clone();
    let mut events = Vec::new();
    let mut observer = |event: &Event<'_>| match event {
        Event::Iteration { stats, .. } if Some(stats.total_iterations) == stop_at => ask.ask(),
        Event::Saving { .. } | Event::Saved { .. } | Event::SaveFailed { .. } => {
            events.push(event.to_json());
        }
        _ => {}
    };
    trainer.train(&mut observer, &stop).unwrap();
    events
}

fn of<'a>(events: &'a [Json], kind: &str) -> Vec<&'a Json> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

fn iterations(events: &[&Json]) -> Vec<u64> {
    events.iter().map(|event| event["iteration"].as_u64().unwrap()).collect()
}

/// A training that saves as often as `overhead` of the time allows.
fn auto(directory: &Path, overhead: f64) -> Config {
    let mut config = config(directory);
    config.training.save_interval = SaveInterval::Auto;
    config.training.save_overhead = overhead;
    config
}

#[test]
fn a_save_tells_its_timeline() {
    let directory = tempfile::tempdir().unwrap();
    let events = events(&config(directory.path()), None);
    let (begun, saved) = (of(&events, "saving"), of(&events, "saved"));
    assert_eq!((iterations(&begun), iterations(&saved)), (vec![2, 4, 6], vec![2, 4, 6]));
    for (begun, saved) in begun.iter().zip(&saved) {
        let ms = |stage: &str| saved[format!("{stage}_ms")].as_f64().unwrap();
        let stages = ["plan", "write", "sync", "commit"].map(ms);
        assert!(stages.iter().chain([&ms("after")]).all(|time| *time >= 0.0), "{saved}");
        assert_eq!(saved["waited_ms"], begun["waited_ms"]);
        let size = saved["size"].as_f64().unwrap();
        let expected = size / 1e6 / stages.iter().sum::<f64>();
        let rate = saved["gb_per_s"].as_f64().unwrap();
        assert!((rate / expected - 1.0).abs() < 1e-6, "{rate}, {expected}: {saved}");
        assert_eq!(saved["interval"], 2);
    }
}

#[test]
fn auto_saves_after_the_first_iteration_and_at_the_end_and_in_between_by_what_it_costs() {
    let (dear, cheap) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // No save is affordable: the interval doubles each time.
    let dear = events(&auto(dear.path(), 1e-9), None);
    let saved = of(&dear, "saved");
    let intervals: Vec<u64> =
        saved.iter().map(|saved| saved["interval"].as_u64().unwrap()).collect();
    assert_eq!((saved[0]["iteration"].as_u64(), intervals[0]), (Some(1), 2), "{dear:?}");
    assert!(intervals.windows(2).all(|pair| pair[1] <= 2 * pair[0]), "{intervals:?}");
    assert!(saved.len() < 5 && iterations(&saved).ends_with(&[6]), "{dear:?}");

    let mut config = auto(cheap.path(), 1.0);
    config.training.iterations = 12;
    let cheap = events(&config, None);
    let saved = iterations(&of(&cheap, "saved"));
    assert!(saved.starts_with(&[1]) && saved.ends_with(&[12]), "{saved:?}");
}

#[test]
fn a_resumed_training_measures_anew() {
    let directory = tempfile::tempdir().unwrap();
    let config = auto(directory.path(), 1e-9);
    events(&config, Some(3));
    let resumed = events(&config, None);
    assert_eq!(iterations(&of(&resumed, "saved"))[..1], [4], "{resumed:?}");
}

#[test]
fn a_save_that_fails_says_what_is_tried_next() {
    for (interval, expected) in
        [(SaveInterval::Every(2), [(2, Some(4)), (4, Some(6)), (6, Some(6)), (6, None)])]
    {
        let directory = tempfile::tempdir().unwrap();
        for iteration in [2, 4, 6] {
            let path = directory.path().join(format!("checkpoint_iter_{iteration}.pt"));
            std::fs::create_dir(path).unwrap();
        }
        let mut config = config(directory.path());
        config.training.save_interval = interval;
        let mut failed = Vec::new();
        let mut observer = |event: &Event<'_>| {
            if let Event::SaveFailed { iteration, next, .. } = event {
                failed.push((*iteration, *next));
            }
        };
        let mut trainer = Small::new(config).unwrap();
        assert!(trainer.train(&mut observer, &Stop::new()).is_err());
        assert_eq!(failed, expected);
    }
}

#[test]
fn the_timeline_of_a_save_is_recorded_once_and_every_iteration_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory.path().join("checkpoints"));
    config.logging.directory = directory.path().join("logs").display().to_string();
    let mut trainer = Small::new(config.clone()).unwrap();
    let tell = |error: &_| panic!("{error}");
    let mut recorder = Recorder::open(&config.logging, None, trainer.training_stats(), &tell);
    let mut saves = Vec::new();
    let mut observer = |event: &Event<'_>| {
        if let Event::Saved { saved, waited, .. } = event {
            saves.push((saved.timeline.write, *waited));
        }
        recorder.on_event(event);
    };
    trainer.train(&mut observer, &Stop::new()).unwrap();
    recorder.close();

    let text = std::fs::read_to_string(directory.path().join("logs/metrics.jsonl")).unwrap();
    let records: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let iterations: Vec<u64> =
        records.iter().map(|record| record["iteration"].as_u64().unwrap()).collect();
    assert_eq!(iterations, [1, 2, 3, 4, 5, 6]);
    let of_saves: Vec<&Json> =
        records.iter().filter(|record| record["save/write_ms"].is_number()).collect();
    let recorded = |name: &str| -> Vec<f64> {
        of_saves.iter().map(|record| record[name].as_f64().unwrap()).collect()
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    // Where several became durable in one iteration, it is the last that is recorded.
    let written: Vec<f64> = saves.iter().map(|(write, _)| ms(write)).collect();
    assert!(recorded("save/write_ms").iter().all(|time| written.contains(time)), "{text}");
    assert_eq!(recorded("save/write_ms").last(), written.last());
    assert_eq!(recorded("save/waited_ms").last(), saves.last().map(|(_, wait)| ms(wait)).as_ref());
    for name in ["plan_ms", "sync_ms", "commit_ms", "after_ms", "bytes", "gb_per_s", "interval"] {
        let values = recorded(&format!("save/{name}"));
        assert!(values.iter().all(|value| *value >= 0.0), "{name}: {values:?}");
    }
    let events = std::fs::read_dir(directory.path().join("logs")).unwrap();
    let events = events.map(|entry| entry.unwrap().path()).find(|path| {
        path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents.")
    });
    let events = std::fs::read(events.unwrap()).unwrap();
    let tags = |tag: &[u8]| events.windows(tag.len()).filter(|window| *window == tag).count();
    assert_eq!(tags(b"save/write_ms"), of_saves.len());
    assert_eq!(tags(b"save/interval"), of_saves.len());
}
