//! How a search uses a network: many positions at once.

use std::marker::PhantomData;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use scai_games::Game;

use super::Network;
use crate::error::{Error, Result};

/// The evaluation of a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// How likely each action is, the illegal ones included.
    pub policy: Vec<f32>,
    /// How the game will end for the player to move, from −1 to 1.
    pub value: f32,
}

/// Evaluates positions of a game.
pub trait Evaluator<G: Game>: Sync {
    /// Evaluates positions, which are not over.
    ///
    /// # Errors
    /// [`Error::Network`] if the network's output is not finite.
    fn evaluate(&self, positions: &[G]) -> Result<Vec<Evaluation>>;
}

/// A network with parameters that do not change.
#[derive(Debug, Clone)]
pub struct NetworkEvaluator<G, N> {
    network: N,
    device: Device,
    game: PhantomData<fn() -> G>,
}

impl<G: Game, N: Network> NetworkEvaluator<G, N> {
    /// Evaluates with `network`, which is not being trained (see [`burn::module::Module::valid`]).
    pub fn new(network: N, device: Device) -> Self {
        Self { network, device, game: PhantomData }
    }
}

impl<G: Game, N: Network> Evaluator<G> for NetworkEvaluator<G, N> {
    fn evaluate(&self, positions: &[G]) -> Result<Vec<Evaluation>> {
        let [channels, rows, columns] = G::PLANES;
        let size = channels * rows * columns;
        let mut cells = vec![0_u8; size];
        let mut planes = Vec::with_capacity(positions.len() * size);
        for position in positions {
            position.encode(&mut cells);
            planes.extend(cells.iter().map(|&cell| f32::from(cell)));
        }
        let planes = TensorData::new(planes, [positions.len(), channels, rows, columns]);
        let (logits, values) = self.network.forward(Tensor::from_data(planes, &self.device));
        let policies: Vec<f32> = numbers(softmax(logits, 1))?;
        let values = numbers(values)?;
        let judged = policies.chunks_exact(G::ACTIONS).zip(values);
        Ok(judged.map(|(policy, value)| Evaluation { policy: policy.to_vec(), value }).collect())
    }
}

/// The elements of a tensor, which must be finite.
fn numbers(tensor: Tensor<2>) -> Result<Vec<f32>> {
    let numbers: Vec<f32> =
        tensor.try_into_vec_as().map_err(|error| Error::Network(format!("{error:?}")))?;
    if numbers.iter().all(|number| number.is_finite()) {
        return Ok(numbers);
    }
    Err(Error::Network("its outputs are not finite: training has diverged".to_owned()))
}
