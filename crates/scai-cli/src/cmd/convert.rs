//! `scai convert IN OUT`

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use scai_checkpoint::codec::dcp::DistributedPlan;
use scai_checkpoint::codec::{Format, Origin, Plan};
use scai_checkpoint::store::{Directory, LocalDirectory};
use scai_checkpoint::{DType, Value, file};
use scai_inspect::{File, Totals};

use crate::args::{ConvertArgs, OutputFormat};
use crate::cast::cast;
use crate::exit::{Exit, Failure};
use crate::input::{self, few, warn};
use crate::render::{counted, one_line, size};
use crate::{locate, progress};

/// What was done, one line each.
type Notes = Vec<String>;

/// What the new file loses or changes: an error, unless accepted.
#[derive(Debug, Default)]
struct Losses(Vec<String>);

impl Losses {
    fn add<'a>(&mut self, what: &str, names: impl IntoIterator<Item = &'a str>) {
        let names: Vec<&str> = names.into_iter().collect();
        if !names.is_empty() {
            self.0.push(format!("{what}: {}", few(&names)));
        }
    }

    /// Warns of all losses if they are accepted.
    fn accept(self, lossy: bool) -> Result<(), Failure> {
        if lossy || self.0.is_empty() {
            self.0.iter().for_each(|loss| warn(&format!("lost: {loss}")));
            return Ok(());
        }
        Err(Failure::usage(
            format!("the conversion would lose\n  {}", self.0.join("\n  ")),
            Some("`--lossy` converts anyway".to_owned()),
        ))
    }
}

pub(crate) fn run(args: &ConvertArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let format = format(args)?;
    let to_directory = format == Format::Distributed;
    if to_directory && is_taken(&args.output) {
        return Err(Failure::usage(
            format!("`{}` already exists", args.output.display()),
            Some("name a new directory, or an empty one".to_owned()),
        ));
    }
    if args.output.exists() && !args.force && !to_directory {
        return Err(Failure::usage(
            format!("`{}` already exists", args.output.display()),
            Some("`--force` replaces it".to_owned()),
        ));
    }
    if !locate::split(&args.output)?.0.is_dir() {
        let directory = locate::split(&args.output)?.0.display();
        return Err(Failure::usage(format!("there is no directory `{directory}`"), None));
    }
    let input = match args.allow_unprotected {
        true => input::open(&args.input)?,
        false => input::open_protected(&args.input)?,
    };
    let mut notes = Notes::new();
    let tree = input::tree(&input)?;
    let mut tree = match &args.part {
        Some(path) => Cow::Borrowed(input::part(tree, path)?),
        None => Cow::Borrowed(tree),
    };
    let mut losses = Losses::default();
    let is_whole = tree.objects().is_empty();
    if !is_whole {
        tree = Cow::Owned(without_objects(&tree, &mut losses));
    }
    if let Some(dtype) = args.dtype {
        tree = Cow::Owned(rounded(&tree, dtype, &mut notes)?);
    }
    // Notes on a whole state do not apply to a part of it.
    let notes_beside = match &args.part {
        None if is_whole => input.content().notes()?,
        _ => None,
    };
    let origin = input.content().origin();
    if origin == Origin::Unprotected {
        notes.push("marked as converted from a file without checksums".to_owned());
    }
    if to_directory {
        let plan = DistributedPlan::new(&tree, notes_beside.as_deref(), origin)?;
        let what = "attributes of mappings, which a distributed checkpoint cannot hold";
        losses.add(what, plan.lost().iter().map(String::as_str));
        losses.accept(args.lossy)?;
        let len = plan.len();
        let spinner = progress::spinner("converting");
        let written = file::write_distributed(&args.output, plan, file::WriteOptions::default());
        spinner.finish_and_clear();
        written?;
        return report(args, &input, format, len, notes, out);
    }
    let mut plan = Plan::converted(&tree, notes_beside.as_deref(), origin, format)?;
    let metadata = input.content().foreign_metadata();
    match plan {
        Plan::Safetensors(safetensors) => {
            let safetensors = safetensors.with_metadata(None, metadata)?;
            remark(&safetensors, &mut notes, &mut losses);
            plan = Plan::Safetensors(safetensors);
        }
        Plan::Torch(_) => {
            // Every file that was written for PyTorch has this key.
            let keys = metadata.into_keys().filter(|key| *key != "format");
            losses.add("file metadata, which a `.pt` file cannot hold", keys);
        }
    }
    losses.accept(args.lossy)?;
    let len = plan.len();
    let spinner = progress::spinner("converting");
    let written = file::write(&args.output, plan, file::WriteOptions::default());
    spinner.finish_and_clear();
    written?;
    report(args, &input, format, len, notes, out)
}

/// Whether there is anything at a path but an empty directory.
fn is_taken(path: &Path) -> bool {
    let is_empty = || {
        let directory = LocalDirectory::open(path).ok()?;
        let files = directory.list().ok()?.len() + directory.unopenable().ok()?.len();
        Some(files == 0)
    };
    path.exists() && is_empty() != Some(true)
}

/// What was converted into what.
fn report(
    args: &ConvertArgs,
    input: &File,
    format: Format,
    len: u64,
    notes: Notes,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let shown = |path: &Path| one_line(&path.display().to_string());
    let (from, to) = (input.content().format(), format);
    writeln!(
        out,
        "{} ({from}, {}) → {} ({to}, {})",
        shown(&args.input),
        size(input.content().len()),
        shown(&args.output),
        size(len)
    )?;
    for note in notes {
        writeln!(out, "  {}", one_line(&note))?;
    }
    Ok(Exit::Success)
}

/// The format that the option or the extension names.
fn format(args: &ConvertArgs) -> Result<Format, Failure> {
    let extension = args.output.extension().and_then(|extension| extension.to_str());
    let is_directory = args.output.as_os_str().as_encoded_bytes().ends_with(b"/");
    match (args.format, extension) {
        (Some(OutputFormat::Dcp), _) => Ok(Format::Distributed),
        (None, _) if is_directory => Ok(Format::Distributed),
        (Some(OutputFormat::Pt), _) | (None, Some("pt" | "pth" | "ckpt" | "bin")) => {
            Ok(Format::Torch)
        }
        (Some(OutputFormat::Safetensors), _) | (None, Some("safetensors")) => {
            Ok(Format::Safetensors)
        }
        (None, _) => Err(Failure::usage(
            format!("cannot tell the output format from the name `{}`", args.output.display()),
            Some("name it `….pt`, `….safetensors` or `…/`, or pass `--format`".to_owned()),
        )),
    }
}

/// The tree without what only code could make.
fn without_objects(tree: &Value, losses: &mut Losses) -> Value {
    let mut lost = Vec::new();
    let tree = tree.without_objects(&mut |path, object| {
        let path = if path.is_empty() { "the whole tree" } else { path };
        let kept = match Totals::of(&object.content.clone().into()).tensors as u64 {
            0 => String::new(),
            tensors => format!(", {} kept", counted(tensors, "tensor")),
        };
        lost.push(format!("{path} ({}{kept})", object.class));
    });
    losses.add("objects that only code could create", lost.iter().map(String::as_str));
    tree
}

fn rounded(tree: &Value, dtype: DType, notes: &mut Notes) -> Result<Value, Failure> {
    let cast = cast(tree, dtype)?;
    notes.push(format!("rounded to {dtype}: {}", counted(cast.tensors as u64, "tensor")));
    if tree.as_dict().is_some_and(|dict| dict.get("optimizer_state_dict").is_some()) {
        warn(
            "the optimizer state was rounded as well, so training cannot resume from it exactly; \
             `--part model_state_dict` converts only the model",
        );
    }
    if !cast.left.is_empty() {
        let left: Vec<&str> = cast.left.iter().map(String::as_str).collect();
        warn(&format!(
            "not rounded, because other tensors view the same memory with a different dtype: {}",
            few(&left)
        ));
    }
    Ok(cast.tree)
}

/// Reports what the format changed in the tree.
fn remark(
    plan: &scai_checkpoint::codec::safetensors::SafetensorsPlan,
    notes: &mut Notes,
    losses: &mut Losses,
) {
    let ties = plan.ties();
    if !ties.is_empty() {
        let list: Vec<String> =
            ties.iter().map(|(alias, name)| format!("{alias} = {name}")).collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        notes.push(format!(
            "tied, stored once: {} (scai ties them again on load; other programs see one name of \
             each)",
            few(&list)
        ));
    }
    losses.add(
        "shared memory of views, which become separate tensors",
        plan.unshared().iter().map(String::as_str),
    );
    losses.add(
        "tensors that are sparse, quantised or without data, which scai reads back but other \
         programs do not",
        plan.made_of_parts().iter().map(String::as_str),
    );
    let unshared = plan.unshared();
    let apart = plan.apart().iter().filter(|name| !unshared.contains(name));
    let apart: Vec<&str> = apart.map(String::as_str).collect();
    if !apart.is_empty() {
        warn(&format!("views of a larger storage, written as separate tensors: {}", few(&apart)));
    }
}
