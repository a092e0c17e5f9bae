//! No bytes make the tar reader panic, loop, or point outside the file; and a scan accounts for all of it.

use vlmsel_shards::Error;
use vlmsel_shards::formats::tar::{Item, TarReader};
use vlmsel_shards::formats::webdataset::{Content, Depth, Sample, Visitor, scan};
use vlmsel_shards::images::check::check_image;
use vlmsel_shards::workspace::quarantine::Quarantined;

/// Checks every image that a scan comes upon, and that the scan moves on.
#[derive(Default)]
struct Images {
    position: u64,
}

impl Visitor for Images {
    type Error = Error;

    fn sample(&mut self, sample: Sample) -> Result<(), Error> {
        for member in &sample.members {
            if let Content::Image(.., Some(bytes)) = &member.content {
                assert_eq!(bytes.len() as u64, member.size);
                let _ = check_image(bytes);
            }
        }
        Ok(())
    }

    fn stray(&mut self, record: Quarantined) -> Result<(), Error> {
        assert!(!record.reason.is_empty());
        Ok(())
    }

    fn passed(&mut self, position: u64) -> Result<(), Error> {
        assert!(position >= self.position);
        self.position = position;
        Ok(())
    }
}

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
    let summary = scan(&bytes, "fuzz.tar", Depth::Bodies, 4096, &mut Images::default()).expect("memory does not fail");
    assert!(summary.end.is_some() != summary.damage.is_some());
}
