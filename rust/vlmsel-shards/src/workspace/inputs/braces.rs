//! Shell braces: `{a,b}` and `{00..41}`, nested ones too.

use super::{Check, MAX_EXPANSION};
use crate::error::{Error, Result};

/// More pairs of braces than this in one word are a slip, or meant to exhaust the stack.
const MAX_BRACES: usize = 64;

/// The words that a word with braces stands for. Numbers are zero-padded as written; unbalanced braces stay as they are.
pub(super) fn expand(word: &str, check: Check<'_>) -> Result<Vec<String>> {
    let braces = word.bytes().filter(|byte| *byte == b'{').count();
    if braces > MAX_BRACES {
        let head: String = word.chars().take(40).collect();
        return Err(Error::Usage(format!("{head}...: {braces} braces in one word, at most {MAX_BRACES} are expanded")));
    }
    let mut words = Vec::new();
    expand_into(word, &mut words, check)?;
    Ok(words)
}

fn expand_into(word: &str, out: &mut Vec<String>, check: Check<'_>) -> Result<()> {
    let Some((open, close)) = outer_braces(word) else {
        if out.len() >= MAX_EXPANSION {
            return Err(Error::Usage(format!("braces expand to more than {MAX_EXPANSION} names")));
        }
        check()?;
        out.push(word.to_owned());
        return Ok(());
    };
    let (head, body, tail) = (&word[..open], &word[open + 1..close], &word[close + 1..]);
    let mut choices = split_commas(body);
    if choices.len() == 1 {
        if let Some(numbers) = range(body)? {
            choices = numbers;
        } else {
            // `{abc}` is no expansion: keep the braces, go on behind them.
            let mut tails = Vec::new();
            expand_into(tail, &mut tails, check)?;
            out.extend(tails.into_iter().map(|tail| format!("{head}{{{body}}}{tail}")));
            return Ok(());
        }
    }
    for choice in choices {
        expand_into(&format!("{head}{choice}{tail}"), out, check)?;
    }
    Ok(())
}

fn outer_braces(word: &str) -> Option<(usize, usize)> {
    let open = word.find('{')?;
    let mut depth = 0;
    for (at, c) in word[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((open, open + at));
                }
            }
            _ => {}
        }
    }
    None
}

fn split_commas(body: &str) -> Vec<String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(body[start..at].to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(body[start..].to_owned());
    parts
}

fn range(body: &str) -> Result<Option<Vec<String>>> {
    let Some((from, to)) = body.split_once("..") else { return Ok(None) };
    let (Ok(first), Ok(last)) = (from.parse::<u64>(), to.parse::<u64>()) else { return Ok(None) };
    let count = first.abs_diff(last);
    if count >= MAX_EXPANSION as u64 {
        return Err(Error::Usage(format!("{{{body}}} expands to more than {MAX_EXPANSION} names")));
    }
    let padded = (from.len() > 1 && from.starts_with('0')) || (to.len() > 1 && to.starts_with('0'));
    let width = if padded { from.len().max(to.len()) } else { 0 };
    let number = |n: u64| format!("{n:0width$}");
    Ok(Some(if first <= last {
        (first..=last).map(number).collect()
    } else {
        (last..=first).rev().map(number).collect()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn braces(word: &str) -> Vec<String> {
        expand(word, &|| Ok(())).unwrap()
    }

    #[test]
    fn braces_expand_as_a_shell_does() {
        assert_eq!(braces("a{1,2}b"), ["a1b", "a2b"]);
        assert_eq!(braces("{00..03}.tar"), ["00.tar", "01.tar", "02.tar", "03.tar"]);
        assert_eq!(braces("{3..1}"), ["3", "2", "1"]);
        assert_eq!(braces("{a,{b,c}}x{1..2}"), ["ax1", "ax2", "bx1", "bx2", "cx1", "cx2"]);
        assert_eq!(braces("{abc}{1,2}"), ["{abc}1", "{abc}2"]);
        assert_eq!(braces("open{1,2"), ["open{1,2"]);
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let refused = |word: &str| expand(word, &|| Ok(())).unwrap_err().to_string();
        assert!(refused("{0..99999999999}").contains("more than"));
        assert!(refused(&"{0..9}".repeat(30)).contains("more than"));
        assert!(refused(&"{a}".repeat(20_000)).contains("20000 braces in one word"));
        assert!(refused(&"{".repeat(20_000)).contains("20000 braces in one word"));
    }

    #[test]
    fn whoever_waits_may_stop_it() {
        let stop = || Err(Error::Cancelled);
        assert!(matches!(expand("{0..99999}", &stop), Err(Error::Cancelled)));
    }
}
