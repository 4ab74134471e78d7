//! A training that can be killed at any time, by `kill -9` too, and continues with the same bits.
//!
//! `cargo run --release -p scai-burn --example resume [DIRECTORY]`
//!
//! Press Ctrl-C and run it again. However often it is interrupted, the loss at the end is the same.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use scai_burn::AdamW;
use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options};

const LEARNING_RATE: f64 = 1e-3;
const BATCH: usize = 64;
const STEPS: u64 = 300;
const SAVE_EVERY: u64 = 10;

#[derive(Module, Debug)]
struct Net {
    conv: Conv2d,
    norm: BatchNorm,
    dropout: Dropout,
    fc: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            conv: Conv2dConfig::new([1, 8], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            norm: BatchNormConfig::new(8).init(device),
            dropout: DropoutConfig::new(0.2).init(),
            fc: LinearConfig::new(8 * 8 * 8, 2).init(device),
        }
    }

    /// Shapes: images `[batch, 1, 8, 8]`, logits `[batch, 2]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = relu(self.norm.forward(self.conv.forward(images)));
        self.fc.forward(self.dropout.forward(features).flatten(1, 3))
    }
}

/// Images of noise. The label says whether the left half is brighter than the right one.
fn batch(device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let images = Tensor::<4>::random([BATCH, 1, 8, 8], Distribution::Default, device);
    let left = images.clone().narrow(3, 0, 4).mean_dim(3).mean_dim(2);
    let right = images.clone().narrow(3, 4, 4).mean_dim(3).mean_dim(2);
    let labels = left.greater(right).int().flatten::<2>(1, 3).squeeze_dim(1);
    (images, labels)
}

/// Trains up to step `steps`, from the newest checkpoint in `directory` if there is one, and
/// returns the last loss.
fn train(directory: &Path, steps: u64) -> Result<f32, Box<dyn std::error::Error>> {
    let device = Device::default().autodiff();
    device.seed(0);
    let mut model = Net::new(&device);
    let mut optimizer = AdamW::new(&AdamWConfig::new())?;

    let options = Options::default().retention("last:3".parse()?);
    let manager = CheckpointManager::create(directory, options)?;
    let mut first = 0;
    if let Some(resumed) = manager.resume()? {
        let checkpoint = resumed.checkpoint;
        let strict = MatchOptions::default();
        (model, _) = scai_burn::load_state_dict(&model, &checkpoint.model_state_dict, &strict)?;
        optimizer.load_state_dict(&checkpoint.optimizer_state_dict, &model, &strict)?;
        first = checkpoint.iteration;
        println!("continuing after step {first}");
    }

    let mut last = f32::NAN;
    for step in first..steps {
        // Dropout and the batch follow from the number of the step alone.
        device.seed(step + 1);
        let (images, labels) = batch(&device);
        let loss =
            CrossEntropyLossConfig::new().init(&device).forward(model.forward(images), labels);
        last = loss.clone().into_scalar();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(LEARNING_RATE, model, gradients);

        let done = step + 1;
        if done.is_multiple_of(SAVE_EVERY) || done == steps {
            let model_state = scai_burn::state_dict(&model)?;
            let optimizer_state = optimizer.state_dict(&model, LEARNING_RATE)?;
            let checkpoint = Checkpoint::new(done, model_state, optimizer_state);
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
        .map_or_else(|| std::env::temp_dir().join("scai-burn-resume"), PathBuf::from);
    let loss = train(&directory, STEPS)?;
    println!("the last loss is {loss:.6}; the checkpoints are in {}", directory.display());
    Ok(())
}
