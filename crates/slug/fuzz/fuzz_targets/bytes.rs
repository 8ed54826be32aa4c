//! Any bytes at all: sniffing, decompression, headers. A valid checksum is out of reach of mutation, so what looks like a tar gets its own
//! headers summed up first.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    captain_slug_fuzz::check(bytes);
    let mut summed = bytes.to_vec();
    for block in summed.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if summed != bytes {
        summed.extend([0; 1024]);
        captain_slug_fuzz::check(&summed);
    }
});
