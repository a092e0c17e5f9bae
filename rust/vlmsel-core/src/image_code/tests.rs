use proptest::prelude::*;

use super::dct::low_frequencies;
use super::*;

/// Pictures that `numpy` makes with the same arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// No pixel like its neighbours.
    Noise,
    /// Broad bright and dark bands, like a photograph's light.
    Waves,
    /// From dark to bright.
    Ramp,
}

use Pattern::{Noise, Ramp, Waves};

fn draw(pattern: Pattern, width: usize, height: usize) -> Vec<u8> {
    let pixel = |x: u64, y: u64| match pattern {
        Noise => {
            let mixed = (x * 374_761_393 + y * 668_265_263) & 0xffff_ffff;
            let mixed = ((mixed ^ mixed >> 13) * 1_274_126_177) & 0xffff_ffff;
            mixed >> 16 & 255
        }
        Waves => {
            let (x, y) = (x * 512 / width as u64, y * 512 / height as u64);
            let wave = |at: u64| (at % 512).abs_diff(256);
            ((wave(3 * x + 2 * y) + wave(x + 5 * y + 100) + wave((x * x + y * y) / 97)) / 3).min(255)
        }
        Ramp => x * 200 / width as u64 + y * 55 / height as u64,
    };
    let rows = 0..height as u64;
    rows.flat_map(|y| (0..width as u64).map(move |x| (x, y))).map(|(x, y)| pixel(x, y) as u8).collect()
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// Pattern, width and height; checksums of what Pillow 13.0 makes of it at 32 x 32 and 9 x 8 (LANCZOS); `phash` and `dhash` of
/// imagehash 4.3.2, and its `phash` of the mirrored picture.
type Vector = (Pattern, usize, usize, u64, u64, u64, u64, u64);
#[rustfmt::skip]
const VECTORS: &[Vector] = &[
    (Noise, 512, 512, 0x6a92_d30f_66f3_a9e3, 0xdf90_e7f9_646e_6640, 0xf516_bbc0_9069_694f, 0x8854_6296_8402_4a0a, 0xa043_eeb5_e53c_3c1a),
    (Noise, 333, 517, 0x0d64_744a_16eb_2edc, 0x6d35_7c2e_11d4_3be9, 0xe81e_ebc0_41cb_6aba, 0x8324_49e8_9492_aa03, 0xb543_bc95_141e_354f),
    (Noise, 640, 480, 0xf81c_6996_06c3_a64b, 0x6df8_2aa6_8165_b36a, 0xf51d_f850_5066_6e87, 0x901a_458c_ca15_4412, 0xa0cc_bf05_0533_7bda),
    (Noise, 100, 7, 0xf8b8_9755_2451_9547, 0x7736_146d_e17f_52f4, 0x8541_dc2c_90f0_7aff, 0xb652_d4d4_5257_a6a4, 0xd014_9d79_c5f5_358a),
    (Noise, 1, 50, 0x5a37_c38e_32a1_6e25, 0x6824_b706_76e4_c3d0, 0x8000_8080_0000_0000, 0x0000_0000_0000_0000, 0x8000_8080_0000_0000),
    (Noise, 1000, 3, 0x073b_c042_dae2_5984, 0xc915_5460_f684_05b3, 0x9cd2_6a0d_95f2_6aa3, 0x1515_b4e6_e6b2_b3bb, 0xc987_3f58_c0a7_2f86),
    (Noise, 32, 32, 0x3a3c_7ada_b80c_c4d2, 0x11d0_31d9_ff46_d425, 0xa27f_1387_cc8c_473a, 0x544d_aba6_c549_a9ad, 0xf72a_4652_11d9_147f),
    (Noise, 31, 33, 0xdf24_9498_0f65_b83e, 0x4463_c2c8_31c6_f52f, 0xa63f_1307_ed8c_cb22, 0x544c_adb7_c54d_accb, 0xf36a_4652_18d9_9675),
    (Noise, 9, 8, 0x986c_dfd2_9db2_49eb, 0x2076_3af6_1f7d_1835, 0xf720_9b29_1c63_9b17, 0xdaaf_48a3_6609_4a7c, 0xa275_ce7c_5976_4e40),
    (Noise, 64, 2000, 0x6fc0_6618_9e35_f346, 0xf776_976a_5edf_2ad8, 0x8492_a868_5f7a_eb59, 0xb5a4_6864_a2a6_94d2, 0xd1c7_753d_022f_3e0c),
    (Noise, 1, 1, 0x51d8_8627_df28_7325, 0x3ecb_33e1_5783_bec5, 0x0000_0000_0000_0000, 0x0000_0000_0000_0000, 0x0000_0000_0000_0000),
    (Noise, 2, 2, 0x20ac_4476_652a_f68a, 0x7140_765f_f90d_5e11, 0x996e_d8a5_ccb2_ac13, 0x0001_ffff_ffff_fcf0, 0xcc3b_8de0_98e6_f846),
    (Waves, 512, 512, 0xc961_98cf_fc62_2ab6, 0x2c96_3e20_48bb_c828, 0xbe0b_fe89_fad4_c004, 0x699a_b62d_4992_b66d, 0xab5e_abde_ab81_a440),
    (Waves, 333, 517, 0x41ad_b71d_f3c7_150a, 0x047c_7fe3_8028_540f, 0xbe0b_bc8b_fed4_c004, 0x699a_b62d_4992_b66d, 0xab5e_abde_ab81_a440),
    (Waves, 640, 480, 0x57f3_6050_d00e_1bc7, 0xe0d4_0bb0_9154_6b53, 0xbe0b_bc8b_fed4_c004, 0x699a_b62d_4992_b66d, 0xab5e_abde_ab81_a440),
    (Waves, 100, 7, 0x2eea_be68_29e2_edad, 0xc332_cd24_c97e_be88, 0xf83f_fcb3_9e45_0104, 0x2d0b_d224_2ddb_92b4, 0xad6a_a9e6_cb10_5699),
    (Waves, 1, 50, 0xea06_3075_0ecc_3f05, 0x065c_d1ba_9558_02c0, 0x8080_8080_8000_0000, 0x0000_0000_0000_0000, 0x8080_8080_8000_0000),
    (Waves, 1000, 3, 0xf82a_97a9_6e79_2def, 0x3af3_095e_8daf_8493, 0x95be_9b41_64be_1b30, 0x2d2d_2d86_96d2_d2da, 0xc0eb_ce14_31eb_ce23),
    (Waves, 32, 32, 0x5a7f_fcdf_1ed4_1a2e, 0xb348_8c92_8841_8b7e, 0xbc0b_fc8b_fed4_0105, 0x699b_9624_49db_b624, 0xabce_a9fe_ab81_9440),
    (Waves, 31, 33, 0x1006_422e_25a7_2f50, 0x7b52_9022_8cdd_3122, 0xbc0b_fc8b_f6d4_0115, 0x699b_9624_49db_b624, 0xabce_a9fe_ab81_9440),
    (Waves, 9, 8, 0x65df_0af3_6884_96c9, 0xa65a_2d21_9d70_e1f3, 0xf836_e9be_d4a1_1642, 0x344b_fa96_6959_93b6, 0xac63_acab_a1f4_4a0f),
    (Waves, 64, 2000, 0x85fa_f7ae_57b8_1baa, 0x3306_23c4_b4fa_2ef1, 0xbe0b_bc8b_fed4_c004, 0x699b_b62c_4992_b625, 0xab5e_abde_ab81_a440),
    (Waves, 1, 1, 0x6c5f_0c84_055c_3325, 0x9ac7_1ad1_ffa3_1445, 0x8000_0000_0000_0000, 0x0000_0000_0000_0000, 0x8000_0000_0000_0000),
    (Waves, 2, 2, 0x9e4f_e6fa_0f0d_e12b, 0xbeab_b4b2_2fc4_b3a7, 0xd5c0_01c1_03c7_3fff, 0x0000_0000_0000_0000, 0x8095_5595_5696_5eaf),
    (Ramp, 512, 512, 0x56fc_2402_0769_9d39, 0xbadf_453c_9b84_5779, 0x8a0f_7878_780f_8f0f, 0xffff_ffff_ffff_ffff, 0xd752_2525_2552_d252),
    (Ramp, 333, 517, 0x05dc_8211_d7a7_cbf5, 0xebf6_8968_e9c1_8981, 0x8000_0000_8000_0000, 0xffff_ffff_ffff_ffff, 0xd500_0000_8000_0000),
    (Ramp, 640, 480, 0x443b_cc11_a609_f7c5, 0xc2c4_26e7_2d19_74f5, 0x8000_0000_8000_0000, 0xffff_ffff_ffff_ffff, 0xd500_0000_8000_0000),
    (Ramp, 100, 7, 0x5fa1_bdd3_b849_66f5, 0x5b21_8a53_d97b_01d4, 0x8000_8000_8000_8080, 0xffff_ffff_ffff_ffff, 0xd500_8000_8000_8080),
    (Ramp, 1, 50, 0x2c29_0c1a_7816_8925, 0x4dbb_dc3e_0e19_ad77, 0x8000_0000_0000_0000, 0x0000_0000_0000_0000, 0x8000_0000_0000_0000),
    (Ramp, 1000, 3, 0xcc60_24d2_43f1_c1e5, 0xbbbc_1131_777c_a171, 0x8000_0080_0000_0080, 0xffff_ffff_ffff_ffff, 0xd500_0080_0000_0080),
    (Ramp, 32, 32, 0x0936_bd79_50f7_ad05, 0x3d61_39f3_760a_074c, 0x8000_8000_8000_8000, 0xffff_ffff_ffff_ffff, 0xd500_8000_8000_8000),
    (Ramp, 31, 33, 0x138a_d996_3d8d_38c7, 0x3de1_37bb_2267_05cc, 0xaa00_8000_0000_8000, 0xffff_ffff_ffff_ffff, 0xff00_8000_0000_8000),
    (Ramp, 9, 8, 0xc1f9_c229_5186_6c5a, 0x5607_6051_26a3_8ff2, 0xa27f_ff7e_fc00_8080, 0xffff_ffff_ffff_ffff, 0xf72a_aa2a_aa2a_aaaa),
    (Ramp, 64, 2000, 0x60d9_a96f_ca2a_e011, 0xdaea_bf36_7985_a005, 0x8000_0000_0000_8000, 0xffff_ffff_ffff_ffff, 0xd500_0000_0000_8000),
    (Ramp, 1, 1, 0x51d8_8627_df28_7325, 0x3ecb_33e1_5783_bec5, 0x0000_0000_0000_0000, 0x0000_0000_0000_0000, 0x0000_0000_0000_0000),
    (Ramp, 2, 2, 0x6e22_b3c3_6243_59be, 0xa3a8_35ec_142f_e70e, 0xba7c_e070_e070_e17b, 0x3f7f_ffff_ffff_ffff, 0xef29_b525_b525_b424),
];

#[test]
fn codes_are_those_of_imagehash() {
    let mut scaler = Scaler::default();
    for &(pattern, width, height, at_32, at_9, phash, dhash, mirror) in VECTORS {
        let luma = draw(pattern, width, height);
        let small = scaler.scale(&luma, Size { width, height }, OF_PHASH, false);
        assert_eq!(checksum(&small), at_32, "{pattern:?} {width} x {height} at 32 x 32");
        assert_eq!(
            checksum(&scaler.scale(&luma, Size { width, height }, OF_DHASH, false)),
            at_9,
            "{pattern:?} {width} x {height}"
        );
        let codes = image_codes(&luma, width, height, &mut scaler);
        assert_eq!(codes.dhash, dhash, "{pattern:?} {width} x {height}");
        // Where coefficients lie at the median, imagehash tosses a coin.
        let ties = ties(&low_frequencies(&small));
        assert_eq!(codes.phash, phash & !ties, "{pattern:?} {width} x {height}: {:x} {phash:x} {ties:x}", codes.phash);
        assert_eq!(codes.mirror, mirror & !ties, "{pattern:?} {width} x {height}");
        assert!(ties.count_ones() == 0 || pattern == Ramp || width.min(height) < 4, "{pattern:?} {width} x {height}");
    }
}

/// The bits whose coefficients are the median but for rounding.
fn ties(low: &[f64; LOW * LOW]) -> u64 {
    let mut sorted = *low;
    sorted.sort_unstable_by(f64::total_cmp);
    let median = f64::midpoint(sorted[31], sorted[32]);
    bits(low.iter().map(|coefficient| (coefficient - median).abs() <= TIE))
}

/// Pillow's resize, as its source says it: one output after the other, 22 binary places, rounded and clipped in between.
fn slowly_scaled(luma: &[u8], from: Size, to: Size) -> Vec<u8> {
    let pass = |row: &[u8], outputs: usize| -> Vec<u8> {
        let scale = row.len() as f64 / outputs as f64;
        let stretch = scale.max(1.0);
        let sinc = |x: f64| {
            let x = x * std::f64::consts::PI;
            if x == 0.0 { 1.0 } else { x.sin() / x }
        };
        let output = |output: usize| {
            let centre = (output as f64 + 0.5) * scale;
            let first = (centre - 3.0 * stretch + 0.5).max(0.0) as usize;
            let end = ((centre + 3.0 * stretch + 0.5) as usize).min(row.len());
            let place = |input: usize| (input as f64 - centre + 0.5) * (1.0 / stretch);
            let weight = |x: f64| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 };
            let weights: Vec<f64> = (first..end).map(|input| weight(place(input))).collect();
            let all: f64 = weights.iter().sum();
            let whole = |weight: f64| (weight / all * f64::from(1 << 22)).round() as i64;
            let sum: i64 = weights.iter().zip(&row[first..end]).map(|(w, pixel)| whole(*w) * i64::from(*pixel)).sum();
            ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
        };
        (0..outputs).map(output).collect()
    };
    let turned = |plane: &[u8], width: usize| -> Vec<u8> {
        (0..width).flat_map(|x| plane.iter().skip(x).step_by(width).copied()).collect()
    };
    let rows = |plane: &[u8], width: usize, outputs: usize| -> Vec<u8> {
        plane.chunks_exact(width).flat_map(|row| pass(row, outputs)).collect()
    };
    // Twice as many rows are lost as columns, which may also be gained.
    if from.height > to.height && from.height + 2 * to.width > to.height + 2 * from.width {
        let down = turned(&rows(&turned(luma, from.width), from.height, to.height), to.height);
        rows(&down, from.width, to.width)
    } else {
        let across = rows(luma, from.width, to.width);
        turned(&rows(&turned(&across, to.width), from.height, to.height), to.height)
    }
}

fn mirror_image(luma: &[u8], width: usize) -> Vec<u8> {
    luma.chunks_exact(width).flat_map(|row| row.iter().rev().copied()).collect()
}

/// A picture of any size, with every kind of content.
fn pictures() -> impl Strategy<Value = (Vec<u8>, usize, usize)> {
    let of_size = |(width, height): (usize, usize)| {
        let bytes = prop_oneof![
            proptest::collection::vec(any::<u8>(), width * height),
            // Steps as steep as can be: sums go beyond a byte on either side.
            proptest::collection::vec(prop_oneof![Just(0_u8), Just(255)], width * height),
            any::<u8>().prop_map(move |pixel| vec![pixel; width * height]),
            Just(draw(Waves, width, height)),
        ];
        (bytes, Just(width), Just(height))
    };
    prop_oneof![(1_usize..80, 1_usize..80), (1_usize..400, 1_usize..12), (1_usize..12, 1_usize..400)]
        .prop_flat_map(of_size)
}

proptest! {
    #[test]
    fn scaling_is_the_slow_one((luma, width, height) in pictures(), to_width in 1_usize..40, to_height in 1_usize..40) {
        let (from, to) = (Size { width, height }, Size { width: to_width, height: to_height });
        let mut scaler = Scaler::default();
        prop_assert_eq!(scaler.scale(&luma, from, to, false), slowly_scaled(&luma, from, to));
        let mirrored = mirror_image(&slowly_scaled(&mirror_image(&luma, width), from, to), to_width);
        prop_assert_eq!(scaler.scale(&luma, from, to, true), mirrored);
    }

    #[test]
    fn the_mirror_code_is_that_of_the_mirrored_picture((luma, width, height) in pictures()) {
        let mut scaler = Scaler::default();
        let codes = image_codes(&luma, width, height, &mut scaler);
        let other = image_codes(&mirror_image(&luma, width), width, height, &mut scaler);
        prop_assert_eq!((codes.mirror, codes.phash), (other.phash, other.mirror));
        prop_assert_eq!(codes.quality, other.quality);
        // Ties are bits that no order sets.
        let small = scaler.scale(&luma, Size { width, height }, OF_DHASH, false);
        let ties = bits(small.chunks_exact(9).flat_map(|row| row.windows(2)).map(|pair| pair[0] == pair[1]));
        let ties = (ties.reverse_bits()).swap_bytes();
        prop_assert_eq!(mirrored_dhash(codes.dhash) ^ other.dhash, ties);
    }

    #[test]
    fn what_was_scaled_before_changes_nothing(sizes in proptest::collection::vec((1_usize..3000, 1_usize..9), 1..12)) {
        let mut scaler = Scaler::default();
        for (width, height) in sizes {
            let luma = draw(Noise, width, height);
            let fresh = image_codes(&luma, width, height, &mut Scaler::default());
            prop_assert_eq!(image_codes(&luma, width, height, &mut scaler), fresh);
        }
    }
}

#[test]
fn rows_of_dhash_turn_round() {
    // One step up in each row, each at another place.
    let dhash = u64::from_be_bytes([0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01]);
    assert_eq!(mirrored_dhash(dhash), u64::from_be_bytes([0xfe, 0xfd, 0xfb, 0xf7, 0xef, 0xdf, 0xbf, 0x7f]));
    assert_eq!(mirrored_dhash(mirrored_dhash(dhash)), dhash);
}

#[test]
fn blank_pictures_are_of_low_quality_and_smooth_ones_are_not() {
    let quality = |luma: &[u8]| image_codes(luma, 256, 256, &mut Scaler::default()).quality;
    let drawn = |pixel: &dyn Fn(usize, usize) -> u8| {
        let rows = (0..256).flat_map(|y| (0..256).map(move |x| (x, y)));
        quality(&rows.map(|(x, y)| pixel(x, y)).collect::<Vec<u8>>())
    };
    let noise = draw(Noise, 256, 256);
    let waves = draw(Waves, 256, 256);
    for (what, found) in [
        ("white", drawn(&|_, _| 255)),
        ("grain of a scanner", drawn(&|x, y| 250 - noise[y * 256 + x] / 32)),
        ("a line", drawn(&|_, y| if y == 100 { 0 } else { 255 })),
        ("a page number", drawn(&|x, y| if (120..136).contains(&x) && (236..246).contains(&y) { 0 } else { 255 })),
        ("a faint ramp", drawn(&|x, _| 100 + (x / 8) as u8)),
    ] {
        assert!(found < LOW_QUALITY, "{what}: {found}");
    }
    for (what, found) in [
        ("light and shade", quality(&waves)),
        ("the same with half the contrast", drawn(&|x, y| 64 + waves[y * 256 + x] / 2)),
        ("a third of it, dark", drawn(&|x, y| waves[y * 256 + x] / 3)),
        (
            "the light of a lamp",
            drawn(&|x, y| 255 - ((x.abs_diff(128).pow(2) + y.abs_diff(128).pow(2)) / 130).min(255) as u8),
        ),
    ] {
        assert!(found >= LOW_QUALITY, "{what}: {found}");
    }
}
