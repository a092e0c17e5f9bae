//! Which members of a tar sample are its images. Pictures are told by content; names decide between several.

use crate::formats::webdataset::{Content, Sample, SampleMember};
use crate::workspace::quarantine::Bad;

/// Extensions of pictures, best first: a sample that has several keeps the first of these as its image.
const IMAGE_EXTENSIONS: [&str; 6] = ["jpg", "png", "jpeg", "webp", "gif", "bmp"];
/// Other names by which pictures go.
const OTHER_PICTURES: [&str; 14] =
    ["jfif", "jpe", "tif", "tiff", "avif", "heic", "heif", "jxl", "jp2", "ico", "svg", "psd", "ppm", "dng"];
/// Names of media that are not read.
const OTHER_MEDIA: [&str; 18] = [
    "mp4", "m4v", "mov", "mkv", "avi", "webm", "flv", "wmv", "mpg", "mpeg", "mp3", "wav", "flac", "ogg", "opus", "m4a",
    "aac", "aiff",
];

/// The last part of an extension: `png` of `left.png`.
fn kind_of(extension: &str) -> &str {
    extension.rsplit('.').next().unwrap_or_default()
}

fn is_one_of(extension: &str, of: &[&str]) -> bool {
    of.iter().any(|name| kind_of(extension).eq_ignore_ascii_case(name))
}

/// Whether a member's name says that it is a picture.
pub fn is_picture_name(extension: &str) -> bool {
    is_one_of(extension, &IMAGE_EXTENSIONS) || is_one_of(extension, &OTHER_PICTURES)
}

/// The number of a member `N.ext`.
fn number_of(extension: &str) -> Option<usize> {
    let (number, kind) = extension.split_once('.')?;
    let is_number = !number.is_empty() && number.len() <= 6 && number.bytes().all(|c| c.is_ascii_digit());
    (is_number && !kind.contains('.')).then(|| number.parse().ok())?
}

/// The images of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pictures<'a> {
    /// In their order.
    pub images: Vec<&'a SampleMember>,
    /// Why there are none although some were meant.
    pub fault: Option<Bad>,
    /// Pictures that are not among the images.
    pub others: usize,
}

/// Chooses the images of a sample.
///
/// A picture whose extension has no dot is the image; of several the first of `jpg png jpeg webp gif bmp`. Without one, members
/// `N.ext` that count 0 to n-1 are the images of a multi-image sample, unless texts are numbered too. Any other picture was
/// meant and cannot be told from its like; so was another medium that stands alone.
pub fn pictures(sample: &Sample) -> Pictures<'_> {
    let found: Vec<&SampleMember> =
        sample.members.iter().filter(|member| matches!(member.content, Content::Image(..))).collect();
    let plain = |member: &&&SampleMember| !member.extension.contains('.');
    let best = IMAGE_EXTENSIONS.iter().find_map(|name| {
        found.iter().filter(plain).find(|member| member.extension.eq_ignore_ascii_case(name)).copied()
    });
    if let Some(image) = best.or_else(|| found.iter().find(plain).copied()) {
        return Pictures { images: vec![image], fault: None, others: found.len() - 1 };
    }
    if found.is_empty() {
        let medium = sample.members.iter().find(|member| is_one_of(&member.extension, &OTHER_MEDIA));
        let fault = medium.map(|member| Bad::new("unsupported_medium", format!(".{}", member.extension)));
        return Pictures { fault, ..Pictures::default() };
    }
    let mut numbered: Vec<(usize, &SampleMember)> =
        found.iter().filter_map(|member| Some((number_of(&member.extension)?, *member))).collect();
    numbered.sort_by_key(|(number, _)| *number);
    let counts = numbered.len() == found.len() && numbered.iter().enumerate().all(|(at, (number, _))| at == *number);
    if counts && !has_numbered_texts(sample) {
        return Pictures { images: numbered.into_iter().map(|(_, member)| member).collect(), fault: None, others: 0 };
    }
    let names: Vec<String> = found.iter().take(5).map(|member| format!(".{}", member.extension)).collect();
    let fault = Bad::new("no_plain_image", format!("which picture is the sample's? {}", names.join(" ")));
    Pictures { images: Vec::new(), fault: Some(fault), others: found.len() }
}

fn has_numbered_texts(sample: &Sample) -> bool {
    let is_text = |member: &SampleMember| is_one_of(&member.extension, &["txt", "caption", "json"]);
    sample.members.iter().any(|member| is_text(member) && number_of(&member.extension).is_some())
}

/// Whether a sample looks as if its key held dots: the rest of the name, up to the last dot, tells what belongs together.
pub fn has_dotted_key(sample: &Sample) -> bool {
    let is_repeated = sample.fault.as_ref().is_some_and(|fault| fault.reason == "repeated_member");
    let compound = sample.members.iter().any(|member| member.extension.contains('.'));
    compound && (is_repeated || pictures(sample).fault.is_some_and(|fault| fault.reason == "no_plain_image"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::reader::KeyUntil;
    use crate::formats::tar::TarWriter;
    use crate::formats::webdataset::{Group, Groups};

    // A GIF of one pixel.
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    fn sample(extensions: &[&str]) -> Sample {
        let mut writer = TarWriter::default();
        for extension in extensions {
            writer.append(&format!("a.{extension}"), if is_picture_name(extension) { GIF } else { b"text" });
        }
        let bytes = writer.finish();
        match Groups::new(&bytes, "t.tar", false, KeyUntil::FirstDot, 4096).next().unwrap() {
            Group::Sample(sample) => sample,
            other => panic!("{other:?}"),
        }
    }

    fn chosen(extensions: &[&str]) -> (Vec<String>, &'static str, usize) {
        let sample = sample(extensions);
        let Pictures { images, fault, others } = pictures(&sample);
        let images = images.iter().map(|member| member.extension.clone()).collect();
        (images, fault.map_or("", |fault| fault.reason), others)
    }

    #[test]
    fn which_picture_is_the_image() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (extensions, images, fault, others) in [
            (&["png", "jpg", "txt"][..], &["jpg"][..], "", 1),
            (&["bmp", "txt"], &["bmp"], "", 0),
            (&["jfif", "txt"], &["jfif"], "", 0),
            (&["1.jpg", "0.jpg", "json"], &["0.jpg", "1.jpg"], "", 0),
            (&["0.jpg", "txt"], &["0.jpg"], "", 0),
            (&["0.jpg", "0.txt", "1.jpg", "1.txt"], &[], "no_plain_image", 2),
            (&["1.jpg", "2.jpg", "txt"], &[], "no_plain_image", 2),
            (&["left.png", "right.png", "txt"], &[], "no_plain_image", 2),
            (&["jpg", "seg.png", "txt"], &["jpg"], "", 1),
            (&["mp4", "txt"], &[], "unsupported_medium", 0),
            (&["jpg", "wav"], &["jpg"], "", 0),
            (&["txt"], &[], "", 0),
        ] {
            assert_eq!(chosen(extensions), (names(images), fault, others), "{extensions:?}");
        }
    }

    #[test]
    fn keys_with_dots_show() {
        assert!(has_dotted_key(&sample(&["v2.jpg", "v2.txt", "v3.jpg", "v3.txt"])));
        assert!(!has_dotted_key(&sample(&["jpg", "seg.png", "txt"])));
        assert!(!has_dotted_key(&sample(&["0.jpg", "1.jpg"])));
    }
}
