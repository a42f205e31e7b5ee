//! The shared secret: its file, and the keyed hashes made with it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::StartError;

/// The default file, in the home directory.
const FILE: &str = ".statekeeper.cookie";
/// Bytes of randomness in a cookie that we make.
const RANDOM_BYTES: usize = 32;
/// The longest cookie file that is read.
const FILE_MAX: u64 = 4096;

/// The shared secret of a cluster. Never printed.
#[derive(Clone)]
pub(crate) struct Cookie(Vec<u8>);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(…)")
    }
}

impl Cookie {
    /// A cookie of these bytes, for tests.
    #[cfg(test)]
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(secret.to_vec())
    }

    /// Reads the given file as it is, or the default one, which is made at the first start.
    ///
    /// # Errors
    /// [`StartError::Cookie`]: missing, empty, too long, or readable by others.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, StartError> {
        match file {
            Some(path) => Self::read(path),
            None => {
                let home = std::env::home_dir()
                    .filter(|home| home.is_absolute())
                    .ok_or_else(|| {
                        failed(
                            Path::new("~").join(FILE),
                            "there is no home directory; name a file with --cookie-file",
                        )
                    })?;
                Self::read_or_create(&home.join(FILE))
            }
        }
    }

    /// The default file: two nodes that start at once must agree, and a crash must not leave an empty file.
    ///
    /// So the secret is written to a file of another name first, and linked to the right one: `link` never
    /// replaces, and whoever comes second reads what the first one linked.
    fn read_or_create(path: &Path) -> Result<Self, StartError> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => return Self::read(path),
        }
        let mut secret = String::with_capacity(2 * RANDOM_BYTES + 1);
        for byte in rand::random::<[u8; RANDOM_BYTES]>() {
            secret.push_str(&format!("{byte:02x}"));
        }
        secret.push('\n');
        let draft = path.with_extension(format!("{:016x}", rand::random::<u64>()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| {
                file.write_all(secret.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .and_then(|()| match fs::hard_link(&draft, path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            });
        // The draft is of no more use, whatever happened; that it may not exist is fine.
        let _ = fs::remove_file(&draft);
        written.map_err(|e| {
            failed(
                path,
                format!("cannot be made: {e}; name another file with --cookie-file"),
            )
        })?;
        Self::read(path)
    }

    fn read(path: &Path) -> Result<Self, StartError> {
        let mut file = File::open(path).map_err(|e| {
            failed(
                path,
                format!("cannot be read: {e}; copy it from another node of the cluster"),
            )
        })?;
        let meta = file
            .metadata()
            .map_err(|e| failed(path, format!("cannot be read: {e}")))?;
        if !meta.is_file() {
            return Err(failed(path, "is not a file"));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(failed(
                path,
                format!("others can read it; run: chmod 600 {}", path.display()),
            ));
        }
        let mut secret = Vec::new();
        Read::by_ref(&mut file)
            .take(FILE_MAX + 1)
            .read_to_end(&mut secret)
            .map_err(|e| failed(path, format!("cannot be read: {e}")))?;
        if secret.len() as u64 > FILE_MAX {
            return Err(failed(
                path,
                format!("is longer than {FILE_MAX} bytes; this is no cookie"),
            ));
        }
        while secret
            .last()
            .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
        {
            secret.pop();
        }
        if secret.is_empty() {
            return Err(failed(
                path,
                "is empty; remove it, or copy it from another node of the cluster",
            ));
        }
        Ok(Self(secret))
    }

    /// A keyed hash of `parts`, for one use only: `purpose` tells the uses apart.
    pub(crate) fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.keyed(purpose, parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is that hash, compared in constant time.
    pub(crate) fn verify(&self, purpose: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.keyed(purpose, parts).verify_slice(tag).is_ok()
    }

    /// What ractor gets as its cookie: derived, so that it says nothing about ours.
    pub(crate) fn for_ractor(&self) -> String {
        self.mac("ractor", &[])
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Every part goes in with its length, so that no two lists of parts look the same.
    fn keyed(&self, purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0)
            .expect("an HMAC takes keys of every length");
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

fn failed(path: impl Into<PathBuf>, reason: impl Into<String>) -> StartError {
    StartError::Cookie {
        path: path.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        Cookie::read(path).unwrap_err().to_string()
    }

    #[test]
    fn the_first_start_makes_a_private_cookie_and_the_next_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let first = Cookie::read_or_create(&path).unwrap();
        assert_eq!(first.0.len(), 2 * RANDOM_BYTES);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Cookie::read_or_create(&path).unwrap().0, first.0);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn nodes_that_start_at_once_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let barrier = std::sync::Barrier::new(8);
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let run = || {
                barrier.wait();
                Cookie::read_or_create(&path).unwrap().0
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    }

    #[test]
    fn a_cookie_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cookie");
        for mode in [0o640, 0o604, 0o660, 0o601] {
            write(&path, "secret", mode);
            assert!(
                refusal(&path).contains(&format!("chmod 600 {}", path.display())),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn empty_missing_and_huge_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cookie");
        assert!(refusal(&path).contains("cannot be read"));
        write(&path, "\n", 0o600);
        assert!(refusal(&path).contains("empty"));
        write(&path, &"x".repeat(5000), 0o600);
        assert!(refusal(&path).contains("longer"));
        assert!(refusal(dir.path()).contains("not a file"));
    }

    #[test]
    fn the_trailing_newline_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cookie");
        write(&path, "secret\r\n", 0o600);
        assert_eq!(Cookie::load(Some(&path)).unwrap().0, b"secret");
    }

    #[test]
    fn debug_never_prints_the_secret() {
        assert!(!format!("{:?}", Cookie::of(b"secret")).contains("secret"));
    }

    #[test]
    fn a_hash_is_bound_to_its_purpose_and_the_borders_of_its_parts() {
        let cookie = Cookie::of(b"secret");
        let tag = cookie.mac("client", &[b"ab", b"c"]);
        assert!(cookie.verify("client", &[b"ab", b"c"], &tag));
        assert!(!cookie.verify("server", &[b"ab", b"c"], &tag));
        assert!(!cookie.verify("client", &[b"a", b"bc"], &tag));
        assert!(!cookie.verify("client", &[b"ab", b"c"], &tag[..31]));
        assert!(!Cookie::of(b"other").verify("client", &[b"ab", b"c"], &tag));
        assert_eq!(cookie.for_ractor().len(), 64);
    }
}
