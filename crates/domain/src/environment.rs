//! The environment of an instance. Its values may be secrets: they are shown to the API's callers (the contract) and to nobody else.

use std::collections::BTreeMap;
use std::fmt;

/// Variables of an instance, by name. `Debug` shows names only.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Environment(BTreeMap<Box<str>, Box<str>>);

/// Variables that Captain or the engine sets. They are never taken from the caller's environment and never shown as part of it.
pub const RESERVED: [&str; 4] = ["HOME", "PATH", "PORT", "SLUG_URL"];

impl Environment {
    /// An empty environment.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// Name and value of each variable, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same without the variables that are not the caller's.
    #[must_use]
    pub fn without_reserved(mut self) -> Self {
        for name in RESERVED {
            self.0.remove(name);
        }
        self
    }

    /// Reads `NAME=value` entries, as engines list them. An entry without `=` is a name with an empty value; a later entry wins.
    pub fn from_entries<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut environment = Self::new();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        environment
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let environment = Environment::from_entries(["TOKEN=hunter2", "EMPTY"]);
        let shown = format!("{environment:?}");
        assert_eq!(shown, r#"{"EMPTY", "TOKEN"}"#);
    }

    #[test]
    fn reserved_names_are_left_out() {
        let environment =
            Environment::from_entries(["PORT=1", "PATH=/bin", "HOME=/", "SLUG_URL=x", "A=b=c"]).without_reserved();
        assert_eq!(environment.iter().collect::<Vec<_>>(), [("A", "b=c")]);
    }
}
