//! No bytes make the tar reader panic, loop, or point outside the file; and a scan accounts for all of it.

use vlmsel_shards::formats::reader::KeyUntil;
use vlmsel_shards::formats::tar::{Item, TarReader};
use vlmsel_shards::formats::webdataset::{Content, Group, Groups};
use vlmsel_shards::images::check::check_image;

/// Reads `bytes` as a tar.
pub fn check(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    let mut reader = TarReader::new(&bytes, 4096);
    let mut last = 0;
    while let Item::Member(member) = reader.next().expect("memory does not fail") {
        assert!(member.offset + member.size <= bytes.len() as u64);
        assert!(member.offset >= member.header_offset + 512 && member.header_offset >= last);
        last = member.offset + member.size;
    }
    let mut groups = Groups::new(&bytes, "fuzz.tar", true, KeyUntil::FirstDot, 4096);
    let mut position = 0;
    loop {
        match groups.next().expect("memory does not fail") {
            Group::Sample(sample) => {
                for member in &sample.members {
                    if let Content::Image(.., Some(bytes)) = &member.content {
                        assert_eq!(bytes.len() as u64, member.size);
                        let _ = check_image(bytes);
                    }
                }
            }
            Group::Stray(stray) => assert!(!stray.reason.is_empty()),
            Group::End(_) | Group::Damage(_) => return,
        }
        assert!(groups.position() >= position);
        position = groups.position();
    }
}
