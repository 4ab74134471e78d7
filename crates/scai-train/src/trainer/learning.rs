//! Steps of the optimizer.

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use scai_burn::AdamW;
use scai_games::Game;

use crate::error::{Error, Result};
use crate::network::Network;
use crate::replay::Batch;

/// The losses of a step, or their mean over several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Losses {
    /// Cross-entropy of the policy, in nats.
    pub(crate) policy: f64,
    /// Mean squared error of the value.
    pub(crate) value: f64,
}

/// A network and its optimizer on their way through an iteration.
pub(crate) struct Learner<N> {
    pub(crate) network: N,
    pub(crate) optimizer: AdamW,
    device: Device,
    value_weight: f64,
}

impl<N: Network> Learner<N> {
    /// Starts from a network that is not being trained.
    ///
    /// The learner has its own cells for the running statistics of batch norm; those of `network`
    /// do not change.
    pub(crate) fn new(network: &N, optimizer: &AdamW, device: &Device, value_weight: f64) -> Self {
        Self {
            network: network.clone().train(),
            optimizer: optimizer.clone(),
            device: device.clone().autodiff(),
            value_weight,
        }
    }

    /// Makes one step, and returns the losses before it.
    ///
    /// # Errors
    /// [`Error::Network`] if the loss is not finite.
    pub(crate) fn step<G: Game>(mut self, batch: Batch, rate: f64) -> Result<(Self, Losses)> {
        let size = batch.values.len();
        let [channels, rows, columns] = G::PLANES;
        let planes = self.tensor(batch.planes, [size, channels, rows, columns]);
        let targets = self.tensor(batch.policies, [size, G::ACTIONS]);
        let results = self.tensor(batch.values, [size, 1]);

        let (logits, values) = self.network.forward(planes);
        let policy_loss = (targets * log_softmax(logits, 1)).sum_dim(1).mean().neg();
        let value_loss = (values - results).square().mean();
        let losses = Losses { policy: number(&policy_loss)?, value: number(&value_loss)? };
        let loss = policy_loss + value_loss.mul_scalar(self.value_weight);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        self.network = self.optimizer.step(rate, self.network, gradients);
        Ok((self, losses))
    }

    /// The network as it is now, not being trained, with running statistics up to date.
    pub(crate) fn finish(self) -> (N, AdamW) {
        (self.network.valid(), self.optimizer)
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

fn number(loss: &Tensor<1>) -> Result<f64> {
    let number: f32 = loss
        .clone()
        .try_into_scalar()
        .map_err(|error| Error::Network(format!("the loss cannot be read: {error:?}")))?;
    match number.is_finite() {
        true => Ok(f64::from(number)),
        false => Err(Error::Network(format!(
            "the loss is {number}: training has diverged; lower `training.learning_rate`"
        ))),
    }
}
