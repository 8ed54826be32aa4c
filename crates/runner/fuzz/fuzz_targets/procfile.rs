//! Any bytes as Procfile and as `.release`: no panic, and what is accepted obeys the promises of `captain_domain::procfile`.
#![no_main]

use captain_domain::procfile::{PROCESS_TYPES_MAX, Process, Procfile, Release, is_process_type, lint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Procfile::parse(bytes) {
        Ok(procfile) => check(procfile.processes(), bytes.len()),
        Err(_) => assert!(lint(bytes).is_empty()),
    }
    if let Ok(release) = Release::parse(bytes) {
        check(release.processes(), bytes.len());
        for (name, value) in release.config_vars.iter() {
            assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'), "{name}");
        }
    }
});

fn check(processes: &[Process], length: usize) {
    assert!(processes.len() <= PROCESS_TYPES_MAX);
    for (index, process) in processes.iter().enumerate() {
        assert!(is_process_type(&process.name), "{:?}", process.name);
        assert!(!process.command.trim().is_empty() && !process.command.contains('\0'));
        // Nothing is expanded: escapes like \u{…} shrink, and a list gains one byte an item.
        assert!(process.command.len() <= length.max(1) && process.line >= 1);
        assert!(processes[..index].iter().all(|other| other.name != process.name));
    }
}
