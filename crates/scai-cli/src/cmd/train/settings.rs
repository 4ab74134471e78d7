//! From the arguments to the settings of a run.

use std::io::ErrorKind;
use std::path::Path;

use scai_train::Config;
use scai_train::config::ConfigError;

use crate::args::TrainArgs;
use crate::exit::Failure;
use crate::input::say;
use crate::locate::no_such_file;

/// The file that is read by default.
const DEFAULT: &str = "config.yaml";

/// The settings of the file, overridden by the arguments.
pub(super) fn resolve(args: &TrainArgs) -> Result<Config, Failure> {
    let mut config = match &args.config {
        Some(path) => Config::read(path).map_err(|error| match error {
            ConfigError::Unreadable { source, .. } if source.kind() == ErrorKind::NotFound => {
                no_such_file(path)
            }
            error => wrong(path, &error),
        })?,
        None => match Config::read(DEFAULT) {
            Err(ConfigError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => {
                say(&format!("no `{DEFAULT}` in this directory: using the built-in settings"));
                Config::default()
            }
            read => read.map_err(|error| wrong(Path::new(DEFAULT), &error))?,
        },
    };
    if let Some(iterations) = args.iterations {
        config.training.iterations = iterations;
    }
    if let Some(directory) = &args.checkpoint_dir {
        config.checkpoint.directory.clone_from(directory);
    }
    config.validate("the settings").map_err(|error| Failure::usage(error.to_string(), None))?;
    Ok(config)
}

/// The configuration file.
pub(super) fn path(args: &TrainArgs) -> &Path {
    args.config.as_deref().unwrap_or(Path::new(DEFAULT))
}

fn wrong(path: &Path, error: &ConfigError) -> Failure {
    let problems = error.to_string().replace('\n', "\n  ");
    Failure::usage(format!("`{}` cannot be used\n  {problems}", path.display()), None)
}

/// The number of self-play threads.
pub(super) fn threads(config: &Config) -> usize {
    match config.self_play.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}
