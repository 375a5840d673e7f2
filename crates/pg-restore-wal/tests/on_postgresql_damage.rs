//! Damage in the archive while a real server recovers from it: the recovery stops, and after the cure
//! it goes on to the last row. No recovery here has a target, so that whatever PostgreSQL took for the
//! end of the WAL would promote it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use archive::Archive;
use archive::format::{self, Damaged};
use serde_json::json;
use testbed::{Cluster, ClusterOptions, Run, StopMode, Testbed};
use wal::{SegmentName, TimelineId, WalFileName};

/// In turn, so that each form of storage is damaged.
const ALGORITHMS: [&str; 3] = ["zstd", "lz4", "none"];
const ROWS: &str = "5";

/// A number from the environment; campaigns ask for more than the default.
fn count(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(default)
}

/// A repeatable source of choices.
struct Choices(u64);

impl Choices {
    fn new() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    /// Changes one byte of `bytes` and says which.
    fn flip(&mut self, bytes: &mut [u8]) -> usize {
        let at = self.below(bytes.len());
        bytes[at] ^= 1 << self.below(8);
        at
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// A stopped cluster with a base backup and five segments of WAL after it, each with one row.
struct History {
    testbed: Testbed,
    cluster: Cluster,
    segments: Vec<SegmentName>,
}

impl History {
    fn new() -> Result<Self> {
        let testbed = Testbed::new()?;
        let cluster = testbed.cluster("main", ClusterOptions::archiving().segment_size_mib(1))?;
        cluster.start()?;
        cluster.psql("CREATE TABLE rows (i int, filler text)")?;
        cluster
            .run("pg-base-backup", ["--full"])?
            .expect_success()?;
        let mut segments = Vec::new();
        for i in 1..=5 {
            cluster.change_settings(&json!({
                "archive": { "compression": { "algorithm": ALGORITHMS[i % ALGORITHMS.len()] } }
            }))?;
            cluster.psql(&format!(
                "INSERT INTO rows SELECT {i}, string_agg(md5(g::text), '') FROM generate_series(1, 2000) g"
            ))?;
            segments.push(SegmentName::parse(&cluster.archive_everything()?)?);
        }
        cluster.stop(StopMode::Fast)?;
        Ok(Self {
            testbed,
            cluster,
            segments,
        })
    }

    fn archive(&self) -> Result<Archive> {
        Archive::open(&self.cluster.archive(), "main")
    }

    fn stored(&self, name: &WalFileName) -> Result<PathBuf> {
        let archive = self.archive()?;
        archive.path_of(archive.newest_cluster()?, name)
    }

    fn stored_segment(&self, segment: SegmentName) -> Result<PathBuf> {
        self.stored(&WalFileName::Segment(segment))
    }

    /// The restore command of the settings, without its two arguments.
    fn restore_program(&self) -> Result<String> {
        Ok(testbed::program("pg-restore-wal")?
            .arg("--config")
            .arg(self.cluster.settings_path())
            .line())
    }

    /// A copy of the base backup that is about to recover to the end of the WAL, and to stay out of
    /// the archive.
    fn recovering(&self, name: &str) -> Result<Cluster> {
        let copy = self.recovering_and_archiving(name)?;
        copy.configure("archive_mode = off")?;
        Ok(copy)
    }

    fn recovering_and_archiving(&self, name: &str) -> Result<Cluster> {
        let backup = std::fs::read_dir(self.cluster.backups())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("PG_VERSION").exists())
            .context("no base backup")?;
        let data = self.testbed.path().join(name);
        command::Command::new("/bin/cp")
            .args([OsStr::new("-a"), backup.as_os_str(), data.as_os_str()])
            .run()?;
        std::fs::write(data.join("recovery.signal"), "")?;
        self.testbed.adopt(&data, self.cluster.settings_path())
    }

    /// Puts a script in front of the restore command of `copy`. `$1` is the name that is asked for.
    fn wrap(&self, copy: &Cluster, script: &str) -> Result<PathBuf> {
        let path = self.testbed.path().join("restore.sh");
        let text = format!(
            "#!/bin/sh\nprogram={:?}\n{script}\nexec $program \"$1\" \"$2\"\n",
            self.restore_program()?
        );
        std::fs::write(&path, text)?;
        chmod(&path, 0o755)?;
        copy.configure(&format!("restore_command = '{} %f %p'", path.display()))?;
        Ok(path)
    }
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("change the mode of \"{}\"", path.display()))
}

/// Starts a recovery that has to end by itself, without promotion.
fn stops(copy: &Cluster) -> Result<()> {
    // A server that is consistent takes connections before it reaches the damage.
    let _ = copy.start();
    copy.wait_until_ended()?;
    let log = copy.log();
    ensure!(log.contains("FATAL"), "no FATAL: {log}");
    ensure!(
        !log.contains("archive recovery complete") && !log.contains("selected new timeline ID"),
        "promoted: {log}"
    );
    ensure!(
        copy.data().join("recovery.signal").exists(),
        "the recovery was taken for finished: {log}"
    );
    ensure!(
        histories_in(&copy.data().join("pg_wal"))?.is_empty(),
        "a timeline was begun: {log}"
    );
    Ok(())
}

fn histories_in(directory: &Path) -> Result<Vec<String>> {
    Ok(std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".history"))
        .collect())
}

/// Starts a recovery that has to reach the last row.
fn reaches_the_last_row(copy: &Cluster) -> Result<()> {
    copy.start()?;
    copy.wait_until_promoted()?;
    assert_eq!(copy.psql("SELECT count(*) FROM rows")?, ROWS);
    Ok(())
}

/// Ends `copy` and removes it, so that many fit on a small disk.
fn discard(copy: &Cluster) -> Result<()> {
    if copy.is_running() {
        copy.stop(StopMode::Immediate)?;
    }
    std::fs::remove_dir_all(copy.data())?;
    Ok(())
}

fn read_through_archive(archive: &Archive, segment: SegmentName) -> Result<()> {
    let name = WalFileName::Segment(segment);
    archive
        .read(archive.newest_cluster()?, &name, &mut |_| Ok(()))
        .map(drop)
}

fn is_damage(result: Result<()>) -> Result<()> {
    let err = result.err().context("nothing was noticed")?;
    ensure!(
        err.chain().any(<dyn std::error::Error>::is::<Damaged>),
        "taken for something else than damage: {err:#}"
    );
    Ok(())
}

#[test]
fn r3_every_random_flip_in_a_stored_segment_is_detected() -> Result<()> {
    let history = History::new()?;
    let mut choices = Choices::new();
    let mut stored = Vec::new();
    for segment in &history.segments {
        stored.push(std::fs::read(history.stored_segment(*segment)?)?);
    }
    let flips = count("BACKSTAY_FLIPS", 1000);
    for number in 0..flips {
        let which = number % stored.len();
        let mut bytes = stored[which].clone();
        let at = choices.flip(&mut bytes);
        is_damage(format::decode(&mut bytes.as_slice(), &mut |_| Ok(())).map(drop)).with_context(
            || {
                format!(
                    "flip {number}, in byte {at} of {} of \"{}\"",
                    bytes.len(),
                    history.segments[which]
                )
            },
        )?;
    }
    for (segment, bytes) in history.segments.iter().zip(&stored) {
        format::decode(&mut bytes.as_slice(), &mut |_| Ok(()))
            .with_context(|| format!("\"{segment}\" as it was stored"))?;
    }
    println!("{flips} flips, each detected");
    Ok(())
}

#[test]
fn r3_whatever_lies_in_the_place_of_a_segment_is_no_substitute_for_it() -> Result<()> {
    let history = History::new()?;
    let other = history
        .testbed
        .cluster("other", ClusterOptions::archiving().segment_size_mib(1))?;
    other.start()?;
    // With a segment of the same name, which is what makes it a trap.
    while SegmentName::parse(&other.archive_everything()?)? < history.segments[0] {}
    other.stop(StopMode::Fast)?;

    let others = Archive::open(&other.archive(), "main")?;
    let other_cluster = others.newest_cluster()?;
    let namesake = WalFileName::Segment(history.segments[0]);
    ensure!(
        others
            .list(other_cluster)?
            .files
            .iter()
            .any(|(name, _)| *name == namesake),
        "the other cluster has no \"{namesake}\""
    );
    let foreign = std::fs::read(others.path_of(other_cluster, &namesake)?)?;

    let archive = history.archive()?;
    let mut choices = Choices::new();
    for (number, segment) in history.segments.iter().enumerate() {
        let path = history.stored_segment(*segment)?;
        let whole = std::fs::read(&path)?;
        let neighbour = history.segments[(number + 1) % history.segments.len()];
        let half = whole.len() / 2;
        let damages: [(&str, Vec<u8>); 13] = [
            ("nothing", Vec::new()),
            ("zeros", vec![0; whole.len()]),
            ("zeros of a segment's size", vec![0; 1 << 20]),
            ("garbage", choices.bytes(whole.len())),
            ("garbage of a segment's size", choices.bytes(1 << 20)),
            ("the first half", whole[..half].to_vec()),
            ("the second half", whole[half..].to_vec()),
            ("all but the last byte", whole[..whole.len() - 1].to_vec()),
            ("one byte more", [&whole[..], &[0]].concat()),
            ("twice the same", [&whole[..], &whole[..]].concat()),
            (
                "zeros from the middle on",
                [&whole[..half], &vec![0; whole.len() - half]].concat(),
            ),
            (
                "its neighbour",
                std::fs::read(history.stored_segment(neighbour)?)?,
            ),
            ("another cluster's segment", foreign.clone()),
        ];
        for (what, bytes) in damages {
            std::fs::write(&path, bytes)?;
            let place = || format!("{what} in the place of \"{segment}\"");
            is_damage(read_through_archive(&archive, *segment)).with_context(place)?;
            let restored = history.testbed.path().join("fetched");
            Run::of(
                &testbed::program("pg-restore-wal")?
                    .arg("--config")
                    .arg(history.cluster.settings_path())
                    .arg(segment.to_string())
                    .arg(&restored),
            )?
            .expect_code(200)
            .with_context(place)?;
            ensure!(
                !restored.exists(),
                "{what}: something was handed over for \"{segment}\""
            );
        }
        std::fs::write(&path, &whole)?;
        read_through_archive(&archive, *segment)?;
    }
    Ok(())
}

#[test]
fn r1_r3_a_recovery_stops_at_a_flipped_byte_and_goes_on_after_the_cure() -> Result<()> {
    let history = History::new()?;
    let mut choices = Choices::new();
    let recoveries = count("BACKSTAY_RECOVERIES", 6);
    for number in 0..recoveries {
        // Neither the first nor the last: those could be the start or the end of what there is.
        let segment = history.segments[1 + number % 3];
        let path = history.stored_segment(segment)?;
        let whole = std::fs::read(&path)?;
        let mut bytes = whole.clone();
        let at = choices.flip(&mut bytes);
        std::fs::write(&path, bytes)?;
        let copy = history.recovering(&format!("copy-{number}"))?;
        stops(&copy).with_context(|| format!("flip in byte {at} of \"{segment}\""))?;
        std::fs::write(&path, whole)?;
        reaches_the_last_row(&copy)
            .with_context(|| format!("cure of byte {at} of \"{segment}\""))?;
        discard(&copy)?;
    }
    println!("{recoveries} recoveries stopped and reached the last row after the cure");
    Ok(())
}

#[test]
fn r1_r3_a_recovery_stops_at_structured_damage_and_goes_on_after_the_cure() -> Result<()> {
    let history = History::new()?;
    let segment = history.segments[2];
    let path = history.stored_segment(segment)?;
    let whole = std::fs::read(&path)?;
    let neighbour = std::fs::read(history.stored_segment(history.segments[1])?)?;
    let damages: [(&str, Vec<u8>); 4] = [
        ("zeros", vec![0; 1 << 20]),
        ("the first half", whole[..whole.len() / 2].to_vec()),
        ("nothing", Vec::new()),
        ("its neighbour", neighbour),
    ];
    for (number, (what, bytes)) in damages.into_iter().enumerate() {
        std::fs::write(&path, bytes)?;
        let copy = history.recovering(&format!("copy-{number}"))?;
        stops(&copy).with_context(|| what.to_owned())?;
        std::fs::write(&path, &whole)?;
        reaches_the_last_row(&copy).with_context(|| what.to_owned())?;
        discard(&copy)?;
    }
    Ok(())
}

#[test]
fn r1_a_recovery_stops_at_a_file_that_cannot_be_read_and_goes_on_after_the_cure() -> Result<()> {
    let history = History::new()?;
    let file = history.stored_segment(history.segments[2])?;
    let directory = file.parent().context("a segment has a directory")?;
    for (number, (path, mode)) in [(file.as_path(), 0o640), (directory, 0o750)]
        .into_iter()
        .enumerate()
    {
        let copy = history.recovering(&format!("copy-{number}"))?;
        chmod(path, 0)?;
        let stopped = stops(&copy);
        chmod(path, mode)?;
        stopped.with_context(|| format!("\"{}\" unreadable", path.display()))?;
        reaches_the_last_row(&copy)?;
        discard(&copy)?;
    }
    Ok(())
}

#[test]
fn r1_a_recovery_stops_when_the_program_fails_in_the_middle_and_goes_on_after_the_cure()
-> Result<()> {
    let history = History::new()?;
    let segment = history.segments[2];
    let archive = history.cluster.archive();
    let manifest = archive.join("archive.json");
    let aside = history.testbed.path().join("archive.json");
    let broken = history.testbed.path().join("broken.json");
    std::fs::write(&broken, "{ \"instance\": \"main\", ")?;
    let program = testbed::program("pg-restore-wal")?.line();
    let faults = [
        // As an unmounted file system looks.
        (
            "archive.json is gone",
            format!("mv {} {}", manifest.display(), aside.display()),
        ),
        (
            "settings that cannot be read",
            format!("program='{program} --config {}'", broken.display()),
        ),
        (
            "settings that are not there",
            format!("program='{program} --config /nowhere/settings.json'"),
        ),
        (
            "an unknown option",
            "program=\"$program --no-such-option\"".into(),
        ),
        ("no file descriptor left", "ulimit -n 3".into()),
        ("too few file descriptors", "ulimit -n 4".into()),
        ("no memory", "ulimit -v 4000".into()),
        (
            "no space in pg_wal",
            // 64 blocks of 512 bytes, less than a segment.
            "trap '' XFSZ; ulimit -f 64".into(),
        ),
        (
            "the program is gone",
            "program=/nowhere/pg-restore-wal".into(),
        ),
        ("killed", "kill -9 $$".into()),
    ];
    for (number, (what, fault)) in faults.iter().enumerate() {
        let copy = history.recovering(&format!("copy-{number}"))?;
        // Without the fetcher, which may have brought the segment before the fault.
        history
            .cluster
            .change_settings(&json!({ "archive": { "prefetchMebibytes": 0 } }))?;
        history.wrap(
            &copy,
            &format!("if [ \"$1\" = {segment} ]; then\n{fault}\nfi"),
        )?;
        stops(&copy).with_context(|| (*what).to_owned())?;
        if aside.exists() {
            durable_file::move_to_new_name(&aside, &manifest)?;
        }
        history.wrap(&copy, "")?;
        reaches_the_last_row(&copy).with_context(|| (*what).to_owned())?;
        discard(&copy)?;
    }
    Ok(())
}

#[test]
fn r2_the_end_of_the_wal_ends_the_recovery_with_every_row() -> Result<()> {
    let history = History::new()?;
    let copy = history.recovering("copy")?;
    reaches_the_last_row(&copy)?;
    ensure!(copy.log().contains("archive recovery complete"));
    ensure!(!copy.log().contains("FATAL"), "{}", copy.log());
    Ok(())
}

#[test]
fn r6_a_server_that_is_stopped_during_a_fetch_stops_and_recovers_afterwards() -> Result<()> {
    let history = History::new()?;
    for (number, mode) in [StopMode::Fast, StopMode::Immediate]
        .into_iter()
        .enumerate()
    {
        let copy = history.recovering(&format!("copy-{number}"))?;
        let asked = history.testbed.path().join(format!("asked-{number}"));
        history.wrap(
            &copy,
            &format!(
                "if [ \"$1\" = {} ]; then touch {}; sleep 60; fi",
                history.segments[2],
                asked.display()
            ),
        )?;
        std::thread::scope(|scope| -> Result<()> {
            // Returns once the server takes connections, or has been stopped before.
            let starting = scope.spawn(|| copy.start());
            let waited =
                testbed::wait_until("the fetch has begun", || Ok(asked.exists().then_some(())));
            let stopped = copy.stop(mode);
            drop(starting.join());
            waited.and(stopped)
        })
        .with_context(|| format!("{mode:?}\n{}", copy.log()))?;
        ensure!(copy.data().join("recovery.signal").exists());
        ensure!(!copy.log().contains("PANIC"), "{}", copy.log());
        history.wrap(&copy, "")?;
        reaches_the_last_row(&copy)?;
        discard(&copy)?;
    }
    Ok(())
}

#[test]
fn r10_a_history_file_that_cannot_be_read_does_not_make_its_timeline_free() -> Result<()> {
    let history = History::new()?;
    // Another recovery of the same backup was first and took timeline 2.
    let first = history.recovering_and_archiving("first")?;
    reaches_the_last_row(&first)?;
    first.archive_everything()?;
    first.stop(StopMode::Fast)?;
    let taken = history.stored(&WalFileName::History(
        TimelineId::new(2).context("no timeline")?,
    ))?;
    let whole = std::fs::read(&taken)?;

    let copy = history.recovering("copy")?;
    // On its own timeline it asks for the histories of others only to find a free number.
    copy.configure("recovery_target_timeline = 'current'")?;
    chmod(&taken, 0)?;
    let stopped = stops(&copy);
    chmod(&taken, 0o640)?;
    stopped.context("an unreadable history file")?;
    std::fs::write(&taken, &whole[..whole.len() / 2])?;
    stops(&copy).context("a damaged history file")?;
    std::fs::write(&taken, &whole)?;
    reaches_the_last_row(&copy)?;
    assert_eq!(
        histories_in(&copy.data().join("pg_wal"))?
            .iter()
            .max()
            .map(String::as_str),
        Some("00000003.history")
    );
    Ok(())
}
