//! What metadata holds, in a form that compares fast: numbers that are one kind, instants, and texts with a code.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use xxhash_rust::xxh3::xxh3_64;

use crate::pool;

/// One past the greatest i64, as a float.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
/// Stands in [`Dictionary::times`] for a text that is no instant.
pub(crate) const NO_TIME: i64 = i64::MIN;
/// So many texts are looked through by several threads.
const PARALLEL: usize = 1 << 14;

/// A number with one form for one value: a float that is a whole number of 64 bits is that whole number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Float(f64),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        if value.fract() == 0.0 && (-TWO_63..TWO_63).contains(&value) {
            Self::Int(value as i64)
        } else {
            Self::Float(value)
        }
    }
}

impl Number {
    /// A float that stands where this number stands among all [`Number::Float`]s.
    pub(crate) fn among_floats(self) -> f64 {
        match self {
            Self::Float(value) => value,
            // Floats that are not `Int` are no whole numbers (below 2^52), or beyond 64 bits. Rounding keeps these apart
            // from any `Int`, except where it reaches 2^63.
            Self::Int(value) => (value as f64).min(TWO_63.next_down()),
        }
    }

    /// The order by value.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            _ => self.among_floats().total_cmp(&other.among_floats()),
        }
    }
}

/// The least and greatest i64 and f64 that stand in an order to a number; where the least is greater, there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) ints: (i64, i64),
    pub(crate) floats: (f64, f64),
}

impl Interval {
    /// The numbers over (`above`) or under `bound`, or (`equal`) equal to it.
    pub(crate) fn new(bound: Number, above: bool, equal: bool) -> Self {
        const NONE: (i64, i64) = (i64::MAX, i64::MIN);
        let float = bound.among_floats();
        let ints = match bound {
            Number::Int(bound) if equal => {
                if above {
                    (bound, i64::MAX)
                } else {
                    (i64::MIN, bound)
                }
            }
            Number::Int(bound) if above => bound.checked_add(1).map_or(NONE, |least| (least, i64::MAX)),
            Number::Int(bound) => bound.checked_sub(1).map_or(NONE, |most| (i64::MIN, most)),
            Number::Float(bound) if bound >= TWO_63 => {
                if above {
                    NONE
                } else {
                    (i64::MIN, i64::MAX)
                }
            }
            Number::Float(bound) if bound < -TWO_63 => {
                if above {
                    (i64::MIN, i64::MAX)
                } else {
                    NONE
                }
            }
            Number::Float(bound) => {
                if above {
                    (bound.ceil() as i64, i64::MAX)
                } else {
                    (i64::MIN, bound.floor() as i64)
                }
            }
        };
        let floats = match (above, equal) {
            (true, true) => (float, f64::INFINITY),
            (true, false) => (float.next_up(), f64::INFINITY),
            (false, true) => (f64::NEG_INFINITY, float),
            (false, false) => (f64::NEG_INFINITY, float.next_down()),
        };
        Self { ints, floats }
    }
}

/// The instant that an ISO 8601 text names, in microseconds since 1970 (UTC): `2020-01-31`, or with a time after `T` or
/// a space (`12:30`, `12:30:59`, `12:30:59.123456`), and a zone after that (`Z`, `+02`, `+02:00`, `+0200`).
///
/// Without a time it is midnight, without a zone UTC. Digits beyond microseconds do not count.
pub(crate) fn instant(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let [year, month, day] = [digits(bytes, 0, 4)?, digits(bytes, 5, 2)?, digits(bytes, 8, 2)?];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if year < 1 || !(1..=12).contains(&month) || !(1..=days[month as usize - 1]).contains(&day) {
        return None;
    }
    let before = days[..month as usize - 1].iter().sum::<i64>() + day - 1; // days of this year
    let past = year - 1;
    let date = past * 365 + past / 4 - past / 100 + past / 400 + before - 719_162; // days since 1970-01-01
    let (clock, rest) = match bytes.get(10) {
        None => (0, &[][..]),
        Some(b'T' | b't' | b' ') => clock(&bytes[11..])?,
        Some(_) => return None,
    };
    Some(date * 86_400_000_000 + clock - offset(rest)?)
}

/// Microseconds since midnight, and what follows.
fn clock(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let [hour, minute] = [digits(bytes, 0, 2)?, digits(bytes, 3, 2)?];
    let (mut second, mut micros, mut at) = (0, 0, 5);
    if bytes.get(at) == Some(&b':') {
        second = digits(bytes, 6, 2)?;
        at = 8;
        if bytes.get(at) == Some(&b'.') {
            let count = bytes[9..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&count) {
                return None;
            }
            micros = digits(bytes, 9, count.min(6))? * 10_i64.pow(6 - count.min(6) as u32);
            at = 9 + count;
        }
    }
    let sound = bytes[2] == b':' && hour < 24 && minute < 60 && second < 60;
    sound.then_some((((hour * 60 + minute) * 60 + second) * 1_000_000 + micros, &bytes[at..]))
}

/// Microseconds that a zone is ahead of UTC.
fn offset(bytes: &[u8]) -> Option<i64> {
    let (sign, bytes) = match bytes {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let minute = match bytes.len() {
        2 => 0,
        4 => digits(bytes, 2, 2)?,
        5 if bytes[2] == b':' => digits(bytes, 3, 2)?,
        _ => return None,
    };
    let hour = digits(bytes, 0, 2)?;
    (hour < 24 && minute < 60).then_some(sign * (hour * 60 + minute) * 60_000_000)
}

fn digits(bytes: &[u8], at: usize, count: usize) -> Option<i64> {
    bytes
        .get(at..at + count)?
        .iter()
        .try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// The first eight bytes of a text as a number: texts with different ones compare as these do.
pub(crate) fn prefix(text: &str) -> u64 {
    let mut bytes = [0; 8];
    let length = text.len().min(8);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    u64::from_be_bytes(bytes)
}

/// The texts of a field, each once (or, where two hashes meet, twice: nothing relies on it), numbered.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    pub(crate) bytes: String,
    pub(crate) ends: Vec<u64>,
    pub(crate) prefixes: Vec<u64>,
    /// The instants that the texts name, or [`NO_TIME`].
    pub(crate) times: Vec<i64>,
    /// Codes by hash; made when the first text is added.
    codes: HashMap<u64, u32>,
}

impl Dictionary {
    /// The texts that end at `ends`; None where these do not fit.
    pub(crate) fn from_parts(bytes: Vec<u8>, ends: Vec<u64>, times: Vec<i64>) -> Option<Self> {
        let bytes = String::from_utf8(bytes).ok()?;
        let sound = ends.last().copied().unwrap_or(0) == bytes.len() as u64
            && ends.is_sorted()
            && ends.iter().all(|end| bytes.is_char_boundary(*end as usize))
            && times.len() == ends.len();
        let mut made = Self { bytes, ends, times, ..Self::default() };
        if sound {
            made.prefixes = (0..made.len()).map(|code| prefix(made.text(code as u32))).collect();
        }
        sound.then_some(made)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn text(&self, code: u32) -> &str {
        let code = code as usize;
        let start = if code == 0 { 0 } else { self.ends[code - 1] as usize };
        &self.bytes[start..self.ends[code] as usize]
    }

    /// The code of a text, new if need be.
    pub(crate) fn code(&mut self, text: &str) -> u32 {
        if self.codes.is_empty() {
            self.codes = (0..self.len() as u32).map(|code| (xxh3_64(self.text(code).as_bytes()), code)).collect();
        }
        let next = u32::try_from(self.len()).expect("rows are u32, and memory ends before texts in lists do");
        match self.codes.entry(xxh3_64(text.as_bytes())) {
            Entry::Occupied(found) => {
                let code = *found.get();
                if self.text(code) == text {
                    return code;
                }
            }
            Entry::Vacant(place) => {
                place.insert(next);
            }
        }
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len() as u64);
        self.prefixes.push(prefix(text));
        self.times.push(instant(text).unwrap_or(NO_TIME));
        next
    }

    /// What `test` says of each code.
    pub(crate) fn flags(&self, test: impl Fn(u32) -> bool + Sync) -> Vec<bool> {
        let mut flags = vec![false; self.len()];
        let fill = |first: usize, flags: &mut [bool]| {
            for (at, flag) in flags.iter_mut().enumerate() {
                *flag = test((first + at) as u32);
            }
        };
        if flags.len() < PARALLEL {
            fill(0, &mut flags);
        } else {
            let jobs = flags.chunks_mut(PARALLEL / 4).enumerate();
            let threads = pool::default_threads();
            pool::each_job(threads, jobs, || (), |(), (at, chunk)| fill(at * (PARALLEL / 4), chunk));
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_those_of_the_calendar() {
        let seconds = |text: &str| instant(text).map(|micros| micros / 1_000_000);
        assert_eq!(seconds("1970-01-01"), Some(0));
        assert_eq!(seconds("2000-02-29T12:34:56Z"), Some(951_827_696));
        assert_eq!(seconds("2000-02-29 12:34:56+02:00"), Some(951_820_496));
        assert_eq!(instant("1969-12-31T23:59:59.9999999"), Some(-1));
        assert_eq!(instant("0001-01-01"), Some(-62_135_596_800_000_000));
        assert_eq!(instant("9999-12-31T23:59:59.999999-2359"), Some(253_402_300_799_999_999 + 86_340_000_000));
        let wrong = "2001-02-29 2000-13-01 2000-00-01 2000-01-00 0000-01-01 2000-1-01 20000101 2000-01-01T 2000-01-01T24:00 \
                     2000-01-01T12 2000-01-01T12:60 2000-01-01T12:00:60 2000-01-01T12:00:00. 2000-01-01Z \
                     2000-01-01T12:00+2 2000-01-01T12:00+24:00 2000-01-01T12:00UTC 2000-01-01x ２０００-01-01";
        for text in wrong.split(' ') {
            assert_eq!(instant(text), None, "{text}");
        }
        assert_eq!(instant(" 2000-01-01"), None);
        assert_eq!(instant("2000-01-01T12:00 "), None);
    }

    #[test]
    fn numbers_of_both_forms_compare_by_value() {
        let numbers = [-1e300, -TWO_63, -4.5, -1.0, -0.0, 0.5, 2.0, 2f64.powi(53), TWO_63, 1e300].map(Number::from);
        let ints = [i64::MIN, -5, -4, 0, 1, (1 << 53) + 1, i64::MAX].map(Number::Int);
        let exact = |number: Number| match number {
            Number::Int(value) => (i128::from(value) * 2, 0.0),
            Number::Float(value) if value.abs() < TWO_63 => ((value * 2.0) as i128, 0.0),
            Number::Float(value) => (if value > 0.0 { i128::MAX } else { i128::MIN }, value),
        };
        for a in numbers.iter().chain(&ints).copied() {
            for b in numbers.iter().chain(&ints).copied() {
                assert_eq!(Some(a.compare(b)), exact(a).partial_cmp(&exact(b)), "{a:?} {b:?}");
                for (above, equal) in [(true, true), (true, false), (false, true), (false, false)] {
                    let Interval { ints, floats } = Interval::new(b, above, equal);
                    let inside = match a {
                        Number::Int(value) => ints.0 <= value && value <= ints.1,
                        Number::Float(value) => floats.0 <= value && value <= floats.1,
                    };
                    let order = a.compare(b);
                    let wanted = if order.is_eq() { equal } else { order.is_gt() == above };
                    assert_eq!(inside, wanted, "{a:?} {b:?} {above} {equal}");
                }
            }
        }
    }
}
