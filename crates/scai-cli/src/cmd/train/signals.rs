//! Ctrl-C and SIGTERM: the first asks to stop, the second leaves at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scai_train::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use super::screen::Screen;
use crate::exit::BY_SIGNAL;

/// The signals that were caught.
pub(super) struct Caught(Arc<AtomicUsize>);

impl Caught {
    /// The number of the signal that asked to stop.
    pub(super) fn first(&self) -> u8 {
        u8::try_from(self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

/// Catches them from now on.
pub(super) fn catch(stop: &Stop, screen: &Screen) -> io::Result<Caught> {
    let caught = Caught(Arc::default());
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down.
        flag::register_conditional_shutdown(signal, i32::from(BY_SIGNAL) + signal, stop.flag())?;
        flag::register_usize(signal, Arc::clone(&caught.0), signal.unsigned_abs() as usize)?;
        flag::register(signal, stop.flag())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let screen = screen.clone();
    let tell = move || {
        if signals.forever().next().is_some() {
            screen.say(
                "stopping: finishing the step and saving (press Ctrl-C again to exit at once)",
            );
        }
    };
    std::thread::Builder::new().name("scai-signals".to_owned()).spawn(tell)?;
    Ok(caught)
}
