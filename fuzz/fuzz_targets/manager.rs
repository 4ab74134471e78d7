//! See `fuzz_manager::manager`, which the tests replay the corpus with.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/scai-checkpoint/tests/it/forge.rs"]
mod forge;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_bench.rs"]
mod fuzz_bench;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_checks.rs"]
mod fuzz_checks;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_manager.rs"]
mod fuzz_manager;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_model.rs"]
mod fuzz_model;
#[path = "../../crates/scai-checkpoint/tests/it/support.rs"]
mod support;
#[path = "../../crates/scai-checkpoint/tests/it/training.rs"]
mod training;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_manager::manager(input));
