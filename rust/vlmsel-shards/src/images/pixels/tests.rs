use proptest::prelude::*;

use super::*;

/// Grey pixels as a PNG.
fn png_of(plane: &Plane) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, plane.width as u32, plane.height as u32);
    encoder.set_color(::png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&plane.luma).unwrap();
    bytes
}

fn exif(orientation: u8) -> Vec<u8> {
    [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(), &[orientation, 0, 0, 0]].concat()
}

#[test]
fn a_camera_that_was_turned() {
    // Two columns, three rows.
    let stored = || Plane { width: 2, height: 3, luma: vec![1, 2, 3, 4, 5, 6] };
    for (orientation, width, luma) in [
        (1, 2, [1, 2, 3, 4, 5, 6]),
        (2, 2, [2, 1, 4, 3, 6, 5]),
        (3, 2, [6, 5, 4, 3, 2, 1]),
        (4, 2, [5, 6, 3, 4, 1, 2]),
        (5, 3, [1, 3, 5, 2, 4, 6]),
        (6, 3, [5, 3, 1, 6, 4, 2]),
        (7, 3, [6, 4, 2, 5, 3, 1]),
        (8, 3, [2, 4, 6, 1, 3, 5]),
    ] {
        let upright = orientation::applied(stored(), orientation::of_exif(&exif(orientation)));
        assert_eq!((upright.width, upright.luma.as_slice()), (width, luma.as_slice()), "{orientation}");
    }
    assert_eq!(orientation::of_exif(&exif(9)), None);
    assert_eq!(orientation::of_exif(b"II*\0\xff\xff\xff\xff"), None);
}

#[test]
fn a_side_beyond_the_most_is_refused_by_its_header() {
    let wide = Plane { width: MAX_SIDE as usize + 1, height: 1, luma: vec![7; MAX_SIDE as usize + 1] };
    assert_eq!(luma(&png_of(&wide)), Err(Fault::Huge(Format::Png, MAX_SIDE + 1, 1)));
}

proptest! {
    #[test]
    fn pixels_come_back(width in 1_usize..40, height in 1_usize..40, seed in any::<u8>()) {
        let plane = Plane { width, height, luma: (0..width * height).map(|at| (at * 37) as u8 ^ seed).collect() };
        prop_assert_eq!(luma(&png_of(&plane)), Ok(plane));
    }

    #[test]
    fn no_bytes_make_it_panic(head in 0_usize..7, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let heads: [&[u8]; 7] = [
            b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
            b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x08\0\0\0\x08",
            b"RIFF\x20\0\0\0WEBPVP8L",
            b"GIF89a\x04\0\x04\0\x80\0\0",
            b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\x08\0\x01\0\0\0",
            b"BM\0\0\0\0\0\0\0\0\x42\0\0\0\x28\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\x10\0\x03\0\0\0",
            b"",
        ];
        let _ = luma(&[heads[head], &bytes].concat());
    }
}
