//! Files of the cache: private, written whole or not at all, and trusted only if nobody else could have written them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Beginning of the names of files that are being written.
pub(super) const TEMPORARY: &str = ".tmp-";
/// Beginning of every record.
const MAGIC: &[u8; 8] = b"STRNREC1";
/// Largest record, in bytes.
const RECORD_BYTES_MAX: u64 = 256 << 20;
/// Bytes read at once while hashing.
const HASH_CHUNK: usize = 1 << 20;

/// Makes a folder that only its owner may enter. One that is there already is fine.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Writes `folder/name`, whole or not at all: also after a crash, and whoever else writes it.
pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut chance = [0; 8];
    rustix::rand::getrandom(&mut chance, rustix::rand::GetRandomFlags::empty())?;
    let temporary = folder.join(format!("{TEMPORARY}{:016x}", u64::from_le_bytes(chance)));
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()?;
            std::fs::rename(&temporary, folder.join(name))
        });
    if written.is_err() {
        // Perhaps it was never made.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Opens a file that can be trusted as if this program had written it: a regular file of this user's, which no one
/// else may write, and no link.
pub(super) fn open_trusted(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    trust(&file.metadata()?).map(|()| file)
}

/// Refuses what others could have written.
pub(super) fn trust(metadata: &std::fs::Metadata) -> io::Result<()> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse("others may write it");
    }
    Ok(())
}

/// How a file is recognised as unchanged without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Identity of the file, whatever its contents.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Seconds since 1970 of the last change of anything about it.
    pub(super) fn last_change_secs(&self) -> i64 {
        self.modified.0.max(self.changed.0)
    }
}

/// Length and hash of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) hash: [u8; 32],
}

impl Sum {
    pub(super) fn of(bytes: &[u8]) -> Sum {
        Sum {
            bytes: bytes.len() as u64,
            hash: *blake3::hash(bytes).as_bytes(),
        }
    }

    pub(super) fn of_file(file: &File) -> io::Result<Sum> {
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; HASH_CHUNK];
        let mut bytes = 0;
        loop {
            match file.read_at(&mut chunk, bytes) {
                Ok(0) => break,
                Ok(read) => {
                    hasher.update(&chunk[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sum {
            bytes,
            hash: *hasher.finalize().as_bytes(),
        })
    }
}

/// A value as a file: magic, length, checksum, contents.
pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let contents = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let sum = Sum::of(&contents);
    let mut record = MAGIC.to_vec();
    record.extend(sum.bytes.to_le_bytes());
    record.extend(sum.hash);
    record.extend(contents);
    Ok(record)
}

/// Reads what [`encode`] wrote.
pub(super) fn decode<T: DeserializeOwned>(record: &[u8]) -> io::Result<T> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let rest = record
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it is not a record of this version"))?;
    let (bytes, rest) = rest
        .split_first_chunk::<8>()
        .ok_or_else(|| damaged("it is cut short"))?;
    let (hash, contents) = rest
        .split_first_chunk::<32>()
        .ok_or_else(|| damaged("it is cut short"))?;
    let sum = Sum {
        bytes: u64::from_le_bytes(*bytes),
        hash: *hash,
    };
    if sum != Sum::of(contents) {
        return Err(damaged("its checksum does not match"));
    }
    postcard::from_bytes(contents).map_err(|error| damaged(&error.to_string()))
}

/// Reads a record from a trusted file.
pub(super) fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut file = open_trusted(path)?;
    let bytes = file.metadata()?.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too long for a record",
        ));
    }
    let mut record = Vec::with_capacity(bytes as usize);
    file.read_to_end(&mut record)?;
    decode(&record)
}
