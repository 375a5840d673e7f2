use super::*;
use proptest::prelude::*;
use std::process::Stdio;

const IDENTIFIER: SystemIdentifier = SystemIdentifier(7_512_345_678_901_234_567);

fn all() -> [Compression; 4] {
    [
        (Algorithm::None, None),
        (Algorithm::Lz4, None),
        (Algorithm::Zstd, None),
        (Algorithm::Zstd, Some(19)),
    ]
    .map(|(algorithm, level)| Compression { algorithm, level })
}

fn encoded(content: &[u8], compression: Compression) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut codec = codec(compression).unwrap();
    encode(
        &mut &*content,
        &mut stored,
        &mut codec,
        "name",
        IDENTIFIER,
        Threads::One,
    )
    .unwrap();
    let mut aside = Vec::new();
    encode(
        &mut &*content,
        &mut aside,
        &mut codec,
        "name",
        IDENTIFIER,
        Threads::Two,
    )
    .unwrap();
    assert!(stored == aside, "the number of threads makes no difference");
    stored
}

fn decoded(mut stored: &[u8]) -> Result<(Vec<u8>, Record)> {
    let mut content = Vec::new();
    let record = decode(&mut stored, &mut |block| {
        content.extend_from_slice(block);
        Ok(())
    })?;
    Ok((content, record))
}

/// Like WAL: structure, noise and, after a switch, zeros.
fn wal_like(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    (0..length)
        .map(|n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if n > length * 2 / 3 {
                0
            } else if n % 64 < 40 {
                (n / 64 % 251) as u8
            } else {
                state as u8
            }
        })
        .collect()
}

#[test]
fn content_of_every_length_comes_back_with_every_compression() {
    for length in [
        0,
        1,
        40,
        BLOCK_BYTES - 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        3 * BLOCK_BYTES,
    ] {
        let content = wal_like(length);
        for compression in all() {
            let (back, record) = decoded(&encoded(&content, compression)).unwrap();
            assert!(back == content, "{length} bytes with {compression:?}");
            assert_eq!(record.length_bytes, length as u64);
            assert_eq!(record.name, "name");
            assert_eq!(record.system_identifier, IDENTIFIER);
        }
    }
}

#[test]
fn incompressible_content_comes_back() {
    let mut state = 1_u64;
    let content: Vec<u8> = (0..BLOCK_BYTES * 2 + 77)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        })
        .collect();
    for compression in all() {
        let stored = encoded(&content, compression);
        assert!(stored.len() < content.len() + content.len() / 64 + 1024);
        assert!(decoded(&stored).unwrap().0 == content);
    }
}

#[test]
fn the_padding_of_a_switched_segment_costs_next_to_nothing() {
    let content = vec![0; 16 << 20];
    for compression in all() {
        let stored = encoded(&content, compression).len();
        // LZ4 has no run longer than what 255 bytes can count: one byte in 255.
        let most = if compression.algorithm == Algorithm::Lz4 {
            (16 << 20) / 250
        } else {
            8192
        };
        assert!(stored < most, "{stored} bytes with {compression:?}");
    }
}

fn standard_program(program: &str, stored: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000000010000000000000001");
    std::fs::write(&path, stored).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "the test asks the standard program itself"
    )]
    let output = std::process::Command::new(program)
        .arg("-dc")
        .stdin(std::fs::File::open(&path).unwrap())
        .stderr(Stdio::inherit())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(err) => {
            println!(
                "skipped: format::the_standard_programs_read_an_archived_file: {program}: {err}"
            );
            return None;
        }
    };
    assert!(output.status.success(), "{program}: {}", output.status);
    Some(output.stdout)
}

#[test]
fn the_standard_programs_read_an_archived_file() {
    let content = wal_like(5 * BLOCK_BYTES + 12_345);
    for compression in all() {
        let program = match compression.algorithm {
            Algorithm::Lz4 => "lz4",
            Algorithm::None | Algorithm::Zstd => "zstd",
        };
        if let Some(back) = standard_program(program, &encoded(&content, compression)) {
            assert!(back == content, "{compression:?}");
        }
    }
}

#[test]
fn r3_every_flipped_byte_and_every_cut_is_noticed() {
    let content = wal_like(BLOCK_BYTES / 8);
    for compression in all() {
        let stored = encoded(&content, compression);
        for at in 0..stored.len() {
            // Every byte of the short structures, a sample of the long ones.
            if at > 600 && at + 600 < stored.len() && at % 97 != 0 {
                continue;
            }
            for flip in [1, 0x80, 0xFF] {
                let mut bad = stored.clone();
                bad[at] ^= flip;
                let err = decoded(&bad).expect_err("a flipped byte");
                assert!(
                    err.downcast_ref::<Damaged>().is_some() || err.to_string().contains("format"),
                    "byte {at} ^ {flip:#x}: {err:#}"
                );
            }
            assert!(decoded(&stored[..at]).is_err(), "cut at {at}");
        }
        let longer = [stored.as_slice(), b"x"].concat();
        assert!(decoded(&longer).is_err());
        let doubled = [stored.as_slice(), &stored].concat();
        assert!(decoded(&doubled).is_err());
    }
}

#[test]
fn r4_a_frame_that_claims_to_be_huge_is_refused_in_bounded_memory() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let err = decoded(&bomb).unwrap_err();
    assert!(err.downcast_ref::<Damaged>().is_some(), "{err:#}");

    let mut lz4 = LZ4_HEADER.to_vec();
    lz4.extend(0x7FFF_FFFF_u32.to_le_bytes());
    assert!(decoded(&lz4).is_err());
}

#[test]
fn r4_a_file_without_a_record_is_refused() {
    let plain = zstd::bulk::compress(&wal_like(1000), 1).unwrap();
    assert_eq!(
        decoded(&plain).unwrap_err().to_string(),
        "it ends too early"
    );
    assert!(decoded(b"").is_err());
    assert!(decoded(&wal_like(BLOCK_BYTES)).is_err());
}

/// A compressor with a bug that shows once, in the middle.
struct Wrong {
    inner: Box<dyn Compress>,
    blocks: usize,
}

impl Compress for Wrong {
    fn header(&self) -> &'static [u8] {
        self.inner.header()
    }
    fn compress(&mut self, block: &[u8], stored: &mut [u8]) -> Result<usize> {
        self.blocks += 1;
        if self.blocks == 2 {
            let mut wrong = block.to_vec();
            wrong[100] ^= 1;
            return self.inner.compress(&wrong, stored);
        }
        self.inner.compress(block, stored)
    }
    fn trailer(&self) -> &'static [u8] {
        self.inner.trailer()
    }
}

#[test]
fn a34_a_compressor_that_is_wrong_is_caught_before_its_output_is_written() {
    let content = wal_like(3 * BLOCK_BYTES);
    let both = [Threads::One, Threads::Two];
    for (compression, threads) in all().into_iter().flat_map(|c| both.map(|t| (c, t))) {
        let right = codec(compression).unwrap();
        let mut wrong = Codec {
            compressor: Box::new(Wrong {
                inner: right.compressor,
                blocks: 0,
            }),
            ..right
        };
        let mut stored = Vec::new();
        let err = encode(
            &mut &*content,
            &mut stored,
            &mut wrong,
            "name",
            IDENTIFIER,
            threads,
        )
        .unwrap_err();
        assert_eq!(
            err.to_string(),
            "the compressor gave back other bytes than it was given, at offset 262144"
        );
        assert!(stored.len() <= LONGEST_STORED_BLOCK);
    }
}

/// Gives one to seven bytes at a time and is interrupted in between (A9).
struct Stutter<'a>(&'a [u8], usize);

impl Read for Stutter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(3) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let length = (self.1 % 7 + 1).min(self.0.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

#[test]
fn a9_short_and_interrupted_reads_change_nothing() {
    let content = wal_like(BLOCK_BYTES + 5000);
    for compression in all() {
        let mut stored = Vec::new();
        let mut codec = codec(compression).unwrap();
        encode(
            &mut Stutter(&content, 0),
            &mut stored,
            &mut codec,
            "name",
            IDENTIFIER,
            Threads::One,
        )
        .unwrap();
        assert!(stored == encoded(&content, compression));
        let mut back = Vec::new();
        decode(&mut Stutter(&stored, 0), &mut |block| {
            back.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
        assert!(back == content);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = decoded(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_magic_number_never_panic(
        lz4 in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let magic: &[u8] = if lz4 { &LZ4_HEADER } else { &ZSTD_MAGIC };
        let _ = decoded(&[magic, &bytes].concat());
    }
}
