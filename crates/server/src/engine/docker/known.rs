//! Records of a list that are known again by their text, and need not be read again.
//!
//! Each claim lists its node, and from one listing of a node at work to the next hardly a record changes, but for the words that say
//! how long its container has been up. So where listings follow one another closely, the text of each record is kept. One that says the
//! same, byte by byte but for those words, means the same. It is compared and not hashed: what stands in a list decides who may start.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::share::{Room, Share};
use crate::engine::{Owner, Sighting};

/// Listings that follow one another within this are those of claims. A watcher's own come later, and leave nothing behind.
const CLOSE: Duration = Duration::from_secs(5);
/// Records that are looked through for one that is the same: so many may have gone, or changed, in one place of the list.
const AHEAD: usize = 16;
/// "Up About an hour (Paused)", "Exited (137) 11 minutes ago". What is longer is read.
const LONGEST_STATUS: usize = 64;

/// So much of the text may belong to records that are gone before it is written anew.
const WASTE: usize = 16 << 10;

/// What the last listing of an engine left.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Last>);

#[derive(Debug, Default)]
struct Last {
    began: Option<Instant>,
    known: Known,
}

/// The records of a list in their order, with their texts.
#[derive(Debug, Default)]
pub(super) struct Known {
    records: Vec<Record>,
    /// In one piece: what lies about in memory takes much longer to be compared.
    text: Vec<u8>,
    /// How far the listing has come in the records: before are those that it has told.
    at: usize,
    /// Where what is read is kept; none where no listing is expected to follow soon.
    share: Option<Arc<Share>>,
}

/// A record, word for word, and what was read of it.
#[derive(Debug)]
struct Record {
    text: Range<usize>,
    /// The string that says how long it has been up, within the text of the record.
    status: Option<Range<usize>>,
    sighting: Sighting,
    /// Whether the listing has told it.
    told: bool,
    _room: Room,
}

/// What the bytes at a record's place are.
#[derive(Debug)]
pub(super) enum Found {
    /// One that is known, of this length.
    Known(Sighting, usize),
    /// Perhaps the beginning of one.
    Partly,
    /// None that is known.
    New,
}

impl Memory {
    /// For a listing that begins.
    pub(super) fn begin(&self, now: Instant, share: &Arc<Share>) -> Known {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = std::mem::take(&mut last.known);
        let close = last.began.replace(now).is_some_and(|before| now - before < CLOSE);
        if close { Known { share: Some(Arc::clone(share)), ..known } } else { Known::default() }
    }

    /// A listing has ended.
    pub(super) fn end(&self, mut known: Known) {
        known.forget_untold();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known = known;
    }

    /// Lets go of what no listing has asked for lately.
    pub(super) fn rest(&self, now: Instant) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.began.is_some_and(|began| now - began >= CLOSE) {
            *last = Last::default();
        }
    }
}

impl Known {
    /// About how many records are to be expected.
    pub(super) fn expected(&self) -> usize {
        self.records.len()
    }

    /// Looks for the record that these bytes begin with. Lists have an order, so it is the next one, or one of the next.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Found {
        for (place, record) in self.records.iter_mut().enumerate().skip(self.at).take(AHEAD) {
            match record.begins(bytes, &self.text) {
                Begins::Yes(length) => {
                    record.told = true;
                    self.at = place + 1;
                    return Found::Known(record.sighting.clone(), length);
                }
                Begins::Perhaps => return Found::Partly,
                Begins::No => {}
            }
        }
        Found::New
    }

    /// Keeps a record that was read, as far as there is room.
    pub(super) fn keep(&mut self, text: &[u8], status: Option<Range<usize>>, sighting: &Sighting) {
        let room = self.share.as_ref().and_then(|share| share.room(text.len() + size_of::<Record>()));
        if let Some(room) = room {
            let sighting = self.like_its_neighbour(sighting.clone());
            let start = self.text.len();
            self.text.extend_from_slice(text);
            let text = start..self.text.len();
            self.records.insert(self.at, Record { text, status, sighting, told: true, _room: room });
            self.at += 1;
        }
    }

    /// Neighbours in a list are often of one app and one slug, whose names they can share.
    fn like_its_neighbour(&self, mut sighting: Sighting) -> Sighting {
        let neighbour = self.at.checked_sub(1).map(|before| &self.records[before].sighting.owner);
        if let (Owner::Captain(labels), Some(Owner::Captain(neighbour))) = (&mut sighting.owner, neighbour) {
            if labels.app == neighbour.app {
                labels.app = neighbour.app.clone();
            }
            if labels.slug_uri == neighbour.slug_uri {
                labels.slug_uri = neighbour.slug_uri.clone();
            }
        }
        sighting
    }

    fn forget_untold(&mut self) {
        self.at = 0;
        self.records.retain_mut(|record| std::mem::take(&mut record.told));
        let live: usize = self.records.iter().map(|record| record.text.len()).sum();
        if self.text.len() > live * 2 + WASTE {
            let mut text = Vec::with_capacity(live);
            for record in &mut self.records {
                let start = text.len();
                text.extend_from_slice(&self.text[record.text.clone()]);
                record.text = start..text.len();
            }
            self.text = text;
        }
    }
}

/// Whether bytes begin with a record.
#[derive(Debug, PartialEq, Eq)]
enum Begins {
    /// They do: it takes so many.
    Yes(usize),
    /// As far as they go.
    Perhaps,
    No,
}

impl Record {
    fn begins(&self, bytes: &[u8], texts: &[u8]) -> Begins {
        let text = &texts[self.text.clone()];
        let Some(Range { start, end }) = self.status.clone() else { return begins(bytes, text, 0) };
        match begins(bytes, &text[..start], 0) {
            Begins::Yes(before) => match string(&bytes[before..]) {
                Begins::Yes(status) => begins(&bytes[before + status..], &text[end..], before + status),
                other => other,
            },
            other => other,
        }
    }
}

/// Whether they begin with this text, which so many others are before.
fn begins(bytes: &[u8], text: &[u8], before: usize) -> Begins {
    match bytes.get(..text.len()) {
        Some(same) if same == text => Begins::Yes(before + text.len()),
        None if text.starts_with(bytes) => Begins::Perhaps,
        _ => Begins::No,
    }
}

/// Whether they begin with a JSON string of plain words.
fn string(bytes: &[u8]) -> Begins {
    let Some((quote, inside)) = bytes.split_first() else { return Begins::Perhaps };
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let length = inside.iter().take(LONGEST_STATUS).take_while(|byte| plain(byte)).count();
    match (quote, inside.get(length)) {
        (b'"', Some(b'"')) => Begins::Yes(length + 2),
        (b'"', None) => Begins::Perhaps,
        _ => Begins::No,
    }
}

#[cfg(test)]
mod tests {
    use captain_domain::{InstanceId, State};

    use super::super::share::Shares;
    use super::*;

    fn sighting(n: u8) -> Sighting {
        Sighting { id: InstanceId::from_bytes([n; 32]), state: State::Running, owner: Owner::Foreign, port: None }
    }

    fn text(n: u8, status: &str, end: &str) -> String {
        format!(r#"{{"Id":{n},"Status":{status},"End":{end}}}"#)
    }

    fn keep(known: &mut Known, n: u8) {
        let (text, before) = (text(n, r#""Up 3 seconds""#, "1"), text(n, "", "1"));
        let start = before.find(",\"End").unwrap();
        known.keep(text.as_bytes(), Some(start..start + 14), &sighting(n));
    }

    /// What a listing knows after one that said this.
    fn after(records: std::ops::Range<u8>) -> Known {
        let (memory, share) = (Memory::default(), Shares::default().take());
        let now = Instant::now();
        memory.end(memory.begin(now, &share));
        let mut known = memory.begin(now, &share);
        records.for_each(|n| keep(&mut known, n));
        memory.end(known);
        memory.begin(now, &share)
    }

    fn found(known: &mut Known, text: &str) -> Option<(u8, usize)> {
        match known.find(text.as_bytes()) {
            Found::Known(sighting, length) => Some((sighting.id.as_bytes()[0], length)),
            Found::Partly | Found::New => None,
        }
    }

    #[test]
    fn only_the_words_of_its_time_may_differ() {
        let same = ["\"Up 3 seconds\"", "\"Up 4 minutes\"", "\"\""].map(|status| text(1, status, "1"));
        for same in same {
            assert_eq!(found(&mut after(1..2), &format!("{same},{{")), Some((1, same.len())), "{same}");
        }
        let long = format!("\"{}\"", "x".repeat(LONGEST_STATUS + 1));
        let statuses = [r#""Up \" 3""#, "7", "null", "{}", "\"Up\n3\"", "\"Üp\"", &long];
        for other in statuses
            .map(|status| text(1, status, "1"))
            .into_iter()
            .chain([text(2, "\"Up\"", "1"), text(1, "\"Up\"", "2")])
        {
            assert!(matches!(after(1..2).find(other.as_bytes()), Found::New), "{other}");
        }
    }

    #[test]
    fn the_beginning_of_one_is_not_taken_for_one() {
        let whole = text(1, r#""Up 4 seconds""#, "1");
        for length in 0..whole.len() {
            assert!(matches!(after(1..2).find(&whole.as_bytes()[..length]), Found::Partly), "{length}");
        }
    }

    #[test]
    fn a_few_that_are_gone_are_passed_over() {
        let mut known = after(0..100);
        let looked_for = [0, 1, 5, 20, 99, 21, 20];
        let seen = looked_for.map(|n| found(&mut known, &text(n, "\"\"", "1")).map(|(n, _)| n));
        assert_eq!(seen, [Some(0), Some(1), Some(5), Some(20), None, Some(21), None]);
    }

    #[test]
    fn nothing_is_kept_where_listings_are_far_apart() {
        let (memory, share, begin) = (Memory::default(), Shares::default().take(), Instant::now());
        let known_at = |seconds| {
            let mut known = memory.begin(begin + Duration::from_secs(seconds), &share);
            let again = found(&mut known, &text(1, "\"\"", "1"));
            if again.is_none() {
                keep(&mut known, 1);
            }
            memory.end(known);
            again.is_some()
        };
        assert_eq!([0, 4, 8, 12].map(known_at), [false, false, true, true]);
        assert_eq!([17, 21, 25].map(known_at), [false, false, true], "the first was long after the one before");
        memory.rest(begin + Duration::from_secs(29));
        assert!(known_at(29));
        memory.rest(begin + Duration::from_secs(34));
        assert!(memory.0.lock().unwrap().known.records.is_empty());
    }

    #[test]
    fn the_text_of_what_is_gone_goes_too() {
        let mut known = after(0..0);
        let long = |n: u8| format!(r#"{{"Id":{n},"x":"{}"}}"#, "y".repeat(1_000));
        for n in 100..200 {
            known.keep(long(n).as_bytes(), None, &sighting(n));
        }
        known.forget_untold();
        for n in (100..200).filter(|n| n % 2 == 0) {
            assert_eq!(found(&mut known, &long(n)).map(|(n, _)| n), Some(n));
        }
        known.forget_untold();
        assert_eq!(known.text.len(), 100 * long(100).len(), "half of it is gone");
        for n in [102, 106, 110] {
            assert_eq!(found(&mut known, &long(n)).map(|(n, _)| n), Some(n));
        }
        known.forget_untold();
        assert_eq!(known.text.len(), 3 * long(100).len());
        assert_eq!([102, 104, 110].map(|n| found(&mut known, &long(n)).map(|(n, _)| n)), [Some(102), None, Some(110)]);
    }

    #[test]
    fn there_is_room_for_so_much() {
        let share = Shares::default().take();
        let room: Vec<_> = std::iter::from_fn(|| share.room(1 << 20)).collect();
        assert_eq!(room.len(), 64);
        let mut known = Known { share: Some(Arc::clone(&share)), ..Known::default() };
        keep(&mut known, 1);
        assert_eq!(known.records.len(), 0);
        drop(room);
        keep(&mut known, 1);
        assert_eq!(known.records.len(), 1);
    }
}
