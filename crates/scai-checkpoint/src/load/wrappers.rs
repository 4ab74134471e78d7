//! What module wrappers do to names, and how to undo it.

use std::collections::{BTreeSet, HashSet};

/// Parts of names that wrappers add: data parallelism, `torch.compile`, Lightning, FSDP, activation
/// checkpointing.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Parents of wrapped modules that are listed.
const FEW: usize = 4;

/// The remap from a checkpoint's names to a model's, if they differ by what wrappers add, anywhere
/// and any number of times.
pub(super) fn hint(missing: &[String], unexpected: &[String]) -> Option<String> {
    match (added(unexpected, missing), added(missing, unexpected)) {
        (Some(parts), _) => Some(in_checkpoint(unexpected, &parts)),
        (None, Some(parts)) => Some(in_model(missing, &parts)),
        (None, None) => None,
    }
}

/// The parts without which every one of `names` is one of `others`.
fn added(names: &[String], others: &[String]) -> Option<Vec<&'static str>> {
    let others: HashSet<&str> = others.iter().map(String::as_str).collect();
    let is_in = |part: &&'static str| names.iter().any(|name| name.split('.').any(|p| p == *part));
    let found: Vec<&'static str> = WRAPPERS.into_iter().filter(is_in).collect();
    // `model` and `module` are also common names of people's own modules.
    let fewest_first = {
        let mut subsets: Vec<u32> = (1..1 << found.len()).collect();
        subsets.sort_by_key(|subset| subset.count_ones());
        subsets
    };
    fewest_first.into_iter().find_map(|subset| {
        let of_subset = found.iter().enumerate().filter(|(i, _)| subset & (1 << i) != 0);
        let parts: Vec<&'static str> = of_subset.map(|(_, part)| *part).collect();
        let fits = |name: &String| others.contains(without(name, &parts).as_str());
        names.iter().all(fits).then_some(parts)
    })
}

fn without(name: &str, parts: &[&str]) -> String {
    name.split('.').filter(|part| !parts.contains(part)).collect::<Vec<_>>().join(".")
}

/// The parts that a name begins with, as they stand in it.
fn beginning<'a>(name: &'a str, parts: &[&str]) -> &'a str {
    let len = name
        .split_inclusive('.')
        .take_while(|part| part.strip_suffix('.').is_some_and(|part| parts.contains(&part)));
    &name[..len.map(str::len).sum()]
}

/// The common prefix of all names, if nothing else was added to them.
fn common_beginning<'a>(names: &'a [String], parts: &[&str]) -> Option<&'a str> {
    let prefix = beginning(names.first()?, parts);
    let is_all = |name: &String| {
        beginning(name, parts) == prefix && name[prefix.len()..] == without(name, parts)
    };
    (!prefix.is_empty() && names.iter().all(is_all)).then_some(prefix)
}

fn in_checkpoint(names: &[String], parts: &[&str]) -> String {
    if let Some(prefix) = common_beginning(names, parts) {
        return format!(
            "every saved name begins with `{prefix}`, which a wrapper adds; remap `^{}` to nothing",
            prefix.replace('.', "\\.")
        );
    }
    let listed: Vec<String> = parts.iter().map(|part| format!("`{part}.`")).collect();
    format!(
        "the saved names contain {}, which wrappers add; remap `(^|\\.)(?:(?:{})\\.)+` to `$1`",
        listed.join(" and "),
        parts.join("|")
    )
}

fn in_model(names: &[String], parts: &[&str]) -> String {
    if let Some(prefix) = common_beginning(names, parts) {
        return format!(
            "every name of the model begins with `{prefix}`, which a wrapper adds; remap `^` to \
             `{prefix}`"
        );
    }
    // Wrappers within the names: `enc.` becomes `enc._orig_mod.`.
    let changes: BTreeSet<(String, String)> = names
        .iter()
        .map(|name| {
            let last = name.split_inclusive('.').rev().skip_while(|part| {
                !part.strip_suffix('.').is_some_and(|part| parts.contains(&part))
            });
            let len = last.map(str::len).sum::<usize>();
            let with = &name[..len];
            let before = without(with.trim_end_matches('.'), parts);
            let before = if before.is_empty() { before } else { before + "." };
            (before, with.to_owned())
        })
        .filter(|(before, with)| before != with)
        .collect();
    let listed: Vec<String> = changes
        .iter()
        .take(FEW)
        .map(|(before, with)| format!("`^{}` to `{with}`", before.replace('.', "\\.")))
        .collect();
    let more = if changes.len() > FEW { ", and so on" } else { "" };
    format!("wrappers have changed the names of the model; remap {}{more}", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::hint;

    fn of(missing: &[&str], unexpected: &[&str]) -> Option<String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        hint(&owned(missing), &owned(unexpected))
    }

    #[test]
    fn prefixes_are_found_at_once_however_many_there_are() {
        let said = of(&["a.weight", "b"], &["_orig_mod.module.a.weight", "_orig_mod.module.b"]);
        assert!(said.unwrap().ends_with(r"remap `^_orig_mod\.module\.` to nothing"));
        let said = of(&["a", "b"], &["module.module.a", "module.module.b"]);
        assert!(said.unwrap().ends_with(r"remap `^module\.module\.` to nothing"));
        let said = of(&["module._orig_mod.a"], &["a"]);
        assert!(said.unwrap().ends_with("remap `^` to `module._orig_mod.`"));
    }

    #[test]
    fn wrappers_within_names_are_found() {
        let said =
            of(&["enc.weight", "dec.0.bias"], &["enc._orig_mod.weight", "dec.0.module.bias"]);
        let said = said.unwrap();
        assert!(said.ends_with(r"remap `(^|\.)(?:(?:module|_orig_mod)\.)+` to `$1`"), "{said}");
        let said = of(&["enc._orig_mod.weight", "enc._orig_mod.bias"], &["enc.weight", "enc.bias"]);
        let said = said.unwrap();
        assert!(said.ends_with(r"remap `^enc\.` to `enc._orig_mod.`"), "{said}");
    }

    #[test]
    fn what_people_call_model_stays_where_it_explains_nothing() {
        assert_eq!(of(&["head.weight"], &["model.body.weight"]), None);
        let said = of(&["model.a"], &["_orig_mod.model.a"]);
        assert!(said.unwrap().ends_with(r"remap `^_orig_mod\.` to nothing"));
    }
}
