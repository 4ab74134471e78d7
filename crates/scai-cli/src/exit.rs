//! How a command ends: exit codes, and errors on stderr.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success; no damage found; the two files are identical |
//! | 1 | damage found; the two files differ |
//! | 2 | the command failed: wrong usage, no such file, no space |
//! | 3 | no damage found, but a file has no checksums |
//! | 4 | no damage found, but a file holds something unsupported, or needs code to be run |
//! | 5 | no damage found, but a file is not a checkpoint |
//! | 6 | the digests are identical, and the tensors were not read (`diff --digests-only`) |
//! | 130, 143 | training was stopped by Ctrl-C (SIGINT), by SIGTERM; saved, unless a second came |

use std::io::Write;

use scai_checkpoint::verify::Condition;

use crate::render::{printable, style};

/// The exit code of a command that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    /// Damage was found, or a difference.
    Found,
    /// It could not be done.
    Error,
    /// A file carries no checksums.
    Unprotected,
    /// A file holds something unsupported, or needs code to be run.
    Unsupported,
    /// A file is not a checkpoint.
    NotACheckpoint,
    /// No difference was found, but not everything was read.
    ByDigests,
    /// Training was stopped by the signal of this number, and saved.
    #[cfg(feature = "train")]
    Stopped(u8),
}

/// What shells add to the number of a signal that ended a program.
#[cfg(feature = "train")]
pub(crate) const BY_SIGNAL: u8 = 128;

impl Exit {
    /// The exit code of a command that found a file in this condition.
    pub(crate) fn of(condition: Condition) -> Self {
        match condition {
            Condition::Sound => Exit::Success,
            Condition::Unprotected => Exit::Unprotected,
            Condition::Damaged => Exit::Found,
            Condition::NeedsCode | Condition::Unsupported => Exit::Unsupported,
            Condition::NotACheckpoint => Exit::NotACheckpoint,
            _ => Exit::Error,
        }
    }

    /// The more important of two: damage before what could not be read, and that before what is
    /// unsupported.
    pub(crate) fn or_worse(self, other: Self) -> Self {
        let order =
            [Exit::Found, Exit::Error, Exit::NotACheckpoint, Exit::Unsupported, Exit::Unprotected];
        order.into_iter().find(|&exit| self == exit || other == exit).unwrap_or(self)
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Found => 1,
            Exit::Error => 2,
            Exit::Unprotected => 3,
            Exit::Unsupported => 4,
            Exit::NotACheckpoint => 5,
            Exit::ByDigests => 6,
            #[cfg(feature = "train")]
            Exit::Stopped(signal) => BY_SIGNAL.saturating_add(signal),
        }
    }
}

/// Why a command could not be carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the engine.
    Engine(scai_checkpoint::Error),
    /// Stdout cannot be written to.
    Output(std::io::Error),
    /// The request is invalid; a hint says what would be valid.
    Usage { message: String, hint: Option<String> },
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, hint: Option<String>) -> Self {
        Self::Usage { message: message.into(), hint }
    }

    /// The exit code for it.
    pub(crate) fn exit(&self) -> Exit {
        use scai_checkpoint::Error;
        match self {
            Self::Engine(Error::Unsupported { .. } | Error::NeedsCode { .. }) => Exit::Unsupported,
            Self::Engine(Error::NotACheckpoint { .. }) => Exit::NotACheckpoint,
            _ => Exit::Error,
        }
    }

    pub(crate) fn report(&self, err: &mut impl Write) -> std::io::Result<()> {
        let (error, reset) = (style::BAD, style::BAD.render_reset());
        write!(err, "{error}error{reset}: ")?;
        match self {
            Failure::Engine(error) => {
                writeln!(err, "{}", printable(&error.to_string()))
            }
            Failure::Output(error) => writeln!(err, "cannot write the output: {error}"),
            Failure::Usage { message, hint } => {
                writeln!(err, "{}", printable(message))?;
                match hint {
                    Some(hint) => {
                        let (tip, reset) = (style::GOOD, style::GOOD.render_reset());
                        writeln!(err, "  {tip}tip{reset}: {}", printable(hint))
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

impl From<scai_checkpoint::Error> for Failure {
    fn from(error: scai_checkpoint::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(feature = "train")]
impl From<scai_train::Error> for Failure {
    fn from(error: scai_train::Error) -> Self {
        match error {
            scai_train::Error::Checkpoint(error) => Self::Engine(error),
            error => Self::usage(error.to_string(), None),
        }
    }
}
