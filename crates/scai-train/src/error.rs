//! What can go wrong, named by what the caller can do about it.

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint could not be saved or loaded.
    #[error(transparent)]
    Checkpoint(#[from] scai_checkpoint::Error),
    /// A checkpoint does not hold a state of this training: load another.
    #[error("the checkpoint does not hold a training state that can be resumed: {0}")]
    State(String),
    /// The network cannot be evaluated.
    #[error("the network cannot be evaluated: {0}")]
    Network(String),
    /// Training has ended, and its last state could not be saved.
    #[error("the state after iteration {iteration} could not be saved: {source}")]
    NotSaved {
        /// The iteration.
        iteration: u64,
        /// Why.
        source: Box<Error>,
    },
    /// Training was asked to stop and has stopped.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// The message, without saying that it was in the background.
    pub fn cause(&self) -> String {
        match self {
            Self::Checkpoint(scai_checkpoint::Error::Background(error)) => error.to_string(),
            error => error.to_string(),
        }
    }
}
