//! How many files the process may have open: shared out between clients and engines.

use std::sync::LazyLock;

use rustix::process::{Resource, getrlimit, setrlimit};

static LIMIT: LazyLock<usize> = LazyLock::new(raise);

/// The limit, raised as far as it goes by whoever asks first.
pub fn limit() -> usize {
    *LIMIT
}

fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it cannot be raised, what was granted is used.
    let _ = setrlimit(Resource::Nofile, limit);
    let granted = getrlimit(Resource::Nofile).current;
    granted.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
}
