//! Values that are written as a word.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The game to learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Game {
    /// `connect4`: four in a row on seven columns of six.
    #[default]
    Connect4,
    /// `tictactoe`: three in a row on a board of three by three.
    TicTacToe,
}

/// The course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// `cosine`: falls to the final rate along half a cosine.
    #[default]
    Cosine,
    /// `constant`: does not change.
    Constant,
    /// `linear`: falls to the final rate in a straight line.
    Linear,
}

/// Whom the network plays in an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Opponent {
    /// `random`: any legal move.
    Random,
    /// `alphabeta:DEPTH`: looks a number of moves ahead.
    AlphaBeta {
        /// Moves that are looked ahead, its own included; at least 1.
        depth: usize,
    },
}

impl FromStr for Opponent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let depth = text.strip_prefix("alphabeta:").and_then(|depth| depth.parse().ok());
        match (text, depth) {
            ("random", _) => Ok(Self::Random),
            (_, Some(depth)) if depth > 0 => Ok(Self::AlphaBeta { depth }),
            _ => Err(format!(
                "`{text}` is not an opponent; write `random` or `alphabeta:DEPTH` with a depth of \
                 1 or more"
            )),
        }
    }
}

impl fmt::Display for Opponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::AlphaBeta { depth } => write!(f, "alphabeta:{depth}"),
        }
    }
}

impl TryFrom<String> for Opponent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Opponent> for String {
    fn from(opponent: Opponent) -> Self {
        opponent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opponents_are_read_as_they_are_shown() {
        for text in ["random", "alphabeta:1", "alphabeta:12"] {
            assert_eq!(text.parse::<Opponent>().unwrap().to_string(), text);
        }
        for text in ["", "Random", "alphabeta", "alphabeta:", "alphabeta:0", "alphabeta:-1"] {
            assert!(text.parse::<Opponent>().is_err(), "{text}");
        }
    }
}
