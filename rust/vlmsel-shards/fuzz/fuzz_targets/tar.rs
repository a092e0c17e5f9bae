//! No bytes make the tar reader panic, loop, or point outside the file; and a scan accounts for all of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vlmsel_shards::samples::{Depth, scan};
use vlmsel_shards::tar::{Item, TarReader};

fuzz_target!(|bytes: &[u8]| {
    let bytes = bytes.to_vec();
    let mut reader = TarReader::new(&bytes, 4096);
    let mut last = 0;
    while let Item::Member(member) = reader.next().expect("memory does not fail") {
        assert!(member.offset + member.size <= bytes.len() as u64);
        assert!(member.offset >= member.header_offset + 512 && member.header_offset >= last);
        last = member.offset + member.size;
    }
    let summary = scan(&bytes, "fuzz.tar", Depth::Bodies, 4096, |_| Ok(()), |_| Ok(()), |_| Ok(())).expect("memory does not fail");
    assert!(summary.end.is_some() != summary.damage.is_some());
});
