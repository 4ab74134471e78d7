//! What checkpoints cost the trainer, and how fast it plays and learns.
//!
//! `cargo run --release -p scai-train --example cost [-- PAIRS]`
//!
//! The network and the replay buffer are those of the default configuration, the buffer is full.
//! Iterations are shorter, and every second one runs while a checkpoint is written: the difference
//! of the medians is what a save costs. With PyTorch at hand (`make test-torch` installs it) the
//! same network's step is timed there, before and after.

#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use scai_checkpoint::codec::{Plan, Unprotected, torch};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Tensor, Value, file};
use scai_games::{ConnectFour, Game};
use scai_train::config::SaveInterval;
use scai_train::{Config, Evaluator as _, Event, LoadOptions, Stop, Timing, Trainer};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const GAMES: usize = 16;
const SIMULATIONS: usize = 16;
const STEPS: u64 = 10;
/// Positions in a batch of self-play while all games go on.
const BATCH: usize = 32;

fn main() -> Outcome<()> {
    let pairs = std::env::args().nth(1).map_or(Ok(10), |pairs| pairs.parse::<u64>())?;
    let directory = std::env::temp_dir().join(format!("scai-cost-{}", std::process::id()));
    let config = short(&directory, 2 * pairs + 2);
    let default = Config::default();
    let mut trainer = Trainer::<ConnectFour>::new(config)?;
    let full = with_full_buffer(&mut trainer, &directory)?;
    trainer.load_checkpoint(&full, &LoadOptions::default())?;

    let before = pytorch(&default);
    let mut durations: Vec<(u64, Timing)> = Vec::new();
    let (mut waits, mut size) = (Vec::new(), 0);
    let mut observer = |event: &Event<'_>| match event {
        Event::Iteration { stats, timing, .. } => {
            durations.push((stats.total_iterations, *timing));
        }
        Event::Saving { waited, .. } if !waited.is_zero() => waits.push(*waited),
        Event::Saved { saved, .. } => size = saved.size,
        _ => {}
    };
    trainer.train(&mut observer, &Stop::new())?;
    let after = pytorch(&default);

    // The first two warm up. Iterations are saved when their number is even: odd ones pay.
    durations.retain(|(iteration, _)| *iteration > 2);
    let of = |parity: u64, part: fn(&Timing) -> Duration| {
        let all = durations.iter().filter(|(iteration, _)| iteration % 2 == parity);
        median(all.map(|(_, timing)| part(timing).as_secs_f64()).collect())
    };
    let whole = |timing: &Timing| timing.self_play + timing.learning;
    let (quiet, saving) = (of(0, whole), of(1, whole));
    let lost = saving - quiet;
    let waited = median(waits.iter().map(Duration::as_secs_f64).collect());
    println!("checkpoint                   {:.1} MiB", size as f64 / 1048576.0);
    println!("training waits for a save    {:.2} ms", waited * 1e3);
    println!("an iteration without a save  {:.0} ms", quiet * 1e3);
    println!("an iteration during a save   {:.0} ms ({:+.0} ms)", saving * 1e3, lost * 1e3);

    let learning = |timing: &Timing| timing.learning;
    let self_play = |timing: &Timing| timing.self_play;
    let samples = STEPS as f64 * default.training.batch_size as f64 / of(0, learning);
    let games = GAMES as f64 / of(0, self_play);
    // The time of self-play grows with its simulations.
    let longer = default.self_play.simulations as f64 / SIMULATIONS as f64;
    let usual = default.self_play.games_per_iteration as f64 / games * longer
        + default.training.steps_per_iteration as f64 * default.training.batch_size as f64
            / samples;
    println!("a save, until it is durable  {:.0} ms", durable(&mut trainer)? * 1e3);
    println!("games of {SIMULATIONS} simulations      {games:.1} /s");
    println!("positions judged in a batch  {:.0} /s, one thread", judged(&trainer)?);
    println!("training samples             {samples:.0} /s");
    println!("a default iteration          {usual:.1} s");
    let at_most = durable(&mut trainer)?;
    for interval in [1.0, 10.0, 100.0] {
        let share = |lost: f64| lost / (interval * usual) * 100.0;
        let (measured, at_most) = (share(lost.max(waited)), share(at_most));
        println!("lost at save_interval {interval:<6} {measured:.3} %, at most {at_most:.3} %");
    }
    match (before, after) {
        (Some(before), Some(after)) => {
            let rust = of(0, learning) / STEPS as f64 * 1e3;
            let step = (before.0 + after.0) / 2.0;
            let infer = (before.1 + after.1) / 2.0;
            println!("a training step              {rust:.0} ms; PyTorch {step:.0} ms");
            let rust = BATCH as f64 / judged(&trainer)? * 1e3;
            println!("a batch of {BATCH} positions     {rust:.1} ms; PyTorch {infer:.1} ms");
        }
        _ => println!("SKIPPED: PyTorch's times; `make test-torch` installs it"),
    }
    Ok(())
}

/// The default network and buffer, in iterations that take a second or two.
fn short(directory: &Path, iterations: u64) -> Config {
    let mut config = Config::default();
    config.checkpoint.directory = directory.display().to_string();
    config.checkpoint.keep_last = Some(2);
    config.self_play.games_per_iteration = GAMES;
    config.self_play.parallel_games = GAMES / 2;
    config.self_play.simulations = SIMULATIONS;
    config.training.steps_per_iteration = STEPS;
    config.training.iterations = iterations;
    config.training.save_interval = SaveInterval::Every(2);
    config.evaluation.interval = 0;
    config
}

/// A checkpoint of the training as it would be with a full replay buffer.
fn with_full_buffer(trainer: &mut Trainer<ConnectFour>, directory: &Path) -> Outcome<PathBuf> {
    let saved = trainer.save_checkpoint(0)?;
    let mut tree = file::open(&saved.path, Unprotected::Refuse)?.tree()?.resident(1)?;
    let n = trainer.config().replay_buffer.capacity;
    let [channels, rows, columns] = ConnectFour::PLANES;
    let cells = (0..n * channels * rows * columns).map(|i| u8::from(i * 7919 % 13 < 4));
    let planes = Storage::from_vec(cells.collect::<Vec<_>>());
    let policies = vec![1.0 / ConnectFour::ACTIONS as f32; n * ConnectFour::ACTIONS];
    let buffer: Dict = [
        ("planes", Tensor::contiguous(DType::UInt8, vec![n, channels, rows, columns], planes)?),
        ("policies", Tensor::from_vec(vec![n, ConnectFour::ACTIONS], policies)?),
        ("values", Tensor::from_vec(vec![n], vec![0.0_f32; n])?),
    ]
    .into_iter()
    .collect();
    let Value::Dict(fields) = &mut tree else { return Err("no checkpoint".into()) };
    fields.insert("replay_buffer", buffer);
    let path = directory.join("full.pt");
    file::write(&path, Plan::Torch(torch::TorchPlan::new(&tree)?), 1)?;
    Ok(path)
}

/// How long a save takes that training waits for, all of it: more than one in the background costs.
fn durable(trainer: &mut Trainer<ConnectFour>) -> Outcome<f64> {
    let mut taken = Vec::new();
    for _ in 0..7 {
        let begun = Instant::now();
        trainer.save_checkpoint(trainer.training_stats().total_iterations)?;
        taken.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(taken))
}

/// Positions that one thread judges in a second, in batches of [`BATCH`].
fn judged(trainer: &Trainer<ConnectFour>) -> Outcome<f64> {
    let evaluator = trainer.evaluator();
    let positions = vec![ConnectFour::default(); BATCH];
    let mut taken = Vec::new();
    for _ in 0..31 {
        let begun = Instant::now();
        evaluator.evaluate(&positions)?;
        taken.push(begun.elapsed().as_secs_f64());
    }
    Ok(BATCH as f64 / median(taken))
}

/// Milliseconds of a step and of a batch of inference in PyTorch.
fn pytorch(config: &Config) -> Option<(f64, f64)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let numbers = [
        config.model.num_blocks,
        config.model.channels,
        config.training.batch_size,
        BATCH,
        std::thread::available_parallelism().map_or(1, usize::from),
    ];
    let output = Command::new(root.join(".venv/bin/python"))
        .arg(root.join("tests/torch/bench_step.py"))
        .args(numbers.map(|number| number.to_string()))
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let mut times = said.split_whitespace().map(|time| time.parse::<f64>().ok());
    Some((times.next()??, times.next()??))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
