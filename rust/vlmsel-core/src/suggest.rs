//! "Did you mean": the names nearest to one that is not there.

/// Damerau-Levenshtein distance (adjacent swaps count once), case ignored.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().take(64).collect();
    let b: Vec<char> = b.to_lowercase().chars().take(64).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let cost = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Up to three of `known` that look like `wanted`, nearest first.
pub fn near<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = (wanted.chars().count() / 3).max(1);
    let lower = wanted.to_lowercase();
    let mut scored: Vec<(usize, String)> = known
        .into_iter()
        .filter_map(|name| {
            let far = distance(wanted, name);
            let within = lower.len() >= 3 && name.to_lowercase().contains(&lower);
            (far <= limit || within).then(|| (if within { far.min(limit) } else { far }, name.to_owned()))
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.truncate(3);
    scored.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::near;

    #[test]
    fn slips_of_the_hand_are_near() {
        assert_eq!(near("scroe", ["uid", "score", "source"]), ["score"]);
        assert_eq!(near("clip_score", ["uid", "clip_l14_similarity_score"]), Vec::<String>::new());
        assert_eq!(near("similarity", ["uid", "clip_l14_similarity_score"]), ["clip_l14_similarity_score"]);
        assert!(near("ppl", ["uid", "text"]).is_empty());
    }
}
