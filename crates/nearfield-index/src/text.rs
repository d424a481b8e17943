//! From a text to the words that are searched: cut, folded, stemmed, and without stop words.
//!
//! Words are cut by Unicode's rules (UAX #29). A word is normalised (NFKC), lowercased, passed over if it is a stop
//! word, stemmed by Snowball's algorithm of the language, and then loses its accents: stemmers know accents, and people
//! who type queries often leave them out. Without a language there are neither stop words nor stems.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use frostem::{Algorithm, Stemmer};
use hashbrown::HashTable;
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// Changes whenever the same text gives other words: an index of other words must be built again.
pub const RULES: u32 = 1;

/// Longer words are passed over: they are keys and encoded files, which nobody types.
const LONGEST: usize = 255;

/// Name, code of the stop words, and stemmer of every language there is.
const LANGUAGES: [(&str, &str, Algorithm); 22] = [
    ("arabic", "ar", Algorithm::Arabic),
    ("basque", "eu", Algorithm::Basque),
    ("catalan", "ca", Algorithm::Catalan),
    ("danish", "da", Algorithm::Danish),
    ("dutch", "nl", Algorithm::Dutch),
    ("english", "en", Algorithm::English),
    ("finnish", "fi", Algorithm::Finnish),
    ("french", "fr", Algorithm::French),
    ("german", "de", Algorithm::German),
    ("greek", "el", Algorithm::Greek),
    ("hungarian", "hu", Algorithm::Hungarian),
    ("indonesian", "id", Algorithm::Indonesian),
    ("italian", "it", Algorithm::Italian),
    ("nepali", "ne", Algorithm::Nepali),
    ("norwegian", "no", Algorithm::Norwegian),
    ("portuguese", "pt", Algorithm::Portuguese),
    ("romanian", "ro", Algorithm::Romanian),
    ("russian", "ru", Algorithm::Russian),
    ("spanish", "es", Algorithm::Spanish),
    ("swedish", "sv", Algorithm::Swedish),
    ("tamil", "ta", Algorithm::Tamil),
    ("turkish", "tr", Algorithm::Turkish),
];

/// The rules of one language.
pub struct Analyzer {
    name: Option<&'static str>,
    stemmer: Option<Stemmer>,
    stop_words: HashSet<&'static str>,
}

impl Analyzer {
    /// The rules of a language of [`languages`], or those for any.
    pub fn new(language: Option<&str>) -> Result<Self> {
        let Some(wanted) = language else {
            return Ok(Self { name: None, stemmer: None, stop_words: HashSet::new() });
        };
        let Some(&(name, code, algorithm)) = LANGUAGES.iter().find(|(name, ..)| *name == wanted) else {
            let names: Vec<&str> = languages().collect();
            return Err(Error::Invalid(format!(
                "unknown language {wanted:?}: use one of {}, or None for words as they are",
                names.join(", ")
            )));
        };
        let stop_words = stop_words::get(code).iter().copied().collect();
        Ok(Self { name: Some(name), stemmer: Some(Stemmer::new(algorithm)), stop_words })
    }

    /// The language, if there is one.
    pub fn language(&self) -> Option<&'static str> {
        self.name
    }

    /// The words of a text as they stand there, with their places in bytes; stop words are among them.
    pub fn words<'a>(&self, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
        // English stemming knows 's; elsewhere an apostrophe ends an article: l'homme, dell'arte.
        let whole = matches!(self.name, None | Some("english"));
        text.unicode_word_indices().flat_map(move |(start, word)| {
            let parts = if whole || !word.contains(APOSTROPHES) { Parts::One(word) } else { Parts::Many(word, 0) };
            parts.map(move |(at, part)| (start + at, part))
        })
    }

    /// What a word is searched by, or None for a stop word. Case, accents and compatibility forms do not matter.
    pub fn term<'a>(&self, word: &'a str) -> Option<Cow<'a, str>> {
        if word.len() > LONGEST {
            return None;
        }
        let plain: Cow<str> = if word.is_ascii() {
            match word.bytes().any(|byte| byte.is_ascii_uppercase()) {
                true => Cow::Owned(self.lowercase(word)),
                false => Cow::Borrowed(word),
            }
        } else {
            Cow::Owned(self.lowercase(&word.nfkc().collect::<String>()).replace(APOSTROPHES, "'"))
        };
        if self.stop_words.contains(plain.as_ref()) {
            return None;
        }
        // English stems know no accents.
        let plain = match self.name {
            Some("english") if !plain.is_ascii() => Cow::Owned(folded(&plain)),
            _ => plain,
        };
        let stem = match &self.stemmer {
            Some(stemmer) => match stemmer.stem(&plain) {
                Cow::Owned(stem) if !stem.is_empty() => Cow::Owned(stem),
                _ => plain,
            },
            None => plain,
        };
        Some(if stem.is_ascii() { stem } else { Cow::Owned(folded(&stem)) })
    }

    fn lowercase(&self, word: &str) -> String {
        match self.name {
            Some("turkish") => word.replace('I', "ı").replace('İ', "i").to_lowercase(),
            _ => word.to_lowercase(),
        }
    }

    /// Where words of the text stand that the query asks for, as ranges of characters (not bytes).
    pub fn highlights(&self, text: &str, query: &str) -> Vec<Range<usize>> {
        let wanted: HashSet<Cow<str>> = self.words(query).filter_map(|(_, word)| self.term(word)).collect();
        let (mut bytes, mut characters) = (0, 0);
        let mut found = Vec::new();
        for (start, word) in self.words(text) {
            if self.term(word).is_some_and(|term| wanted.contains(&term)) {
                characters += text[bytes..start].chars().count();
                bytes = start;
                found.push(characters..characters + word.chars().count());
            }
        }
        found
    }
}

impl std::fmt::Debug for Analyzer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Analyzer({:?})", self.name)
    }
}

/// The names of the languages with stems and stop words.
pub fn languages() -> impl Iterator<Item = &'static str> {
    LANGUAGES.iter().map(|(name, ..)| *name)
}

const APOSTROPHES: [char; 3] = ['\'', '’', 'ʼ'];

/// A word, or the parts between its apostrophes, with their places.
enum Parts<'a> {
    One(&'a str),
    Many(&'a str, usize),
}

impl<'a> Iterator for Parts<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let (word, at) = match *self {
                Self::One(word) => {
                    *self = Self::Many(word, word.len() + 1);
                    return Some((0, word));
                }
                Self::Many(word, at) => (word, at),
            };
            let rest = word.get(at..)?;
            let end = rest.find(APOSTROPHES).unwrap_or(rest.len());
            let skip = rest[end..].chars().next().map_or(1, char::len_utf8);
            *self = Self::Many(word, at + end + skip);
            if end > 0 {
                return Some((at, &rest[..end]));
            }
        }
    }
}

/// A lowercase word without the marks that people leave out, and with the letters they write instead of others.
fn folded(word: &str) -> String {
    let mut plain = String::with_capacity(word.len());
    for character in word.nfd() {
        match character {
            // Accents of Latin, Greek and Cyrillic; points of Hebrew; vowel marks of Arabic. Other scripts need theirs.
            '\u{300}'..='\u{36f}' | '\u{591}'..='\u{5c7}' | '\u{64b}'..='\u{652}' | '\u{670}' => {}
            'ß' => plain.push_str("ss"),
            'æ' => plain.push_str("ae"),
            'œ' => plain.push_str("oe"),
            'þ' => plain.push_str("th"),
            'ø' => plain.push('o'),
            'ł' => plain.push('l'),
            'đ' | 'ð' => plain.push('d'),
            'ħ' => plain.push('h'),
            'ı' => plain.push('i'),
            'ς' => plain.push('σ'),
            other => plain.push(other),
        }
    }
    plain.nfc().collect()
}

/// Numbers for words, in the order the words came.
#[derive(Debug, Default, Clone)]
pub struct Vocabulary {
    text: String,
    ends: Vec<usize>,
    numbers: HashTable<u32>,
}

impl Vocabulary {
    /// Words there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<usize>() + self.numbers.allocation_size()
    }

    /// All words, one behind the other, and where each ends.
    pub fn parts(&self) -> (&str, &[usize]) {
        (&self.text, &self.ends)
    }

    /// The word of a number.
    pub fn word(&self, number: u32) -> &str {
        word(&self.text, &self.ends, number)
    }

    /// The number of a word.
    pub fn find(&self, wanted: &str) -> Option<u32> {
        let same = |number: &u32| self.word(*number) == wanted;
        self.numbers.find(xxh3_64(wanted.as_bytes()), same).copied()
    }

    /// The number of a word, a new one if it has none.
    pub fn number(&mut self, wanted: &str) -> u32 {
        let Self { text, ends, numbers } = self;
        let hash = xxh3_64(wanted.as_bytes());
        if let Some(number) = numbers.find(hash, |number| word(text, ends, *number) == wanted) {
            return *number;
        }
        let number = ends.len() as u32;
        text.push_str(wanted);
        ends.push(text.len());
        numbers.insert_unique(hash, number, |number| xxh3_64(word(text, ends, *number).as_bytes()));
        number
    }
}

fn word<'a>(text: &'a str, ends: &[usize], number: u32) -> &'a str {
    let start = number.checked_sub(1).map_or(0, |before| ends[before as usize]);
    &text[start..ends[number as usize]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(language: Option<&str>, text: &str) -> Vec<String> {
        let analyzer = Analyzer::new(language).unwrap();
        analyzer.words(text).filter_map(|(_, word)| analyzer.term(word).map(Cow::into_owned)).collect()
    }

    #[test]
    fn case_accents_and_compatibility_forms_do_not_matter() {
        let one = terms(None, "Café ﬁne STRASSE naïve Ελλάς Ёлка Łódź");
        assert_eq!(one, terms(None, "cafe fine straße NAÏVE ελλασ елка lodz"));
        assert_eq!(one, terms(None, "CAFE\u{301} fine Strasse nai\u{308}ve ΕΛΛΆΣ ЁЛКА ŁÓDŹ"));
    }

    #[test]
    fn scripts_that_need_their_marks_keep_them() {
        assert_eq!(terms(None, "हिन्दी が"), ["हिन्दी", "が"]);
        assert_ne!(terms(None, "が"), terms(None, "か"));
    }

    #[test]
    fn words_of_a_language_meet_in_their_stem() {
        assert_eq!(terms(Some("english"), "The cats' running, the cat’s runs!"), ["cat", "run", "cat", "run"]);
        assert_eq!(terms(Some("english"), "Nîmes"), terms(Some("english"), "nimes"));
        assert_eq!(terms(Some("french"), "L'homme et les hommes"), terms(Some("french"), "HOMME homme"));
        assert_eq!(terms(Some("spanish"), "naciones"), terms(Some("spanish"), "Nación"));
        assert_eq!(terms(Some("german"), "die Häuser"), terms(Some("german"), "haus"));
        assert_eq!(terms(Some("turkish"), "IŞIK"), terms(Some("turkish"), "ışık"));
    }

    #[test]
    fn every_language_has_a_stemmer_and_stop_words_and_an_unknown_one_is_refused() {
        for language in languages() {
            let analyzer = Analyzer::new(Some(language)).unwrap();
            assert!(analyzer.stop_words.len() > 20 && analyzer.language() == Some(language));
        }
        let error = Analyzer::new(Some("klingon")).unwrap_err();
        assert!(error.to_string().contains("english"));
    }

    #[test]
    fn no_text_makes_a_stemmer_panic() {
        let letters: Vec<char> = "aeéïyıİßs'’çqüğñlтьщيةאहि한ø1_ς".chars().collect();
        let mut state = 7u64;
        for language in languages() {
            let analyzer = Analyzer::new(Some(language)).unwrap();
            for _ in 0..3000 {
                let word: String = (0..1 + state % 9)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        letters[(state >> 33) as usize % letters.len()]
                    })
                    .collect();
                analyzer.highlights(&word, &word);
            }
        }
    }

    #[test]
    fn highlights_count_characters() {
        let analyzer = Analyzer::new(Some("english")).unwrap();
        let text = "Übergroße 😀 Cats ran; a CAT runs.";
        let found = analyzer.highlights(text, "cat");
        let characters: Vec<char> = text.chars().collect();
        let words: Vec<String> = found.into_iter().map(|range| characters[range].iter().collect()).collect();
        assert_eq!(words, ["Cats", "CAT"]);
    }

    #[test]
    fn a_vocabulary_gives_every_word_one_number() {
        let mut words = Vocabulary::default();
        let many: Vec<String> = (0..5000).map(|i| format!("w{}", i % 3000)).collect();
        let numbers: Vec<u32> = many.iter().map(|word| words.number(word)).collect();
        assert_eq!(words.len(), 3000);
        for (word, number) in many.iter().zip(numbers) {
            assert_eq!((words.find(word), words.word(number)), (Some(number), word.as_str()));
        }
        assert_eq!(words.find("w3000"), None);
    }
}
