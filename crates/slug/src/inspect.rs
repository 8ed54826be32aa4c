//! Says what is in a slug without putting it anywhere.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Read;

use crate::error::SlugError;
use crate::layout::{APP, Layout};
use crate::name::{EntryName, EntryPath};
use crate::normalise::{self, Options, Report};
use crate::sink::{Attributes, CopyFault, Item, Sink};

/// How many of the largest files are named.
const LARGEST: usize = 10;

/// A slug at a glance.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What every reading of the slug finds out.
    pub report: Report,
    /// The largest files of the app, the largest first, ten at most.
    pub largest: Vec<Large>,
}

/// A file and its size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Large {
    /// In bytes.
    pub bytes: u64,
    /// Its path in the app.
    pub path: EntryName,
}

/// Reads a slug to its end, by the same rules as when it is put on a node. What this lets pass, the others do too.
pub fn inspect<R: Read + Send>(input: R, options: &Options) -> Result<Summary, SlugError> {
    let mut survey = Survey::default();
    let report = normalise::run(input, &mut survey, options)?;
    let largest = match report.layout {
        Layout::Top => survey.anywhere,
        Layout::App => survey.in_app,
    };
    let largest = largest.into_sorted_vec().into_iter().filter_map(|Reverse((bytes, path))| {
        let path = report.layout.path_in_app(&path)?.name();
        Some(Large { bytes, path })
    });
    Ok(Summary { largest: largest.collect(), report })
}

type Smallest = BinaryHeap<Reverse<(u64, EntryPath)>>;

/// Keeps the largest files of both possible layouts, since which one it is may be known only at the end.
#[derive(Default)]
struct Survey {
    anywhere: Smallest,
    in_app: Smallest,
}

impl Sink for Survey {
    fn settle(&mut self, _: Layout) -> Result<(), SlugError> {
        Ok(())
    }

    fn put(&mut self, path: &EntryPath, _: Attributes, item: Item<'_>) -> Result<(), SlugError> {
        let Item::File { size, body } = item else { return Ok(()) };
        // Read rather than skipped, so that a body that is cut off is laid at the door of its entry.
        crate::sink::copy(body, size, |_| Ok(())).map_err(|fault: CopyFault| fault.at(path, "count"))?;
        keep(&mut self.anywhere, size, path);
        if path.below(APP).is_some() {
            keep(&mut self.in_app, size, path);
        }
        Ok(())
    }
}

fn keep(largest: &mut Smallest, size: u64, path: &EntryPath) {
    let is_full = largest.len() == LARGEST;
    if is_full && largest.peek().is_some_and(|Reverse((smallest, _))| *smallest >= size) {
        return;
    }
    if is_full {
        largest.pop();
    }
    largest.push(Reverse((size, path.clone())));
}
