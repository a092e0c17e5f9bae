//! How a camera was held: the EXIF tag `Orientation`.

use super::Plane;

/// The tag.
const ORIENTATION: u16 = 0x0112;

/// The orientation that EXIF data name, from 2 to 8; `None` where it is upright, or not said in a way that can be read.
pub(super) fn of_exif(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let is_little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, bytes: usize| -> Option<u32> {
        let bytes = tiff.get(at..at.checked_add(bytes)?)?.iter();
        let append = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
        Some(if is_little { bytes.rev().fold(0, append) } else { bytes.fold(0, append) })
    };
    let list = number(4, 4)? as usize;
    let entries = number(list, 2)? as usize;
    (0..entries).map(|entry| list + 2 + 12 * entry).find_map(|at| {
        (number(at, 2)? == u32::from(ORIENTATION)).then_some(())?;
        let value = match number(at + 2, 2)? {
            3 => number(at + 8, 2)?,
            4 => number(at + 8, 4)?,
            _ => return None,
        };
        u8::try_from(value).ok().filter(|value| (2..=8).contains(value))
    })
}

/// The picture as it is meant to be seen.
pub(super) fn applied(stored: Plane, orientation: Option<u8>) -> Plane {
    let Some(orientation) = orientation else { return stored };
    let Plane { width, height, luma } = stored;
    let (wide, high) = if orientation < 5 { (width, height) } else { (height, width) };
    let mut upright = Vec::with_capacity(luma.len());
    for y in 0..high {
        for x in 0..wide {
            let (column, row) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            upright.push(luma[row * width + column]);
        }
    }
    Plane { width: wide, height: high, luma: upright }
}
