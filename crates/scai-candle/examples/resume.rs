//! A training that can be killed at any time, by `kill -9` too, and continues with the same bits.
//!
//! `cargo run --release --example resume [DIRECTORY]`, in `crates/scai-candle`
//!
//! Press Ctrl-C and run it again. However often it is interrupted, the loss at the end is the same.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{
    BatchNorm, Conv2d, Conv2dConfig, Linear, Module, ModuleT, Optimizer, VarBuilder, VarMap,
    batch_norm, conv2d, linear, loss,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scai_candle::AdamW;
use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options};

const LEARNING_RATE: f64 = 3e-3;
const BATCH: usize = 32;
const CHANNELS: usize = 8;
const FEATURES: usize = CHANNELS * 8 * 8;
const DROPOUT: f32 = 0.2;
const STEPS: u64 = 300;
const SAVE_EVERY: u64 = 10;

struct Net {
    conv: Conv2d,
    norm: BatchNorm,
    fc: Linear,
}

impl Net {
    fn new(vars: &VarMap) -> candle_core::Result<Self> {
        let builder = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
        let padded = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        Ok(Self {
            conv: conv2d(1, CHANNELS, 3, padded, builder.pp("conv"))?,
            norm: batch_norm(CHANNELS, 1e-5, builder.pp("norm"))?,
            fc: linear(FEATURES, 2, builder.pp("fc"))?,
        })
    }

    /// Shapes: images `[batch, 1, 8, 8]`, dropout mask `[batch, FEATURES]`, logits `[batch, 2]`.
    fn forward(&self, images: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let features = self.norm.forward_t(&self.conv.forward(images)?, true)?.relu()?;
        self.fc.forward(&(features.flatten_from(1)? * mask)?)
    }
}

/// Numbers between 0 and 1.
fn uniform(random: &mut ChaCha8Rng, shape: &[usize]) -> candle_core::Result<Tensor> {
    let count = shape.iter().product();
    let numbers: Vec<f32> = (0..count).map(|_| random.random()).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu)
}

/// Images of noise. The label says whether the left half is brighter than the right one.
fn batch(random: &mut ChaCha8Rng) -> candle_core::Result<(Tensor, Tensor)> {
    let images = uniform(random, &[BATCH, 1, 8, 8])?;
    let half = |start| images.narrow(3, start, 4)?.flatten_from(1)?.mean(1);
    Ok((images.clone(), half(0)?.gt(&half(4)?)?))
}

/// What `candle_nn::Dropout` would multiply with. It draws from a generator that cannot be seeded.
fn dropout_mask(random: &mut ChaCha8Rng) -> candle_core::Result<Tensor> {
    let kept = uniform(random, &[BATCH, FEATURES])?.ge(DROPOUT)?.to_dtype(DType::F32)?;
    kept / f64::from(1.0 - DROPOUT)
}

/// Draws the initial values again, from a seed, because candle drew them from the same generator.
fn initialise(vars: &VarMap, seed: u64) -> Result<(), Box<dyn std::error::Error>> {
    let vars = vars.data().lock().map_err(|_| "another thread panicked with the variables")?;
    let mut names: Vec<&String> = vars.keys().filter(|name| !name.starts_with("norm.")).collect();
    names.sort();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for name in names {
        let fan_in = if name.starts_with("fc.") { FEATURES } else { 9 };
        let bound = 1.0 / (fan_in as f64).sqrt();
        let uniform = uniform(&mut random, vars[name].dims())?;
        vars[name].set(&uniform.affine(2.0 * bound, -bound)?)?;
    }
    Ok(())
}

/// Trains up to step `steps`, from the newest checkpoint in `directory` if there is one, and
/// returns the last loss.
fn train(directory: &Path, steps: u64) -> Result<f32, Box<dyn std::error::Error>> {
    let vars = VarMap::new();
    let model = Net::new(&vars)?;
    initialise(&vars, 0)?;
    let mut optimizer = AdamW::new_lr(vars.all_vars(), LEARNING_RATE)?;

    let options = Options::default().retention("last:3".parse()?);
    let manager = CheckpointManager::create(directory, options)?;
    let mut first = 0;
    if let Some(resumed) = manager.resume()? {
        let checkpoint = resumed.checkpoint;
        let strict = MatchOptions::default();
        scai_candle::load_state_dict(&vars, &checkpoint.model_state_dict, &strict)?;
        optimizer.load_state_dict(&checkpoint.optimizer_state_dict, &vars, &strict)?;
        first = checkpoint.iteration;
        println!("continuing after step {first}");
    }

    let mut last = f32::NAN;
    for step in first..steps {
        // The batch and dropout follow from the number of the step alone.
        let mut random = ChaCha8Rng::seed_from_u64(step + 1);
        let (images, labels) = batch(&mut random)?;
        let logits = model.forward(&images, &dropout_mask(&mut random)?)?;
        let loss = loss::cross_entropy(&logits, &labels)?;
        last = loss.to_scalar()?;
        optimizer.backward_step(&loss)?;

        let done = step + 1;
        if done == steps / 2 {
            // The learning rate is saved with the optimizer.
            optimizer.set_learning_rate(LEARNING_RATE / 10.0);
        }
        if done.is_multiple_of(SAVE_EVERY) || done == steps {
            let model_state = scai_candle::state_dict(&vars)?;
            let checkpoint = Checkpoint::new(done, model_state, optimizer.state_dict(&vars)?);
            // Writing goes on while the next steps run. A kill meanwhile costs these steps alone.
            manager.save_in_background(checkpoint)?;
            println!("step {done:>3}: loss {last:.6}");
        }
    }
    manager.flush()?;
    Ok(last)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .map_or_else(|| std::env::temp_dir().join("scai-candle-resume"), PathBuf::from);
    let loss = train(&directory, STEPS)?;
    println!("the last loss is {loss:.6}; the checkpoints are in {}", directory.display());
    Ok(())
}
