//! The ways in which records can be copies of each other, as they are asked for.

use vlmsel_core::decimal::Decimal;
use vlmsel_core::hamming::MAX_RADIUS;

use super::content::Field;
use crate::error::{Error, Result};

/// One way in which records are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Equal contents.
    Exact(Field),
    /// Word sets of this Jaccard similarity or more.
    NearText(Decimal),
    /// Image codes that differ in at most so many bits.
    NearImage(u32),
    /// Both: images that are equal or near, and texts that are equal or near.
    NearPair(Decimal, u32),
}

fn jaccard(option: &str, text: &str) -> Result<Decimal> {
    let value = Decimal::parse(text).ok().filter(|value| value.at_most(1) && value.of(1 << 62, 1) > 0);
    value.ok_or_else(|| {
        Error::usage(format!("{option} {text}: a Jaccard similarity is more than 0 and at most 1, such as 0.8"))
    })
}

fn radius(option: &str, text: &str) -> Result<u32> {
    let value = text.parse().ok().filter(|radius| *radius <= MAX_RADIUS);
    value.ok_or_else(|| {
        Error::usage(format!(
            "{option} {text}: a radius is a number of differing bits from 0 to {MAX_RADIUS}, such as 6"
        ))
    })
}

impl Kind {
    /// Reads what an option of the command says: `exact` with `pair`, `near-text` with `0.8`, `near-image` with `6`, `near-pair`
    /// with `0.8:6`.
    ///
    /// # Errors
    /// Exit 2, with what is possible.
    pub fn parse(option: &str, value: &str) -> Result<Self> {
        let shown = format!("--{option}");
        match option {
            "exact" => [Field::Pair, Field::Text, Field::Image]
                .into_iter()
                .find(|field| field.name() == value)
                .map(Self::Exact)
                .ok_or_else(|| Error::usage(format!("--exact {value}: it is pair, text or image"))),
            "near-text" => jaccard(&shown, value).map(Self::NearText),
            "near-image" => radius(&shown, value).map(Self::NearImage),
            "near-pair" => {
                let (words, bits) = value.split_once(':').ok_or_else(|| {
                    Error::usage(format!("--near-pair {value}: it is a Jaccard similarity and a radius, such as 0.8:6"))
                })?;
                Ok(Self::NearPair(jaccard(&shown, words)?, radius(&shown, bits)?))
            }
            _ => Err(Error::Bug(format!("there is no kind {option}"))),
        }
    }

    /// What it is called in tables and counts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact(Field::Pair) => "exact-pair",
            Self::Exact(Field::Text) => "exact-text",
            Self::Exact(Field::Image) => "exact-image",
            Self::NearText(_) => "near-text",
            Self::NearImage(_) => "near-image",
            Self::NearPair(..) => "near-pair",
        }
    }

    /// Its unit among the edges: the name with what it was asked with.
    pub fn unit(self) -> String {
        match self {
            Self::Exact(_) => self.name().to_owned(),
            Self::NearText(jaccard) => format!("near-text-{jaccard}"),
            Self::NearImage(radius) => format!("near-image-{radius}"),
            Self::NearPair(jaccard, radius) => format!("near-pair-{jaccard}-{radius}"),
        }
    }

    /// Whether it needs the images' codes.
    pub fn needs_codes(self) -> bool {
        matches!(self, Self::NearImage(_) | Self::NearPair(..))
    }

    /// Exact kinds first, near pairs before near texts and images: where several would do, the narrowest is named.
    fn rank(self) -> u8 {
        match self {
            Self::Exact(Field::Pair) => 0,
            Self::Exact(Field::Text) => 1,
            Self::Exact(Field::Image) => 2,
            Self::NearPair(..) => 3,
            Self::NearText(_) => 4,
            Self::NearImage(_) => 5,
        }
    }

    /// The kinds asked for, each once, in their order of precedence; exact pairs where none is asked for.
    pub fn in_order(mut kinds: Vec<Self>) -> Vec<Self> {
        if kinds.is_empty() {
            kinds.push(Self::Exact(Field::Pair));
        }
        kinds.sort_by_key(|kind| (kind.rank(), kind.unit()));
        kinds.dedup();
        kinds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_possible() {
        let unit = |option, value| Kind::parse(option, value).map(Kind::unit).map_err(|error| error.to_string());
        assert_eq!(unit("exact", "text").unwrap(), "exact-text");
        assert_eq!(unit("near-text", "0.80").unwrap(), "near-text-0.8");
        assert_eq!(unit("near-image", "6").unwrap(), "near-image-6");
        assert_eq!(unit("near-pair", ".9:4").unwrap(), "near-pair-0.9-4");
        for (option, value) in [
            ("exact", "both"),
            ("near-text", "0"),
            ("near-text", "1.01"),
            ("near-text", "most"),
            ("near-image", "17"),
            ("near-image", "-1"),
            ("near-pair", "0.8"),
            ("near-pair", "6:0.8"),
        ] {
            assert!(unit(option, value).unwrap_err().contains(&format!("--{option} ")), "{option} {value}");
        }
    }

    #[test]
    fn kinds_stand_in_one_order() {
        let kinds =
            |list: &[(&str, &str)]| Kind::in_order(list.iter().map(|(o, v)| Kind::parse(o, v).unwrap()).collect());
        let units = |kinds: Vec<Kind>| kinds.into_iter().map(Kind::unit).collect::<Vec<_>>();
        assert_eq!(units(kinds(&[])), ["exact-pair"]);
        assert_eq!(
            units(kinds(&[("near-image", "6"), ("near-text", "0.8"), ("near-text", ".8"), ("exact", "text")])),
            ["exact-text", "near-text-0.8", "near-image-6"]
        );
    }
}
