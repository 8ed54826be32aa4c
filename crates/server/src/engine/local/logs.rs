//! Output of an instance: the monitor's frames, read at the reader's pace.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use captain_domain::InstanceId;
use captain_jail::log::{Batch, Reader, Stream};
use futures_util::stream::{self, StreamExt};

use super::Local;
use crate::engine::{LogChunk, Logs, Output, Result};

/// Read at a time: bounds what one reader holds in memory.
const BATCH_BYTES: usize = 256 << 10;

/// How often a follower looks when there was nothing: soon enough for people, and a thousand followers cost a few percent of a processor.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const ATTEMPT: &str = "read the output of an instance";

/// Opens the output.
pub(super) async fn logs(engine: &Local, id: InstanceId, follow: bool) -> Result<Logs> {
    let reader = engine.blocking(ATTEMPT, move |house| house.log(id)).await?;
    let reading =
        Reading { engine: engine.clone(), id, follow, reader: Some(reader), begun: false, ready: VecDeque::new() };
    Ok(stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

struct Reading {
    engine: Local,
    id: InstanceId,
    follow: bool,
    /// None when everything was read.
    reader: Option<Reader>,
    begun: bool,
    ready: VecDeque<LogChunk>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<LogChunk>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(mut reader) = self.reader.take() else { return Ok(None) };
            let (id, follow) = (self.id, self.follow);
            let read = move |house: &super::House| {
                // Asked before reading: what is in the log of an instance that is over is all there will ever be.
                let over = !follow || house.is_over(id)?;
                let batch = reader.read(BATCH_BYTES);
                let batch = batch.map_err(|error| super::Failure::io(&format!("read {:?}", reader.dir()), &error))?;
                Ok((reader, batch, over))
            };
            let (reader, batch, over) = self.engine.blocking(ATTEMPT, read).await?;
            let finished = batch.end && over;
            let idle = batch.end && batch.frames.is_empty();
            self.take(batch);
            if !finished {
                self.reader = Some(reader);
                if idle {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    fn take(&mut self, batch: Batch) {
        // At the very beginning it only means that old output was dropped, as the log's bound has it.
        if batch.skipped && self.begun {
            let bytes = Bytes::from_static(b"captain: output is missing here: it was dropped before it was read\n");
            self.ready.push_back(LogChunk { output: Output::Stderr, bytes });
        }
        self.begun |= !batch.frames.is_empty();
        self.ready.extend(batch.frames.into_iter().map(|frame| LogChunk {
            output: match frame.stream {
                Stream::Stdout => Output::Stdout,
                Stream::Stderr | Stream::Captain => Output::Stderr,
            },
            bytes: frame.bytes.into(),
        }));
    }
}
