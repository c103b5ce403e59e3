//! The regular expressions of `ngx.re`. The time of a search is linear in the subject; sizes are bounded.

use std::collections::VecDeque;
use std::rc::Rc;

use regex::bytes::{Regex, RegexBuilder};

use super::pcre;

/// The most bytes of a pattern and of a subject.
const MAX_PATTERN: usize = 8 << 10;
const MAX_SUBJECT: usize = 1 << 20;
/// The most compiled patterns in the cache, and the most bytes of one.
const MAX_COMPILED: usize = 16;
const MAX_PROGRAM: usize = 512 << 10;
/// The most bytes that a search keeps for later searches of the same pattern.
const MAX_SEARCH_CACHE: usize = 256 << 10;
/// The most levels of nesting. The compiler is recursive.
const MAX_NESTING: u32 = 100;

/// Compiled patterns, the last used ones last.
#[derive(Default)]
pub struct RegexCache(VecDeque<Rc<Pattern>>);

struct Pattern {
    source: Vec<u8>,
    options: Vec<u8>,
    regex: Regex,
    /// The names of groups, with their numbers.
    names: Rc<[(String, usize)]>,
    is_anchored: bool,
    is_unicode: bool,
}

/// The groups of a match, the whole match first: from the first byte, counted from 0, to the byte after the last. None: the
/// group is not part of the match.
pub struct Match {
    pub groups: Vec<Option<(usize, usize)>>,
    /// The names of groups, with their numbers.
    pub names: Rc<[(String, usize)]>,
}

impl RegexCache {
    /// Searches for a pattern at or after the byte `start`. `is_first`: this is the first search in the subject.
    pub fn search(
        &mut self,
        subject: &[u8],
        pattern: &[u8],
        options: &[u8],
        start: usize,
        is_first: bool,
    ) -> Result<Option<Match>, String> {
        if subject.len() > MAX_SUBJECT {
            return Err(format!("the subject is over {} KiB", MAX_SUBJECT >> 10));
        }
        let pattern = self.pattern(pattern, options)?;
        if pattern.is_unicode && is_first && str::from_utf8(subject).is_err() {
            return Err("the subject is not UTF-8, which the option u requires".to_owned());
        }
        if start > subject.len() {
            return Ok(None);
        }
        let Some(found) = pattern.regex.captures_at(subject, start) else { return Ok(None) };
        let groups: Vec<_> =
            found.iter().map(|group| group.map(|group| (group.start(), group.end()))).collect();
        let begins_at = |at: usize| matches!(groups.first(), Some(Some((from, _))) if *from == at);
        if pattern.is_anchored && !begins_at(start) {
            return Ok(None);
        }
        Ok(Some(Match { groups, names: pattern.names.clone() }))
    }

    /// Returns a compiled pattern, from the cache if possible.
    fn pattern(&mut self, source: &[u8], options: &[u8]) -> Result<Rc<Pattern>, String> {
        let known = self.0.iter().position(|known| known.source == source && known.options == options);
        let pattern = match known.and_then(|index| self.0.remove(index)) {
            Some(pattern) => pattern,
            None => Rc::new(compile(source, options)?),
        };
        if self.0.len() >= MAX_COMPILED {
            self.0.pop_front();
        }
        self.0.push_back(pattern.clone());
        Ok(pattern)
    }
}

fn compile(source: &[u8], options: &[u8]) -> Result<Pattern, String> {
    if source.len() > MAX_PATTERN {
        return Err(format!("the regex is over {} KiB", MAX_PATTERN >> 10));
    }
    let text = str::from_utf8(source).map_err(|_| "the regex is not UTF-8".to_owned())?;
    let in_regex = |problem: &str| format!("{problem} in the regex \"{text:.64}\"");
    let has = |option: u8| options.contains(&option);
    let translated = pcre::translate(text, has(b'x')).map_err(|problem| in_regex(&problem))?;
    let is_unicode = has(b'u');
    let regex = RegexBuilder::new(&translated)
        .unicode(is_unicode)
        .case_insensitive(has(b'i'))
        .multi_line(has(b'm'))
        .dot_matches_new_line(has(b's'))
        .ignore_whitespace(has(b'x'))
        .size_limit(MAX_PROGRAM)
        .dfa_size_limit(MAX_SEARCH_CACHE)
        .nest_limit(MAX_NESTING)
        .build();
    let regex = regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => in_regex("too large a program"),
        // The last line has the problem; those before show the translated pattern.
        error => {
            let shown = error.to_string();
            let line = shown.lines().last().unwrap_or_default();
            in_regex(line.strip_prefix("error: ").unwrap_or(line))
        }
    })?;
    let names = regex.capture_names().enumerate();
    let names = names.filter_map(|(number, name)| Some((name?.to_owned(), number))).collect();
    let (source, options) = (source.to_owned(), options.to_owned());
    Ok(Pattern { source, options, regex, names, is_anchored: has(b'a'), is_unicode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(subject: &[u8], pattern: &str, options: &str) -> Result<Option<(usize, usize)>, String> {
        let found = RegexCache::default().search(subject, pattern.as_bytes(), options.as_bytes(), 0, true)?;
        Ok(found.and_then(|found| found.groups[0]))
    }

    #[test]
    fn searches_bytes_and_characters() {
        for (subject, pattern, options, found) in [
            ("hello, 1234", r"\d+", "jo", Some((7, 11))),
            ("aÉb", ".b", "", Some((2, 4))),
            ("aÉb", ".b", "u", Some((1, 4))),
            ("aéb", "É", "iu", Some((1, 3))),
            ("aéb", r"\w+", "u", Some((0, 1))),
            ("A\nb", "^b$", "im", Some((2, 3))),
            ("a\nb", "a.b", "s", Some((0, 3))),
            ("a b", "a [ ] b # c", "x", Some((0, 3))),
            ("ba", "a", "a", None),
        ] {
            assert_eq!(search(subject.as_bytes(), pattern, options), Ok(found), "{pattern}");
        }
        assert!(search(b"\xff", "a", "u").unwrap_err().contains("not UTF-8"));
        assert_eq!(search(b"\xffa", "a", ""), Ok(Some((1, 2))));
    }

    #[test]
    fn bounds_patterns_and_subjects() {
        for (pattern, part) in [
            ("(?=a)", "look-around"),
            ("(a", "unclosed group"),
            ("(?:a{1000}){1000}", "too large a program"),
            (&"(".repeat(200), "in the regex"),
            (&"a".repeat(MAX_PATTERN + 1), "over 8 KiB"),
        ] {
            let problem = search(b"a", pattern, "").unwrap_err();
            assert!(problem.contains(part), "{pattern}: {problem}");
        }
        assert!(search(&vec![b'a'; MAX_SUBJECT + 1], "a", "").is_err());
        // A backtracking engine needs centuries for this one.
        assert_eq!(search(&vec![b'a'; 10_000], "(a*)*b", ""), Ok(None));
    }

    #[test]
    fn keeps_few_patterns() {
        let mut cache = RegexCache::default();
        for n in 0..50 {
            cache.search(b"7", n.to_string().as_bytes(), b"", 0, true).unwrap();
        }
        assert_eq!(cache.0.len(), MAX_COMPILED);
    }
}
