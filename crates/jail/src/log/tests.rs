use super::*;
use crate::spec::LogBound;
use std::fs;

const BOUND: LogBound = LogBound { file_bytes: 1 << 16, files: 3 };

fn text(frames: &[Frame]) -> String {
    frames.iter().map(|frame| String::from_utf8_lossy(&frame.bytes)).collect()
}

fn read_all(reader: &mut Reader) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let batch = reader.read(1).unwrap();
        frames.extend(batch.frames);
        if batch.end {
            return frames;
        }
    }
}

fn tail_text(dir: &std::path::Path, lines: usize) -> String {
    text(&read_all(&mut Reader::tail(dir, lines).unwrap()))
}

#[test]
fn bytes_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::begin(dir.path(), BOUND).unwrap();
    let mut reader = Reader::new(dir.path(), Cursor::default());
    writer.append(Stream::Stdout, 7, b"one\ntwo\n\nunfini");
    writer.append(Stream::Stderr, 8, b"\xff\0 odd");
    writer.append(Stream::Stdout, 9, b"shed\n");
    let frames = read_all(&mut reader);
    assert_eq!(text(&frames[..3]), "one\ntwo\n\n");
    assert_eq!(frames[3], Frame { at_ms: 7, stream: Stream::Stdout, bytes: b"unfini".to_vec() });
    assert_eq!(frames[4], Frame { at_ms: 8, stream: Stream::Stderr, bytes: b"\xff\0 odd".to_vec() });
    assert_eq!(frames[5].bytes, b"shed\n");
    assert_eq!(read_all(&mut reader), []);
    writer.append(Stream::Stdout, 10, b"more\n");
    assert_eq!(text(&read_all(&mut reader)), "more\n");
}

#[test]
fn a_reader_across_rotation_loses_nothing_and_a_late_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::begin(dir.path(), BOUND).unwrap();
    let mut prompt = Reader::new(dir.path(), Cursor::default());
    let mut written = String::new();
    let mut seen = String::new();
    for n in 0..20_000 {
        let line = format!("line number {n}\n");
        writer.append(Stream::Stdout, n, line.as_bytes());
        written.push_str(&line);
        if n % 500 == 0 {
            // Carried on from its cursor alone, as after a restart of the server.
            prompt = Reader::new(dir.path(), prompt.cursor());
            seen.push_str(&text(&read_all(&mut prompt)));
        }
    }
    seen.push_str(&text(&read_all(&mut prompt)));
    assert_eq!(seen, written);
    let mut late = Reader::new(dir.path(), Cursor { file: 1, offset: 0 });
    let batch = late.read(1).unwrap();
    assert!(batch.skipped);
    let kept = numbers(dir.path()).unwrap();
    assert_eq!(kept.len(), 3);
    for number in kept {
        assert!(fs::metadata(file(dir.path(), number)).unwrap().len() <= BOUND.file_bytes);
    }
}

#[test]
fn a_torn_frame_costs_itself_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(file(dir.path(), 1), "1 o F whole\n2 o F to").unwrap();
    let mut reader = Reader::new(dir.path(), Cursor::default());
    assert_eq!(text(&read_all(&mut reader)), "whole\n");
    let mut writer = Writer::begin(dir.path(), BOUND).unwrap();
    writer.append(Stream::Stdout, 3, b"after\n");
    assert_eq!(text(&read_all(&mut reader)), "to\nafter\n");
    fs::write(file(dir.path(), 3), "rubbish\n\n4 o\n4 o F good\n").unwrap();
    assert_eq!(text(&read_all(&mut reader)), "good\n");
}

#[test]
fn the_last_lines_across_files_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(tail_text(dir.path(), 5), "");
    fs::write(file(dir.path(), 4), "1 o F a\n1 o P b1\n").unwrap();
    fs::write(file(dir.path(), 5), "2 o F b2\n2 e F c\n").unwrap();
    assert_eq!(tail_text(dir.path(), 0), "");
    assert_eq!(tail_text(dir.path(), 1), "c\n");
    assert_eq!(tail_text(dir.path(), 2), "b1b2\nc\n");
    assert_eq!(tail_text(dir.path(), 3), "a\nb1b2\nc\n");
    assert_eq!(tail_text(dir.path(), 9), "a\nb1b2\nc\n");
    fs::write(file(dir.path(), 6), "3 o P unfinished\n").unwrap();
    assert_eq!(tail_text(dir.path(), 1), "unfinished");
}

#[test]
fn a_disk_that_refuses_is_remarked_when_it_takes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::begin(dir.path(), LogBound { file_bytes: 1 << 16, files: 2 }).unwrap();
    let block = vec![b'x'; 8000];
    writer.append(Stream::Stdout, 1, &block);
    // The next file's name is taken by a folder: rotation fails until it is gone.
    fs::create_dir(file(dir.path(), 2)).unwrap();
    while writer.lost == 0 {
        writer.append(Stream::Stdout, 2, &block);
    }
    fs::remove_dir(file(dir.path(), 2)).unwrap();
    writer.append(Stream::Stdout, 3, b"back\n");
    let frames = read_all(&mut Reader::new(dir.path(), Cursor::default()));
    let (last, before) = frames.split_last().unwrap();
    assert_eq!(last.bytes, b"back\n");
    let remark = before.last().unwrap();
    assert_eq!(remark.stream, Stream::Captain);
    assert!(text(std::slice::from_ref(remark)).contains(&format!("{} bytes", writer.lost)));
}
