#!/usr/bin/env bash
# Run burn-train's own tests of checkpoints with its checkpointers, and with scai's in their place.
#
#     tests/upstream_burn.sh FOLDER
#
# The tests are those of the published crate, copied from cargo's registry into FOLDER. Prints how often scai
# was called: without a call nothing was judged.
set -euo pipefail
folder=$(realpath -m "$1")
scai=$(realpath "$(dirname "$0")/../crates/scai-burn-train")

mkdir -p "$folder/src"
touch "$folder/src/lib.rs"
cat > "$folder/Cargo.toml" <<EOF
[package]
name = "upstream-burn"
version = "0.0.0"
edition = "2024"

[dev-dependencies]
burn-core = { version = "0.22.1", default-features = false, features = ["std", "dataset", "autodiff", "flex"] }
burn-optim = { version = "0.22.1", default-features = false, features = ["std"] }
burn-std = { version = "0.22.1", default-features = false, features = ["std"] }
burn-train = { version = "0.22.1", default-features = false }
scai-burn-train = { path = "$scai" }
tempfile = "3"

[profile.dev]
opt-level = 1

[profile.dev.package."*"]
opt-level = 1
debug = false

[workspace]
EOF
cp "$scai/Cargo.lock" "$folder"
cd "$folder"
burn_train=$(cargo metadata --format-version 1 | sed 's/.*"manifest_path":"\([^"]*burn-train-[^"]*\)\/Cargo.toml".*/\1/')
for way in burn scai; do
  rm -rf tests && mkdir tests
  cp -r "$burn_train/tests/checkpoint.rs" "$burn_train/tests/common" tests
  chmod -R u+w tests
  if [ $way = scai ]; then
    sed -i 's/\.with_default_checkpointers()/.with_scai(\&dir_path)/; s/^mod common;/mod common;\nmod scai;\n#[allow(unused_imports)]\nuse scai::WithScai;/' tests/*.rs
    mkdir tests/scai
    cat > tests/scai/mod.rs <<'EOF'
#![allow(dead_code)]
use std::path::Path;

use burn_train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use burn_train::{LearnerModel, SupervisedTraining};
use scai_burn_train::EpochCheckpointer;

pub trait WithScai {
    fn with_scai(self, directory: &Path) -> Self;
}

impl<M: LearnerModel> WithScai for SupervisedTraining<M> {
    fn with_scai(self, directory: &Path) -> Self {
        let three = scai_burn_train::checkpointers(directory.join("checkpoint")).unwrap();
        self.with_custom_checkpointers(Counted(three.0), Counted(three.1), Counted(three.2))
    }
}

struct Counted(EpochCheckpointer);

impl<R: Checkpoint> Checkpointer<R> for Counted {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        eprintln!("call of scai: save");
        self.0.save(epoch, record)
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        eprintln!("call of scai: delete");
        Checkpointer::<R>::delete(&self.0, epoch)
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        eprintln!("call of scai: restore");
        self.0.restore(epoch)
    }
}
EOF
  fi
  echo "== with $way"
  cargo test --quiet --tests -- --nocapture > "$way.log" 2>&1 || true
  grep -E '^test result|^error|panicked' "$way.log" || true
  grep -o 'call of scai: [a-z]*' "$way.log" | sort | uniq -c || true
done
