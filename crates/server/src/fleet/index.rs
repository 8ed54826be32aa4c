//! Where rows are, in the order of their ids.
//!
//! An entry keeps the first 4 bytes of an id and not all 32: the rest is in the row that it leads to. For two million instances, each
//! in two indexes, that is 150 MB less. Ids are hashes, so that the first bytes all but decide: of two million, a thousand begin like
//! another. For those, and where malice makes more of them equal, the rows are asked.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Bound;

use captain_domain::InstanceId;

use super::table::{Key, Row};

/// In order by the ids' heads, which are read as numbers are written: the first byte weighs most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    head: u32,
    key: u32,
}

impl Entry {
    const fn new(id: &InstanceId, key: Key) -> Self {
        Self { head: head(id), key: key.0 }
    }

    const fn key(self) -> Key {
        Key(self.key)
    }
}

const fn head(id: &InstanceId) -> u32 {
    let [first, second, third, fourth, ..] = *id.as_bytes();
    u32::from_be_bytes([first, second, third, fourth])
}

/// Keys of rows, in the order of the rows' ids.
#[derive(Debug, Default)]
pub(super) struct Index(BTreeSet<Entry>);

impl Index {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, id: &InstanceId, key: Key) {
        self.0.insert(Entry::new(id, key));
    }

    pub(super) fn remove(&mut self, id: &InstanceId, key: Key) {
        self.0.remove(&Entry::new(id, key));
    }

    /// The key of the row with this id.
    pub(super) fn find<'a>(&self, id: &InstanceId, row: impl Fn(Key) -> Option<&'a Row>) -> Option<Key> {
        let span = Entry { head: head(id), key: 0 }..=Entry { head: head(id), key: u32::MAX };
        self.0.range(span).map(|entry| entry.key()).find(|key| row(*key).is_some_and(|row| row.id == *id))
    }

    /// The rows from one on, in the order of their ids.
    pub(super) fn rows_from<'a>(
        &'a self,
        from: Bound<InstanceId>,
        row: impl Fn(Key) -> Option<&'a Row>,
    ) -> impl Iterator<Item = &'a Row> {
        let first = match &from {
            Bound::Included(id) | Bound::Excluded(id) => Entry { head: head(id), key: 0 },
            Bound::Unbounded => Entry { head: 0, key: 0 },
        };
        let rows = InOrder { entries: self.0.range(first..).peekable(), alike: Vec::new(), row };
        rows.skip_while(move |row| match &from {
            Bound::Included(id) => row.id < *id,
            Bound::Excluded(id) => row.id <= *id,
            Bound::Unbounded => false,
        })
    }
}

/// Rows by entries in order. Those whose ids begin alike are put in order when they are reached.
struct InOrder<'a, I: Iterator<Item = &'a Entry>, F> {
    entries: Peekable<I>,
    /// The rest of the rows that began alike, the last first.
    alike: Vec<&'a Row>,
    row: F,
}

impl<'a, I: Iterator<Item = &'a Entry>, F: Fn(Key) -> Option<&'a Row>> Iterator for InOrder<'a, I, F> {
    type Item = &'a Row;

    fn next(&mut self) -> Option<&'a Row> {
        if let Some(row) = self.alike.pop() {
            return Some(row);
        }
        let first = self.entries.next()?;
        if self.entries.peek().is_none_or(|next| next.head != first.head) {
            return (self.row)(first.key());
        }
        self.alike.extend((self.row)(first.key()));
        while let Some(next) = self.entries.next_if(|next| next.head == first.head) {
            self.alike.extend((self.row)(next.key()));
        }
        self.alike.sort_unstable_by_key(|row| Reverse(row.id));
        self.alike.pop()
    }
}
