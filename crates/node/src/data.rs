//! What a node keeps on disk: [`DataDirectory`], private to its user and used by one node at a time.
//!
//! ```text
//! VERSION         "sterna node 1"
//! lock            held for as long as the node runs, with its process id
//! node.key        who it is
//! registry.redb   the registry, if this node serves it
//! registry.incoming, registry.part   one that comes from another node, until that node hands it over
//! cluster         otherwise: who does, and the nodes as they were last known
//! control.sock    where the commands of this machine reach it
//! hosting/        where its runner listens, the output of processes, and how they began
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;

use crate::hosting::runner_socket;
use crate::message::Roster;

const VERSION_HEAD: &str = "sterna node ";
const VERSION: u32 = 1;
const SHORT_BYTES_MAX: u64 = 4096;
const CLUSTER_MAGIC: &[u8; 8] = b"STNCLUS1";
const CLUSTER_BYTES_MAX: u64 = 8 << 20;
const HASH_BYTES: usize = 32;
/// Of a socket's path: unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The system refused.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not private.
    #[error("the data directory {} {how}: name another one with --data, or make it yours alone (chown, chmod 700)", path.display())]
    NotPrivate {
        /// Where.
        path: PathBuf,
        /// In what way.
        how: String,
    },
    /// It would be below something that is no directory.
    #[error("{} is not a directory: name another data directory with --data", path.display())]
    NotDirectory {
        /// What.
        path: PathBuf,
    },
    /// A runner could not listen in there.
    #[error("the data directory {} has a path of {bytes} bytes, {} are possible, since sockets are in there (unix(7)): \
             name one with a shorter path with --data", path.display(), path_bytes_max())]
    LongPath {
        /// Where.
        path: PathBuf,
        /// How long that is.
        bytes: usize,
    },
    /// A node runs on it.
    #[error("the data directory {} is in use by another node (process {pid}): stop that one with `sterna node stop`, \
             or name another directory with --data", path.display())]
    InUse {
        /// Where.
        path: PathBuf,
        /// The node's process, or `?`.
        pid: String,
    },
    /// A newer program made it.
    #[error("the data directory {} is of version {found}, this is a program for version {VERSION}: \
             use the newer sterna that made it", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A node was here, and nothing says any more that this is the same one.
    #[error("{} is missing, and {} is of a node that had it: put the key back; without it, begin a new node in another data \
             directory, and remove the old one from its cluster (`sterna nodes rm`)", path.display(), known.display())]
    KeyMissing {
        /// Where the key would be.
        path: PathBuf,
        /// What is there.
        known: PathBuf,
    },
    /// It holds something else.
    #[error("{} is damaged, or is not of a node: {advice}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
}

/// A node's directory, opened and locked.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    handle: File,
    /// Held by who writes the list of nodes: all go by one temporary file.
    writing_cluster: Mutex<()>,
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory, which is made if it is not there.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let path = &std::path::absolute(path).map_err(io_error("find", path))?;
        let bytes = path.as_os_str().len();
        if bytes > path_bytes_max() {
            let path = path.clone();
            return Err(DataError::LongPath { path, bytes });
        }
        if let Some(parent) = path.parent() {
            make_parents(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("make", path)(error));
            }
            _ => check_private(path)?,
        }
        let handle = File::open(path).map_err(io_error("open", path))?;
        let lock = lock(path)?;
        check_version(path)?;
        Ok(Self {
            path: path.clone(),
            handle,
            writing_cluster: Mutex::new(()),
            _lock: lock,
        })
    }

    /// The directory itself, open.
    #[must_use]
    pub const fn handle(&self) -> &File {
        &self.handle
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.path.join("node.key")
    }

    /// Fails if a node has been here and its key is gone: with another one it would be another node.
    pub(crate) fn check_key(&self) -> Result<(), DataError> {
        let known = [self.registry(), self.path.join("cluster")];
        let known = known.into_iter().find(|path| path.exists());
        match (self.key().exists(), known) {
            (false, Some(known)) => Err(DataError::KeyMissing {
                path: self.key(),
                known,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.path.join("registry.redb")
    }

    /// A registry that may become this node's.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join("registry.incoming")
    }

    /// What has come of it so far.
    pub(crate) fn incoming_part(&self) -> PathBuf {
        self.path.join("registry.part")
    }

    /// Brings to disk which files there are.
    pub(crate) fn sync(&self) -> Result<(), DataError> {
        self.handle
            .sync_all()
            .map_err(io_error("write", &self.path))
    }

    /// The socket's path by way of the open directory: a socket's path has 107 bytes at most (unix(7)).
    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(&self.handle)
    }

    /// The cluster that this node has joined, if it has.
    pub(crate) fn cluster(&self) -> Result<Option<Roster>, DataError> {
        let path = self.path.join("cluster");
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
            Ok(file) => file
                .take(CLUSTER_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(io_error("read", &path))?,
        };
        let roster = bytes.strip_prefix(CLUSTER_MAGIC).and_then(|rest| {
            let (hash, body) = rest.split_at_checked(HASH_BYTES)?;
            let whole = blake3::hash(body).as_bytes() == hash;
            let roster: Roster = whole.then(|| postcard::from_bytes(body).ok())??;
            roster.home.is_some().then_some(roster)
        });
        let advice = "restore it, or name another directory with --data and join again";
        match roster {
            Some(roster) => Ok(Some(roster)),
            None => Err(DataError::Damaged { path, advice }),
        }
    }

    pub(crate) fn hosting(&self) -> PathBuf {
        hosting_in(&self.path)
    }

    pub(crate) fn set_cluster(&self, roster: &Roster) -> Result<(), DataError> {
        let path = self.path.join("cluster");
        let body = postcard::to_stdvec(roster).expect("a roster can be written");
        let hash = blake3::hash(&body);
        let bytes = [&CLUSTER_MAGIC[..], hash.as_bytes(), &body].concat();
        let _alone = self
            .writing_cluster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        write_whole(&path, &bytes)
            .and_then(|()| self.handle.sync_all())
            .map_err(io_error("write", &path))
    }
}

/// Where a node has what belongs to its processes and its runner.
pub(crate) fn hosting_in(directory: &Path) -> PathBuf {
    directory.join("hosting")
}

/// The control socket of the node whose data directory this is.
pub(crate) fn socket_in(directory: &File) -> PathBuf {
    PathBuf::from(format!(
        "/proc/self/fd/{}/control.sock",
        directory.as_raw_fd()
    ))
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> DataError + use<> {
    let path = path.to_owned();
    move |source| DataError::Io {
        what,
        path: path.clone(),
        source,
    }
}

/// How long a data directory's path may be. The control socket is reached by way of the open directory; the runner's is not,
/// since the manager has to see where it is.
fn path_bytes_max() -> usize {
    SOCKET_PATH_BYTES_MAX - runner_socket(&hosting_in(Path::new(""))).as_os_str().len() - 1
}

/// Makes what is missing of the directories that it is in. They are private, as the XDG base directory specification wants
/// them: one of them can be where this user's key will be.
fn make_parents(parent: &Path) -> Result<(), DataError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(parent);
    made.map_err(|error| {
        let there = parent.ancestors().find(|path| path.exists());
        match there.filter(|path| !path.is_dir()) {
            Some(path) => DataError::NotDirectory {
                path: path.to_owned(),
            },
            None => io_error("make", parent)(error),
        }
    })
}

fn check_private(path: &Path) -> Result<(), DataError> {
    let found = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    let (us, mode) = (geteuid().as_raw(), found.mode() & 0o777);
    let how = if !found.is_dir() {
        "is not a directory".to_owned()
    } else if found.uid() != us {
        format!("belongs to user {}, we are user {us}", found.uid())
    } else if mode & 0o077 != 0 {
        format!("is open to other users (mode {mode:o})")
    } else {
        return Ok(());
    };
    let path = path.to_owned();
    Err(DataError::NotPrivate { path, how })
}

fn lock(directory: &Path) -> Result<File, DataError> {
    let path = directory.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.take(SHORT_BYTES_MAX).read_to_string(&mut pid);
            let digits = pid.trim();
            let known = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            return Err(DataError::InUse {
                path: directory.to_owned(),
                pid: if known { digits } else { "?" }.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(io_error("write", &path))?;
    Ok(file)
}

fn check_version(directory: &Path) -> Result<(), DataError> {
    let path = directory.join("VERSION");
    let mut text = String::new();
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{VERSION_HEAD}{VERSION}\n");
            return write_whole(&path, text.as_bytes()).map_err(io_error("write", &path));
        }
        Err(error) => return Err(io_error("open", &path)(error)),
        Ok(file) => file
            .take(SHORT_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(io_error("read", &path))?,
    };
    let number = text.trim().strip_prefix(VERSION_HEAD);
    match number.and_then(|number| number.parse().ok()) {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => Err(DataError::Newer {
            path: directory.to_owned(),
            found,
        }),
        _ => Err(DataError::Damaged {
            path,
            advice: "name another directory with --data",
        }),
    }
}

/// Writes a file of ours that appears whole or not at all.
fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use sterna_migration::NodeId;

    use super::*;

    #[test]
    fn one_node_at_a_time_and_no_newer_version() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("node");
        let open = DataDirectory::open(&path).unwrap();
        let pid = std::process::id().to_string();
        let again = DataDirectory::open(&path).unwrap_err();
        assert!(matches!(&again, DataError::InUse { pid: found, .. } if *found == pid));
        drop(open);
        drop(DataDirectory::open(&path).unwrap());
        fs::write(path.join("VERSION"), "sterna node 9\n").unwrap();
        assert!(matches!(
            DataDirectory::open(&path),
            Err(DataError::Newer { found: 9, .. })
        ));
        fs::write(path.join("VERSION"), "x").unwrap();
        assert!(matches!(
            DataDirectory::open(&path),
            Err(DataError::Damaged { .. })
        ));
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            DataDirectory::open(&path),
            Err(DataError::NotPrivate { .. })
        ));
    }

    #[test]
    fn a_path_that_leaves_no_room_for_sockets_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let outer_bytes = outer.path().as_os_str().len();
        let long = |bytes: usize| outer.path().join("d".repeat(bytes - outer_bytes - 1));
        let max = path_bytes_max();
        drop(DataDirectory::open(&long(max)).unwrap());
        let socket = runner_socket(&hosting_in(&long(max)));
        assert_eq!(socket.as_os_str().len(), SOCKET_PATH_BYTES_MAX);
        let refused = DataDirectory::open(&long(max + 1)).unwrap_err();
        assert!(matches!(refused, DataError::LongPath { bytes, .. } if bytes == max + 1));
    }

    #[test]
    fn what_is_made_around_it_is_private_and_what_was_there_stays_as_it_is() {
        let outer = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let (there, made) = (outer.path().join("there"), outer.path().join("there/made"));
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, Permissions::from_mode(0o755)).unwrap();
        drop(DataDirectory::open(&made.join("node")).unwrap());
        assert_eq!((mode(&there), mode(&made)), (0o755, 0o700));
        let file = outer.path().join("file");
        fs::write(&file, "").unwrap();
        for below in ["node", "some/node"] {
            let refused = DataDirectory::open(&file.join(below)).unwrap_err();
            assert!(matches!(&refused, DataError::NotDirectory { path } if *path == file));
        }
    }

    #[test]
    fn what_is_known_of_a_cluster_is_kept_whole() {
        let outer = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(&outer.path().join("node")).unwrap();
        assert_eq!(data.cluster().unwrap(), None);
        let roster = Roster {
            revision: 7,
            home: Some(NodeId::from_bytes([1; 32])),
            ..Roster::default()
        };
        data.set_cluster(&roster).unwrap();
        assert_eq!(data.cluster().unwrap(), Some(roster));
        let path = data.path().join("cluster");
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(data.cluster().is_err(), "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(data.cluster().is_err(), "{at}");
        }
    }
}
