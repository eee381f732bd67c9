//! See `logd_log_fuzz::recovery`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| logd_log_fuzz::recovery(input));
