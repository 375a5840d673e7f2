//! How one archived file looks on disk.
//!
//! An archived file is an ordinary zstd or LZ4 file, so that `zstd -dc` or `lz4 -dc` gives back what
//! PostgreSQL wrote. It is written in blocks of [`BLOCK_BYTES`], each of which can be decompressed
//! alone, and ends with a skippable frame, which both programs pass over: the [`Record`].
//!
//! ```text
//! zstd:  frame, frame, …                      one frame for each block
//! none:  frame, frame, …                      the same, of raw and run-length blocks
//! lz4:   header, block, block, …, end mark    one frame, its blocks independent of each other
//! all:   skippable frame { record as JSON, CRC-32C of it, its length, "BKST" }
//! ```
//!
//! The record holds the SHA-256 of the content and the CRC-32C of everything stored before it, so
//! every changed byte is noticed, also one that decompression would pass over.
//!
//! # Source
//!
//! RFC 8878 (zstd frames, skippable frames); the LZ4 frame format description 1.6.4.

use std::io::{Read, Write};
use std::sync::mpsc;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use settings::{Algorithm, Compression};
use sha2::{Digest as _, Sha256};
use wal::SystemIdentifier;

/// Content bytes of one block. Small enough to stay in the processor's cache between hashing,
/// compressing and comparing, which makes one pass over a segment out of three.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// Version of the format, in every record and in the archive's manifest.
pub const FORMAT_VERSION: u32 = 1;

/// No stored block is longer: zstd and LZ4 both store what they cannot compress with a small
/// overhead.
pub const LONGEST_STORED_BLOCK: usize = BLOCK_BYTES + BLOCK_BYTES / 128 + 1024;
const LONGEST_RECORD: usize = 4096;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const SKIPPABLE_MAGIC: [u8; 4] = [0x5B, 0x2A, 0x4D, 0x18];
/// Magic number, version 1 with independent blocks and no checksums, blocks of up to 256 KiB, and
/// the checksum of these two bytes.
const LZ4_HEADER: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, 0x60, 0x50, 0xFB];
const LZ4_END_MARK: [u8; 4] = [0; 4];
const LZ4_UNCOMPRESSED: u32 = 1 << 31;
const FOOTER_MAGIC: [u8; 4] = *b"BKST";
/// CRC-32C of the JSON text, length of the JSON text, magic.
const FOOTER_BYTES: usize = 12;

/// What an archived file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// [`FORMAT_VERSION`].
    pub format: u32,
    /// Name that PostgreSQL gave the file.
    pub name: String,
    /// Cluster that wrote it.
    pub system_identifier: SystemIdentifier,
    /// Length of the content.
    pub length_bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
    /// CRC-32C of everything stored before the record, in hexadecimal.
    pub stored_crc32c: String,
}

/// A stored file is not what was written into it.
#[derive(Debug)]
pub struct Damaged(pub String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

fn damaged(what: impl Into<String>) -> anyhow::Error {
    Damaged(what.into()).into()
}

/// Puts single blocks into their stored form.
///
/// [`encode`] does not trust it: what it made is decompressed and compared before anything is
/// written. restic stored damaged data when its compressor was wrong (restic issues 4523 and 4677).
pub trait Compress: Send {
    /// What comes before the first block.
    fn header(&self) -> &'static [u8];
    /// Puts the stored form of `block` into `stored` and returns its length. [`LONGEST_STORED_BLOCK`]
    /// bytes are always enough.
    ///
    /// # Errors
    ///
    /// Fails when the compressor does.
    fn compress(&mut self, block: &[u8], stored: &mut [u8]) -> Result<usize>;
    /// What comes after the last block.
    fn trailer(&self) -> &'static [u8];
}

/// Gets blocks back from their stored form.
pub trait Decompress: Send {
    /// Puts the content of one `stored` block into `block` and returns its length.
    ///
    /// # Errors
    ///
    /// Fails when `stored` is not exactly one block of at most `block.len()` bytes.
    fn decompress(&mut self, stored: &[u8], block: &mut [u8]) -> Result<usize>;
}

/// Both ways of one compression, apart so that two threads can use them.
pub struct Codec {
    /// The way into the archive.
    pub compressor: Box<dyn Compress>,
    /// The way back.
    pub decompressor: Box<dyn Decompress>,
}

/// Makes the codec for `compression`.
///
/// # Errors
///
/// Fails when the compressor cannot be set up.
pub fn codec(compression: Compression) -> Result<Codec> {
    Ok(match compression.algorithm {
        Algorithm::Zstd => {
            let mut compressor = zstd::bulk::Compressor::new(compression.zstd_level())
                .context("set up zstd compression")?;
            compressor
                .include_checksum(true)
                .context("set up zstd compression")?;
            Codec {
                compressor: Box::new(Zstd(compressor)),
                decompressor: Box::new(ZstdFrame::new()?),
            }
        }
        Algorithm::None => Codec {
            compressor: Box::new(Uncompressed),
            decompressor: Box::new(ZstdFrame::new()?),
        },
        Algorithm::Lz4 => Codec {
            compressor: Box::new(Lz4),
            decompressor: Box::new(Lz4),
        },
    })
}

struct Zstd(zstd::bulk::Compressor<'static>);

impl Compress for Zstd {
    fn header(&self) -> &'static [u8] {
        &[]
    }

    fn compress(&mut self, block: &[u8], stored: &mut [u8]) -> Result<usize> {
        self.0
            .compress_to_buffer(block, stored)
            .context("compress with zstd")
    }

    fn trailer(&self) -> &'static [u8] {
        &[]
    }
}

/// A whole zstd frame, whatever is in it.
struct ZstdFrame(zstd::bulk::Decompressor<'static>);

impl ZstdFrame {
    fn new() -> Result<Self> {
        zstd::bulk::Decompressor::new()
            .context("set up zstd decompression")
            .map(Self)
    }
}

impl Decompress for ZstdFrame {
    fn decompress(&mut self, stored: &[u8], block: &mut [u8]) -> Result<usize> {
        self.0
            .decompress_to_buffer(stored, block)
            .map_err(|err| damaged(format!("a zstd frame cannot be decompressed: {err}")))
    }
}

/// zstd frames of raw blocks, and of run-length blocks where the content is zeros.
struct Uncompressed;

impl Compress for Uncompressed {
    fn header(&self) -> &'static [u8] {
        &[]
    }

    fn compress(&mut self, block: &[u8], mut stored: &mut [u8]) -> Result<usize> {
        /// `Block_Maximum_Size` of RFC 8878.
        const LARGEST: usize = 128 * 1024;
        /// A single segment whose size follows in four bytes, without checksum or dictionary.
        const DESCRIPTOR: u8 = 0b1010_0000;
        const RUN_LENGTH: usize = 1;
        let room = stored.len();
        let mut store = |bytes: &[u8]| stored.write_all(bytes).context("store a block");
        store(&ZSTD_MAGIC)?;
        store(&[DESCRIPTOR])?;
        store(&u32::try_from(block.len())?.to_le_bytes())?;
        let mut parts = block.chunks(LARGEST).peekable();
        while let Some(part) = parts.next() {
            let last = usize::from(parts.peek().is_none());
            let zeros = part.iter().all(|&byte| byte == 0);
            let kind = if zeros { RUN_LENGTH } else { 0 };
            let header = last | (kind << 1) | (part.len() << 3);
            store(&header.to_le_bytes()[..3])?;
            store(if zeros { &[0] } else { part })?;
        }
        Ok(room - stored.len())
    }

    fn trailer(&self) -> &'static [u8] {
        &[]
    }
}

struct Lz4;

impl Compress for Lz4 {
    fn header(&self) -> &'static [u8] {
        &LZ4_HEADER
    }

    fn compress(&mut self, block: &[u8], stored: &mut [u8]) -> Result<usize> {
        let (mark, data) = stored
            .split_first_chunk_mut::<4>()
            .context("store a block")?;
        let length = lz4::block::compress_to_buffer(block, None, false, data)
            .context("compress with LZ4")?;
        let (length, flag) = if length < block.len() {
            (length, 0)
        } else {
            data.get_mut(..block.len())
                .context("store a block")?
                .copy_from_slice(block);
            (block.len(), LZ4_UNCOMPRESSED)
        };
        *mark = (u32::try_from(length)? | flag).to_le_bytes();
        Ok(mark.len() + length)
    }

    fn trailer(&self) -> &'static [u8] {
        &LZ4_END_MARK
    }
}

impl Decompress for Lz4 {
    fn decompress(&mut self, stored: &[u8], block: &mut [u8]) -> Result<usize> {
        let (mark, data) = stored
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("an LZ4 block has no length"))?;
        let mark = u32::from_le_bytes(*mark);
        if (mark & !LZ4_UNCOMPRESSED) as usize != data.len() {
            return Err(damaged("an LZ4 block is not as long as it says"));
        }
        if mark & LZ4_UNCOMPRESSED == 0 {
            let room = i32::try_from(block.len())?;
            return lz4::block::decompress_to_buffer(data, Some(room), block)
                .map_err(|err| damaged(format!("an LZ4 block cannot be decompressed: {err}")));
        }
        block
            .get_mut(..data.len())
            .ok_or_else(|| damaged("an LZ4 block is too long"))?
            .copy_from_slice(data);
        Ok(data.len())
    }
}

/// How many threads encode one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread does all of it.
    One,
    /// For a caller that has a core to spare: the calling thread reads and compresses, a second one
    /// hashes, checks and writes. The two take about as long as each other.
    Two,
}

/// Writes the content of `source` to `sink` in stored form and returns its record.
///
/// One pass over the data: each block is compressed, hashed, decompressed, compared with what it was
/// made from, and only then written. Memory stays at a few blocks, whatever the length.
///
/// # Errors
///
/// Fails when `source` cannot be read or `sink` not be written, and when the compressor gives back
/// something else than it was given. What `sink` has received by then is of no use.
pub fn encode(
    source: &mut impl Read,
    sink: &mut (impl Write + Send),
    codec: &mut Codec,
    name: &str,
    system_identifier: SystemIdentifier,
    threads: Threads,
) -> Result<Record> {
    let compressor = &mut *codec.compressor;
    let mut checked = Checked {
        decompressor: &mut *codec.decompressor,
        again: vec![0; BLOCK_BYTES],
        sink,
        sha256: Sha256::new(),
        length_bytes: 0,
        crc: 0,
    };
    checked.write(compressor.header())?;
    match threads {
        Threads::One => {
            let mut block = Block::empty();
            while block.read(source)? {
                block.compress(compressor)?;
                checked.add(&block)?;
            }
        }
        Threads::Two => encode_on_two_threads(source, compressor, &mut checked)?,
    }
    checked.write(compressor.trailer())?;
    let record = Record {
        format: FORMAT_VERSION,
        name: name.to_owned(),
        system_identifier,
        length_bytes: checked.length_bytes,
        sha256: hex::encode(checked.sha256.finalize()),
        stored_crc32c: format!("{:08x}", checked.crc),
    };
    sink.write_all(&record_frame(&record)?)
        .context("write the archived file")?;
    Ok(record)
}

/// Reads and compresses on this thread what another one checks and writes. The blocks go round.
fn encode_on_two_threads<W: Write + Send>(
    source: &mut impl Read,
    compressor: &mut dyn Compress,
    checked: &mut Checked<'_, W>,
) -> Result<()> {
    /// One for each thread and one between the two.
    const BLOCKS: usize = 3;
    let (to_check, compressed) = mpsc::channel::<Block>();
    let (give_back, free) = mpsc::channel();
    for _ in 0..BLOCKS {
        let _ = give_back.send(Block::empty());
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(move || -> Result<()> {
            for block in compressed {
                checked.add(&block)?;
                // The other side is gone once it has come to the end.
                let _ = give_back.send(block);
            }
            Ok(())
        });
        let mut compress_all = || -> Result<()> {
            // Each of the two ends early only when the other thread has failed, which says why.
            while let Ok(mut block) = free.recv() {
                if !block.read(source)? {
                    break;
                }
                block.compress(compressor)?;
                if to_check.send(block).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let outcome = compress_all();
        drop(to_check);
        let checks = second
            .join()
            .map_err(|_| anyhow!("the checking thread ended early"))?;
        outcome.and(checks)
    })
}

/// One block on its way into the archive.
struct Block {
    content: Vec<u8>,
    length: usize,
    stored: Vec<u8>,
    stored_length: usize,
}

impl Block {
    fn empty() -> Self {
        Self {
            content: vec![0; BLOCK_BYTES],
            length: 0,
            stored: vec![0; LONGEST_STORED_BLOCK],
            stored_length: 0,
        }
    }

    /// Reads the next content, and says whether there was some.
    fn read(&mut self, source: &mut impl Read) -> Result<bool> {
        self.length = read_block(source, &mut self.content).context("read the source")?;
        Ok(self.length > 0)
    }

    fn compress(&mut self, compressor: &mut dyn Compress) -> Result<()> {
        self.stored_length = compressor.compress(&self.content[..self.length], &mut self.stored)?;
        Ok(())
    }
}

/// Hashes, checks and writes what was compressed, one block after the other.
struct Checked<'a, W> {
    decompressor: &'a mut dyn Decompress,
    again: Vec<u8>,
    sink: &'a mut W,
    sha256: Sha256,
    /// Of the content.
    length_bytes: u64,
    /// Of what is stored.
    crc: u32,
}

impl<W: Write> Checked<'_, W> {
    fn add(&mut self, block: &Block) -> Result<()> {
        let content = &block.content[..block.length];
        let stored = &block.stored[..block.stored_length];
        self.sha256.update(content);
        let back = self.decompressor.decompress(stored, &mut self.again)?;
        if self.again[..back] != *content {
            return Err(anyhow!(
                "the compressor gave back other bytes than it was given, at offset {}",
                self.length_bytes
            ));
        }
        self.length_bytes += content.len() as u64;
        self.write(stored)
    }

    fn write(&mut self, stored: &[u8]) -> Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, stored);
        self.sink
            .write_all(stored)
            .context("write the archived file")
    }
}

/// Fills `block` as far as `source` goes. A short read is not the end.
fn read_block(source: &mut impl Read, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match source.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}

fn record_frame(record: &Record) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(record).context("write the record")?;
    let mut frame = Vec::with_capacity(8 + json.len() + FOOTER_BYTES);
    frame.extend(SKIPPABLE_MAGIC);
    frame.extend(u32::try_from(json.len() + FOOTER_BYTES)?.to_le_bytes());
    frame.extend(&json);
    frame.extend(crc32c::crc32c(&json).to_le_bytes());
    frame.extend(u32::try_from(json.len())?.to_le_bytes());
    frame.extend(FOOTER_MAGIC);
    Ok(frame)
}

/// Reads the record out of a whole skippable frame.
fn parse_record_frame(frame: &[u8]) -> Result<Record> {
    let json = (|| {
        let rest = frame.strip_prefix(&SKIPPABLE_MAGIC)?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*size) as usize != rest.len() {
            return None;
        }
        let (json, footer) = rest.split_at_checked(rest.len().checked_sub(FOOTER_BYTES)?)?;
        let expected: Vec<u8> = crc32c::crc32c(json)
            .to_le_bytes()
            .into_iter()
            .chain(u32::try_from(json.len()).ok()?.to_le_bytes())
            .chain(FOOTER_MAGIC)
            .collect();
        (footer == expected).then_some(json)
    })()
    .ok_or_else(|| damaged("its record is damaged"))?;
    let record: Record = serde_json::from_slice(json)
        .map_err(|err| damaged(format!("its record cannot be read: {err}")))?;
    if record.format != FORMAT_VERSION {
        return Err(anyhow!(
            "it is written in format {}, this program reads format {FORMAT_VERSION}",
            record.format
        ));
    }
    Ok(record)
}

/// Reads a stored file and hands its content to `content`, block by block.
///
/// What was handed over counts only once this returns: the SHA-256 is known at the end. Memory
/// stays at a few blocks, whatever the file claims about itself.
///
/// # Errors
///
/// Fails with [`Damaged`] when anything in the file is not as it was written, with the first error
/// of `content`, and when `source` cannot be read.
pub fn decode(
    source: &mut impl Read,
    content: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Record> {
    let mut input = Input {
        source,
        buffer: vec![0; LONGEST_STORED_BLOCK + LONGEST_RECORD],
        start: 0,
        end: 0,
    };
    let mut output = Output {
        content,
        block: vec![0; BLOCK_BYTES],
        sha256: Sha256::new(),
        length_bytes: 0,
    };
    let mut crc = 0;

    if input.peek(LZ4_HEADER.len())? == LZ4_HEADER {
        crc = input.take(crc, LZ4_HEADER.len());
        let mut codec = Lz4;
        loop {
            let mark = input.peek(4)?;
            let mark = u32::from_le_bytes(mark.try_into().map_err(|_| ended())?);
            if mark == 0 {
                break;
            }
            let length = 4 + (mark & !LZ4_UNCOMPRESSED) as usize;
            if length > LONGEST_STORED_BLOCK {
                return Err(damaged("an LZ4 block is too long"));
            }
            let stored = input.peek(length)?;
            if stored.len() < length {
                return Err(ended());
            }
            let block = codec.decompress(stored, &mut output.block)?;
            output.hand_over(block)?;
            crc = input.take(crc, length);
        }
        crc = input.take(crc, LZ4_END_MARK.len());
    } else {
        let mut codec = ZstdFrame::new()?;
        while input.peek(4)? == ZSTD_MAGIC {
            let available = input.peek(LONGEST_STORED_BLOCK)?;
            let length = zstd::zstd_safe::find_frame_compressed_size(available)
                .map_err(|_| damaged("a zstd frame is cut off or too long"))?;
            let block = codec.decompress(&available[..length], &mut output.block)?;
            output.hand_over(block)?;
            crc = input.take(crc, length);
        }
    }

    let rest = input.peek(LONGEST_RECORD + 1)?;
    if rest.len() > LONGEST_RECORD {
        return Err(damaged(
            "it is not an archived file, or its record is damaged",
        ));
    }
    if rest.is_empty() {
        return Err(ended());
    }
    let record = parse_record_frame(rest)?;
    if record.stored_crc32c != format!("{crc:08x}") {
        return Err(damaged("its stored bytes do not have the recorded CRC-32C"));
    }
    if record.length_bytes != output.length_bytes {
        return Err(damaged(format!(
            "it holds {} bytes of content, its record says {}",
            output.length_bytes, record.length_bytes
        )));
    }
    if record.sha256 != hex::encode(output.sha256.finalize()) {
        return Err(damaged("its content does not have the recorded SHA-256"));
    }
    Ok(record)
}

fn ended() -> anyhow::Error {
    damaged("it ends too early")
}

/// A window over the stored bytes that never grows.
struct Input<'a, R> {
    source: &'a mut R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Input<'_, R> {
    /// The next bytes: `length` of them, or all that are left if there are fewer.
    fn peek(&mut self, length: usize) -> Result<&[u8]> {
        if self.end - self.start < length {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let read = read_block(self.source, &mut self.buffer[self.end..])
                .context("read the archived file")?;
            self.end += read;
        }
        let end = self.end.min(self.start + length);
        Ok(&self.buffer[self.start..end])
    }

    /// Passes over `length` bytes that were seen, and adds them to `crc`.
    fn take(&mut self, crc: u32, length: usize) -> u32 {
        let end = self.end.min(self.start + length);
        let crc = crc32c::crc32c_append(crc, &self.buffer[self.start..end]);
        self.start = end;
        crc
    }
}

struct Output<'a> {
    content: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    block: Vec<u8>,
    sha256: Sha256,
    length_bytes: u64,
}

impl Output<'_> {
    fn hand_over(&mut self, length: usize) -> Result<()> {
        let block = &self.block[..length];
        self.sha256.update(block);
        self.length_bytes += length as u64;
        (self.content)(block)
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "made-up content is cut to bytes"
)]
mod tests;
