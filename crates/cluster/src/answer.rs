use postgres::NoTls;
use postgres::error::SqlState;

use crate::{Client, Server, configuration, refused};

/// What a server says to somebody who knocks.
pub enum Answer {
    /// It lets them in.
    Open(Box<Client>),
    /// It runs, and is starting, stopping or replaying WAL that it needs to be consistent.
    NotYet,
    /// It does not answer, or refuses.
    No(anyhow::Error),
}

impl Server {
    /// Connects to `database` over the server's socket, and tells a server that will be there soon from
    /// one that is not there.
    #[must_use]
    pub fn knock(&self, database: &str) -> Answer {
        let server = &self.settings;
        let config = configuration(
            &server.socket_directory,
            server.port,
            &server.role,
            database,
        );
        match config.connect(NoTls) {
            Ok(client) => Answer::Open(Box::new(client)),
            Err(err) if err.code() == Some(&SqlState::CANNOT_CONNECT_NOW) => Answer::NotYet,
            Err(err) => Answer::No(refused(&err, &server.socket_directory, server.port)),
        }
    }
}
