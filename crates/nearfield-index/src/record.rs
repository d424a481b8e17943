//! What the catalog keeps of a record beside its vector: metadata as JSON, and checksums.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crc32fast::Hasher;

use crate::writeback;

/// Numbers that are written at once: they stay in the cache of a core, and the system need not look for memory in large
/// pieces, which takes it several times as long where there is none.
const CHUNK: usize = 1 << 15;

/// Bytes after which the disk may begin with them.
const BEGIN: u64 = 1 << 20;

/// A JSON object of scalars, being written. What a record may not hold is refused, and the object is of no more use.
#[derive(Debug, Default)]
pub struct Object(String);

impl Object {
    /// An object without fields, in the room that another one had.
    pub fn anew(&mut self) {
        self.0.clear();
        self.0.push('{');
    }

    /// The name of the next field; false where a field cannot be called so.
    pub fn name(&mut self, name: &str) -> bool {
        let good = !name.is_empty() && !name.starts_with('$') && !name.bytes().any(special);
        if good {
            self.0.push_str(if self.0.len() > 1 { ",\"" } else { "\"" });
            self.0.push_str(name);
            self.0.push_str("\":");
        }
        good
    }

    /// A text; false where there is a NUL character in it.
    pub fn text(&mut self, text: &str) -> bool {
        if !text.bytes().any(special) {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
            return true;
        }
        self.0.push_str(&serde_json::to_string(text).expect("every text is JSON"));
        !text.contains('\0')
    }

    /// A whole number.
    pub fn int(&mut self, value: i64) -> bool {
        let (mut room, negative) = ([0; 20], value < 0);
        self.0.push_str(if negative { "-" } else { "" });
        self.0.push_str(decimal(value.unsigned_abs(), &mut room));
        true
    }

    /// Another number; false where it is not finite.
    pub fn float(&mut self, value: f64) -> bool {
        self.0.push_str(&serde_json::to_string(&value).expect("every float is JSON"));
        value.is_finite()
    }

    /// True, false or null.
    pub fn word(&mut self, word: Option<bool>) -> bool {
        self.0.push_str(word.map_or("null", |truth| if truth { "true" } else { "false" }));
        true
    }

    /// The whole of it.
    pub fn finish(&mut self) -> &str {
        self.0.push('}');
        &self.0
    }
}

/// Characters that JSON writes in another way.
fn special(byte: u8) -> bool {
    byte < b' ' || byte == b'"' || byte == b'\\'
}

/// A number in decimal.
fn decimal(mut number: u64, room: &mut [u8; 20]) -> &str {
    let mut start = room.len();
    while start == room.len() || number > 0 {
        start -= 1;
        room[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    std::str::from_utf8(&room[start..]).expect("digits are UTF-8")
}

/// The CRC-32 that is kept with a record.
pub fn checksum(row: u32, id: &str, metadata: &str) -> u32 {
    let (mut room, mut hasher) = ([0; 20], Hasher::new());
    for part in [decimal(u64::from(row), &mut room), "\0", id, "\0", metadata] {
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// The CRC-32 that is kept with a document.
pub fn document_checksum(row: u32, document: Option<&str>) -> u32 {
    document.map_or(0, |document| crc32(document.as_bytes(), row))
}

/// The CRC-32 of zlib, going on from `value`.
pub fn crc32(bytes: &[u8], value: u32) -> u32 {
    let mut hasher = Hasher::new_with_initial(value);
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes numbers, little-endian, to a file that is there, from this byte on; returns the CRC-32 of the bytes, going on
/// from `value`.
pub fn write_rows(path: &Path, start: u64, numbers: &[f32], mut value: u32) -> io::Result<u32> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let (mut begun, mut end) = (start, start);
    let mut bytes = vec![0; 4 * CHUNK.min(numbers.len())];
    for part in numbers.chunks(CHUNK) {
        let bytes = &mut bytes[..4 * part.len()];
        for (bytes, number) in bytes.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&number.to_le_bytes()); // a copy: the checksum is of what is written, whoever writes there
        }
        value = crc32(bytes, value);
        file.write_all(bytes)?;
        end += bytes.len() as u64;
        if end - begun >= BEGIN {
            writeback::begin(&file, begun, end - begun);
            begun = end;
        }
    }
    Ok(value)
}

/// The first row (of `dimension` numbers) that holds NaN or infinity.
pub fn first_not_finite(rows: &[f32], dimension: usize) -> Option<usize> {
    // Without a branch for each number, this goes at the speed of memory, and takes no time beside the shortest search.
    const ONES: u32 = 0x7F80_0000;
    rows.chunks(dimension).position(|row| row.iter().fold(false, |bad, x| bad | (x.to_bits() & ONES == ONES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_json_and_refuse_what_is_no_metadata() {
        let mut object = Object::default();
        for _ in 0..2 {
            object.anew();
            assert!(object.name("a") && object.text("ü\"\\\n\u{1}"));
            assert!(object.name("b") && object.int(i64::MIN));
            assert!(object.name("c") && object.float(1e300));
            assert!(object.name("d") && object.word(Some(true)) && object.name("e") && object.word(None));
            let read: serde_json::Value = serde_json::from_str(object.finish()).unwrap();
            assert_eq!(read["a"], "ü\"\\\n\u{1}");
            assert_eq!((&read["b"], &read["c"]), (&i64::MIN.into(), &1e300.into()));
            assert_eq!((&read["d"], &read["e"]), (&true.into(), &serde_json::Value::Null));
        }
        for name in ["", "$a", "a\"", "a\\", "a\n"] {
            assert!(!object.name(name), "{name:?}");
        }
        assert!(!object.text("a\0") && !object.float(f64::NAN) && !object.float(f64::INFINITY));
    }

    #[test]
    fn checksums_are_those_of_zlib() {
        assert_eq!(crc32(b"123456789", 0), 0xCBF4_3926);
        assert_eq!(crc32(b"6789", crc32(b"12345", 0)), 0xCBF4_3926);
        assert_eq!(checksum(0, "a", "{}"), crc32(b"0\0a\0{}", 0));
        assert_eq!(checksum(u32::MAX, "a", "{}"), crc32(b"4294967295\0a\0{}", 0));
        assert_eq!((document_checksum(7, None), document_checksum(7, Some("x"))), (0, crc32(b"x", 7)));
    }

    #[test]
    fn rows_are_written_where_they_belong_with_the_checksum_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        assert!(write_rows(&path, 0, &[1.0], 0).is_err());
        std::fs::write(&path, b"head").unwrap();
        let numbers: Vec<f32> = (0..CHUNK + 5).map(|i| i as f32 - 0.5).collect();
        let middle = write_rows(&path, 4, &numbers[..7], 0).unwrap();
        let last = write_rows(&path, 4 + 28, &numbers[7..], middle).unwrap();
        assert_eq!(write_rows(&path, 9, &[], last).unwrap(), last);
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(std::fs::read(&path).unwrap(), [b"head", bytes.as_slice()].concat());
        assert_eq!(last, crc32(&bytes, 0));
    }

    #[test]
    fn the_first_row_that_is_not_finite_is_found() {
        assert_eq!(first_not_finite(&[0.0, f32::MAX, -0.0, f32::MIN_POSITIVE], 2), None);
        assert_eq!(first_not_finite(&[0.0, 1.0, 2.0, f32::NAN, f32::INFINITY, 0.0], 2), Some(1));
        assert_eq!(first_not_finite(&[0.0, f32::NEG_INFINITY], 1), Some(1));
    }
}
