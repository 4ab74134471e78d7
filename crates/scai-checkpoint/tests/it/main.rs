//! What the engine promises, as seen from outside; one binary.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::octal_escapes,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::unwrap_used,
    reason = "tests look at real files, panic when something does not hold and print what they saw"
)]

mod aftermath;
mod arrows;
mod careless;
mod checkpoint_power_loss;
mod child;
#[cfg(feature = "cloud")]
mod cloud;
mod crash;
mod damage;
mod dcp;
mod delete;
mod describe;
mod direct;
mod disk_full;
mod explorer;
mod folder;
#[allow(dead_code, reason = "`hostile_memory` uses the rest")]
mod forge;
mod fuzz_bench;
mod fuzz_checks;
mod fuzz_manager;
mod fuzz_model;
mod fuzz_safetensors;
mod going_back;
mod golden;
mod hostile;
mod huge;
mod kinds;
mod lazy_reader;
mod list_cost;
mod made_twice;
mod manager;
mod not_files;
mod notes;
mod own_store;
mod payload;
mod places;
mod power_loss;
mod races;
mod read_into;
mod replay;
mod safetensors;
mod sharded;
mod shards;
mod shards_crash;
mod shards_model;
mod shards_view;
mod shared;
mod store;
mod store_faults;
mod strace;
mod support;
mod syscall_faults;
mod timeline;
mod torchscript;
mod training;
mod two_processes;
mod unread;
mod verified;
mod written;
