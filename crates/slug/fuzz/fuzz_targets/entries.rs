//! Archives of entries that make sense each by itself: names that meet, links, long names, folders that change their type.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Component {
    A,
    B,
    App,
    Procfile,
    Up,
    Here,
    Nothing,
    Long,
    Raw(u8),
}

#[derive(Arbitrary, Debug)]
enum Flag {
    File,
    Folder,
    Symlink,
    HardLink,
    Other(u8),
}

#[derive(Arbitrary, Debug)]
struct Entry {
    flag: Flag,
    name: Vec<Component>,
    target: Vec<Component>,
    mode: u16,
    content: Vec<u8>,
    pax: Option<Vec<u8>>,
}

fuzz_target!(|entries: Vec<Entry>| {
    let mut tar = Vec::new();
    for entry in entries.into_iter().take(24) {
        write(&mut tar, entry);
    }
    tar.extend([0; 1024]);
    captain_slug_fuzz::check(&tar);
});

fn write(tar: &mut Vec<u8>, entry: Entry) {
    let (name, target) = (join(&entry.name), join(&entry.target));
    if let Some(pax) = entry.pax {
        header(tar, b'x', b"pax", b"", 0o644, &pax);
    }
    if name.len() > 100 {
        header(tar, b'L', b"././@LongLink", b"", 0o644, &[&name[..], b"\0"].concat());
    }
    if target.len() > 100 {
        header(tar, b'K', b"././@LongLink", b"", 0o644, &[&target[..], b"\0"].concat());
    }
    let (flag, content) = match entry.flag {
        Flag::File => (b'0', entry.content),
        Flag::Folder => (b'5', Vec::new()),
        Flag::Symlink => (b'2', Vec::new()),
        Flag::HardLink => (b'1', Vec::new()),
        Flag::Other(flag) => (flag, entry.content),
    };
    header(tar, flag, &name, &target, entry.mode.into(), &content);
}

fn header(tar: &mut Vec<u8>, flag: u8, name: &[u8], target: &[u8], mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    let old = header.as_old_mut();
    let fit = name.len().min(100);
    old.name[..fit].copy_from_slice(&name[..fit]);
    let fit = target.len().min(100);
    old.linkname[..fit].copy_from_slice(&target[..fit]);
    old.linkflag = [flag];
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn join(components: &[Component]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = components
        .iter()
        .take(6)
        .map(|component| match component {
            Component::A => b"a".to_vec(),
            Component::B => b"b".to_vec(),
            Component::App => b"app".to_vec(),
            Component::Procfile => b"Procfile".to_vec(),
            Component::Up => b"..".to_vec(),
            Component::Here => b".".to_vec(),
            Component::Nothing => Vec::new(),
            Component::Long => vec![b'x'; 120],
            Component::Raw(byte) => vec![*byte],
        })
        .collect();
    parts.join(&b'/')
}
