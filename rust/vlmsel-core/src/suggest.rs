//! "Did you mean": the names nearest to one that is not there.

/// Slips of the hand between two names (adjacent swaps count once), case ignored. Of long names the beginnings count.
fn distance(a: &str, b: &str) -> usize {
    let head = |name: &str| name.to_lowercase().chars().take(64).collect::<String>();
    strsim::osa_distance(&head(a), &head(b))
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
