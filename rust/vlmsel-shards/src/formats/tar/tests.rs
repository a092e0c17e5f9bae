use proptest::prelude::*;

use super::*;
use crate::storage::source::ReadAt;

fn read_all(bytes: &Vec<u8>, buffer: usize) -> (Vec<Member>, Item) {
    let mut reader = TarReader::new(bytes, buffer);
    let mut members = Vec::new();
    loop {
        match reader.next().unwrap() {
            Item::Member(member) => members.push(member),
            last => return (members, last),
        }
    }
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&c| u32::from(c)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn header(name: &str, size: u64, kind: u8) -> Vec<u8> {
    let mut out = Vec::new();
    write_header(&mut out, name, size);
    out[156] = kind;
    sum(&mut out);
    out
}

fn reason(bytes: &Vec<u8>) -> &'static str {
    match read_all(bytes, 4096).1 {
        Item::Damage(damage) => damage.reason,
        _ => "",
    }
}

#[test]
fn members_that_are_no_files_have_classes() {
    let mut bytes = Vec::new();
    for (name, kind) in
        [("l", b'2'), ("h", b'1'), ("c", b'3'), ("b", b'4'), ("p", b'6'), ("d/", b'5'), ("u", b'Z'), ("s", b'S')]
    {
        bytes.extend(header(name, 0, kind));
    }
    bytes.extend(header("a/../b", 0, b'0'));
    bytes.extend(header("/etc/passwd", 0, b'0'));
    bytes.extend(header("..a/b..", 0, b'0'));
    bytes.resize(bytes.len() + 1024, 0);
    use MemberKind::{AbsolutePath, Device, File, Folder, Link, ParentPath, Sparse, UnknownType};
    let (members, end) = read_all(&bytes, 4096);
    let classes: Vec<_> = members.iter().map(|m| m.kind).collect();
    assert_eq!(
        classes,
        [Link, Link, Device, Device, Device, Folder, UnknownType, Sparse, ParentPath, AbsolutePath, File]
    );
    assert_eq!(end, Item::End(End { has_marker: true, trailing: None }));
    assert_eq!(members[5].name, "d");
}

#[test]
fn a_link_that_claims_a_size_has_no_data() {
    let bytes = [header("l", 1 << 32, b'2'), header("a", 0, b'0'), vec![0; 1024]].concat();
    assert_eq!(
        read_all(&bytes, 4096).0.iter().map(|m| (m.name.as_str(), m.size)).collect::<Vec<_>>(),
        [("l", 0), ("a", 0)]
    );
}

#[test]
fn damage_is_named_and_placed() {
    let good = {
        let mut writer = TarWriter::default();
        writer.append("a", &[1; 700]);
        writer.append("b", &[2; 10]);
        writer.finish()
    };
    let mut flipped = good.clone();
    flipped[1536] ^= 1;
    assert!(matches!(read_all(&flipped, 4096).1, Item::Damage(Damage { offset: 1536, reason: "bad_checksum", .. })));
    let mut first = good.clone();
    first[0] ^= 1;
    assert_eq!(reason(&first), "not_a_tar");
    assert_eq!(reason(&good[..1000].to_vec()), "truncated");
    assert_eq!(reason(&good[..1600].to_vec()), "truncated");
    assert_eq!(reason(&Vec::new()), "truncated");
    assert_eq!(reason(&[header("huge", 1 << 32, b'0'), vec![0; 1024]].concat()), "truncated");
    assert_eq!(reason(&[good.clone(), good.clone()].concat()), "second_archive");
    let garbage = [good.clone(), b"rubbish".to_vec()].concat();
    assert_eq!(read_all(&garbage, 4096).1, Item::End(End { has_marker: true, trailing: Some(good.len() as u64) }));
    assert_eq!(read_all(&good[..2560].to_vec(), 4096).1, Item::End(End { has_marker: false, trailing: None }));
    let mut negative = header("a", 0, b'0');
    negative[124..136].copy_from_slice(&[0xff; 12]);
    sum(&mut negative);
    assert_eq!(reason(&[header("x", 0, b'0'), negative].concat()), "bad_number");
}

fn pax(records: &str, kind: u8) -> Vec<u8> {
    let mut out = header("pax", records.len() as u64, kind);
    out.extend(records.as_bytes());
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[test]
fn pax_headers_rename_and_resize_one_member_only() {
    let data = vec![7_u8; 512];
    let with = |records: &str, kind| {
        [pax(records, kind), header("n", 5, b'0'), data.clone(), header("m", 0, b'0'), vec![0; 1024]].concat()
    };
    let (members, _) = read_all(&with("16 path=a/b.txt\n12 size=512\n", b'x'), 4096);
    assert_eq!(members[0].name, "a/b.txt");
    assert_eq!((members[0].size, members[0].header_offset, members[0].offset), (512, 0, 1536));
    assert_eq!(members[1].name, "m");
    let (members, _) = read_all(&with("16 path=a/b.txt\n", b'g'), 4096);
    assert!(members.iter().all(|m| m.kind == MemberKind::PaxTrick));
    let (members, _) = read_all(&with("20 comment=0123456\n", b'g'), 4096);
    assert!(members.iter().all(|m| m.kind == MemberKind::File));
    let (members, _) = read_all(&with("22 GNU.sparse.major=1\n", b'x'), 4096);
    assert_eq!(members[0].kind, MemberKind::Sparse);
    for wrong in ["99 path=a\n", "0 path=a\n", "x", "10 size=-1\n", "9 path=a", "31 size=99999999999999999999999\n"] {
        assert_eq!(reason(&[header("o", 0, b'0'), with(wrong, b'x')].concat()), "bad_extended_header", "{wrong:?}");
    }
    assert_eq!(reason(&[pax("8 path=a\n", b'x'), vec![0; 1024]].concat()), "bad_extended_header");
}

proptest! {
    /// What the writer wrote the reader reads, whatever the buffer's size; names of any length and script.
    #[test]
    fn written_members_are_read_back(
        members in proptest::collection::vec(("[a-zéß漢/]{1,300}\\.[a-z]{1,5}", 0_usize..3000), 0..8),
        buffer in 1_usize..20_000,
    ) {
        let mut writer = TarWriter::default();
        let mut expected = Vec::new();
        for (name, size) in &members {
            let name = name.trim_start_matches('/');
            writer.append(name, &vec![b'x'; *size]);
            expected.push((name.to_owned(), *size as u64));
        }
        let bytes = writer.finish();
        let total: u64 = expected.iter().map(|(name, size)| written_bytes(name, *size)).sum();
        prop_assert_eq!(total + 1024, bytes.len() as u64);
        let (found, end) = read_all(&bytes, buffer);
        prop_assert_eq!(end, Item::End(End { has_marker: true, trailing: None }));
        for member in &found {
            let mut data = vec![0; member.size as usize];
            bytes.read_exact_at(&mut data, member.offset).unwrap();
            prop_assert!(data.iter().all(|&c| c == b'x'));
        }
        prop_assert_eq!(found.into_iter().map(|m| (m.name, m.size)).collect::<Vec<_>>(), expected);
    }

    /// No bytes make it panic, loop or read outside the file.
    #[test]
    fn hostile_bytes_end_in_an_item(
        seed in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..12),
        resum in any::<bool>(),
        length in 0_usize..5000,
    ) {
        let mut bytes = [pax("16 path=a/b.txt\n12 size=512\n", b'x'), header("n", 5, b'0'), vec![7; 512], header("m", 3, b'S'), vec![0; 1024]].concat();
        for (at, value) in seed {
            let at = at % bytes.len();
            bytes[at] = value;
            if resum {
                let block = at / 512 * 512;
                sum(&mut bytes[block..block + 512]);
            }
        }
        bytes.truncate(length);
        let (members, _) = read_all(&bytes, 4096);
        for member in members {
            prop_assert!(member.offset + member.size <= bytes.len() as u64);
        }
    }
}
