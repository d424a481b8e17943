//! Filters: read from JSON as `nearfield/filters.py` writes them, and answered by columns, or text by text.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use roaring::RoaringBitmap;
use serde::Deserialize;

use crate::columns::{Columns, Entries, Field};
use crate::values::{Dictionary, Interval, NO_TIME, Number, instant, prefix};
use crate::{Error, Result};

/// A condition on a record. What each means is said in `docs/filters.md`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Every part holds; with no parts, always.
    All(Vec<Filter>),
    /// At least one part holds.
    Some(Vec<Filter>),
    /// The part does not hold.
    Not(Box<Filter>),
    /// The record has the field, with whatever value.
    Exists(String),
    /// A value of the field equals one of these.
    OneOf(String, Vec<Operand>),
    /// A value of the field stands in this order to the operand.
    Compare(String, Order, Operand),
    /// A text of the field has the operand in it; a list has it as an element.
    Contains(String, Operand),
    /// The pattern is found in a text of the field.
    Matches(String, Pattern),
    /// The document has the text in it.
    InDocument(String),
    /// The pattern is found in the document.
    DocumentMatches(Pattern),
}

/// What values are compared with.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Operand {
    /// No value.
    Null,
    /// A truth value.
    Truth(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// An instant, as ISO 8601.
    Time {
        /// What [`instant`] reads.
        time: String,
    },
}

/// An order between a value and an operand.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub enum Order {
    /// The value is greater.
    #[serde(rename = ">")]
    Greater,
    /// The value is greater, or equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// The value is less.
    #[serde(rename = "<")]
    Less,
    /// The value is less, or equal.
    #[serde(rename = "<=")]
    LessOrEqual,
}

impl Order {
    fn above(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual)
    }

    fn equal(self) -> bool {
        matches!(self, Self::GreaterOrEqual | Self::LessOrEqual)
    }

    fn holds<T: PartialOrd>(self, value: T, bound: T) -> bool {
        match self {
            Self::Greater => value > bound,
            Self::GreaterOrEqual => value >= bound,
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
        }
    }
}

/// A regular expression, compiled.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(pattern: String) -> Result<Self> {
        let compiled = RegexBuilder::new(&pattern).build().map_err(|error| {
            let message = error.to_string(); // several lines: the pattern, a mark under it, and the reason
            let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Error::Invalid(format!("{pattern:?} is no regular expression: {reason}"))
        })?;
        Ok(Self(compiled))
    }
}

impl Filter {
    /// Reads a filter.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| Error::Invalid(format!("a filter cannot be read: {error}")))
    }

    /// Whether a document passes. Conditions on fields never hold here.
    pub fn accepts(&self, document: Option<&str>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.accepts(document)),
            Self::Some(parts) => parts.iter().any(|part| part.accepts(document)),
            Self::Not(part) => !part.accepts(document),
            Self::InDocument(text) => document.is_some_and(|document| document.contains(text)),
            Self::DocumentMatches(pattern) => document.is_some_and(|document| pattern.0.is_match(document)),
            _ => false,
        }
    }

    /// Which rows pass, whether or not they live. Conditions on documents never hold here.
    pub(crate) fn mask(&self, columns: &Columns) -> Vec<bool> {
        match self {
            Self::All(parts) => combined(parts, columns, true, |into, part| *into &= part),
            Self::Some(parts) => combined(parts, columns, false, |into, part| *into |= part),
            Self::Not(part) => {
                let mut mask = part.mask(columns);
                mask.iter_mut().for_each(|pass| *pass = !*pass);
                mask
            }
            Self::InDocument(_) | Self::DocumentMatches(_) => columns.nothing(),
            Self::Exists(field)
            | Self::OneOf(field, _)
            | Self::Compare(field, ..)
            | Self::Contains(field, _)
            | Self::Matches(field, _) => {
                let mut mask = columns.nothing();
                match columns.field(field) {
                    Some(column) => self.on_field(columns, column, &mut mask),
                    None if self.takes_missing() => mask.fill(true),
                    None => {}
                }
                mask
            }
        }
    }

    /// Whether the condition holds where the field is missing: None stands for that too.
    fn takes_missing(&self) -> bool {
        matches!(self, Self::OneOf(_, values) if values.iter().any(|value| matches!(value, Operand::Null)))
    }

    /// Marks the rows of a field that pass.
    fn on_field(&self, columns: &Columns, field: &Field, mask: &mut [bool]) {
        match self {
            Self::Exists(_) => mark(&field.present, mask),
            Self::OneOf(_, values) => {
                if self.takes_missing() {
                    mask.fill(true);
                    field.present.iter().for_each(|row| mask[row as usize] = false);
                }
                one_of(field, values, mask);
            }
            Self::Compare(_, order, operand) => compare(field, *order, operand, mask),
            Self::Contains(_, operand) => {
                let alone = &field.present - &field.listed; // rows whose value stands in no list
                if !field.listed.is_empty() {
                    one_of(field, std::slice::from_ref(operand), mask);
                    alone.iter().for_each(|row| mask[row as usize] = false);
                }
                if let (Operand::Text(part), false) = (operand, alone.is_empty()) {
                    let mut inside = columns.nothing();
                    texts(field, &mut inside, |texts, code| texts.text(code).contains(part));
                    field.listed.iter().for_each(|row| inside[row as usize] = false);
                    mask.iter_mut().zip(&inside).for_each(|(pass, inside)| *pass |= inside);
                }
            }
            Self::Matches(_, pattern) => {
                texts(field, mask, |texts, code| pattern.0.is_match(texts.text(code)));
            }
            _ => unreachable!("only conditions on fields come here"),
        }
    }
}

/// The masks of all parts in one.
fn combined(parts: &[Filter], columns: &Columns, empty: bool, join: fn(&mut bool, bool)) -> Vec<bool> {
    let mut parts = parts.iter().map(|part| part.mask(columns));
    let Some(mut mask) = parts.next() else {
        let mut mask = columns.nothing();
        mask.fill(empty);
        return mask;
    };
    for part in parts {
        mask.iter_mut().zip(&part).for_each(|(into, part)| join(into, *part));
    }
    mask
}

pub(crate) fn mark(rows: &RoaringBitmap, mask: &mut [bool]) {
    let mut rows = rows.iter();
    let mut buffer = [0; 256];
    loop {
        let found = rows.next_many(&mut buffer);
        found.iter().for_each(|row| mask[*row as usize] = true);
        if found.is_empty() {
            return;
        }
    }
}

/// Marks the rows that have an entry of which `test` holds.
fn scan<T: Copy>(entries: &Entries<T>, mask: &mut [bool], test: impl Fn(u32, T) -> bool) {
    for (row, value) in entries.rows.iter().zip(&entries.values) {
        mask[*row as usize] |= test(*row, *value);
    }
}

/// Marks the rows that have a text of which `test` holds.
fn texts(field: &Field, mask: &mut [bool], test: impl Fn(&Dictionary, u32) -> bool + Sync) {
    let flags = field.dictionary.flags(|code| test(&field.dictionary, code));
    let found = flags.iter().filter(|flag| **flag).count();
    if found == 1 {
        let only = flags.iter().position(|flag| *flag).unwrap_or(0) as u32;
        scan(&field.texts, mask, |_, code| code == only);
    } else if found > 1 {
        scan(&field.texts, mask, |_, code| flags[code as usize]);
    }
}

fn one_of(field: &Field, values: &[Operand], mask: &mut [bool]) {
    let (mut ints, mut floats, mut words, mut times) = (vec![], vec![], vec![], vec![]);
    for value in values {
        match value {
            Operand::Null => mark(&field.nulls, mask),
            Operand::Truth(truth) => mark(if *truth { &field.trues } else { &field.falses }, mask),
            Operand::Int(value) => ints.push(*value),
            Operand::Float(value) => match Number::from(*value) {
                Number::Int(value) => ints.push(value),
                Number::Float(value) => floats.push(value.to_bits()),
            },
            Operand::Text(text) => match instant(text) {
                Some(time) => times.push(time),
                None => words.push(text.as_str()),
            },
            Operand::Time { time } => times.extend(instant(time)),
        }
    }
    match ints[..] {
        [] => {}
        [only] => scan(&field.ints, mask, |_, value| value == only),
        _ => {
            let wanted: HashSet<i64> = ints.into_iter().collect();
            scan(&field.ints, mask, |_, value| wanted.contains(&value));
        }
    }
    if !floats.is_empty() {
        let wanted: HashSet<u64> = floats.into_iter().collect();
        scan(&field.floats, mask, |_, value| wanted.contains(&value.to_bits()));
    }
    let times: HashSet<i64> = times.into_iter().collect();
    let prefixes: HashSet<u64> = words.iter().map(|text| prefix(text)).collect();
    let words: HashSet<&str> = words.into_iter().collect();
    match (&words.len(), &times.len()) {
        (0, 0) => {}
        (1, 0) => {
            let (word, start) = (words.iter().next().copied().unwrap_or(""), prefixes.iter().next().copied());
            texts(field, mask, |texts, code| Some(texts.prefixes[code as usize]) == start && texts.text(code) == word);
        }
        _ => texts(field, mask, |texts, code| {
            let time = texts.times[code as usize];
            (time != NO_TIME && times.contains(&time))
                || (prefixes.contains(&texts.prefixes[code as usize]) && words.contains(texts.text(code)))
        }),
    }
}

fn compare(field: &Field, order: Order, operand: &Operand, mask: &mut [bool]) {
    let bound = match operand {
        Operand::Null | Operand::Truth(_) => return, // no order
        Operand::Int(value) => Number::Int(*value),
        Operand::Float(value) => Number::from(*value),
        Operand::Time { time } => {
            let Some(bound) = instant(time) else { return };
            return texts(field, mask, |texts, code| {
                let time = texts.times[code as usize];
                time != NO_TIME && order.holds(time, bound)
            });
        }
        Operand::Text(text) => {
            let (start, bound) = (prefix(text), instant(text).unwrap_or(NO_TIME));
            return texts(field, mask, |texts, code| {
                let (time, head) = (texts.times[code as usize], texts.prefixes[code as usize]);
                if time != NO_TIME && bound != NO_TIME {
                    order.holds(time, bound)
                } else if head != start {
                    order.holds(head, start)
                } else {
                    order.holds(texts.text(code), text.as_str())
                }
            });
        }
    };
    let Interval { ints, floats } = Interval::new(bound, order.above(), order.equal());
    scan(&field.ints, mask, |_, value| ints.0 <= value && value <= ints.1);
    scan(&field.floats, mask, |_, value| floats.0 <= value && value <= floats.1);
}
