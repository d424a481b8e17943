//! Metadata as typed columns: what each field holds, by kind, and in which rows.
//!
//! A field is a path of names joined by dots. Objects are walked into and lists are walked through: a row may have several
//! values at one path, and has them in any order. Nothing here is needed for correctness: the catalog has it all.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

use roaring::RoaringBitmap;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::filter::{Filter, mark};
use crate::values::{Dictionary, NO_TIME, Number};
use crate::{Error, Result};

/// Rows that died before their values are thrown out: more than live ones, and at least so many.
const PURGE: usize = 1 << 12;

/// Values of one kind and their rows, side by side.
#[derive(Debug, Default)]
pub(crate) struct Entries<T> {
    pub(crate) rows: Vec<u32>,
    pub(crate) values: Vec<T>,
}

impl<T: Copy> Entries<T> {
    fn push(&mut self, row: u32, value: T) {
        self.rows.push(row);
        self.values.push(value);
    }

    /// Throws out the entries of the rows marked in `gone`.
    fn purge(&mut self, gone: &[bool]) {
        let Some(first) = self.rows.iter().position(|row| gone[*row as usize]) else { return };
        let mut to = first;
        for from in first..self.rows.len() {
            if !gone[self.rows[from] as usize] {
                (self.rows[to], self.values[to]) = (self.rows[from], self.values[from]);
                to += 1;
            }
        }
        self.rows.truncate(to);
        self.values.truncate(to);
    }
}

/// What the records hold at one path.
#[derive(Debug, Default)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Rows that have the path, be it with no value (an empty list, an object).
    pub(crate) present: RoaringBitmap,
    /// Rows where a value stands in a list.
    pub(crate) listed: RoaringBitmap,
    pub(crate) nulls: RoaringBitmap,
    pub(crate) trues: RoaringBitmap,
    pub(crate) falses: RoaringBitmap,
    pub(crate) ints: Entries<i64>,
    /// Numbers that are not whole, or beyond 64 bits.
    pub(crate) floats: Entries<f64>,
    pub(crate) texts: Entries<u32>,
    pub(crate) dictionary: Dictionary,
}

impl Field {
    fn purge(&mut self, rows: &RoaringBitmap, gone: &[bool]) {
        if self.present.is_disjoint(rows) {
            return;
        }
        for set in [&mut self.present, &mut self.listed, &mut self.nulls, &mut self.trues, &mut self.falses] {
            *set -= rows;
        }
        self.ints.purge(gone);
        self.floats.purge(gone);
        self.texts.purge(gone);
    }

    fn number(&mut self, row: u32, number: Number) {
        match number {
            Number::Int(value) => self.ints.push(row, value),
            Number::Float(value) => self.floats.push(row, value),
        }
    }

    /// All values with their rows, those of one row in no order.
    fn keys(&self) -> impl Iterator<Item = (u32, Key<'_>)> {
        let ints = self.ints.rows.iter().zip(&self.ints.values);
        let floats = self.floats.rows.iter().zip(&self.floats.values);
        let texts = self.texts.rows.iter().zip(&self.texts.values);
        ints.map(|(row, value)| (*row, Key::Number(Number::Int(*value))))
            .chain(floats.map(|(row, value)| (*row, Key::Number(Number::Float(*value)))))
            .chain(texts.map(|(row, code)| (*row, self.text_key(*code))))
            .chain(self.falses.iter().map(|row| (row, Key::Truth(false))))
            .chain(self.trues.iter().map(|row| (row, Key::Truth(true))))
    }

    fn text_key(&self, code: u32) -> Key<'_> {
        let text = self.dictionary.text(code);
        match self.dictionary.times[code as usize] {
            NO_TIME => Key::Text(text),
            time => Key::Time(time, text),
        }
    }
}

/// A value, in the order in which records are sorted: numbers, instants, other texts, truth values.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key<'a> {
    Number(Number),
    Time(i64, &'a str),
    Text(&'a str),
    Truth(bool),
    Null,
}

impl Key<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        let kind = |key: &Self| match key {
            Key::Number(_) => 0,
            Key::Time(..) => 1,
            Key::Text(_) => 2,
            Key::Truth(_) => 3,
            Key::Null => 4,
        };
        match (self, other) {
            (Key::Number(a), Key::Number(b)) => a.compare(*b),
            (Key::Time(a, _), Key::Time(b, _)) => a.cmp(b),
            (Key::Text(a), Key::Text(b)) => a.cmp(b),
            (Key::Truth(a), Key::Truth(b)) => a.cmp(b),
            _ => kind(self).cmp(&kind(other)),
        }
    }
}

/// The metadata of a collection's records.
#[derive(Debug, Default)]
pub struct Columns {
    pub(crate) fields: Vec<Field>,
    names: HashMap<String, usize>,
    /// One a row.
    pub(crate) alive: Vec<bool>,
    /// Dead rows whose values are still here.
    pub(crate) stale: usize,
}

impl Columns {
    /// Columns of fields that were read from a file.
    pub(crate) fn from_parts(fields: Vec<Field>, alive: Vec<bool>, stale: usize) -> Self {
        let names = fields.iter().enumerate().map(|(at, field)| (field.name.clone(), at)).collect();
        Self { fields, names, alive, stale }
    }

    /// The row that comes next.
    pub fn next_row(&self) -> usize {
        self.alive.len()
    }

    /// How many rows have a record.
    pub fn live(&self) -> usize {
        self.alive.iter().filter(|alive| **alive).count()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.names.get(name).map(|at| &self.fields[*at])
    }

    /// A mask with no row in it.
    pub(crate) fn nothing(&self) -> Vec<bool> {
        vec![false; self.alive.len()]
    }

    /// Takes in the metadata (JSON objects) of new rows, ascending; rows passed over have no record.
    pub fn add<'a>(&mut self, rows: &[i64], metadata: impl Iterator<Item = &'a str>, next_row: usize) -> Result<()> {
        let first = self.alive.len() as i64;
        let sound = rows.is_sorted_by(|a, b| a < b) && next_row as u64 <= 1 << 32 && next_row as i64 >= first;
        if !sound
            || rows.first().is_some_and(|row| *row < first)
            || rows.last().is_some_and(|row| *row >= next_row as i64)
        {
            return Err(Error::Invalid(format!("rows must ascend from {first} to below {next_row}")));
        }
        self.alive.resize(next_row, false);
        rows.iter().zip(metadata).try_for_each(|(row, json)| {
            self.alive[*row as usize] = true;
            self.read(*row as u32, json)
        })
    }

    /// Takes in the metadata of rows that were there before, in place of what they had.
    pub fn replace<'a>(&mut self, rows: &[i64], metadata: impl Iterator<Item = &'a str>) -> Result<()> {
        let set = self.checked(rows)?;
        self.purge(&set);
        rows.iter().zip(metadata).try_for_each(|(row, json)| {
            self.alive[*row as usize] = true;
            self.read(*row as u32, json)
        })
    }

    /// Leaves out rows from now on. Their values are thrown out when they are many.
    pub fn remove(&mut self, rows: &[i64]) -> Result<()> {
        for row in &self.checked(rows)? {
            self.stale += usize::from(std::mem::replace(&mut self.alive[row as usize], false));
        }
        if self.stale > PURGE.max(self.live()) {
            let dead = (0..self.alive.len() as u32).filter(|row| !self.alive[*row as usize]);
            self.purge(&RoaringBitmap::from_sorted_iter(dead).expect("a range ascends"));
            self.stale = 0;
        }
        Ok(())
    }

    fn checked(&self, rows: &[i64]) -> Result<RoaringBitmap> {
        if let Some(row) = rows.iter().find(|row| !(0..self.alive.len() as i64).contains(*row)) {
            return Err(Error::Invalid(format!("there is no row {row}")));
        }
        Ok(rows.iter().map(|row| *row as u32).collect())
    }

    fn purge(&mut self, rows: &RoaringBitmap) {
        let mut gone = self.nothing();
        mark(rows, &mut gone);
        self.fields.iter_mut().for_each(|field| field.purge(rows, &gone));
    }

    fn read(&mut self, row: u32, json: &str) -> Result<()> {
        if json == "{}" {
            return Ok(());
        }
        let mut sink = Sink { columns: self, path: String::new(), row };
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let value = Value { sink: &mut sink, at: None, listed: false };
        value.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| {
            Error::Corrupt(format!("the metadata of row {row} cannot be read ({error}); restore it from a backup"))
        })
    }

    /// Which rows live and pass the filter; conditions on documents never hold here.
    pub fn matches(&self, filter: &Filter) -> Vec<bool> {
        let mut mask = filter.mask(self);
        mask.iter_mut().zip(&self.alive).for_each(|(pass, alive)| *pass &= alive);
        mask
    }

    /// The rows of a mask, sorted by fields (true: descending), then by row; from `start` to before `stop`.
    ///
    /// Of several values in a row the first in this order counts. Rows without a value come last.
    pub fn sorted(&self, mask: &[bool], by: &[(String, bool)], start: usize, stop: usize) -> Vec<i64> {
        let keys: Vec<_> =
            by.iter().map(|(name, descending)| (self.sort_keys(mask, name, *descending), *descending)).collect();
        let compare = |a: &i64, b: &i64| {
            let each = keys.iter().map(|(keys, descending)| match (&keys[*a as usize], &keys[*b as usize]) {
                (Key::Null, Key::Null) => Ordering::Equal,
                (Key::Null, _) => Ordering::Greater,
                (_, Key::Null) => Ordering::Less,
                (a, b) if *descending => b.compare(a),
                (a, b) => a.compare(b),
            });
            each.fold(Ordering::Equal, Ordering::then).then(a.cmp(b))
        };
        let mut rows: Vec<i64> = (0..mask.len() as i64).filter(|row| mask[*row as usize]).collect();
        if stop < rows.len() {
            rows.select_nth_unstable_by(stop, compare);
            rows.truncate(stop);
        }
        rows.sort_unstable_by(compare);
        rows.split_off(start.min(rows.len()))
    }

    fn sort_keys(&self, mask: &[bool], name: &str, descending: bool) -> Vec<Key<'_>> {
        let mut keys = vec![Key::Null; mask.len()];
        for (row, key) in self.field(name).into_iter().flat_map(Field::keys) {
            if mask[row as usize] {
                let found = &mut keys[row as usize];
                let order = key.compare(found);
                if *found == Key::Null || (if descending { order.is_gt() } else { order.is_lt() }) {
                    *found = key;
                }
            }
        }
        keys
    }

    /// The values of a field in the rows of a mask as JSON, each with the number of rows that have it, the most frequent
    /// first; `[[value, count], …]`.
    pub fn facet(&self, mask: &[bool], name: &str, limit: usize) -> String {
        let mut counts: Vec<(Key<'_>, u64)> = Vec::new();
        if let Some(field) = self.field(name) {
            let mut found: Vec<(Key<'_>, u32)> = Vec::new();
            let mut by_code = vec![(0, u32::MAX); field.dictionary.len()]; // count, row counted last
            for (row, code) in field.texts.rows.iter().zip(&field.texts.values) {
                let (count, last) = &mut by_code[*code as usize];
                if mask[*row as usize] && *last != *row {
                    (*count, *last) = (*count + 1, *row);
                }
            }
            let texts = (0..).zip(by_code).filter(|(_, (count, _))| *count > 0);
            counts.extend(texts.map(|(code, (count, _))| (field.text_key(code), count)));
            found.extend(
                field
                    .keys()
                    .filter(|(row, key)| mask[*row as usize] && !matches!(key, Key::Text(_) | Key::Time(..)))
                    .map(|(row, key)| (key, row)),
            );
            found.sort_unstable_by(|a, b| a.0.compare(&b.0).then(a.1.cmp(&b.1)));
            found.dedup();
            counts.extend(found.chunk_by(|a, b| a.0 == b.0).map(|same| (same[0].0, same.len() as u64)));
            let nulls = field.nulls.iter().filter(|row| mask[*row as usize]).count() as u64;
            counts.extend((nulls > 0).then_some((Key::Null, nulls)));
        }
        let text = |key: &Key<'_>| match key {
            Key::Time(_, text) | Key::Text(text) => (*text).to_owned(),
            _ => String::new(),
        };
        counts.sort_by(|a, b| a.0.compare(&b.0).then_with(|| text(&a.0).cmp(&text(&b.0))));
        counts.dedup_by(|b, a| {
            a.0 == b.0 && {
                a.1 += b.1;
                true
            }
        });
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let pairs: Vec<_> = counts
            .iter()
            .take(limit)
            .map(|(key, count)| {
                let value = match key {
                    Key::Number(Number::Int(value)) => (*value).into(),
                    Key::Number(Number::Float(value)) => (*value).into(),
                    Key::Time(_, text) | Key::Text(text) => (*text).into(),
                    Key::Truth(truth) => (*truth).into(),
                    Key::Null => serde_json::Value::Null,
                };
                (value, count)
            })
            .collect();
        serde_json::to_string(&pairs).expect("numbers here are finite, and keys are texts")
    }
}

/// Where values go while JSON is read.
struct Sink<'a> {
    columns: &'a mut Columns,
    path: String,
    row: u32,
}

/// Reads one value, of the field `at` (None: the whole of the metadata, which must be an object).
struct Value<'s, 'a> {
    sink: &'s mut Sink<'a>,
    at: Option<usize>,
    listed: bool,
}

impl Value<'_, '_> {
    fn put<E: serde::de::Error>(self, put: impl FnOnce(&mut Field, u32)) -> std::result::Result<(), E> {
        let at = self.at.ok_or_else(|| E::custom("it is no object"))?;
        put(&mut self.sink.columns.fields[at], self.sink.row);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<(), E> {
        self.put(|field, row| {
            field.nulls.insert(row);
        })
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> std::result::Result<(), E> {
        self.put(|field, row| {
            if truth { &mut field.trues } else { &mut field.falses }.insert(row);
        })
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.put(|field, row| field.ints.push(row, value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        let number = i64::try_from(value).map_or_else(|_| Number::from(value as f64), Number::Int);
        self.put(|field, row| field.number(row, number))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.put(|field, row| field.number(row, Number::from(value)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<(), E> {
        self.put(|field, row| {
            let code = field.dictionary.code(text);
            field.texts.push(row, code);
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let at = self.at.ok_or_else(|| A::Error::custom("it is no object"))?;
        self.sink.columns.fields[at].listed.insert(self.sink.row);
        while list.next_element_seed(Value { sink: &mut *self.sink, at: Some(at), listed: true })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<(), A::Error> {
        let length = self.sink.path.len();
        while object.next_key_seed(Name(&mut self.sink.path))?.is_some() {
            let (row, columns) = (self.sink.row, &mut *self.sink.columns);
            let at = match columns.names.get(&self.sink.path) {
                Some(at) => *at,
                None => {
                    let name = self.sink.path.clone();
                    columns.names.insert(name.clone(), columns.fields.len());
                    columns.fields.push(Field { name, ..Field::default() });
                    columns.fields.len() - 1
                }
            };
            columns.fields[at].present.insert(row);
            if self.listed {
                columns.fields[at].listed.insert(row);
            }
            object.next_value_seed(Value { sink: &mut *self.sink, at: Some(at), listed: self.listed })?;
            self.sink.path.truncate(length);
        }
        Ok(())
    }
}

/// Reads the name of a field, onto the end of a path.
struct Name<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<(), E> {
        if !self.0.is_empty() {
            self.0.push('.');
        }
        self.0.push_str(name);
        Ok(())
    }
}
