// A model, its data and its learner, which the examples in the docs of the crate include.

use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::constant::ConstantLr;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor};
use burn::train::{InferenceStep, Learner, RegressionOutput, TrainOutput, TrainStep};

#[derive(Module, Debug)]
pub struct Toy {
    layer: Linear,
}

impl Toy {
    fn output(&self, input: Tensor<2>) -> RegressionOutput {
        let output = self.layer.forward(input.clone());
        RegressionOutput::new((output.clone() - input.clone()).square().mean(), output, input)
    }
}

impl TrainStep for Toy {
    type Input = Tensor<2>;
    type Output = RegressionOutput;

    fn step(&self, input: Tensor<2>) -> TrainOutput<RegressionOutput> {
        let output = self.output(input);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Toy {
    type Input = Tensor<2>;
    type Output = RegressionOutput;

    fn step(&self, input: Tensor<2>) -> RegressionOutput {
        self.output(input)
    }
}

struct Ones;

impl Batcher<(), Tensor<2>> for Ones {
    fn batch(&self, items: Vec<()>, device: &Device) -> Tensor<2> {
        Tensor::ones([items.len(), 4], device)
    }
}

pub fn data() -> Arc<dyn DataLoader<Tensor<2>>> {
    DataLoaderBuilder::new(Ones).batch_size(2).build(InMemDataset::new(vec![(); 4]))
}

pub fn learner(device: &Device) -> Learner<Toy> {
    let model = Toy { layer: LinearConfig::new(4, 4).init(device) };
    Learner::new(model, AdamConfig::new().init(), ConstantLr::new(1e-3))
}
