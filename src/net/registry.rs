//! What this user's nodes on this machine are called and where they listen: one small file per name.
//!
//! A living node holds an exclusive lock on its file; the operating system takes it away when the process ends,
//! however it ends. The file stays, so that a restarted node gets its address back.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::names;
use crate::error::StartError;
use crate::protocol::types::NodeName;

/// Names the directory, for tests and for several clusters of one user.
const ENV: &str = "STATEKEEPER_RUNTIME_DIR";
/// How a node's file ends.
const SUFFIX: &str = ".node";
/// More than a record ever has.
const RECORD_MAX: u64 = 1024;
/// How often a claim is tried: who looks whether a node runs holds its lock for a moment.
const CLAIM_TRIES: u32 = 20;
/// The pause between two tries, so that a claim takes 200 ms at most.
const CLAIM_PAUSE: Duration = Duration::from_millis(10);
/// The most files that are read at one look.
const FILES_MAX: usize = 4096;

/// The directory of the files.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    dir: PathBuf,
}

/// A name that is ours until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Claim {
    file: File,
    before: Option<Record>,
}

/// What a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The process that wrote it.
    pub(crate) pid: u32,
    /// Where that node listens, or listened.
    pub(crate) addr: SocketAddr,
    /// Its last incarnation.
    pub(crate) incarnation: u64,
}

impl Registry {
    /// Opens this user's registry, and makes its directory if there is none.
    ///
    /// # Errors
    /// [`StartError::Other`] if the directory is not ours alone to write.
    pub(crate) fn open() -> Result<Self, StartError> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let dir = match (set(ENV), set("XDG_RUNTIME_DIR")) {
            (Some(dir), _) => dir,
            (None, Some(base)) if base.is_dir() => base.join("statekeeper"),
            _ => PathBuf::from(format!("/tmp/statekeeper-{}", our_uid()?)),
        };
        Self::open_at(dir)
    }

    /// Opens the registry in that directory.
    pub(crate) fn open_at(dir: PathBuf) -> Result<Self, StartError> {
        let failed = |reason: String| {
            StartError::Other(format!(
                "runtime directory {}: {reason}; or name another one with {ENV}",
                dir.display()
            ))
        };
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(format!("cannot be made: {e}")));
            }
            _ => {}
        }
        let meta =
            fs::symlink_metadata(&dir).map_err(|e| failed(format!("cannot be read: {e}")))?;
        if !meta.is_dir() {
            return Err(failed("is not a directory; remove it".to_owned()));
        }
        if meta.uid() != our_uid()? {
            return Err(failed("belongs to another user; remove it".to_owned()));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(failed(format!(
                "others can write to it; run: chmod 700 {}",
                dir.display()
            )));
        }
        Ok(Self { dir })
    }

    /// Takes a name for this process.
    ///
    /// # Errors
    /// [`StartError::NameInUse`] when a living process has it.
    pub(crate) fn claim(&self, name: &NodeName) -> Result<Claim, StartError> {
        let path = self.path(name);
        let failed =
            |e: io::Error| StartError::Other(format!("registry file {}: {e}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        for attempt in 1..=CLAIM_TRIES {
            match file.try_lock() {
                Ok(()) => {
                    let before = read(&file);
                    return Ok(Claim { file, before });
                }
                Err(TryLockError::WouldBlock) if attempt < CLAIM_TRIES => {
                    std::thread::sleep(CLAIM_PAUSE)
                }
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
        let pid = read(&file).map_or(0, |record| record.pid);
        Err(StartError::NameInUse {
            name: name.clone(),
            pid,
        })
    }

    /// Where the node of that name listens, or last listened.
    pub(crate) fn lookup(&self, name: &NodeName) -> Option<SocketAddr> {
        read(&File::open(self.path(name)).ok()?).map(|record| record.addr)
    }

    /// The nodes that run now, sorted by name.
    pub(crate) fn running(&self) -> Vec<(NodeName, SocketAddr)> {
        let is_locked =
            |file: &File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let mut running = Vec::new();
        self.each(|name, file, record| {
            if is_locked(file) {
                running.push((name, record.addr));
            }
        });
        running.sort();
        running
    }

    /// The ports that other names had, running or not: a restarted node should find its own free.
    pub(crate) fn ports_of_others(&self, name: &NodeName) -> Vec<u16> {
        let mut ports = Vec::new();
        self.each(|other, _, record| {
            if other != *name {
                ports.push(record.addr.port());
            }
        });
        ports.sort_unstable();
        ports
    }

    fn each(&self, mut visit: impl FnMut(NodeName, &File, Record)) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.take(FILES_MAX).flatten() {
            let file_name = entry.file_name();
            let name = file_name
                .to_str()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .filter(|name| names::valid(name));
            let Some(name) = name else { continue };
            let Ok(file) = File::open(entry.path()) else {
                continue;
            };
            let Some(record) = read(&file) else { continue };
            visit(NodeName::new(name), &file, record);
        }
    }

    /// A valid name has no slash, and does not begin with a dot and end there.
    fn path(&self, name: &NodeName) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }
}

impl Claim {
    /// What the last process of that name left.
    pub(crate) fn before(&self) -> Option<Record> {
        self.before
    }

    /// Writes where we listen, and our incarnation: for the others now, and for our restart.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn record(&mut self, addr: SocketAddr, incarnation: u64) -> Result<(), StartError> {
        let text = format!("{} {addr} {incarnation} end\n", std::process::id());
        // One write, then the cut: a reader in between sees what follows 'end' and does not mind.
        self.file
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.file.set_len(text.len() as u64))
            .map_err(|e| StartError::Other(format!("the registry cannot be written: {e}")))
    }
}

/// Reads a record; none if the file is empty, or half written.
fn read(file: &File) -> Option<Record> {
    let mut text = String::new();
    let mut reader = file;
    io::Seek::rewind(&mut reader).ok()?;
    reader.take(RECORD_MAX).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let record = Record {
        pid: words.next()?.parse().ok()?,
        addr: words.next()?.parse().ok()?,
        incarnation: words.next()?.parse().ok()?,
    };
    (words.next()? == "end").then_some(record)
}

/// Our user id, without a system call of our own: `/proc/self` belongs to us.
fn our_uid() -> Result<u32, StartError> {
    let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid());
    owner(Path::new("/proc/self")).map_err(|e| {
        StartError::Other(format!(
            "cannot find out the user: /proc/self: {e}; is /proc mounted?"
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use names::loopback;

    fn registry() -> (tempfile::TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open_at(dir.path().join("run")).unwrap();
        (dir, registry)
    }

    #[test]
    fn a_living_name_is_not_given_twice() {
        let (_dir, registry) = registry();
        let bob = NodeName::new("bob@host");
        let mut claim = registry.claim(&bob).unwrap();
        claim.record(loopback(21_500), 7).unwrap();
        let error = registry.claim(&bob).unwrap_err();
        assert!(
            matches!(error, StartError::NameInUse { pid, .. } if pid == std::process::id()),
            "{error}"
        );
        drop(claim);
        registry.claim(&bob).unwrap();
    }

    #[test]
    fn the_address_and_the_incarnation_outlive_the_process() {
        let (_dir, registry) = registry();
        let bob = NodeName::new("bob@host");
        assert_eq!(registry.lookup(&bob), None);
        let mut claim = registry.claim(&bob).unwrap();
        assert_eq!(claim.before(), None);
        claim
            .record("[2001:db8::1]:21999".parse().unwrap(), u64::MAX)
            .unwrap();
        claim.record(loopback(21_500), 7).unwrap();
        drop(claim);
        assert_eq!(registry.lookup(&bob), Some(loopback(21_500)));
        let before = registry.claim(&bob).unwrap().before().unwrap();
        assert_eq!((before.addr, before.incarnation), (loopback(21_500), 7));
    }

    #[test]
    fn only_locked_names_are_running() {
        let (_dir, registry) = registry();
        let (bob, eve) = (NodeName::new("bob@host"), NodeName::new("eve@host"));
        let mut bobs = registry.claim(&bob).unwrap();
        bobs.record(loopback(21_500), 1).unwrap();
        registry
            .claim(&eve)
            .unwrap()
            .record(loopback(21_501), 1)
            .unwrap();
        assert_eq!(registry.running(), [(bob.clone(), loopback(21_500))]);
        assert_eq!(registry.ports_of_others(&bob), [21_501]);
        assert_eq!(registry.ports_of_others(&eve), [21_500]);
        drop(bobs);
        assert_eq!(registry.running(), []);
    }

    #[test]
    fn half_written_and_foreign_files_are_passed_over() {
        let (_dir, registry) = registry();
        for (file, text) in [
            ("a@h.node", "12 127.0.0.1:1"),
            ("b@h.node", ""),
            ("c@h.node", "x y z end\n"),
            ("x", "y"),
        ] {
            fs::write(registry.dir.join(file), text).unwrap();
        }
        fs::write(registry.dir.join("d@h.node"), [0xff; 2000]).unwrap();
        assert_eq!(registry.running(), []);
        assert_eq!(registry.ports_of_others(&NodeName::new("e@h")), []);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, fs::Permissions::from_mode(0o770)).unwrap();
        let error = Registry::open_at(run.clone()).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(
            Registry::open_at(link)
                .unwrap_err()
                .to_string()
                .contains("not a directory")
        );
    }
}
