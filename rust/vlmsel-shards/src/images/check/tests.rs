use proptest::prelude::*;

use super::*;

fn reason(bytes: &[u8]) -> &'static str {
    check_image(bytes).err().map_or("", Fault::reason)
}

/// The smallest grey JPEG that a decoder takes: one table of each kind, one block of one difference.
fn grey_jpeg(restart: Option<u8>) -> Vec<u8> {
    grey_jpeg_of(restart, &[0])
}

/// As [`grey_jpeg`]; symbols of the table of means beside the first have longer codes, which are not used.
fn grey_jpeg_of(restart: Option<u8>, means: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([1; 64]);
    bytes.extend([0xff, 0xc0, 0, 11, 8, 0, 8, 0, 16, 1, 1, 0x11, 0]);
    // A code of one bit in each: a difference of no bits; the end of a block.
    for (kind, values) in [(0x00, means), (0x10, &[0])] {
        let mut counts = [0; 16];
        counts[..values.len()].fill(1);
        bytes.extend([0xff, 0xc4, 0, 19 + values.len() as u8, kind]);
        bytes.extend(counts);
        bytes.extend(values);
    }
    if restart.is_some() {
        bytes.extend([0xff, 0xdd, 0, 4, 0, 1]);
    }
    bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    match restart {
        None => bytes.push(0b0000_1111),
        Some(marker) => bytes.extend([0b0011_1111, 0xff, marker, 0b0011_1111]),
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn a_scan_has_to_come_out_even() {
    let whole = grey_jpeg(None);
    assert!(check_image(&whole).is_ok());
    let data = whole.len() - 3;
    let with = |piece: &[u8]| [&whole[..data], piece, &[0xff, 0xd9]].concat();
    assert!(check_image(&with(&[0x0f, 0, 0, 0xff, 0])).is_ok(), "padding of zeros and ones");
    assert_eq!(reason(&with(&[0x0f, 7])), "corrupt_image", "more data than blocks");
    assert_eq!(reason(&with(&[])), "corrupt_image", "less data than blocks");
    assert_eq!(reason(&with(&[0x1f])), "corrupt_image", "a code that is in no table");
    assert_eq!(reason(&[&whole[..], b"behind the end"].concat()), "");
}

#[test]
fn restart_markers_come_in_turn() {
    assert!(check_image(&grey_jpeg(Some(0xd0))).is_ok());
    assert_eq!(reason(&grey_jpeg(Some(0xd1))), "corrupt_image");
}

#[test]
fn stray_bytes_between_segments_are_no_damage() {
    let whole = grey_jpeg(None);
    // Behind the quantisation table.
    let (before, behind) = whole.split_at(71);
    let most = vec![7; 1 << 16];
    for stray in [b"\0".as_slice(), b"abc\xff\0\xff\xff\0d", &most] {
        assert_eq!(reason(&[before, stray, behind].concat()), "");
    }
    assert_eq!(reason(&[before, &most, &[7], behind].concat()), "bad_image_header");
}

#[test]
fn arithmetic_scans_may_have_restart_markers() {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([1; 64]);
    bytes.extend([0xff, 0xc9, 0, 11, 8, 0, 8, 0, 16, 1, 1, 0x11, 0, 0xff, 0xdd, 0, 4, 0, 1]);
    bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0x12, 0x34, 0xff, 0, 0xff, 0xd0, 0x12, 0x34, 0x56]);
    assert_eq!(reason(&bytes), "truncated_image", "it may go on");
    bytes.extend([0xff, 0xd9]);
    assert_eq!(reason(&bytes), "");
}

#[test]
fn a_table_of_means_has_no_symbol_above_15() {
    for (symbol, expected) in [(11, ""), (12, ""), (15, ""), (16, "corrupt_image"), (255, "corrupt_image")] {
        assert_eq!(reason(&grey_jpeg_of(None, &[0, symbol])), expected, "{symbol}");
    }
}

#[test]
fn scans_bring_bits_that_there_are() {
    // Above: bits that a scan before brought, plus one; below: bits that are left to scans behind.
    let whole = progressive_jpeg(8, 1);
    let place = whole.len() - 2 - 2 - 1;
    assert_eq!(whole[place - 2..place], [1, 63]);
    for (bits, expected) in
        [(0x0d, ""), (0x10, ""), (0xed, ""), (0x0e, "corrupt_image"), (0xfe, "corrupt_image"), (0x20, "corrupt_image")]
    {
        let mut changed = whole.clone();
        changed[place] = bits;
        assert_eq!(reason(&changed), expected, "{bits:x}");
    }
}

/// A progressive grey picture, all of it grey; `again` scans say of 32,767 blocks at a time that there is nothing to add.
fn progressive_jpeg(size: u16, again: usize) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([1; 64]);
    let [high, low] = size.to_be_bytes();
    bytes.extend([0xff, 0xc2, 0, 11, 8, high, low, high, low, 1, 1, 0x11, 0]);
    for (kind, value) in [(0x00, 0x00), (0x10, 0xe0)] {
        bytes.extend([0xff, 0xc4, 0, 20, kind, 1]);
        bytes.extend([0; 15]);
        bytes.push(value);
    }
    let blocks = usize::from(size.div_ceil(8)).pow(2);
    bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0]);
    bytes.extend(vec![0; blocks.div_ceil(8)]);
    for scan in 0..again {
        bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, if scan == 0 { 0x00 } else { 0x10 }]);
        // Each code with its 14 bits says that 16,384 blocks end here; the last one may say it of more than there are.
        bytes.extend(vec![0; (15 * blocks.div_ceil(1 << 14)).div_ceil(8)]);
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

#[test]
fn scans_over_the_same_blocks_again_and_again_are_refused() {
    for (scans, expected) in [(1, ""), (12, ""), (30, ""), (60, "unsupported_image")] {
        assert_eq!(reason(&progressive_jpeg(1024, scans)), expected, "{scans} scans");
    }
    // Two bytes say it of each of these: what counts is how often a block is visited, not how long the file is.
    for (size, scans, expected) in [(8, 499, ""), (8, 500, "unsupported_image"), (256, 500, "unsupported_image")] {
        assert_eq!(reason(&progressive_jpeg(size, scans)), expected, "{scans} scans of {size} x {size}");
    }
    // Of sequential pictures no block is looked at twice.
    let twice = grey_jpeg(None);
    let scan = twice.len() - 13..twice.len() - 2;
    let twice = [&twice[..scan.end], &twice[scan], &[0xff, 0xd9]].concat();
    assert_eq!(check_image(&twice), Err(Fault::Corrupt(Format::Jpeg, "a component in two scans")));
}

#[test]
fn every_beginning_of_an_image_is_cut_short_or_damaged() {
    for whole in [
        grey_jpeg(None),
        grey_jpeg(Some(0xd0)),
        progressive_jpeg(40, 2),
        png(3, 4, &[]),
        gif(),
        bmp(24, 0, 3, &[0; 72]),
    ] {
        assert!(check_image(&whole).is_ok());
        for length in 1..whole.len() {
            assert!(check_image(&whole[..length]).is_err(), "{length} of {whole:?}");
        }
    }
}

/// An RGB PNG file whose pixels are these `IDAT` chunks.
pub(crate) fn png_of(width: u32, height: u32, data: &[&[u8]]) -> Vec<u8> {
    png_with(width, height, &data.iter().map(|body| (*b"IDAT", *body)).collect::<Vec<_>>())
}

/// An RGB PNG file with these chunks between header and end.
fn png_with(width: u32, height: u32, chunks: &[([u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], body: &[u8]| {
        bytes.extend((body.len() as u32).to_be_bytes());
        let named = [kind, body].concat();
        bytes.extend(&named);
        bytes.extend(crc32fast::hash(&named).to_be_bytes());
    };
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes()[..], &[8, 2, 0, 0, 0]].concat());
    for (kind, body) in chunks {
        chunk(kind, body);
    }
    chunk(b"IEND", b"");
    bytes
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut zlib, bytes).unwrap();
    zlib.finish().unwrap()
}

fn png(width: u32, height: u32, more: &[u8]) -> Vec<u8> {
    let data = deflate(&[vec![0; height as usize * (1 + 3 * width as usize)], more.to_vec()].concat());
    let (first, second) = data.split_at(data.len() / 2);
    png_of(width, height, &[first, second])
}

#[test]
fn a_chunk_between_two_pieces_of_a_png_ends_the_picture() {
    let data = deflate(&[0; 40]);
    let (first, second) = data.split_at(data.len() / 2);
    let (text, whole): (([u8; 4], &[u8]), _) = ((*b"tEXt", b"a\0b"), (*b"IDAT", data.as_slice()));
    let (first, second) = ((*b"IDAT", first), (*b"IDAT", second));
    assert_eq!(reason(&png_with(3, 4, &[text, first, second, text])), "");
    assert_eq!(reason(&png_with(3, 4, &[first, text, second])), "corrupt_image");
    // The picture is there by then.
    assert_eq!(reason(&png_with(3, 4, &[whole, text, (*b"IDAT", b"more")])), "");
}

#[test]
fn frames_of_an_animation_are_announced_and_in_order() {
    let data = deflate(&[0; 40]);
    let control = |number: u8| (*b"fcTL", [&[0, 0, 0, number], [0; 22].as_slice()].concat());
    let frame = |number: u8| (*b"fdAT", [&[0, 0, 0, number], data.as_slice()].concat());
    let (animation, picture) = ((*b"acTL", vec![0, 0, 0, 2, 0, 0, 0, 0]), (*b"IDAT", data.clone()));
    for (chunks, expected) in [
        (vec![animation.clone(), control(0), picture.clone(), control(1), frame(2), frame(3)], ""),
        (vec![animation.clone(), picture.clone(), control(0), frame(1), control(2), frame(3)], ""),
        (vec![animation.clone(), control(0), picture.clone(), frame(1)], "corrupt_image"),
        (vec![animation.clone(), picture.clone(), frame(0), control(1)], "corrupt_image"),
        (vec![animation.clone(), control(0), picture.clone(), control(2), frame(3)], "corrupt_image"),
        (vec![animation, control(0), picture, (*b"fcTL", vec![0, 0, 0, 1]), frame(2)], "corrupt_image"),
    ] {
        let names: Vec<_> =
            chunks.iter().map(|(kind, body)| (String::from_utf8_lossy(kind), body[..4].to_vec())).collect();
        let chunks: Vec<([u8; 4], &[u8])> = chunks.iter().map(|(kind, body)| (*kind, body.as_slice())).collect();
        assert_eq!(reason(&png_with(3, 4, &chunks)), expected, "{names:?}");
    }
}

#[test]
fn texts_and_profiles_that_inflate_without_measure_are_bombs() {
    let (data, most) = (deflate(&[0; 40]), 1 << 20);
    let stores: [([u8; 4], &[u8]); 3] = [(*b"zTXt", b"a\0\0"), (*b"iTXt", b"a\0\x01\0en\0\0"), (*b"iCCP", b"a\0\0")];
    for (kind, head) in stores {
        for (bytes, expected) in [(most, ""), (most + 1, "huge_image"), (99 * most, "huge_image")] {
            let body = [head, &deflate(&vec![0; bytes])].concat();
            for place in 0..2 {
                let mut chunks = vec![(*b"IDAT", data.as_slice())];
                chunks.insert(place, (kind, &body));
                assert_eq!(reason(&png_with(3, 4, &chunks)), expected, "{bytes} bytes of {kind:?}");
            }
        }
    }
    // One text of a MiB is not too much, nor one that is not compressed; many are.
    let body = [b"a\0\0".as_slice(), &deflate(&vec![0; most])].concat();
    for (texts, expected) in [(64, ""), (65, "huge_image")] {
        let mut chunks: Vec<([u8; 4], &[u8])> = vec![(*b"zTXt", &body); texts];
        chunks.push((*b"IDAT", &data));
        assert_eq!(reason(&png_with(3, 4, &chunks)), expected, "{texts} texts");
    }
    let plain = vec![b'x'; 2 * most];
    assert_eq!(reason(&png_with(3, 4, &[(*b"tEXt", &plain), (*b"iTXt", b"a\0\0\0\0\0b"), (*b"IDAT", &data)])), "");
    // Text that does not inflate is not looked at by decoders.
    assert_eq!(reason(&png_with(3, 4, &[(*b"zTXt", b"a\0\0garbage"), (*b"zTXt", b""), (*b"IDAT", &data)])), "");
}

#[test]
fn a_webp_without_its_last_byte_is_cut_short() {
    // 1 x 1, as libwebp writes it: 17 bytes of data, and one that fills them up.
    let whole = b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\0\0\0\0\x07\xd0\xff\xfe\xf7\xbf\xff\x81\x88\xe8\x7f\0\0";
    assert_eq!(reason(whole), "");
    assert_eq!(reason(&whole[..whole.len() - 1]), "truncated_image");
    assert_eq!(reason(&[whole.as_slice(), b"behind the end"].concat()), "");
}

#[test]
fn a_png_has_as_many_pixels_as_it_says() {
    assert!(check_image(&png(300, 400, &[])).is_ok());
    assert_eq!(reason(&png(3, 4, &[0; 10])), "corrupt_image");
    let mut flipped = png(3, 4, &[]);
    flipped[42] ^= 1;
    assert_eq!(reason(&flipped), "corrupt_image");
    let mut taller = png(3, 4, &[]);
    taller[23] = 5;
    let sum = crc32fast::hash(&taller[12..29]).to_be_bytes();
    taller[29..33].copy_from_slice(&sum);
    assert_eq!(reason(&taller), "corrupt_image");
}

/// 2 x 2 pixels: clear, two pixels, the code that they made, end.
fn gif() -> Vec<u8> {
    [b"GIF89a\x02\0\x02\0\0\0\0,\0\0\0\0\x02\0\x02\0\0\x02".as_slice(), &[2, 0x04, 0x5c, 0, 0x3b]].concat()
}

#[test]
fn a_clear_code_forgets_what_was_learnt() {
    // Clear, two pixels, clear, the code that is forgotten.
    let codes = [4_u32, 1, 1, 4, 6, 5].iter().rev().fold(0, |bits, code| bits << 3 | code);
    let data = codes.to_le_bytes();
    let mut whole = gif();
    let end = whole.len() - 5;
    whole.splice(end.., [&[3], &data[..3], &[0, 0x3b]].concat());
    assert_eq!(check_image(&whole), Err(Fault::Corrupt(Format::Gif, "a code that stands for nothing yet")));
}

#[test]
fn blocks_behind_the_end_code_of_a_gif_are_passed_over() {
    let whole = gif();
    let (data, end) = whole.split_at(whole.len() - 2);
    assert!(check_image(&[data, &[1, 0xff].repeat(9), end].concat()).is_ok());
}

/// A bitmap of 8 x 3 pixels as Pillow lays it out: no colours, then these bytes of pixels.
fn bmp(bits: u8, compression: u8, rows: i32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x08\0\0\0".to_vec();
    bytes.extend(rows.to_le_bytes());
    bytes.extend([1, 0, bits, 0, compression, 0, 0, 0]);
    bytes.extend([0; 20]);
    bytes.extend(pixels);
    bytes
}

#[test]
fn a_bmp_has_as_many_pixels_as_it_says() {
    for (bits, row) in [(1, 4), (4, 4), (8, 8), (16, 16), (24, 24), (32, 32)] {
        for rows in [3, -3] {
            let whole = bmp(bits, 0, rows, &vec![7; 3 * row]);
            assert_eq!(check_image(&whole).map(|header| (header.width, header.height)), Ok((8, 3)), "{bits} bits");
            let needed = whole.len() - if bits == 1 { 3 } else { 0 };
            assert!(check_image(&whole[..needed]).is_ok(), "what fills the last row up may be missing");
            assert_eq!(reason(&whole[..needed - 1]), "truncated_image", "{bits} bits");
        }
    }
    assert_eq!(reason(&bmp(24, 0, 0, &[])), "bad_image_header");
    assert_eq!(reason(&bmp(24, 4, 3, &[])), "unsupported_image", "a JPEG inside");
    assert_eq!(reason(&bmp(7, 0, 3, &[0; 99])), "unsupported_image");
    // Masks for 16 bits stand before the pixels.
    assert_eq!(reason(&bmp(16, 3, 3, &[0; 60])), "corrupt_image", "pixels where the masks are");
    let mut masks = bmp(16, 3, 3, &[0; 60]);
    masks[10] += 12;
    assert_eq!(reason(&masks), "");
    assert_eq!(reason(&masks[..masks.len() - 1]), "truncated_image");
}

#[test]
fn runs_of_a_bmp_are_walked_to_their_end() {
    // A run, pixels as they are with a byte to fill them up, the end of a row; the same by a jump; the end.
    let bytes = [5, 1, 0, 3, 7, 8, 9, 0, 0, 0, 8, 2, 0, 0, 0, 2, 3, 0, 5, 1, 0, 1];
    let whole = bmp(8, 1, 3, &bytes);
    assert!(check_image(&whole).is_ok());
    for length in 0..bytes.len() {
        assert_eq!(reason(&bmp(8, 1, 3, &bytes[..length])), "truncated_image", "{length}");
    }
    let halves = [5, 0x12, 0, 3, 0x78, 0x90, 0, 0, 8, 2, 0, 0, 8, 2, 0, 1];
    assert_eq!(reason(&bmp(4, 2, 3, &halves)), "");
    assert_eq!(reason(&bmp(8, 1, 3, &[9, 1, 0, 0, 0, 1])), "corrupt_image", "beyond the row");
    assert_eq!(reason(&bmp(8, 1, 3, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), "corrupt_image", "beyond the last row");
    assert_eq!(reason(&bmp(8, 1, 3, &[8, 1, 0, 1])), "unsupported_image", "pixels are left out");
}

#[test]
fn bombs_are_refused_by_their_header() {
    for bomb in [png(100_000, 1, &[]), gif()] {
        assert!(check_image(&bomb).is_ok());
    }
    let mut bomb = png(1, 1, &[]);
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    assert_eq!(reason(&bomb), "bad_image_header", "the checksum of the first size");
    let sum = crc32fast::hash(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&sum);
    assert_eq!(reason(&bomb), "huge_image");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(which in 0_usize..7, changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let mut bytes = vec![grey_jpeg(None), grey_jpeg(Some(0xd0)), progressive_jpeg(40, 2), png(3, 4, &[]), gif(), bmp(24, 0, 3, &[0; 72]), bmp(8, 1, 3, &[8, 1, 0, 0, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 8, 1, 0, 1])].swap_remove(which);
        for (at, value) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        let _ = check_image(&bytes);
    }
}
