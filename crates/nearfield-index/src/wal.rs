//! Whether SQLite will read a write-ahead log to its end (<https://sqlite.org/fileformat2.html#walformat>).
//!
//! A frame is a page with a checksum of it and of all frames before. SQLite reads up to the first frame whose checksum is
//! wrong, and takes that for the end, without a word: usually it is one, of a write that never came to its end. But
//! nothing that was committed follows such an end. Where something does, bytes were changed in the middle.

const HEADER: usize = 32;
const FRAME: usize = 24;

/// The page size of a catalog; the header says it too, if it is sound.
const PAGE: usize = 4096;

/// Where a log is broken, and how much is behind that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    /// The first frame that SQLite does not read.
    pub frame: usize,
    /// Commits behind it.
    pub commits: usize,
}

type Sum = (u32, u32);

/// Where a log is broken; None where SQLite reads all that was committed.
pub fn broken(log: &[u8]) -> Option<Break> {
    if log.len() < HEADER + FRAME {
        return None;
    }
    let magic = number(log, 0);
    let header_sum = (number(log, 24), number(log, 28));
    if magic & !1 == 0x377F_0682 && sum((0, 0), &log[..24], magic & 1 == 1) == header_sum {
        let page = number(log, 8) as usize;
        return walk(log, &log[16..24], header_sum, magic & 1 == 1, page, None);
    }
    // Without the header, the frames say themselves which of them belong together.
    let salts = &log[HEADER + 8..HEADER + 16];
    let found = [false, true].map(|big| walk(log, salts, header_sum, big, PAGE, Some(0)));
    found.into_iter().flatten().max_by_key(|one| one.commits)
}

/// The frames one after the other; `end` is the first that SQLite does not read, if that is known.
fn walk(log: &[u8], salts: &[u8], seed: Sum, big: bool, page: usize, mut end: Option<usize>) -> Option<Break> {
    // The checksum of the frame before, as it stands there and as it should be: either may be the one that was meant.
    let (mut before, mut commits) = ([seed; 2], 0);
    for (at, frame) in log[HEADER..].chunks_exact(FRAME + page).enumerate() {
        let stored = (number(frame, 16), number(frame, 20));
        let made = before.map(|seed| sum(sum(seed, &frame[..8], big), &frame[FRAME..], big));
        let sound = &frame[8..16] == salts && made[if end.is_none() { 0..1 } else { 0..2 }].contains(&stored);
        match end {
            None if !sound => end = Some(at),
            // What was written here before, and taken back, has sound frames too, but none that commits.
            Some(_) if sound && number(frame, 4) != 0 => commits += 1,
            _ => {}
        }
        before = [stored, made[0]];
    }
    end.filter(|_| commits > 0).map(|frame| Break { frame, commits })
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn sum(before: Sum, bytes: &[u8], big: bool) -> Sum {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("four bytes");
        if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    bytes.chunks_exact(8).fold(before, |(mut a, mut b), pair| {
        a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
        b = b.wrapping_add(word(&pair[4..])).wrapping_add(a);
        (a, b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of pages of 512 bytes: for each frame, whether it commits.
    fn log(commits: &[bool], salts: u8) -> Vec<u8> {
        let mut log = [0x377F_0683u32, 3_007_000, 512, 0].map(u32::to_be_bytes).concat();
        log.extend([salts; 8]);
        let mut last = sum((0, 0), &log, true);
        log.extend([last.0.to_be_bytes(), last.1.to_be_bytes()].concat());
        for (at, commit) in commits.iter().enumerate() {
            let head = [at as u32 + 1, u32::from(*commit)].map(u32::to_be_bytes).concat();
            let page: Vec<u8> = (0..512).map(|i| (i * at) as u8).collect();
            last = sum(sum(last, &head, true), &page, true);
            log.extend([&head[..], &[salts; 8], &last.0.to_be_bytes(), &last.1.to_be_bytes(), &page].concat());
        }
        log
    }

    const COMMITS: [bool; 5] = [false, true, true, false, true];

    #[test]
    fn every_bit_that_flips_before_the_last_commit_is_noticed() {
        let good = log(&COMMITS, 7);
        assert_eq!(broken(&good), None);
        for bit in (0..8 * (good.len() - 512 - FRAME)).step_by(13) {
            let frame = (bit / 8).saturating_sub(HEADER) / (512 + FRAME);
            if bit / 8 < HEADER {
                continue; // pages here are smaller than what is taken for granted without a header
            }
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let commits = COMMITS[frame + 1..].iter().filter(|commit| **commit).count();
            assert_eq!(broken(&bad), Some(Break { frame, commits }), "{bit}");
        }
    }

    #[test]
    fn an_end_is_no_damage() {
        let good = log(&COMMITS, 7);
        for length in 0..good.len() {
            assert_eq!(broken(&good[..length]), None, "{length}");
        }
        let frame = FRAME + 512;
        let old = log(&[true; 9], 6); // written over from its beginning
        let mut mixed = good.clone();
        mixed.extend_from_slice(&old[good.len()..]);
        assert_eq!(broken(&mixed), None);
        let mut torn = good.clone(); // the last frame was being written
        torn[HEADER + 4 * frame + 100] ^= 1;
        assert_eq!(broken(&torn), None);
        let spilled = log(&[true, false, false, false, false], 7); // written, taken back, and partly written over
        let mut again = log(&[true, true], 7);
        again.extend_from_slice(&spilled[again.len()..]);
        assert_eq!(broken(&again), None);
    }
}
