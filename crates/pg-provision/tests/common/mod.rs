//! A running cluster, what is declared for it, and `pg-provision`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use testbed::{Cluster, ClusterOptions, Run, Testbed};

/// A running cluster.
pub struct Instance {
    /// The cluster.
    pub cluster: Cluster,
    /// Where everything lies; it goes last.
    _testbed: Testbed,
}

#[allow(dead_code, reason = "each test file uses a part")]
impl Instance {
    /// Starts a cluster without declarations.
    pub fn new() -> Result<Self> {
        Self::with(&[])
    }

    /// Starts a cluster with further lines of `postgresql.conf`.
    pub fn with(configuration: &[&str]) -> Result<Self> {
        let testbed = Testbed::new()?;
        let mut options = ClusterOptions::default();
        for line in configuration {
            options = options.configure(*line);
        }
        let cluster = testbed.cluster("main", options)?;
        cluster.start()?;
        let instance = Self {
            cluster,
            _testbed: testbed,
        };
        instance.declare(&json!({}))?;
        Ok(instance)
    }

    /// The stamp.
    pub fn stamp(&self) -> PathBuf {
        self.cluster.home().join("provisioned.sha256")
    }

    /// Declares `databases`, the section of that name, in place of what was declared before.
    pub fn declare(&self, databases: &Value) -> Result<()> {
        let mut section = json!({ "stampFile": self.stamp() });
        let (Some(section_map), Some(map)) = (section.as_object_mut(), databases.as_object())
        else {
            return Err(anyhow!("no objects"));
        };
        section_map.extend(map.clone());
        self.cluster
            .change_settings(&json!({ "databases": null }))?;
        self.cluster
            .change_settings(&json!({ "databases": section }))
    }

    /// Runs the program.
    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        self.cluster.run("pg-provision", arguments)
    }

    /// Brings about what is declared, which has to succeed, and returns what was said.
    pub fn provision(&self) -> Result<String> {
        Ok(self.run(&[])?.expect_success()?.stderr)
    }

    /// Brings about what is declared, which has to fail, and returns what was said.
    pub fn fails(&self) -> Result<String> {
        Ok(self.run(&[])?.expect_code(2)?.stderr)
    }

    /// What would be done.
    pub fn plan(&self) -> Result<String> {
        Ok(self.run(&["--plan"])?.expect_success()?.stdout)
    }

    /// Checks that nothing is left to be done.
    pub fn converged(&self) -> Result<()> {
        let run = self.run(&["--check"])?;
        run.clone().expect_success().with_context(|| run.stdout)?;
        Ok(())
    }

    /// Writes a password file that only its owner can read.
    pub fn secret(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.cluster.home().join(name);
        // A file that nobody may write is replaced.
        let _ = fs::remove_file(&path);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400))?;
        Ok(path)
    }

    /// Makes everybody but "postgres" prove with a password who he is.
    pub fn ask_for_passwords(&self) -> Result<()> {
        fs::write(
            self.cluster.data().join("pg_hba.conf"),
            "local all postgres trust\nlocal all all scram-sha-256\n",
        )?;
        self.cluster.psql("SELECT pg_reload_conf()").map(drop)
    }

    /// Runs SQL as `role`, which needs no password.
    pub fn psql_as(&self, role: &str, database: &str, sql: &str) -> Result<String> {
        let output = self
            .cluster
            .client_program("psql")
            .env("PGUSER", role)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(database)
            .arg("-c")
            .arg(sql)
            .run()?;
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs SQL as `role`, which has to be refused, and returns the reason.
    pub fn refused(&self, role: &str, database: &str, sql: &str) -> Result<String> {
        match self.psql_as(role, database, sql) {
            Ok(answer) => Err(anyhow!("role \"{role}\" was allowed: {sql}: {answer}")),
            Err(err) => Ok(format!("{err:#}")),
        }
    }

    /// What the catalogs hold of roles, databases and their rights, apart from what changes by itself.
    pub fn catalog(&self) -> Result<String> {
        self.cluster.psql(
            "SELECT 'role', rolname, rolsuper, rolcanlogin, rolcreatedb, rolcreaterole, rolreplication,
                    rolconnlimit::text, md5(coalesce(rolpassword, '')) FROM pg_authid
             UNION ALL
             SELECT 'database', datname, false, datistemplate, false, false, false,
                    pg_get_userbyid(datdba) || datconnlimit, coalesce(datacl::text, '') FROM pg_database
             UNION ALL
             SELECT 'member', m.roleid::regrole::text, m.admin_option, false, false, false, false,
                    m.member::regrole::text, '' FROM pg_auth_members m
             ORDER BY 1, 2, 8",
        )
    }

    /// The number of the next transaction that writes, by which a run that writes nothing is known.
    ///
    /// Not the position in the WAL: reading a page can leave a hint in it that is logged.
    pub fn next_transaction(&self) -> Result<String> {
        self.cluster
            .psql("SELECT pg_snapshot_xmax(pg_current_snapshot())")
    }
}

/// Tells the content of a file, for messages.
#[allow(dead_code, reason = "each test file uses a part")]
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read \"{}\"", path.display()))
}
