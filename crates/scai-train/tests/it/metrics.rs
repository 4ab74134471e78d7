//! The logs of a run, from the outside and by TensorBoard's own eyes.

use std::path::{Path, PathBuf};
use std::process::Command;

use scai_train::config::Logging;
use scai_train::metrics::{Metrics, MetricsError};
use serde_json::{Value, json};
use tempfile::TempDir;

fn open(directory: &Path, resumed_at: Option<u64>) -> Metrics {
    Metrics::open(directory, &Logging::default(), resumed_at).unwrap()
}

/// Records iterations with ten steps each; the loss tells which run it is of.
fn run(directory: &Path, resumed_at: Option<u64>, until: u64, loss: f64) {
    let mut metrics = open(directory, resumed_at);
    for iteration in resumed_at.unwrap_or(0) + 1..=until {
        metrics
            .record(iteration, 10 * iteration, &[("loss/policy", loss), ("games", 3.0)])
            .unwrap();
    }
    metrics.flush().unwrap();
}

fn lines(directory: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(directory: &Path) -> Vec<(u64, f64)> {
    let lines = lines(directory).into_iter();
    lines.map(|l| (l["iteration"].as_u64().unwrap(), l["loss/policy"].as_f64().unwrap())).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn event_files(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name.starts_with("events.out.tfevents.")).collect()
}

#[test]
fn a_line_says_when_and_what() {
    let directory = TempDir::new().unwrap();
    let logs = directory.path().join("a/b");
    open(&logs, None).record(3, 120, &[("loss/policy", 0.25), ("bad", f64::NAN)]).unwrap();
    let [line] = lines(&logs).try_into().unwrap();
    assert_eq!((&line["iteration"], &line["step"]), (&json!(3), &json!(120)));
    assert_eq!((&line["loss/policy"], &line["bad"]), (&json!(0.25), &Value::Null));
    let time = line["time"].as_str().unwrap();
    time.parse::<jiff::Timestamp>().expect("a time with an offset");
}

#[test]
fn a_line_is_there_before_the_log_is_closed_or_flushed() {
    let directory = TempDir::new().unwrap();
    let mut metrics = open(directory.path(), None);
    metrics.record(1, 10, &[("loss", 1.0)]).unwrap();
    assert_eq!(lines(directory.path()).len(), 1);
    std::mem::forget(metrics);
}

#[test]
fn a_resumed_run_drops_what_came_after_its_checkpoint() {
    let directory = TempDir::new().unwrap();
    run(directory.path(), None, 5, 1.0);
    let path = directory.path().join("metrics.jsonl");
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"{\"iteration\":6,\"st");
    std::fs::write(&path, text).unwrap();
    run(directory.path(), Some(3), 4, 2.0);
    assert_eq!(losses(directory.path()), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]);
    assert!(!names(directory.path()).iter().any(|name| name.ends_with(".tmp")));
}

#[test]
fn a_new_run_sets_the_lines_of_an_older_one_aside() {
    let directory = TempDir::new().unwrap();
    for (i, loss) in [1.0, 2.0, 3.0].into_iter().enumerate() {
        run(directory.path(), None, 2 + i as u64, loss);
    }
    assert_eq!(losses(directory.path()), [(1, 3.0), (2, 3.0), (3, 3.0), (4, 3.0)]);
    let names = names(directory.path());
    let json: Vec<&String> = names.iter().filter(|name| name.ends_with("jsonl")).collect();
    assert_eq!(json, ["metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl"]);
}

#[test]
fn event_files_of_the_same_second_are_in_the_order_of_the_runs() {
    let directory = TempDir::new().unwrap();
    let mut known: Vec<String> = Vec::new();
    for _ in 0..4 {
        run(directory.path(), None, 1, 1.0);
        let files = event_files(directory.path());
        assert_eq!(files[..known.len()], known, "the new file is the last");
        known = files;
    }
    assert_eq!(known.len(), 4);
}

#[test]
fn only_the_logs_that_are_wanted_are_written() {
    let directory = TempDir::new().unwrap();
    let record = |name: &str, json, tensorboard| {
        let logs = directory.path().join(name);
        let logging = Logging { json, tensorboard, ..Logging::default() };
        let mut metrics = Metrics::open(&logs, &logging, None).unwrap();
        metrics.record(1, 1, &[("loss", 1.0)]).unwrap();
        metrics.flush().unwrap();
        logs
    };
    assert!(!record("none", false, false).exists());
    assert_eq!(names(&record("json", true, false)), ["metrics.jsonl"]);
    let events = record("events", false, true);
    assert_eq!((names(&events).len(), event_files(&events).len()), (1, 1));
}

#[test]
fn a_value_cannot_take_the_name_of_a_field() {
    let directory = TempDir::new().unwrap();
    let error = open(directory.path(), None).record(1, 1, &[("step", 1.0)]).unwrap_err();
    assert!(matches!(&error, MetricsError::Name { name } if name == "step"), "{error}");
    assert!(lines(directory.path()).is_empty());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Metrics::open(file.join("logs"), &Logging::default(), None).unwrap_err();
    assert!(error.to_string().contains("cannot create the directory"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error_of_one_log_and_the_other_goes_on() {
    let directory = TempDir::new().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("metrics.jsonl")).unwrap();
    let mut metrics = open(directory.path(), None);
    let [file] = event_files(directory.path()).try_into().unwrap();
    let size = || std::fs::metadata(directory.path().join(&file)).unwrap().len();
    for iteration in 1..3 {
        let before = size();
        let error = metrics.record(iteration, 1, &[("loss", 1.0)]).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl`: cannot "), "{error}");
        assert!(size() > before);
    }
}

/// What TensorBoard reads from a directory; `None` where there is no TensorBoard.
///
/// `SCAI_TENSORBOARD_PYTHON` names a Python that has it.
fn tensorboard(directory: &Path) -> Option<Value> {
    let python = std::env::var("SCAI_TENSORBOARD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let works = Command::new(&python).args(["-c", "import tensorboard"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no tensorboard");
        return None;
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tensorboard.py");
    let output = Command::new(python).arg(script).arg("show").arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn py_tensorboard_reads_the_values_and_discards_what_a_resume_dropped() {
    let directory = TempDir::new().unwrap();
    run(directory.path(), None, 5, 1.0);
    let Some(read) = tensorboard(directory.path()) else { return };
    let ones: Vec<_> = (1..=5).map(|iteration| json!([iteration, 1.0])).collect();
    assert_eq!(read["loss/policy"], Value::from(ones));
    run(directory.path(), Some(3), 4, 2.0);
    let read = tensorboard(directory.path()).unwrap();
    assert_eq!(read["loss/policy"], json!([[1, 1.0], [2, 1.0], [3, 1.0], [4, 2.0]]));
    assert_eq!(read["games"].as_array().unwrap().len(), 4);
    run(directory.path(), Some(2), 2, 3.0);
    assert_eq!(tensorboard(directory.path()).unwrap()["games"].as_array().unwrap().len(), 2);
    run(directory.path(), None, 1, 4.0);
    assert_eq!(tensorboard(directory.path()).unwrap()["loss/policy"], json!([[1, 4.0]]));
}
