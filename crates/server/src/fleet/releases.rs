//! Releases: slug and environment, kept once however many instances have both.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use captain_domain::{Environment, SlugUri};
use hashbrown::HashTable;

/// What all instances of a release have in common.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) slug_uri: SlugUri,
    pub(super) environment: Environment,
}

/// All that are known. Forgets those that no instance has whenever it has doubled since it last looked.
#[derive(Debug)]
pub(super) struct Releases {
    /// A table and not a set: it is asked with the two parts, of which most events bring nothing new.
    known: HashTable<Arc<Release>>,
    hasher: RandomState,
    sweep_at: usize,
}

const SWEEP_AT_LEAST: usize = 1024;

impl Default for Releases {
    fn default() -> Self {
        Self { known: HashTable::new(), hasher: RandomState::new(), sweep_at: SWEEP_AT_LEAST }
    }
}

impl Releases {
    /// The release of this slug and this environment.
    pub(super) fn share(&mut self, slug_uri: &SlugUri, environment: &Environment) -> Arc<Release> {
        let hash = self.hasher.hash_one((slug_uri, environment));
        let same = |known: &Arc<Release>| known.slug_uri == *slug_uri && known.environment == *environment;
        if let Some(known) = self.known.find(hash, same) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = SWEEP_AT_LEAST.max(self.known.len() * 2);
        }
        let release = Arc::new(Release { slug_uri: slug_uri.clone(), environment: environment.clone() });
        let hasher = &self.hasher;
        self.known
            .insert_unique(hash, Arc::clone(&release), |known| hasher.hash_one((&known.slug_uri, &known.environment)));
        release
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(releases: &mut Releases, slug: usize, environment: usize) -> Arc<Release> {
        let environment = Environment::from_entries([format!("RELEASE=v{environment}").as_str()]);
        releases.share(&SlugUri::trusted(&format!("http://slugs/{slug}.tgz")), &environment)
    }

    #[test]
    fn both_parts_tell_releases_apart() {
        let mut releases = Releases::default();
        let first = share(&mut releases, 1, 1);
        assert!(Arc::ptr_eq(&first, &share(&mut releases, 1, 1)));
        for (slug, environment) in [(1, 2), (2, 1), (2, 2)] {
            assert_ne!(first, share(&mut releases, slug, environment));
        }
    }

    #[test]
    fn those_that_nothing_is_of_are_forgotten() {
        let mut releases = Releases::default();
        let kept: Vec<_> = (0..100).map(|slug| share(&mut releases, slug, 1)).collect();
        for slug in 0..10 * SWEEP_AT_LEAST {
            share(&mut releases, slug, 2);
        }
        assert!(releases.known.len() <= SWEEP_AT_LEAST + kept.len(), "{}", releases.known.len());
        assert!(kept.iter().enumerate().all(|(slug, kept)| Arc::ptr_eq(kept, &share(&mut releases, slug, 1))));
    }
}
