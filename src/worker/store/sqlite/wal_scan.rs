//! Finds damage in the log. SQLite itself treats the first invalid frame as the end of the log, so one flipped bit would
//! silently lose every later commit.
//!
//! A crash can leave an incomplete last transaction: a torn tail, which was never acknowledged. A commit is acknowledged
//! after its sync, and only then the next transaction begins. So an invalid frame is damage if a valid frame of a later
//! transaction follows it, or if the log's index (the `-shm` file, which SQLite updates after the sync) counts commits
//! from there on. A power failure can lose the index and write the last transaction's frames out of order. Damage of the
//! last transaction cannot be distinguished from that, and counts as a torn tail.
//!
//! The checksum of a frame continues that of the frame before it. A frame contains its own checksum, so frames after a
//! damaged one can be verified too.

use std::io::{ErrorKind, Read};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The length of one of the two copies of the header of the log's index.
const INDEX_HEADER: usize = 48;

type Checksum = (u32, u32);
type Salts = [u8; 8];

/// The index of the log, as the process that wrote the log left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogIndex {
    salts: Salts,
    /// Frames up to the last commit that was synced.
    committed: u64,
    /// Frames that are copied into the database.
    copied: u64,
}

impl LogIndex {
    /// Parses the first bytes of the `-shm` file. None: it is damaged, or no process used it.
    pub(super) fn parse(bytes: &[u8]) -> Option<LogIndex> {
        // A process that is killed while it updates the header leaves one valid copy.
        let (first, rest) = bytes.split_at_checked(INDEX_HEADER)?;
        let (second, rest) = rest.split_at_checked(INDEX_HEADER)?;
        let copied = native(rest, 0)?;
        let copies = [first, second].map(|header| Self::parse_header(header, copied));
        copies.into_iter().flatten().max_by_key(|index| index.committed)
    }

    fn parse_header(header: &[u8], copied: u32) -> Option<LogIndex> {
        let (content, _) = header.split_at_checked(40)?;
        let stored = (native(header, 40)?, native(header, 44)?);
        let is_valid = checksum(cfg!(target_endian = "big"), (0, 0), content) == stored;
        let committed = native(header, 16)?;
        let salts = header.get(32..40)?.try_into().ok()?;
        (is_valid && committed > 0).then_some(LogIndex {
            salts,
            committed: committed.into(),
            copied: copied.min(committed).into(),
        })
    }

    /// True if both describe the log since its last restart.
    pub(super) fn has_same_log(&self, other: &LogIndex) -> bool {
        self.salts == other.salts
    }
}

/// One frame of the log: a page as a transaction left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoggedPage {
    /// The frame's number; the first one is 1.
    pub(super) frame: u64,
    /// The position of the page's content in the log.
    pub(super) content: u64,
    pub(super) page: u32,
    /// The pages of the database after the commit. 0: the frame does not end a transaction.
    pub(super) database_pages: u32,
    pub(super) is_valid: bool,
    /// The page is already in the database.
    pub(super) is_copied: bool,
}

/// The state of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogScan {
    /// Bytes of a page.
    pub(super) page_size: usize,
    /// Frames up to the last commit before the first invalid frame. SQLite reads only these.
    pub(super) readable: u64,
    pub(super) damage: Option<LogDamage>,
}

/// Damage of acknowledged transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogDamage {
    /// The first invalid frame. 0: the log's header.
    pub(super) frame: u64,
    /// Its position in the log.
    pub(super) offset: u64,
    /// Complete transactions from there on, at least.
    pub(super) transactions: u64,
    /// True if the log's index proves the damage.
    pub(super) is_indexed: bool,
}

struct Header {
    is_big_endian: bool,
    page_size: usize,
    salts: Salts,
    stored: Checksum,
    computed: Checksum,
    is_valid: bool,
}

impl Header {
    /// Parses a header. Uses `page_size` if its own is damaged.
    fn parse(bytes: &[u8; HEADER], page_size: usize) -> Header {
        const MAGIC: u32 = 0x377f_0682;
        let magic = number(bytes, 0);
        // The magic number's last bit is the byte order of the checksums.
        let is_magic_big_endian = magic == MAGIC | 1;
        let own_size = usize::try_from(number(bytes, 8)).unwrap_or(0);
        let has_size = own_size.is_power_of_two() && (512..=65_536).contains(&own_size);
        let (content, rest) = bytes.split_at(24);
        let stored = (number(rest, 0), number(rest, 4));
        let is_valid =
            magic & !1 == MAGIC && has_size && checksum(is_magic_big_endian, (0, 0), content) == stored;
        // SQLite writes in the order of the processor. Only a copy from another machine has another one.
        let is_big_endian = if is_valid { is_magic_big_endian } else { cfg!(target_endian = "big") };
        Header {
            is_big_endian,
            page_size: if has_size { own_size } else { page_size },
            salts: salts_at(bytes, 16),
            stored,
            computed: checksum(is_big_endian, (0, 0), content),
            is_valid,
        }
    }
}

/// A frame, with its header's first 8 bytes and its content, which the checksum covers.
struct Frame<'b> {
    page: u32,
    database_pages: u32,
    salts: Salts,
    stored: Checksum,
    content: &'b [u8],
    is_big_endian: bool,
}

impl<'b> Frame<'b> {
    fn parse(bytes: &'b [u8], is_big_endian: bool) -> Self {
        Frame {
            page: number(bytes, 0),
            database_pages: number(bytes, 4),
            salts: salts_at(bytes, 8),
            stored: (number(bytes, 16), number(bytes, 20)),
            content: bytes.get(FRAME_HEADER..).unwrap_or_default(),
            is_big_endian,
        }
    }

    fn checksum(&self, seed: Checksum, database_pages: u32) -> Checksum {
        let [page, pages] = [self.page, database_pages].map(u32::to_be_bytes);
        let sum = |seed, bytes: &[u8]| checksum(self.is_big_endian, seed, bytes);
        let mut header = [0; 8];
        header.iter_mut().zip(page.into_iter().chain(pages)).for_each(|(to, from)| *to = from);
        sum(sum(seed, &header), self.content)
    }

    /// True if the frame is valid after a frame with this checksum, except for its salts.
    fn follows(&self, seed: Checksum) -> bool {
        self.page != 0 && self.checksum(seed, self.database_pages) == self.stored
    }

    /// True if this invalid frame ended its transaction. `seed` is the checksum of the frame before it.
    fn ends_transaction(&self, seed: Checksum, salts: Salts) -> bool {
        if self.salts != salts {
            // Its salts are damaged, or it is a remainder of the log before its last restart.
            return self.database_pages != 0 && self.follows(seed);
        }
        // The damaged bit may be the one that marks the end.
        self.database_pages != 0 || (0..32).any(|bit| self.checksum(seed, 1 << bit) == self.stored)
    }
}

/// Reads a log from its beginning, and passes each frame to `visit`. `page_size` is used if the log's own is damaged.
pub(super) fn scan(
    log: &mut impl Read,
    page_size: usize,
    index: Option<&LogIndex>,
    mut visit: impl FnMut(LoggedPage),
) -> std::io::Result<LogScan> {
    let mut header = [0; HEADER];
    if !fill(log, &mut header)? {
        return Ok(LogScan { page_size, ..LogScan::default() });
    }
    let header = Header::parse(&header, page_size);
    let frame_size = FRAME_HEADER + header.page_size;
    let mut bytes = vec![0; frame_size];
    let mut salts = header.is_valid.then_some(header.salts);
    // The checksums that the next frame may continue. After an invalid frame these are its stored and its computed one,
    // because either may be damaged.
    let mut seeds = [header.stored, header.computed];
    let mut damage = (!header.is_valid).then(LogDamage::default);
    // The transaction of the first invalid frame has ended, so valid frames belong to later ones.
    let mut has_ended = !header.is_valid;
    let mut has_later_frame = false;
    let (mut number, mut readable) = (0, 0);
    let offset = |number: u64| HEADER as u64 + (number - 1) * frame_size as u64;
    while fill(log, &mut bytes)? {
        number += 1;
        let frame = Frame::parse(&bytes, header.is_big_endian);
        let has_salts = salts.is_none_or(|salts| salts == frame.salts);
        let [seed, other_seed] = seeds;
        let follows = has_salts && (frame.follows(seed) || (seed != other_seed && frame.follows(other_seed)));
        let is_valid = match &mut damage {
            None if follows => {
                if frame.database_pages != 0 {
                    readable = number;
                }
                true
            }
            None => {
                has_ended = frame.ends_transaction(seed, header.salts);
                let transactions = u64::from(has_ended);
                damage = Some(LogDamage {
                    frame: number,
                    offset: offset(number),
                    transactions,
                    is_indexed: false,
                });
                seeds = [frame.stored, frame.checksum(seed, frame.database_pages)];
                // With damaged salts, the page is intact.
                frame.follows(seed)
            }
            Some(damage) => {
                if follows {
                    salts = Some(frame.salts);
                    has_later_frame |= has_ended;
                    if frame.database_pages != 0 {
                        damage.transactions += 1;
                        has_ended = true;
                    }
                }
                follows
            }
        };
        if damage.is_none_or(|damage| damage.frame != number) {
            seeds = [frame.stored; 2];
        }
        visit(LoggedPage {
            frame: number,
            content: offset(number) + FRAME_HEADER as u64,
            page: frame.page,
            database_pages: frame.database_pages,
            is_valid,
            is_copied: index.is_some_and(|index| Some(index.salts) == salts && number <= index.copied),
        });
    }
    let index = index.filter(|index| Some(index.salts) == salts);
    let is_indexed = index.is_some_and(|index| index.committed > readable);
    let missing = LogDamage { frame: number + 1, offset: offset(number + 1), ..LogDamage::default() };
    let damage = damage.unwrap_or(missing);
    // The header is synced before the first frame is written, so only damage makes it invalid.
    let is_proven = if header.is_valid { has_later_frame } else { damage.transactions > 0 };
    let damage = LogDamage { transactions: damage.transactions.max(1), is_indexed, ..damage };
    Ok(LogScan { page_size: header.page_size, readable, damage: (is_indexed || is_proven).then_some(damage) })
}

/// Fills the buffer. False: the log ends before.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// SQLite's checksum of the log. The length is a multiple of 8.
fn checksum(is_big_endian: bool, (mut first, mut second): Checksum, bytes: &[u8]) -> Checksum {
    let word = if is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    let (pairs, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in pairs {
        first = first.wrapping_add(word([a, b, c, d])).wrapping_add(second);
        second = second.wrapping_add(word([e, f, g, h])).wrapping_add(first);
    }
    (first, second)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes_at(bytes, at).map_or(0, u32::from_be_bytes)
}

fn native(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn salts_at(bytes: &[u8], at: usize) -> Salts {
    bytes_at(bytes, at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = 512;
    const SALTS: Salts = *b"saltsalt";

    fn put(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Builds a log with transactions of these numbers of frames.
    fn log(transactions: &[usize], is_big_endian: bool) -> Vec<u8> {
        let mut log = vec![0; HEADER];
        put(&mut log, 0, 0x377f_0682 | u32::from(is_big_endian));
        put(&mut log, 4, 3_007_000);
        put(&mut log, 8, 512);
        log[16..24].copy_from_slice(&SALTS);
        let mut seed = checksum(is_big_endian, (0, 0), &log[..24]);
        put(&mut log, 24, seed.0);
        put(&mut log, 28, seed.1);
        let mut random = fastrand::Rng::with_seed(7);
        for frames in transactions {
            for n in 1..=*frames {
                let mut frame = vec![0; FRAME_HEADER + SMALL];
                random.fill(&mut frame[FRAME_HEADER..]);
                put(&mut frame, 0, random.u32(1..9));
                put(&mut frame, 4, if n == *frames { 8 } else { 0 });
                frame[8..16].copy_from_slice(&SALTS);
                seed = checksum(is_big_endian, seed, &frame[..8]);
                seed = checksum(is_big_endian, seed, &frame[FRAME_HEADER..]);
                put(&mut frame, 16, seed.0);
                put(&mut frame, 20, seed.1);
                log.extend(frame);
            }
        }
        log
    }

    fn frame_at(number: usize) -> usize {
        HEADER + (number - 1) * (FRAME_HEADER + SMALL)
    }

    fn scanned(log: &[u8], index: Option<&LogIndex>) -> LogScan {
        scan(&mut &*log, SMALL, index, |_| ()).unwrap()
    }

    fn index(committed: u64) -> LogIndex {
        LogIndex { salts: SALTS, committed, copied: 0 }
    }

    #[test]
    fn an_intact_log_is_read_to_its_end() {
        for is_big_endian in [false, true] {
            let log = log(&[2, 1, 3], is_big_endian);
            let mut pages = Vec::new();
            let index = LogIndex { copied: 2, ..index(6) };
            let scan = scan(&mut &*log, SMALL, Some(&index), |page| pages.push(page)).unwrap();
            assert_eq!((scan.readable, scan.damage, scan.page_size), (6, None, 512));
            assert!(pages.iter().all(|page| page.is_valid));
            assert_eq!(pages.iter().filter(|page| page.is_copied).count(), 2);
            assert_eq!(pages.iter().filter(|page| page.database_pages > 0).count(), 3);
        }
        assert_eq!(scanned(&[], Some(&index(6))), LogScan { page_size: SMALL, ..LogScan::default() });
    }

    /// kill -9 leaves the log at any length. What is synced is never torn.
    #[test]
    fn a_torn_tail_of_any_length_is_accepted() {
        let log = log(&[2, 1, 3], false);
        for length in 0..log.len() {
            let scan = scanned(&log[..length], None);
            assert_eq!(scan.damage, None, "{length}");
            let readable =
                [(6, 6), (3, 3), (2, 2)].into_iter().find(|(frame, _)| length >= frame_at(frame + 1));
            assert_eq!(scan.readable, readable.map_or(0, |(_, frames)| frames), "{length}");
        }
        assert_eq!(scanned(&log[..frame_at(6)], Some(&index(3))).damage, None);
    }

    /// A power failure writes any of the last transaction's frames, over any older content.
    #[test]
    fn frames_of_the_last_transaction_may_be_missing() {
        let whole = log(&[2, 1, 4], false);
        for missing in 1..16_usize {
            for old in [0_u8, 0x55] {
                let mut log = whole.clone();
                for frame in (0..4).filter(|frame| missing & (1 << frame) != 0) {
                    log[frame_at(4 + frame)..frame_at(5 + frame)].fill(old);
                }
                let scan = scanned(&log, None);
                assert_eq!((scan.readable, scan.damage), (3, None), "{missing:b}");
                assert_eq!(scanned(&log, Some(&index(3))).damage, None, "{missing:b}");
            }
        }
    }

    #[test]
    fn any_flipped_bit_before_the_last_transaction_is_damage() {
        for transactions in [&[2, 1, 1][..], &[1, 2, 2]] {
            let mut log = log(transactions, false);
            let last = transactions.len() - 1;
            let end = frame_at(1 + transactions[..last].iter().sum::<usize>());
            for bit in 0..end * 8 {
                log[bit / 8] ^= 1 << (bit % 8);
                assert!(scanned(&log, None).damage.is_some(), "byte {} of {transactions:?}", bit / 8);
                log[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn the_index_proves_damage_of_the_last_transaction() {
        let mut log = log(&[1, 2], false);
        for bit in frame_at(2) * 8..log.len() * 8 {
            log[bit / 8] ^= 1 << (bit % 8);
            let damage = scanned(&log, Some(&index(3))).damage;
            assert!(damage.is_some_and(|damage| damage.is_indexed), "byte {}", bit / 8);
            log[bit / 8] ^= 1 << (bit % 8);
        }
        let damage = scanned(&log[..frame_at(3)], Some(&index(3))).damage.expect("a frame is missing");
        assert_eq!((damage.frame, damage.offset), (3, frame_at(3) as u64));
        // The index of another log proves nothing.
        let other = LogIndex { salts: *b"otherlog", ..index(9) };
        assert_eq!(scanned(&log, Some(&other)).damage, None);
    }

    #[test]
    fn frames_before_a_restart_are_ignored() {
        let mut log = log(&[2, 1], false);
        let mut old = self::log(&[1, 1, 1, 1, 1, 1], false);
        for number in 1..=6 {
            old[frame_at(number) + 8] ^= 1;
        }
        log.extend(&old[frame_at(4)..]);
        let scan = scanned(&log, Some(&index(3)));
        assert_eq!((scan.readable, scan.damage), (3, None));
    }

    #[test]
    fn reports_where_the_damage_is_and_which_pages_are_valid() {
        let mut log = log(&[2, 2, 1, 3], false);
        log[frame_at(3) + FRAME_HEADER + 9] ^= 4;
        let mut invalid = Vec::new();
        let visit = |page: LoggedPage| invalid.extend((!page.is_valid).then_some(page.frame));
        let scan = scan(&mut &*log, SMALL, None, visit).unwrap();
        let want = LogDamage { frame: 3, offset: frame_at(3) as u64, transactions: 3, is_indexed: false };
        assert_eq!((scan.readable, scan.damage), (2, Some(want)));
        assert_eq!(invalid, [3]);
    }

    #[test]
    fn reads_what_sqlite_writes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.db");
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE a (x); INSERT INTO a VALUES (1); INSERT INTO a VALUES (zeroblob(9000));",
        )
        .unwrap();
        let read = |suffix: &str| std::fs::read(dir.path().join(format!("a.db-{suffix}"))).unwrap();
        let index = LogIndex::parse(&read("shm")).expect("an index");
        let log = read("wal");
        let frames = (log.len() - HEADER) / (FRAME_HEADER + 4096);
        let scan = scanned(&log, Some(&index));
        assert_eq!((scan.readable, index.committed, scan.damage), (frames as u64, frames as u64, None));
        assert!(frames > 3);
        let mut damaged = log.clone();
        damaged[log.len() - 1] ^= 1;
        assert!(scanned(&damaged, Some(&index)).damage.is_some());
        conn.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        assert_eq!(LogIndex::parse(&read("shm")).unwrap().copied, frames as u64);
        let mut shm = read("shm");
        (shm[16], shm[16 + INDEX_HEADER]) = (1, 1);
        assert_eq!(LogIndex::parse(&shm), None, "its checksums protect it");
        assert_eq!(LogIndex::parse(&[]), None);
    }
}
