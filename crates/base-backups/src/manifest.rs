//! The manifest that PostgreSQL writes into every base backup. Pure.
//!
//! # Source
//!
//! PostgreSQL, "Backup Manifest Format".

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use wal::{Lsn, SystemIdentifier, TimelineId};

/// Name of the manifest in a base backup.
pub const FILE_NAME: &str = "backup_manifest";

/// A manifest whose own checksum is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Every file of the backup but its WAL and the manifest itself.
    pub files: BTreeMap<PathBuf, Entry>,
    /// The WAL that a restore has to replay before the backup is consistent.
    pub wal_ranges: Vec<WalRange>,
    /// The cluster, from PostgreSQL 17 on.
    pub system_identifier: Option<SystemIdentifier>,
}

/// What the manifest says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Length in bytes.
    pub length_bytes: u64,
    /// Checksum of the content.
    pub checksum: Checksum,
}

/// Checksum of a file, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The backup was taken with `--manifest-checksums=NONE`.
    None,
    /// CRC-32C, its bytes as they are in memory.
    Crc32c(String),
    /// A member of the SHA-2 family, by its length in bits.
    Sha2(u32, String),
}

/// A range of WAL on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start: Lsn,
    /// Where the backup is consistent.
    pub end: Lsn,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawRange>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl Manifest {
    /// Reads a manifest and checks its own checksum.
    ///
    /// # Errors
    ///
    /// Fails when it is damaged, of a version that is not known, or names a path outside the backup.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // The checksum covers everything before the line that holds it.
        let covered = bytes
            .windows(CHECKSUM_KEY.len())
            .rposition(|window| window == CHECKSUM_KEY)
            .ok_or_else(|| anyhow!("the manifest has no checksum; it is incomplete"))?;
        let raw: Raw = serde_json::from_slice(bytes).context("read the manifest")?;
        ensure!(
            raw.checksum
                .eq_ignore_ascii_case(&hex::encode(Sha256::digest(&bytes[..covered]))),
            "the manifest does not have its own checksum"
        );
        ensure!(
            (1..=2).contains(&raw.version),
            "the manifest is of version {}, this program reads 1 and 2",
            raw.version
        );
        let mut files = BTreeMap::new();
        for file in raw.files {
            let path = match (file.path, file.encoded_path) {
                (Some(path), None) => PathBuf::from(path),
                (None, Some(encoded)) => {
                    let bytes = hex::decode(&encoded)
                        .context("the manifest has an encoded path that is not hexadecimal")?;
                    OsString::from_vec(bytes).into()
                }
                _ => bail!("the manifest has a file without one path"),
            };
            ensure!(
                is_inside(&path),
                "the manifest names \"{}\", which is not inside the backup",
                path.display()
            );
            let checksum = match (file.algorithm.as_deref(), file.checksum) {
                (None | Some("NONE"), None) => Checksum::None,
                (Some("CRC32C"), Some(sum)) => Checksum::Crc32c(sum.to_ascii_lowercase()),
                (Some("SHA224"), Some(sum)) => Checksum::Sha2(224, sum.to_ascii_lowercase()),
                (Some("SHA256"), Some(sum)) => Checksum::Sha2(256, sum.to_ascii_lowercase()),
                (Some("SHA384"), Some(sum)) => Checksum::Sha2(384, sum.to_ascii_lowercase()),
                (Some("SHA512"), Some(sum)) => Checksum::Sha2(512, sum.to_ascii_lowercase()),
                (algorithm, _) => bail!(
                    "the manifest has a checksum of the kind \"{}\" for \"{}\"",
                    algorithm.unwrap_or_default(),
                    path.display()
                ),
            };
            let entry = Entry {
                length_bytes: file.size,
                checksum,
            };
            ensure!(
                files.insert(path.clone(), entry).is_none(),
                "the manifest names \"{}\" twice",
                path.display()
            );
        }
        let wal_ranges = raw
            .wal_ranges
            .iter()
            .map(|range| {
                let lsn = |text: &str| text.parse().map_err(|err| anyhow!("{err}"));
                Ok(WalRange {
                    timeline: TimelineId::new(range.timeline)
                        .ok_or_else(|| anyhow!("the manifest names timeline 0"))?,
                    start: lsn(&range.start)?,
                    end: lsn(&range.end)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            files,
            wal_ranges,
            system_identifier: raw.system_identifier.map(SystemIdentifier),
        })
    }

    /// Sum of the lengths of all files, in bytes.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.length_bytes).sum()
    }
}

const CHECKSUM_KEY: &[u8] = b"\"Manifest-Checksum\"";

/// Whether `path` stays below the directory that it is joined to.
#[must_use]
pub fn is_inside(path: &Path) -> bool {
    !path.as_os_str().is_empty()
        && path
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// Computes the checksum of a content that comes in parts.
pub(crate) enum Hasher {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn like(checksum: &Checksum) -> Self {
        match checksum {
            Checksum::None => Self::None,
            Checksum::Crc32c(_) => Self::Crc32c(0),
            Checksum::Sha2(224, _) => Self::Sha224(Sha224::new()),
            Checksum::Sha2(256, _) => Self::Sha256(Sha256::new()),
            Checksum::Sha2(384, _) => Self::Sha384(Sha384::new()),
            Checksum::Sha2(_, _) => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, part: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, part),
            Self::Sha224(sha) => sha.update(part),
            Self::Sha256(sha) => sha.update(part),
            Self::Sha384(sha) => sha.update(part),
            Self::Sha512(sha) => sha.update(part),
        }
    }

    /// Whether the content has the checksum `expected`.
    pub(crate) fn agrees_with(self, expected: &Checksum) -> bool {
        let found = match self {
            Self::None => return true,
            Self::Crc32c(crc) => format!("{:08x}", crc.swap_bytes()),
            Self::Sha224(sha) => hex::encode(sha.finalize()),
            Self::Sha256(sha) => hex::encode(sha.finalize()),
            Self::Sha384(sha) => hex::encode(sha.finalize()),
            Self::Sha512(sha) => hex::encode(sha.finalize()),
        };
        match expected {
            Checksum::None => true,
            Checksum::Crc32c(sum) | Checksum::Sha2(_, sum) => found == *sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest as PostgreSQL 17 writes it, with a checksum that fits `body`.
    fn manifest(body: &str) -> Vec<u8> {
        let sum = hex::encode(Sha256::digest(body.as_bytes()));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    const BODY: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 7710593239246475991,
"Files": [
{ "Path": "backup_label", "Size": 224, "Last-Modified": "2026-11-21 11:59:48 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "7a1f4f8d" },
{ "Encoded-Path": "62617365ff", "Size": 8192, "Last-Modified": "2026-11-21 11:59:48 GMT", "Checksum-Algorithm": "SHA256", "Checksum": "AB" },
{ "Path": "global/1262", "Size": 0, "Last-Modified": "2026-11-21 11:59:48 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"#;

    #[test]
    fn a_manifest_is_read() {
        let manifest = Manifest::parse(&manifest(BODY)).unwrap();
        assert_eq!(manifest.files.len(), 3);
        assert_eq!(manifest.content_bytes(), 8416);
        assert_eq!(
            manifest.files[Path::new("backup_label")].checksum,
            Checksum::Crc32c("7a1f4f8d".into())
        );
        assert_eq!(
            manifest.files[Path::new("global/1262")].checksum,
            Checksum::None
        );
        assert_eq!(
            manifest.wal_ranges,
            [WalRange {
                timeline: TimelineId::FIRST,
                start: Lsn(0x200_0028),
                end: Lsn(0x200_0100),
            }]
        );
        assert_eq!(
            manifest.system_identifier,
            Some(SystemIdentifier(7_710_593_239_246_475_991))
        );
    }

    #[test]
    fn b5_a_manifest_that_was_edited_or_cut_is_refused() {
        let good = manifest(BODY);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // White space after the checksum is not covered, and is not read either.
            if at < good.len() - 2 {
                assert!(Manifest::parse(&bad).is_err(), "byte {at}");
            }
            if at < good.len() - 1 {
                assert!(Manifest::parse(&good[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn a_path_outside_the_backup_is_refused() {
        for path in ["../evil", "/etc/passwd", "base/../../evil", ""] {
            let body = BODY.replace("backup_label", path);
            let err = Manifest::parse(&manifest(&body)).unwrap_err().to_string();
            assert!(err.ends_with("which is not inside the backup"), "{err}");
        }
    }

    #[test]
    fn crc32c_is_compared_as_postgresql_writes_it() {
        // The bytes of the checksum in memory order: CRC-32C of "123456789" is e3069283.
        let checksum = Checksum::Crc32c("839206e3".into());
        let mut hasher = Hasher::like(&checksum);
        hasher.update(b"12345");
        hasher.update(b"6789");
        assert!(hasher.agrees_with(&checksum));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = Manifest::parse(&bytes);
        }
    }
}
