//! Remembers which files were compared with their hashes, so that a large artifact is read through once in a boot of
//! the machine and not at every start of its program: later a look at the file's stamp is enough, which any write, even
//! by a damaged file system after a restart, changes or outlives at most until the next boot.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{self, Stamp, Sum};
use super::native::TrustedFile;

/// Name of the file that remembers, in the folder of the files it speaks of.
const NAME: &str = "verified";
/// Files that are remembered; beyond, older ones are forgotten.
const FILES_MAX: usize = 4096;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Verified {
    boot: String,
    files: Vec<(Stamp, Sum)>,
    #[serde(skip)]
    changed: bool,
    #[serde(skip)]
    may_write: bool,
}

impl Verified {
    /// What is remembered in `folder`; nothing if that cannot be read or is from before the last restart. Who may not
    /// write there need not be able to tell one boot from another, and relies on who does: that one compares again.
    pub(super) fn read(folder: &Path, may_write: bool) -> Verified {
        if !may_write {
            return files::read_record(&folder.join(NAME)).unwrap_or_default();
        }
        let boot = sterna_sys::identity::boot_id().unwrap_or_default();
        let known = files::read_record::<Verified>(&folder.join(NAME)).ok();
        let known = known.filter(|known| known.boot == boot && !boot.is_empty());
        let known = known.unwrap_or(Verified {
            boot,
            ..Verified::default()
        });
        Verified { may_write, ..known }
    }

    /// Compares a file opened with [`files::open_trusted`] with what it must be.
    pub(super) fn check(&mut self, file: File, expected: &Sum) -> io::Result<TrustedFile> {
        let stamp = Stamp::of(&file)?;
        if self.files.contains(&(stamp, *expected)) {
            return Ok(TrustedFile(file));
        }
        if stamp.bytes() != expected.bytes || Sum::of_file(&file)? != *expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is damaged: its checksum does not match",
            ));
        }
        // Changed while it was read: compare it again next time.
        if Stamp::of(&file)? == stamp && !self.boot.is_empty() {
            if self.files.len() >= FILES_MAX {
                self.files.drain(..FILES_MAX / 2);
            }
            self.files.push((stamp, *expected));
            self.changed = true;
        }
        Ok(TrustedFile(file))
    }

    /// Writes down what was found. Failing that costs time only.
    pub(super) fn remember(&self, folder: &Path) {
        if !self.changed || !self.may_write {
            return;
        }
        let written = files::encode(self).and_then(|bytes| files::write(folder, NAME, &bytes));
        if let Err(error) = written {
            tracing::debug!(folder = %folder.display(), %error, "checked files are not remembered");
        }
    }
}
