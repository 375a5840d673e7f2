//! Base backups, and restoring them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use testbed::{Cluster, ClusterOptions, Testbed};

use super::contender::call;
use super::report::{Cell, Report, Table, median, print_table};
use super::{progress, turns};

/// Scale of the pgbench database: 1 GiB, roughly.
const SCALE: u32 = 70;

/// Something that copies the cluster or a backup of it; returns the seconds that count.
struct Contender {
    name: &'static str,
    copy: fn(&Bench) -> Result<f64>,
}

/// What the contenders work on.
struct Bench {
    cluster: Cluster,
}

const CP: &str = "cp -a";
const CP_SYNC: &str = "cp -a, then sync";
const PG_BASEBACKUP: &str = "pg_basebackup";
const OURS: &str = "ours";

const CPS: [Contender; 2] = [
    Contender {
        name: CP,
        copy: |bench| bench.cp(false),
    },
    Contender {
        name: CP_SYNC,
        copy: |bench| bench.cp(true),
    },
];

const BACKUPS: [Contender; 3] = [
    Contender {
        name: PG_BASEBACKUP,
        copy: Bench::pg_basebackup,
    },
    Contender {
        name: OURS,
        copy: Bench::our_backup,
    },
    Contender {
        name: "pgBackRest, 2 processes, lz4",
        copy: Bench::pgbackrest_backup,
    },
];

const RESTORES: [Contender; 2] = [
    Contender {
        name: OURS,
        copy: Bench::our_restore,
    },
    Contender {
        name: "pgBackRest, 2 processes, lz4",
        copy: Bench::pgbackrest_restore,
    },
];

/// Takes and restores base backups `runs` times, in turn.
pub fn measure(testbed: &Testbed, runs: u32, report: &mut Report) -> Result<()> {
    progress(format_args!("filling a database"));
    let cluster = testbed.cluster("backup", ClusterOptions::archiving())?;
    cluster.start()?;
    cluster
        .client_program("pgbench")
        .args(["-i", "-q", "-s", &SCALE.to_string(), "postgres"])
        .run()?;
    cluster.psql("CHECKPOINT")?;
    cluster.archive_everything()?;
    let bench = Bench { cluster };
    bench.prepare_pgbackrest()?;
    // There has to be one to copy.
    bench.our_backup()?;
    let mebibytes = bench.mebibytes()?;

    let backups = bench.rates("base backup", &BACKUPS, runs, mebibytes)?;
    print_table(
        &format!("Base backup of {mebibytes:.0} MiB, medians of {runs} runs"),
        "Ours: the whole call of pg-base-backup without its verification and without the wait for the last \
         WAL file in the archive. pg_basebackup and ours sync what they wrote.",
        &table(&backups),
    );
    let rate = |rates: &[(&str, f64)], who| {
        rates
            .iter()
            .find(|(name, _)| *name == who)
            .map_or(f64::NAN, |(_, rate)| *rate)
    };
    report.at_least(
        "base backup: ours / pg_basebackup",
        rate(&backups, OURS) / rate(&backups, PG_BASEBACKUP),
        0.95,
    );

    let restores = bench.rates("restore", &RESTORES, runs, mebibytes)?;
    print_table(
        &format!("Restore of {mebibytes:.0} MiB, medians of {runs} runs"),
        "Ours: the files of backstay restore, checked and synced, without the replay of WAL.",
        &table(&restores),
    );
    for floor in [CP, CP_SYNC] {
        report.at_least(
            &format!("restore: ours / {floor}"),
            rate(&restores, OURS) / rate(&restores, floor),
            0.7,
        );
    }
    Ok(())
}

fn table(rates: &[(&'static str, f64)]) -> Table {
    let mut table = Table::new(&["", "MiB/s", "of cp -a"]);
    let floor = rates[0].1;
    for (name, rate) in rates {
        table.row(vec![
            Cell::text(name),
            Cell::number(*rate, 0),
            Cell::percent(rate / floor),
        ]);
    }
    table
}

impl Bench {
    /// The rate of each contender, in MiB/s.
    fn rates(
        &self,
        what: &str,
        contenders: &[Contender],
        runs: u32,
        mebibytes: f64,
    ) -> Result<Vec<(&'static str, f64)>> {
        let contenders: Vec<&Contender> = CPS.iter().chain(contenders).collect();
        let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for run in 1..=runs {
            for turn in turns(contenders.len(), run) {
                let contender = &contenders[turn];
                progress(format_args!(
                    "{what}, run {run} of {runs}: {}",
                    contender.name
                ));
                self.clear()?;
                nix::unistd::sync();
                seconds[turn].push((contender.copy)(self)?);
            }
        }
        Ok(contenders
            .iter()
            .zip(seconds)
            .map(|(contender, seconds)| (contender.name, mebibytes / median(seconds.into_iter())))
            .collect())
    }

    /// Where copies go.
    fn copy(&self) -> std::path::PathBuf {
        self.cluster.home().join("copy")
    }

    fn clear(&self) -> Result<()> {
        let copy = self.copy();
        if copy.exists() {
            fs::remove_dir_all(&copy).with_context(|| format!("remove \"{}\"", copy.display()))?;
        }
        Ok(())
    }

    /// Size of the cluster without its WAL, in MiB: the same for all.
    fn mebibytes(&self) -> Result<f64> {
        let said = self
            .cluster
            .psql("SELECT sum(pg_database_size(oid)) / 1048576.0 FROM pg_database")?;
        said.parse().with_context(|| format!("read a size: {said}"))
    }

    /// Copies the newest base backup: the same files as a base backup or a restore, and no WAL.
    fn cp(&self, sync: bool) -> Result<f64> {
        let from = directories(&self.cluster.backups())?
            .pop()
            .context("find a base backup")?;
        let copy = self.copy();
        let begun = Instant::now();
        call(&["/bin/cp", "-a", &text(&from), &text(&copy)].map(String::from))?;
        if sync {
            call(&["/bin/sync", "--file-system", &text(&copy)].map(String::from))?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn pg_basebackup(&self) -> Result<f64> {
        // As pg-base-backup calls it.
        let command = self
            .cluster
            .client_program("pg_basebackup")
            .args(["--wal-method", "stream", "--checkpoint", "fast", "--pgdata"])
            .arg(self.copy());
        let begun = Instant::now();
        command.run()?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn our_backup(&self) -> Result<f64> {
        // One at a time: what is measured is not how full the disk is.
        let backups = self.cluster.backups();
        let earlier = directories(&backups)?;
        let begun = Instant::now();
        let run = self
            .cluster
            .run("pg-base-backup", ["--full", "--json"])?
            .expect_success()?;
        let elapsed = begun.elapsed().as_secs_f64();
        for directory in earlier {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("remove \"{}\"", directory.display()))?;
        }
        let record = run.json()?;
        let seconds = |key: &str| -> Result<f64> {
            record[key]
                .as_f64()
                .with_context(|| format!("find {key} in the record of a base backup"))
        };
        Ok(elapsed - seconds("verifySeconds")? - seconds("walWaitSeconds")?)
    }

    fn our_restore(&self) -> Result<f64> {
        let copy = text(&self.copy());
        let run = self
            .cluster
            .run(
                "backstay",
                [
                    "restore",
                    "main",
                    "--to",
                    "latest",
                    "--into",
                    &copy,
                    "--yes",
                    "--no-backup",
                    "--json",
                ],
            )?
            .expect_success()?;
        run.json()?["filesSeconds"]
            .as_f64()
            .context("find filesSeconds in what backstay restore printed")
    }

    fn pgbackrest(&self, arguments: &[&str]) -> Vec<String> {
        let home = self.cluster.home();
        let mut words = vec![
            "/usr/bin/pgbackrest".into(),
            format!("--config={}", text(&home.join("pgbackrest.conf"))),
            "--stanza=bench".into(),
        ];
        words.extend(arguments.iter().copied().map(String::from));
        words
    }

    fn prepare_pgbackrest(&self) -> Result<()> {
        let home = self.cluster.home();
        let path = home.join("pgbackrest.conf");
        let configuration = format!(
            "[global]\nrepo1-path={home}/pgbackrest\nlock-path={home}/lock\nlog-path={home}\n\
             log-level-file=off\nlog-level-console=warn\ncompress-type=lz4\nprocess-max=2\n\
             start-fast=y\narchive-check=n\nrepo1-retention-full=1\n\n\
             [bench]\npg1-path={data}\npg1-socket-path={socket}\npg1-port={port}\npg1-user=postgres\n",
            home = home.display(),
            data = self.cluster.data().display(),
            socket = self.cluster.socket().display(),
            port = self.cluster.port(),
        );
        fs::write(&path, configuration).with_context(|| format!("write \"{}\"", path.display()))?;
        call(&self.pgbackrest(&["stanza-create"])).map(drop)
    }

    fn pgbackrest_backup(&self) -> Result<f64> {
        let begun = Instant::now();
        call(&self.pgbackrest(&["--type=full", "backup"]))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn pgbackrest_restore(&self) -> Result<f64> {
        let copy = self.copy();
        fs::create_dir(&copy).with_context(|| format!("create \"{}\"", copy.display()))?;
        let words = self.pgbackrest(&[&format!("--pg1-path={}", text(&copy)), "restore"]);
        let begun = Instant::now();
        call(&words)?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The directories in `directory` that are base backups, oldest first.
fn directories(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("read \"{}\"", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("backup_label").exists())
        .collect();
    found.sort();
    Ok(found)
}
