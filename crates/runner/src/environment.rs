//! The environment that the app gets.
//!
//! The caller's, except what is ours or stale; defaults of the slug only where the caller says nothing. A variable that is set to the
//! empty text *is* set: whoever wrote `DEBUG=` meant it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use captain_domain::Environment;

/// Where programs are looked for when neither the caller nor the slug says it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values of the app's variables.
pub type Variables = BTreeMap<OsString, OsString>;

/// The app's environment out of the caller's and the slug's `config_vars`.
pub fn of_app(given: impl IntoIterator<Item = (OsString, OsString)>, defaults: &Environment, home: &Path) -> Variables {
    let mut variables: Variables = given.into_iter().filter(|(name, _)| !is_withheld(name)).collect();
    for (name, value) in defaults.iter().filter(|(name, _)| !is_withheld(OsStr::new(name))) {
        variables.entry(name.into()).or_insert_with(|| value.into());
    }
    variables.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    variables.insert("HOME".into(), home.into());
    variables
}

/// `SLUG_URL` may carry a signature that opens the store; `PWD` and `OLDPWD` tell of a directory that was left. Not `CAPTAIN_*`: nothing of
/// ours is told to a runner that way, and a captain that runs as a slug is set up by them.
fn is_withheld(name: &OsStr) -> bool {
    ["SLUG_URL", "PWD", "OLDPWD"].iter().any(|withheld| name == *withheld)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_only_what_is_unset() {
        let given = [
            ("PORT", "8080"),
            ("EMPTY", ""),
            ("HOME", "/root"),
            ("SLUG_URL", "http://secret"),
            ("CAPTAIN_STACK", "scratch"),
            ("PWD", "/"),
        ];
        let defaults = Environment::from_entries(["PORT=1", "EMPTY=full", "LANG=C.UTF-8", "OLDPWD=/x"]);
        let variables = of_app(given.map(|(name, value)| (name.into(), value.into())), &defaults, Path::new("/app"));
        let shown: Vec<_> =
            variables.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(
            shown,
            [
                "CAPTAIN_STACK=scratch",
                "EMPTY=",
                "HOME=/app",
                "LANG=C.UTF-8",
                &format!("PATH={DEFAULT_PATH}"),
                "PORT=8080"
            ]
        );
    }
}
