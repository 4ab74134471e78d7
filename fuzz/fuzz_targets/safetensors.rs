//! See `fuzz_safetensors::safetensors`, which the tests replay the corpus with.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/scai-checkpoint/tests/it/forge.rs"]
mod forge;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_checks.rs"]
mod fuzz_checks;
#[path = "../../crates/scai-checkpoint/tests/it/fuzz_safetensors.rs"]
mod fuzz_safetensors;
#[path = "../../crates/scai-checkpoint/tests/it/support.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_safetensors::safetensors(input));
