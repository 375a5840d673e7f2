//! SCRAM-SHA-256 verifiers: what a server stores of a password.
//!
//! A verifier that is computed here and sent in place of the password keeps the password out of the
//! server's log, of `pg_stat_activity` and of `pg_stat_statements`, whatever is logged there.
//!
//! # Source
//!
//! RFC 5802 and RFC 7677; PostgreSQL 18, `scram_build_secret()` in `scram-common.c`,
//! `parse_scram_secret()` in `auth-scram.c`, `pg_saslprep()` in `saslprep.c`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

/// Iterations that PostgreSQL itself uses.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Length of a salt, in bytes, that PostgreSQL itself uses.
pub const SALT_LENGTH: usize = 16;

type Key = [u8; 32];

/// A password, as bytes that are ready to be hashed. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Takes the password `bytes` as a client would send it.
    ///
    /// PostgreSQL and its clients bring a password into one of its equivalent spellings (`SASLprep`),
    /// and use the bytes as they are where that is not possible: where they are not UTF-8, or
    /// hold a character that the standard prohibits.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let prepared = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| stringprep::saslprep(text).ok())
            .map(|text| text.as_bytes().to_vec());
        Self(match prepared {
            Some(prepared) if !prepared.is_empty() => prepared,
            _ => bytes.to_vec(),
        })
    }
}

/// What a server stores of a password. Whoever has it can try passwords on it and can pretend to be
/// the server, so it is not shown either.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Computes the verifier of `password`.
    #[must_use]
    pub fn new(password: &Password, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let client_key = mac(&salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: mac(&salted, &[b"Server Key"]),
        }
    }

    /// Reads what stands in `pg_authid.rolpassword`; nothing for an MD5 hash and anything else that
    /// is no verifier.
    #[must_use]
    pub fn parse(stored: &str) -> Option<Self> {
        let rest = stored.strip_prefix("SCRAM-SHA-256$")?;
        let (first, keys) = rest.split_once('$')?;
        let (iterations, salt) = first.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        Some(Self {
            iterations: iterations.parse().ok().filter(|&count| count > 0)?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Whether it is the verifier of `password`.
    #[must_use]
    pub fn is_of(&self, password: &Password) -> bool {
        *self == Self::new(password, &self.salt, self.iterations)
    }

    /// The text for `PASSWORD '…'`, which the server stores as it is.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored_key),
            STANDARD.encode(self.server_key)
        )
    }
}

/// `Hi()` of RFC 5802, which is PBKDF2 with one block.
///
/// Thousands of times a MAC of 32 bytes under one key: each is two compressions, since the state
/// after the key is the same every time.
fn salted_password(password: &Password, salt: &[u8], iterations: u32) -> Key {
    let first = mac(&password.0, &[salt, &1_u32.to_be_bytes()]);
    let (inner, outer) = keyed_states(&password.0);
    let mut block = words_of(&first);
    let mut result = block;
    for _ in 1..iterations {
        block = after_key(outer, after_key(inner, block));
        for (word, other) in result.iter_mut().zip(block) {
            *word ^= other;
        }
    }
    let mut key = Key::default();
    for (bytes, word) in key.chunks_exact_mut(4).zip(result) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    key
}

type State = [u32; 8];

/// State of SHA-256 before anything, FIPS 180-4, section 5.3.3.
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// States of the inner and the outer hash of HMAC after their first block, the padded key.
fn keyed_states(key: &[u8]) -> (State, State) {
    let mut padded = [0; 64];
    if key.len() > padded.len() {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let after = |mask: u8| {
        let mut state = INITIAL;
        compress256(&mut state, &[padded.map(|byte| byte ^ mask)]);
        state
    };
    (after(0x36), after(0x5c))
}

/// Hash of the key block and of 32 more bytes, which with their padding are one block.
fn after_key(mut state: State, message: State) -> State {
    const BITS: u64 = (64 + 32) * 8;
    let mut block = [0; 64];
    for (bytes, word) in block.chunks_exact_mut(4).zip(message) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    block[32] = 0x80;
    block[56..].copy_from_slice(&BITS.to_be_bytes());
    compress256(&mut state, &[block]);
    state
}

fn words_of(key: &Key) -> State {
    let mut words = State::default();
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    words
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn mac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3: user "user", password "pencil".
    const RFC_SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

    #[test]
    fn the_example_of_the_standard_gives_its_signature() {
        let verifier = Verifier::new(
            &Password::new(b"pencil"),
            &STANDARD.decode(RFC_SALT).unwrap(),
            4096,
        );
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = mac(&verifier.server_key, &[message.as_bytes()]);
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }

    #[test]
    fn a_password_longer_than_a_block_is_hashed_first() {
        let long = [b'x'; 100];
        let salt = [7; SALT_LENGTH];
        let mut block = mac(&long, &[&salt, &1_u32.to_be_bytes()]);
        let mut expected = block;
        for _ in 1..3 {
            block = mac(&long, &[&block]);
            for (byte, other) in expected.iter_mut().zip(block) {
                *byte ^= other;
            }
        }
        assert_eq!(salted_password(&Password::new(&long), &salt, 3), expected);
    }

    #[test]
    fn what_is_written_is_read_back_and_fits_only_its_password() {
        let verifier = Verifier::new(&Password::new(b"secret"), &[7; SALT_LENGTH], 4096);
        let read = Verifier::parse(&verifier.text()).unwrap();
        assert_eq!(read, verifier);
        assert!(read.is_of(&Password::new(b"secret")));
        assert!(!read.is_of(&Password::new(b"Secret")));
    }

    #[test]
    fn what_is_no_verifier_is_not_taken_for_one() {
        let good = Verifier::new(&Password::new(b"secret"), &[7; SALT_LENGTH], 4096).text();
        for text in [
            "",
            "secret",
            "md5a3556571e93b0d20722ba62be61e8c2d",
            "SCRAM-SHA-256$4096:salt",
            "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
            &good[..good.len() - 2],
            &good.replace("4096", "many"),
        ] {
            assert_eq!(Verifier::parse(text), None, "{text}");
        }
    }

    #[test]
    fn spellings_that_clients_treat_as_one_password_are_one() {
        // A full-width letter, a soft hyphen and a non-breaking space.
        let plain = Password::new(b"IX a");
        assert_eq!(Password::new("I\u{ad}X\u{a0}\u{ff41}".as_bytes()), plain);
        assert_eq!(
            Password::new("\u{2168}".as_bytes()),
            Password::new(b"IX"),
            "the Roman numeral nine"
        );
    }

    #[test]
    fn what_the_standard_cannot_prepare_is_taken_as_it_is() {
        assert_eq!(Password::new(b"\xff\xfe").0, b"\xff\xfe");
        assert_eq!(Password::new(b"a\x07b").0, b"a\x07b");
        assert_eq!(Password::new("\u{ad}".as_bytes()).0, "\u{ad}".as_bytes());
    }

    #[test]
    fn passwords_and_verifiers_are_not_shown() {
        let password = Password::new(b"canary");
        let verifier = Verifier::new(&password, &[7; SALT_LENGTH], 1);
        assert_eq!(format!("{password:?} {verifier:?}"), "Password Verifier");
    }
}
