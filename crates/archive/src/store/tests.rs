use super::*;
use crate::format::{Compress, Threads};
use settings::{Algorithm, Compression};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::Barrier;
use wal::{Lsn, TimelineId};

const IDENTIFIER: SystemIdentifier = SystemIdentifier(7_512_345_678_901_234_567);
const SIZE: u64 = 1 << 20;
const NAME: &str = "000000010000000000000007";

fn cluster(system_identifier: SystemIdentifier) -> Cluster {
    Cluster {
        system_identifier,
        segment_size_bytes: SIZE,
        postgres_major: 15,
        admitted_at: "2026-10-11T12:00:00Z".into(),
        because: "first cluster".into(),
    }
}

fn zstd() -> Codec {
    format::codec(Compression::default()).unwrap()
}

/// A segment as PostgreSQL 15 writes it, as far as the archive looks: a long page header and data.
fn segment(name: &str, system_identifier: SystemIdentifier, fill: u8) -> Vec<u8> {
    let name = wal::SegmentName::parse(name).unwrap();
    let start = name.start(SegmentSize::new(SIZE).unwrap());
    let mut bytes = vec![fill; SIZE as usize];
    bytes[..40].fill(0);
    bytes[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    bytes[2..4].copy_from_slice(&2_u16.to_le_bytes());
    bytes[4..8].copy_from_slice(&name.timeline().get().to_le_bytes());
    bytes[8..16].copy_from_slice(&start.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&system_identifier.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&(SIZE as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    bytes
}

struct Place {
    dir: tempfile::TempDir,
    archive: Archive,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let archive =
            Archive::init(&dir.path().join("archive"), "main", cluster(IDENTIFIER)).unwrap();
        Self { dir, archive }
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("pg_wal").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<Put> {
        self.archive.put(
            &self.write(name, content),
            Some(IDENTIFIER),
            &mut zstd(),
            Threads::One,
        )
    }

    fn archived(&self, name: &str) -> PathBuf {
        let cluster = self.archive.newest_cluster().unwrap();
        self.archive
            .path_of(cluster, &WalFileName::parse(name).unwrap())
            .unwrap()
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let out = self.dir.path().join("out");
        let name = WalFileName::parse(name).unwrap();
        Ok(
            match self.archive.get(IDENTIFIER, &name, self.dir.path(), &out)? {
                Fetched::Yes => Some(fs::read(out).unwrap()),
                Fetched::NotInArchive => None,
            },
        )
    }

    fn incoming_is_empty(&self) -> bool {
        fs::read_dir(self.archive.incoming()).unwrap().count() == 0
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    format!("{:#}", result.unwrap_err())
}

#[test]
fn a_segment_comes_back_as_it_was() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    assert_eq!(place.put(NAME, &content).unwrap(), Put::Stored);
    assert!(place.get(NAME).unwrap().unwrap() == content);
    assert!(place.incoming_is_empty());
}

#[test]
fn files_are_spread_by_timeline_and_segment_number() {
    let place = Place::new();
    let relative = |name: &str| {
        let path = place.archived(name);
        path.strip_prefix(place.archive.root())
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(
        relative("0000000A00000012000003FF"),
        format!("{IDENTIFIER}/0000000A/000001/23/0000000A00000012000003FF")
    );
    assert_eq!(
        relative("00000002.history"),
        format!("{IDENTIFIER}/history/00000002.history")
    );
}

#[test]
fn an_unmounted_archive_does_not_pass_for_an_empty_one() {
    let mount_point = tempfile::tempdir().unwrap();
    let err = Archive::open(mount_point.path(), "main").unwrap_err();
    assert_eq!(
        tool::hint_of(&err).unwrap(),
        format!(
            "is the archive mounted at \"{}\"? a new one is made by `backstay archive init main`",
            mount_point.path().display()
        )
    );
}

#[test]
fn an_archive_whose_parts_are_not_mounted_does_not_say_absent() {
    let place = Place::new();
    assert_eq!(place.get(NAME).unwrap(), None);
    fs::remove_dir_all(place.archive.root().join(IDENTIFIER.to_string())).unwrap();
    assert!(place.get(NAME).is_err());
}

#[test]
fn the_archive_of_another_instance_is_refused() {
    let place = Place::new();
    assert!(
        refusal(Archive::open(place.archive.root(), "other"))
            .ends_with("is the archive of instance \"main\", not of \"other\"")
    );
}

#[test]
fn a13_the_same_file_again_is_success_and_changes_nothing() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    place.put(NAME, &content).unwrap();
    let before = fs::metadata(place.archived(NAME)).unwrap();
    assert_eq!(place.put(NAME, &content).unwrap(), Put::AlreadyThere);
    let after = fs::metadata(place.archived(NAME)).unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec()),
        (after.ino(), after.mtime_nsec())
    );
    assert!(place.incoming_is_empty());
}

#[test]
fn a14_another_content_under_the_same_name_is_an_error_and_the_first_stays() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    place.put(NAME, &content).unwrap();
    let mut other = content.clone();
    other[SIZE as usize - 1] ^= 1;
    let err = place.put(NAME, &other).unwrap_err();
    assert_eq!(
        format!("{err:#}"),
        format!("\"{NAME}\" is in the archive with another content")
    );
    assert!(
        tool::hint_of(&err)
            .unwrap()
            .contains("nothing was replaced")
    );
    assert!(place.get(NAME).unwrap().unwrap() == content);
}

#[test]
fn a14_a_longer_or_shorter_file_of_the_same_name_is_an_error() {
    let place = Place::new();
    place
        .put(
            "00000002.history",
            b"1\t0/7000000\tno recovery target specified\n",
        )
        .unwrap();
    for other in [
        &b"1\t0/7000000\tno recovery"[..],
        b"1\t0/7000000\tno recovery target specified\n\n",
    ] {
        assert!(refusal(place.put("00000002.history", other)).contains("another content"));
    }
}

#[test]
fn a15_a_damaged_archived_file_is_reported_and_not_replaced_until_it_is_quarantined() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    place.put(NAME, &content).unwrap();
    let path = place.archived(NAME);
    let mut stored = fs::read(&path).unwrap();
    stored[200] ^= 1;
    fs::write(&path, &stored).unwrap();

    let err = place.put(NAME, &content).unwrap_err();
    assert!(
        tool::hint_of(&err)
            .unwrap()
            .contains("backstay archive quarantine main"),
        "{err:#}"
    );
    assert!(fs::read(&path).unwrap() == stored);
    assert!(
        place
            .get(NAME)
            .unwrap_err()
            .chain()
            .any(<dyn std::error::Error>::is::<Damaged>)
    );

    let cluster = place.archive.newest_cluster().unwrap();
    let name = WalFileName::parse(NAME).unwrap();
    let aside = place.archive.quarantine(cluster, &name).unwrap();
    assert!(fs::read(aside).unwrap() == stored);
    assert_eq!(place.put(NAME, &content).unwrap(), Put::Stored);
    assert!(refusal(place.archive.quarantine(cluster, &name)).ends_with("is not damaged"));
}

#[test]
fn a16_an_existing_copy_with_other_compression_is_compared_by_content() {
    for first in [Algorithm::None, Algorithm::Lz4, Algorithm::Zstd] {
        let place = Place::new();
        let content = segment(NAME, IDENTIFIER, 7);
        let path = place.write(NAME, &content);
        let mut codec = format::codec(Compression {
            algorithm: first,
            level: None,
        })
        .unwrap();
        place
            .archive
            .put(&path, None, &mut codec, Threads::One)
            .unwrap();
        for second in [Algorithm::None, Algorithm::Lz4, Algorithm::Zstd] {
            let mut codec = format::codec(Compression {
                algorithm: second,
                level: None,
            })
            .unwrap();
            assert_eq!(
                place
                    .archive
                    .put(&path, None, &mut codec, Threads::One)
                    .unwrap(),
                Put::AlreadyThere
            );
        }
    }
}

#[test]
fn a16_a_file_that_we_did_not_write_is_never_taken_for_ours() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    let path = place.archived(NAME);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, &content).unwrap();
    assert!(place.put(NAME, &content).is_err());
    assert!(place.get(NAME).is_err());
    assert!(fs::read(&path).unwrap() == content);
}

#[test]
fn a17_two_archivers_of_the_same_file_both_succeed_and_one_publishes() {
    let place = Place::new();
    for round in 0..200 {
        let name = format!("0000000100000000{round:08X}");
        let path = place.write(&name, &segment(&name, IDENTIFIER, 3));
        let barrier = Barrier::new(2);
        let race = || {
            barrier.wait();
            place
                .archive
                .put(&path, None, &mut zstd(), Threads::One)
                .unwrap()
        };
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(race);
            [race(), other.join().unwrap()]
        });
        assert_eq!(
            results.iter().filter(|r| **r == Put::Stored).count(),
            1,
            "round {round}"
        );
    }
    assert!(place.incoming_is_empty());
}

#[test]
fn a18_of_two_archivers_with_different_contents_one_succeeds_and_nothing_is_mixed() {
    let place = Place::new();
    for round in 0..200 {
        let name = format!("0000000100000000{round:08X}");
        let contents = [3, 4].map(|fill| segment(&name, IDENTIFIER, fill));
        let paths = [0, 1].map(|n: usize| {
            let directory = place.dir.path().join(format!("server{n}"));
            fs::create_dir_all(&directory).unwrap();
            let path = directory.join(&name);
            fs::write(&path, &contents[n]).unwrap();
            path
        });
        let barrier = Barrier::new(2);
        let race = |n: usize| {
            barrier.wait();
            place
                .archive
                .put(&paths[n], None, &mut zstd(), Threads::One)
                .is_ok()
        };
        let results = std::thread::scope(|scope| {
            let other = scope.spawn(|| race(1));
            [race(0), other.join().unwrap()]
        });
        let winner = results.iter().position(|ok| *ok).expect("one wins");
        assert!(!results[1 - winner], "round {round}");
        assert!(place.get(&name).unwrap().unwrap() == contents[winner]);
    }
}

#[test]
fn a19_a_segment_of_another_cluster_is_refused_before_anything_is_written() {
    let place = Place::new();
    let other = SystemIdentifier(1234);
    let err = place.put(NAME, &segment(NAME, other, 7)).unwrap_err();
    assert_eq!(
        format!("{err:#}"),
        format!("system identifier 1234 is not that of the archive, which is {IDENTIFIER}")
    );
    assert_eq!(
        tool::hint_of(&err).unwrap(),
        format!(
            "if this cluster is meant to replace it (after an upgrade or a new initdb), run `backstay archive admit main --replaces {IDENTIFIER}`"
        )
    );
    assert!(place.incoming_is_empty());
    assert_eq!(place.get(NAME).unwrap(), None);
}

#[test]
fn a19_a_new_cluster_is_admitted_only_by_naming_the_one_it_replaces() {
    let mut place = Place::new();
    let new = SystemIdentifier(1234);
    assert!(
        place
            .archive
            .admit(cluster(new), SystemIdentifier(99))
            .is_err()
    );
    place.archive.admit(cluster(new), IDENTIFIER).unwrap();
    place.archive = Archive::open(place.archive.root(), "main").unwrap();
    assert_eq!(
        place.put(NAME, &segment(NAME, new, 7)).unwrap(),
        Put::Stored
    );
    assert_eq!(
        place.put(NAME, &segment(NAME, IDENTIFIER, 8)).unwrap(),
        Put::Stored
    );
    let of_old = place
        .archive
        .list(&place.archive.manifest().clusters[0])
        .unwrap();
    let of_new = place
        .archive
        .list(&place.archive.manifest().clusters[1])
        .unwrap();
    assert_eq!((of_old.files.len(), of_new.files.len()), (1, 1));
}

#[test]
fn a20_a_segment_of_the_wrong_size_is_refused() {
    let place = Place::new();
    let content = segment(NAME, IDENTIFIER, 7);
    for length in [0, 39, 40, SIZE as usize - 1] {
        assert!(place.put(NAME, &content[..length]).is_err(), "{length}");
    }
    let longer = [content.as_slice(), b"x"].concat();
    assert_eq!(
        refusal(place.put(NAME, &longer)),
        format!("\"{NAME}\" has 1048577 bytes, a segment has 1048576")
    );
    assert_eq!(place.get(NAME).unwrap(), None);
}

#[test]
fn a21_a_header_that_contradicts_the_name_is_refused() {
    let place = Place::new();
    let mut address = segment(NAME, IDENTIFIER, 7);
    address[8] ^= 0x40;
    assert!(refusal(place.put(NAME, &address)).contains("is not what its name says"));
    let mut timeline = segment(NAME, IDENTIFIER, 7);
    timeline[4] = 9;
    assert!(refusal(place.put(NAME, &timeline)).contains("is not what its name says"));
    let recycled = segment("000000010000000000000003", IDENTIFIER, 7);
    assert!(refusal(place.put(NAME, &recycled)).contains("is not what its name says"));
}

#[test]
fn a22_wal_of_another_major_version_is_refused() {
    let place = Place::new();
    let mut content = segment(NAME, IDENTIFIER, 7);
    content[..2].copy_from_slice(&0xD116_u16.to_le_bytes());
    assert_eq!(
        refusal(place.put(NAME, &content)),
        format!("\"{NAME}\" was written by PostgreSQL 17, the archive's cluster is PostgreSQL 15")
    );
}

#[test]
fn a23_history_backup_and_partial_files_are_stored_and_come_back() {
    let place = Place::new();
    for (name, content) in [
        (
            "00000002.history",
            b"1\t0/7000000\tno recovery target specified\n".to_vec(),
        ),
        (
            "000000010000000000000007.00000028.backup",
            b"START WAL LOCATION: 0/7000028\n".to_vec(),
        ),
        (
            "000000010000000000000007.partial",
            segment(NAME, IDENTIFIER, 9),
        ),
    ] {
        assert_eq!(place.put(name, &content).unwrap(), Put::Stored, "{name}");
        assert!(place.get(name).unwrap().unwrap() == content, "{name}");
    }
    let listing = place
        .archive
        .list(place.archive.newest_cluster().unwrap())
        .unwrap();
    assert_eq!(listing.files.len(), 3);
}

#[test]
fn a24_a_history_file_is_never_replaced() {
    let place = Place::new();
    let first = b"1\t0/7000000\tbefore 2026-10-11 12:00:00+00\n";
    place.put("00000002.history", first).unwrap();
    assert!(
        place
            .put(
                "00000002.history",
                b"1\t0/8000000\tno recovery target specified\n"
            )
            .is_err()
    );
    assert_eq!(place.get("00000002.history").unwrap().unwrap(), first);
}

#[test]
fn a25_hostile_names_create_nothing() {
    let place = Place::new();
    let before = walk(place.dir.path());
    let long = "0".repeat(300);
    for name in [
        "../x",
        "a b",
        "-rf",
        &long,
        "0000000100000000000000\n7",
        "",
        ".",
        "/",
        "0000000g0000000000000007",
        "00000000.history",
    ] {
        let source = Path::new("pg_wal").join(name);
        assert!(
            place
                .archive
                .put(&source, Some(IDENTIFIER), &mut zstd(), Threads::One)
                .is_err(),
            "{name:?}"
        );
    }
    let not_utf8 = Path::new(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    assert!(
        place
            .archive
            .put(not_utf8, Some(IDENTIFIER), &mut zstd(), Threads::One)
            .is_err()
    );
    assert_eq!(walk(place.dir.path()), before);
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn a26_a_link_planted_at_the_final_name_is_refused() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    let path = place.archived(NAME);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(&outside, &path).unwrap();
    assert!(place.put(NAME, &segment(NAME, IDENTIFIER, 7)).is_err());
    assert!(place.get(NAME).is_err());
    assert_eq!(fs::read(&outside).unwrap(), b"precious");
}

#[test]
fn a27_a_source_that_is_no_regular_file_is_refused_at_once() {
    let place = Place::new();
    let path = place.dir.path().join("pg_wal").join(NAME);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(
        refusal(place.archive.put(&path, None, &mut zstd(), Threads::One))
            .ends_with("not a regular file")
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(
        place
            .archive
            .put(&path, None, &mut zstd(), Threads::One)
            .is_err()
    );
    fs::remove_dir(&path).unwrap();
    assert!(
        refusal(place.archive.put(&path, None, &mut zstd(), Threads::One))
            .ends_with("No such file or directory (os error 2)")
    );
}

#[test]
fn a27_a_source_that_shrinks_while_it_is_read_is_refused() {
    /// Cuts the source off while its first block is being compressed.
    struct Cuts(Box<dyn Compress>, PathBuf);
    impl Compress for Cuts {
        fn header(&self) -> &'static [u8] {
            self.0.header()
        }
        fn compress(&mut self, block: &[u8], stored: &mut [u8]) -> Result<usize> {
            File::options()
                .write(true)
                .open(&self.1)?
                .set_len(SIZE / 2)?;
            self.0.compress(block, stored)
        }
        fn trailer(&self) -> &'static [u8] {
            self.0.trailer()
        }
    }
    let place = Place::new();
    let path = place.write(NAME, &segment(NAME, IDENTIFIER, 7));
    let right = zstd();
    let mut codec = Codec {
        compressor: Box::new(Cuts(right.compressor, path.clone())),
        ..right
    };
    assert!(
        place
            .archive
            .put(&path, None, &mut codec, Threads::One)
            .is_err()
    );
    assert_eq!(place.get(NAME).unwrap(), None);
    assert!(place.incoming_is_empty());
}

#[test]
fn r3_a_neighbour_or_another_cluster_in_its_place_is_damage() {
    let place = Place::new();
    let neighbour = "000000010000000000000008";
    place.put(NAME, &segment(NAME, IDENTIFIER, 7)).unwrap();
    place
        .put(neighbour, &segment(neighbour, IDENTIFIER, 7))
        .unwrap();
    fs::write(
        place.archived(NAME),
        fs::read(place.archived(neighbour)).unwrap(),
    )
    .unwrap();
    let err = place.get(NAME).unwrap_err();
    assert!(
        format!("{err:#}").ends_with(&format!("it holds \"{neighbour}\", not \"{NAME}\"")),
        "{err:#}"
    );
}

#[test]
fn p8_foreign_files_are_listed_apart() {
    let place = Place::new();
    place.put(NAME, &segment(NAME, IDENTIFIER, 7)).unwrap();
    let directory = place.archived(NAME).parent().unwrap().to_owned();
    fs::write(directory.join("notes.txt"), "mine").unwrap();
    // A WAL file in another place than its own is not found by restores, so it is not counted.
    fs::write(
        place
            .archive
            .root()
            .join(IDENTIFIER.to_string())
            .join("000000010000000000000009"),
        "",
    )
    .unwrap();
    let listing = place
        .archive
        .list(place.archive.newest_cluster().unwrap())
        .unwrap();
    assert_eq!(listing.files.len(), 1);
    assert_eq!(listing.foreign.len(), 2);
}

#[test]
fn init_twice_changes_nothing_and_an_occupied_directory_is_refused() {
    let place = Place::new();
    let manifest = fs::read(place.archive.root().join(MANIFEST)).unwrap();
    Archive::init(place.archive.root(), "main", cluster(IDENTIFIER)).unwrap();
    assert_eq!(
        fs::read(place.archive.root().join(MANIFEST)).unwrap(),
        manifest
    );
    assert!(Archive::init(place.archive.root(), "main", cluster(SystemIdentifier(5))).is_err());

    let occupied = tempfile::tempdir().unwrap();
    fs::write(occupied.path().join("base.tar"), "").unwrap();
    assert!(
        refusal(Archive::init(occupied.path(), "main", cluster(IDENTIFIER))).contains("base.tar")
    );
}

#[test]
fn an_interrupted_init_and_what_the_file_system_makes_are_no_occupation() {
    let begun = tempfile::tempdir().unwrap();
    // The directories of a manifest that never came, and half of the manifest.
    fs::create_dir(begun.path().join(INCOMING)).unwrap();
    fs::create_dir_all(begun.path().join("5").join(HISTORY)).unwrap();
    fs::write(begun.path().join(".tmp-archive.json.7.0"), "{").unwrap();
    fs::create_dir_all(begun.path().join("lost+found")).unwrap();
    fs::write(begun.path().join("lost+found/#12"), "").unwrap();
    assert!(!Archive::is_at(begun.path()).unwrap());
    let archive = Archive::init(begun.path(), "main", cluster(IDENTIFIER)).unwrap();
    assert!(Archive::is_at(begun.path()).unwrap());
    assert_eq!(archive.something().unwrap(), None);

    // One file of a former archive, and it is not empty.
    fs::create_dir_all(begun.path().join("damaged")).unwrap();
    let damaged = begun.path().join("damaged/5-00000002.history-0");
    fs::write(&damaged, "").unwrap();
    assert_eq!(archive.something().unwrap(), Some(damaged));
    fs::remove_file(begun.path().join(MANIFEST)).unwrap();
    assert!(
        refusal(Archive::init(begun.path(), "main", cluster(IDENTIFIER))).contains("damaged/5")
    );
}

#[test]
fn something_is_found_in_an_archive_that_holds_a_file_and_absence_needs_proof() {
    let place = Place::new();
    assert_eq!(place.archive.something().unwrap(), None);
    place.put(NAME, &segment(NAME, IDENTIFIER, 7)).unwrap();
    assert_eq!(
        place.archive.something().unwrap(),
        Some(place.archived(NAME))
    );
    fs::remove_dir_all(place.archive.root().join(IDENTIFIER.to_string())).unwrap();
    assert!(
        place.archive.something().is_err(),
        "what is out of sight passed for absent"
    );
}

#[test]
fn a_receipt_is_good_once_and_only_for_unchanged_files() {
    let place = Place::new();
    let receipts = crate::Receipts::of(&place.archive);
    let cluster = place.archive.newest_cluster().unwrap();
    let name = WalFileName::parse(NAME).unwrap();
    let path = place.write(NAME, &segment(NAME, IDENTIFIER, 7));
    place
        .archive
        .put(&path, None, &mut zstd(), Threads::One)
        .unwrap();
    let redeem = || receipts.redeem(&place.archive, cluster, &name, &path);
    let write = || receipts.write(&name, &path, &place.archived(NAME)).unwrap();

    assert!(!redeem());
    write();
    assert!(redeem());
    assert!(!redeem());
    write();
    fs::write(&path, segment(NAME, IDENTIFIER, 8)).unwrap();
    assert!(!redeem());
    write();
    fs::remove_file(place.archived(NAME)).unwrap();
    assert!(!redeem());
}

#[test]
fn timelines_are_hexadecimal() {
    let place = Place::new();
    let name = wal::SegmentName::containing(
        TimelineId::new(16).unwrap(),
        Lsn(0x0700_0000),
        SegmentSize::new(SIZE).unwrap(),
    )
    .to_string();
    assert!(name.starts_with("00000010"));
    place.put(&name, &segment(&name, IDENTIFIER, 7)).unwrap();
    assert!(place.get(&name).unwrap().is_some());
}
