//! Any command where there is no shell: no panic, and what is accepted is a program with words.
#![no_main]

use std::ffi::OsStr;

use captain_runner::words::split;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|command: &str| {
    if let Ok(words) = split(command, |name| (name == "PORT").then(|| OsStr::new("8080"))) {
        assert!(!words.is_empty());
    }
});
