//! What is in a directory: its list, with or without the hashes of contents, and a copy of it.
//!
//! Somebody may write there meanwhile. What is gone by the time it is looked at was never there, and a file counts with as
//! many bytes as it had when it was opened; so a list of what changes is one of some moment for each file, and is compared
//! with a later one.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::tree::{Size, Tree};
use super::write::{Sink, Writer};
use super::{Shown, TreeError, failed, open, open_parent};
use crate::limits::{TREE_BYTES_MAX, TREE_ENTRIES_MAX, TREE_PATH_BYTES_MAX, TREE_PIECE_BYTES};
use crate::message::{TreeEntry, TreeNode};

/// A file that was changed so shortly before it was read may be changed again with the same time: clocks of file systems
/// go in steps.
const UNSETTLED_FOR: Duration = Duration::from_millis(100);

/// By which a file that nobody has changed is known, on one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    const fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether its last change is old enough that another one would show.
    fn is_settled(&self) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, self.changed.1 as u32);
        changed + UNSETTLED_FOR < SystemTime::now()
    }
}

/// A list, and by what it is known that a file is still the same.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) tree: Tree,
    stamps: HashMap<Vec<u8>, Stamp>,
}

/// Something in a directory, before its contents were looked at.
struct Listed {
    entry: TreeEntry,
    stamp: Stamp,
}

/// How much is in a directory.
pub(crate) fn measure(root: BorrowedFd<'_>) -> Result<Size, TreeError> {
    let entries = list(root)?.into_iter().map(|listed| listed.entry);
    Ok(Tree::own(entries.collect()).size())
}

/// The list of a directory. A file that is as it was `before` is not read again.
pub(crate) fn scan(root: BorrowedFd<'_>, before: &Scan) -> Result<Scan, TreeError> {
    let mut stamps = HashMap::new();
    let mut entries = Vec::new();
    for Listed { mut entry, stamp } in list(root)? {
        if let TreeNode::File { bytes, hash } = &mut entry.what {
            let known = before.stamps.get(&entry.path) == Some(&stamp);
            let known = before.tree.find(&entry.path).filter(|_| known);
            let settled = stamp.is_settled();
            match known.map(|known| &known.what) {
                Some(TreeNode::File { hash: known, .. }) => *hash = *known,
                _ => match hashed(root, &entry.path)? {
                    Some(read) => (*bytes, *hash) = read,
                    None => continue,
                },
            }
            if settled {
                stamps.insert(entry.path.clone(), stamp);
            }
        }
        entries.push(entry);
    }
    let tree = Tree::own(entries);
    Ok(Scan { tree, stamps })
}

/// Copies a directory to where a writer writes; and the list of what was copied.
pub(crate) fn copy(root: BorrowedFd<'_>, to: &Writer) -> Result<Tree, TreeError> {
    let mut entries = Vec::new();
    for Listed { mut entry, .. } in list(root)? {
        match &mut entry.what {
            TreeNode::Directory => to.directory(&entry.path)?,
            TreeNode::Link { to: text } => to.link(&entry.path, text)?,
            TreeNode::File { bytes, hash } => {
                let Some(file) = open_file(root, &entry.path)? else {
                    continue;
                };
                let mut sink = to.file(&entry.path)?;
                read_all(&file, &entry.path, |piece| sink.write(piece))?;
                (*bytes, *hash) = sink.end()?;
            }
        }
        entries.push(entry);
    }
    // A list is in order, so what is in a directory comes after it.
    for entry in entries.iter().rev() {
        to.finish(entry)?;
    }
    Ok(Tree::own(entries))
}

/// A piece of a file: it ends where the file does, or has the given length. What is no file any more has no bytes.
pub(crate) fn read_piece(
    root: BorrowedFd<'_>,
    path: &[u8],
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, TreeError> {
    let Some(file) = open_file(root, path)? else {
        return Ok(Vec::new());
    };
    let mut piece = vec![0; bytes];
    let got = fill(&file, offset, &mut piece).map_err(failed("read", path))?;
    piece.truncate(got);
    Ok(piece)
}

/// All that is in a directory, in order.
fn list(root: BorrowedFd<'_>) -> Result<Vec<Listed>, TreeError> {
    let mut all: Vec<Listed> = Vec::new();
    let mut bytes = 0_u64;
    let mut directories = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = match open(root, &directory, flags, Mode::empty()) {
            Ok(opened) => opened,
            // It is gone, or is something else now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !directory.is_empty() => continue,
            Err(errno) => return Err(failed("open the directory", &directory)(errno)),
        };
        for name in names(&opened).map_err(failed("read the directory", &directory))? {
            let path = match directory.is_empty() {
                true => name.clone(),
                false => [&*directory, b"/", &name].concat(),
            };
            if path.len() > TREE_PATH_BYTES_MAX {
                let (path, max) = (Shown::from(&*path), TREE_PATH_BYTES_MAX);
                return Err(TreeError::TooLong { path, max });
            }
            let Some(listed) = look(opened.as_fd(), &name, path)? else {
                continue;
            };
            if listed.entry.what == TreeNode::Directory {
                directories.push(listed.entry.path.clone());
            }
            bytes = bytes.saturating_add(listed.entry.bytes());
            all.push(listed);
            if bytes > TREE_BYTES_MAX {
                return Err(TreeError::TooLarge);
            }
            if all.len() > TREE_ENTRIES_MAX {
                return Err(TreeError::TooMany);
            }
        }
    }
    all.sort_by(|one, other| one.entry.path.cmp(&other.entry.path));
    Ok(all)
}

fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&*name, b"." | b"..") {
            names.push(name);
        }
        // Whoever fills a directory faster than it is read would keep this reading for ever.
        if names.len() > TREE_ENTRIES_MAX {
            break;
        }
    }
    Ok(names)
}

/// What something is; nothing of what is gone, or is left out.
fn look(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: Vec<u8>,
) -> Result<Option<Listed>, TreeError> {
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed("look at", &path)(errno)),
    };
    let (what, needed) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => (TreeNode::Directory, 0o700),
        FileType::RegularFile => {
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            let hash = [0; 32];
            (TreeNode::File { bytes, hash }, 0o600)
        }
        FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
            Ok(text) => {
                let to = text.into_bytes();
                (TreeNode::Link { to }, 0o777)
            }
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(failed("read the link", &path)(errno)),
        },
        _ => return Ok(None),
    };
    let entry = TreeEntry {
        path,
        what,
        // What a node has copied it can remove again.
        mode: stat.st_mode & 0o777 | needed,
        modified_ns: modified_ns(&stat),
    };
    let stamp = Stamp::of(&stat);
    Ok(Some(Listed { entry, stamp }))
}

fn modified_ns(stat: &Stat) -> i64 {
    let seconds = stat.st_mtime.saturating_mul(1_000_000_000);
    seconds.saturating_add(stat.st_mtime_nsec as i64)
}

fn hashed(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<(u64, [u8; 32])>, TreeError> {
    let Some(file) = open_file(root, path)? else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    let bytes = read_all(&file, path, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(Some((bytes, hasher.finalize().into())))
}

/// A file, if it still is one.
fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<File>, TreeError> {
    match open(root, path, OFlags::RDONLY, Mode::empty()) {
        Ok(file) => {
            let stat = fstat(&file).map_err(failed("look at", path))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            Ok(is_file.then(|| file.into()))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(errno) => Err(failed("open", path)(errno)),
    }
}

/// As many bytes as the file has now, which is told.
fn read_all(
    file: &File,
    path: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), TreeError>,
) -> Result<u64, TreeError> {
    let stat = fstat(file).map_err(failed("look at", path))?;
    let whole = u64::try_from(stat.st_size).unwrap_or(0);
    if whole > TREE_BYTES_MAX {
        return Err(TreeError::TooLarge);
    }
    let mut buffer = vec![0; whole.min(TREE_PIECE_BYTES as u64) as usize];
    let mut offset = 0;
    while offset < whole {
        let wanted = (whole - offset).min(buffer.len() as u64) as usize;
        let got = fill(file, offset, &mut buffer[..wanted]).map_err(failed("read", path))?;
        take(&buffer[..got])?;
        offset += got as u64;
        if got < wanted {
            break;
        }
    }
    Ok(offset)
}

fn fill(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
    Ok(filled)
}

/// What is at a path, with the hash of its contents.
pub(super) fn entry_at(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<TreeEntry>, TreeError> {
    let (parent, name) = match open_parent(root, path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(errno) => return Err(failed("open", path)(errno)),
    };
    let Some(Listed { mut entry, .. }) = look(parent.as_fd(), name, path.to_vec())? else {
        return Ok(None);
    };
    if let TreeNode::File { bytes, hash } = &mut entry.what {
        let Some(read) = hashed(root, path)? else {
            return Ok(None);
        };
        (*bytes, *hash) = read;
    }
    Ok(Some(entry))
}

/// The contents of a file, as they are now.
pub(crate) fn read_into(
    root: BorrowedFd<'_>,
    path: &[u8],
    sink: &mut Sink,
) -> Result<(), TreeError> {
    match open_file(root, path)? {
        Some(file) => read_all(&file, path, |piece| sink.write(piece)).map(drop),
        None => Err(failed("open", path)(Errno::NOENT)),
    }
}

/// The paths of all that is in a directory, in order.
pub(super) fn paths(root: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, TreeError> {
    let listed = list(root)?.into_iter().map(|listed| listed.entry.path);
    Ok(listed.collect())
}
