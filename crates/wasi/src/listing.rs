//! Directory listings whose cookies stay good over a move.
//!
//! A listing is taken when a reading of the directory begins (cookie 0), sorted by name, and kept
//! until it begins anew or the descriptor is closed; a cookie is a position in it. So a reading
//! that has begun sees each name once, on whichever host it ends.

use crate::abi::{DIRENT_BYTES, Errno, filetype};
use crate::filestat::file_type;
use crate::memory::Memory;
use crate::rights::Rights;
use crate::step::Outcome;
use crate::table::Resource;
use crate::wasi::{Arguments, Wasi};
use cap_std::fs::Dir;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// Names of one directory at most; more is `EOVERFLOW`.
const NAMES_MAX: usize = 1 << 20;

/// A directory's names at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listing {
    entries: Vec<ListedName>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct ListedName {
    name: Vec<u8>,
    inode: u64,
    file_type: u8,
}

impl Listing {
    /// Reads a directory. `.` and `..` are listed as directories, the latter without its inode:
    /// what is above a given directory is not the guest's to know.
    fn take(dir: &Dir) -> Result<Listing, Errno> {
        let own = rustix::fs::fstat(dir)?.st_ino;
        let mut entries = Vec::new();
        // The descriptor itself may be one that only names the directory, or shared.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(dir, ".", flags, Mode::empty())?;
        for entry in rustix::fs::Dir::new(readable)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            let (inode, file_type) = match &name[..] {
                b"." | b".." => (own, filetype::DIRECTORY),
                _ => (entry.ino(), file_type(entry.file_type())),
            };
            if entries.len() >= NAMES_MAX {
                return Err(Errno::OVERFLOW);
            }
            entries.push(ListedName {
                name,
                inode,
                file_type,
            });
        }
        entries.sort_unstable();
        Ok(Listing { entries })
    }

    /// Fills `area` from position `cookie` on; the last entry may be cut short, as the ABI has it.
    fn put(&self, cookie: u64, area: &mut [u8]) -> usize {
        let start = usize::try_from(cookie).unwrap_or(usize::MAX);
        let mut used = 0;
        for (position, entry) in self.entries.iter().enumerate().skip(start) {
            let mut header = [0; DIRENT_BYTES as usize];
            header[..8].copy_from_slice(&(position as u64 + 1).to_le_bytes());
            header[8..16].copy_from_slice(&entry.inode.to_le_bytes());
            header[16..20].copy_from_slice(&(entry.name.len() as u32).to_le_bytes());
            header[20] = entry.file_type;
            for part in [&header[..], &entry.name] {
                let taken = part.len().min(area.len() - used);
                area[used..used + taken].copy_from_slice(&part[..taken]);
                used += taken;
            }
            if used == area.len() {
                break;
            }
        }
        used
    }
}

impl Wasi {
    /// `fd_readdir(fd, buf, buf_len, cookie, bufused*)`
    pub(crate) fn fd_readdir(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get_mut(a.u32(0))?;
        let rights = entry.rights;
        let Resource::Directory(directory) = &mut entry.resource else {
            return Err(Errno::NOTDIR.into());
        };
        if !rights.contains(Rights::FD_READDIR) {
            return Err(Errno::NOTCAPABLE.into());
        }
        m.check(a.u32(4), 4)?;
        let area = m.bytes_mut(a.u32(1), a.u32(2))?;
        let cookie = a.u64(3);
        if cookie == 0 || directory.listing.is_none() {
            directory.listing = Some(Listing::take(&directory.dir)?);
        }
        let used = directory
            .listing
            .as_ref()
            .map_or(0, |listing| listing.put(cookie, area));
        Ok(m.put_u32(a.u32(4), used as u32)?)
    }
}
