//! A small training with burn's learner, in a process of its own, so that it can be killed.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::{Device, Tensor, TensorData};
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, FileCheckpointer, KeepLastNCheckpoints,
    MetricCheckpointingStrategy,
};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::metric::store::{Aggregate, Direction, Split};
use burn::train::{
    InferenceStep, Learner, RegressionOutput, SupervisedTraining, TrainOutput, TrainStep,
};
use scai_burn_train::checkpointers;

const INPUTS: usize = 64;
const HIDDEN: usize = 512;

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    norm: BatchNorm,
    second: Linear,
    last: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        Self {
            first: LinearConfig::new(INPUTS, HIDDEN).init(device),
            norm: BatchNormConfig::new(HIDDEN).init(device),
            second: LinearConfig::new(HIDDEN, HIDDEN).init(device),
            last: LinearConfig::new(HIDDEN, 1).init(device),
        }
    }

    fn output(&self, (inputs, targets): (Tensor<2>, Tensor<2>)) -> RegressionOutput {
        let hidden = self.norm.forward(self.first.forward(inputs)).tanh();
        let output = self.last.forward(self.second.forward(hidden).tanh());
        let loss = (output.clone() - targets.clone()).square().mean();
        RegressionOutput::new(loss, output, targets)
    }
}

impl TrainStep for Net {
    type Input = (Tensor<2>, Tensor<2>);
    type Output = RegressionOutput;

    fn step(&self, batch: Self::Input) -> TrainOutput<RegressionOutput> {
        let output = self.output(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Net {
    type Input = (Tensor<2>, Tensor<2>);
    type Output = RegressionOutput;

    fn step(&self, batch: Self::Input) -> RegressionOutput {
        self.output(batch)
    }
}

/// Data that depend on their number and on the seed alone.
struct Data {
    seed: u64,
}

impl Batcher<u64, (Tensor<2>, Tensor<2>)> for Data {
    fn batch(&self, items: Vec<u64>, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let value =
            |item: u64, i: usize| ((item * 31 + self.seed * 7 + i as u64) as f32 * 0.7).sin();
        let inputs: Vec<f32> =
            items.iter().flat_map(|item| (0..INPUTS).map(|i| value(*item, i))).collect();
        let targets: Vec<f32> = items.iter().map(|item| value(*item, INPUTS)).collect();
        let count = items.len();
        (
            Tensor::from_data(TensorData::new(inputs, [count, INPUTS]), device),
            Tensor::from_data(TensorData::new(targets, [count, 1]), device),
        )
    }
}

/// Which checkpointers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Burn,
    Scai,
}

/// What the process does; given to it in its environment.
#[derive(Debug, Clone)]
pub(crate) struct Training {
    pub(crate) kind: Kind,
    /// The checkpoints go into `checkpoint` below it.
    pub(crate) directory: PathBuf,
    pub(crate) epochs: usize,
    pub(crate) resume: Option<usize>,
    pub(crate) seed: u64,
    /// Only the best epoch is kept instead of the last two.
    pub(crate) best: bool,
    /// The process dies before this part of this epoch is saved, when the other parts have been.
    pub(crate) die: Option<(usize, usize)>,
    /// Bytes that a file may have.
    pub(crate) file_limit: Option<usize>,
}

impl Training {
    pub(crate) fn new(kind: Kind, directory: &Path, epochs: usize) -> Self {
        Self {
            kind,
            directory: directory.into(),
            epochs,
            resume: None,
            seed: 0,
            best: false,
            die: None,
            file_limit: None,
        }
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    /// Starts the process: this program with the test [`child`].
    pub(crate) fn start(&self) -> Child {
        let program = env::current_exe().unwrap();
        let mut command = match self.file_limit {
            None => Command::new(&program),
            Some(limit) => {
                // Writes beyond the limit then fail; the signal would end the process.
                let mut shell = Command::new("bash");
                let script =
                    format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", limit / 1024);
                shell.args(["-c", &script]).arg(&program);
                shell
            }
        };
        let word = |number: Option<usize>| number.map_or(String::new(), |n| n.to_string());
        command
            .args(["training::child", "--exact", "--nocapture"])
            .env("SCAI_TRAINING", if self.kind == Kind::Burn { "burn" } else { "scai" })
            .env("SCAI_DIRECTORY", &self.directory)
            .env("SCAI_EPOCHS", self.epochs.to_string())
            .env("SCAI_RESUME", word(self.resume))
            .env("SCAI_SEED", self.seed.to_string())
            .env("SCAI_BEST", if self.best { "1" } else { "" })
            .env("SCAI_DIE_PART", word(self.die.map(|(part, _)| part)))
            .env("SCAI_DIE_EPOCH", word(self.die.map(|(_, epoch)| epoch)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs it to its end: the digest of the weights, or what the user reads.
    pub(crate) fn run(&self) -> Result<String, String> {
        let result = self.directory.join("result");
        let _ = fs::remove_file(&result);
        let output = self.start().wait_with_output().unwrap();
        match fs::read_to_string(&result) {
            Ok(text) => text.strip_prefix("weights ").map(str::to_owned).ok_or(text),
            Err(_) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// Dies before one epoch is saved.
struct Dying<C> {
    inner: C,
    at: Option<usize>,
}

impl<R: Checkpoint, C: Checkpointer<R>> Checkpointer<R> for Dying<C> {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        if self.at == Some(epoch) {
            // The other two are saved by threads of their own.
            thread::sleep(Duration::from_millis(500));
            std::process::abort();
        }
        self.inner.save(epoch, record)
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        self.inner.delete(epoch)
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        self.inner.restore(epoch)
    }
}

fn number(name: &str) -> Option<usize> {
    env::var(name).ok()?.parse().ok()
}

/// Not a test: the process that [`Training::start`] starts.
#[test]
fn child() {
    let Ok(kind) = env::var("SCAI_TRAINING") else { return };
    let directory = PathBuf::from(env::var_os("SCAI_DIRECTORY").unwrap());
    let seed = number("SCAI_SEED").unwrap() as u64;
    let die = number("SCAI_DIE_PART").zip(number("SCAI_DIE_EPOCH"));
    let at = |part: usize| die.filter(|(dying, _)| *dying == part).map(|(_, epoch)| epoch);

    let device = Device::flex().autodiff();
    device.seed(7);
    let scheduler = CosineAnnealingLrSchedulerConfig::new(1e-3, 50).init().unwrap();
    let learner = Learner::new(Net::new(&device), AdamConfig::new().init(), scheduler);
    let data = |items: u64| {
        let items = InMemDataset::new((0..items).collect());
        DataLoaderBuilder::new(Data { seed }).batch_size(16).build(items)
    };
    let mut training = SupervisedTraining::new(&directory, data(64), data(16))
        .num_epochs(number("SCAI_EPOCHS").unwrap())
        .metric_train_numeric(LossMetric::new())
        .metric_valid_numeric(LossMetric::new())
        .with_metric_logger(InMemoryMetricLogger::new())
        .with_application_logger(None);
    training = if env::var("SCAI_BEST").unwrap().is_empty() {
        training.with_checkpointing_strategy(KeepLastNCheckpoints::new(2))
    } else {
        training.with_checkpointing_strategy(MetricCheckpointingStrategy::new(
            &LossMetric::new(),
            Aggregate::Mean,
            Direction::Lowest,
            Split::Valid,
        ))
    };
    let checkpoints = directory.join("checkpoint");
    training = if kind == "burn" {
        let of_burn = |part| FileCheckpointer::new(&checkpoints, part);
        training.with_custom_checkpointers(
            Dying { inner: of_burn("model"), at: at(0) },
            Dying { inner: of_burn("optim"), at: at(1) },
            Dying { inner: of_burn("scheduler"), at: at(2) },
        )
    } else {
        let (model, optimizer, scheduler) = checkpointers(&checkpoints).unwrap();
        training.with_custom_checkpointers(
            Dying { inner: model, at: at(0) },
            Dying { inner: optimizer, at: at(1) },
            Dying { inner: scheduler, at: at(2) },
        )
    };
    if let Some(epoch) = number("SCAI_RESUME") {
        training = training.checkpoint(epoch);
    }
    let result = training.launch(learner);
    let text = match result.error {
        Some(error) => format!("error {error}"),
        None => format!("weights {:016x}", digest(&result.model)),
    };
    fs::write(directory.join("result"), text).unwrap();
}

/// A digest of all weights and statistics.
fn digest(net: &Net) -> u64 {
    let mut hasher = DefaultHasher::new();
    let bytes = net.clone().into_record();
    let tensors = [
        net.first.weight.val().into_data(),
        net.second.weight.val().into_data(),
        net.last.weight.val().into_data(),
        net.norm.running_mean.value().into_data(),
        net.norm.running_var.value().into_data(),
    ];
    tensors.iter().for_each(|tensor| hasher.write(tensor.as_bytes()));
    hasher.write_usize(bytes.len());
    hasher.finish()
}
