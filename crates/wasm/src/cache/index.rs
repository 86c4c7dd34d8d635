//! Which file is which program, known from its stamp: a module of many megabytes is hashed when it is first seen and not
//! at every start. Compiler caches do the same (ccache's manual, "inode cache").
//!
//! One small record a file, named by device and inode, so that writers never wait for each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sterna_process::ProgramId;

use super::files::{self, Stamp, Sum};

/// A file that was changed less long ago than this is not remembered: it could be changed again without its time
/// showing it, since file systems count time in ticks.
const SETTLED_SECS: i64 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Known {
    stamp: Stamp,
    pub(super) program: ProgramId,
}

/// The program in `file`.
pub(super) fn identify(index: &Path, file: &File) -> io::Result<ProgramId> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let stamp = Stamp::of(file)?;
    let (device, inode) = stamp.file();
    let name = format!("{device:x}-{inode:x}");
    if let Ok(known) = files::read_record::<Known>(&index.join(&name))
        && known.stamp == stamp
    {
        return Ok(known.program);
    }
    let program = ProgramId::from_bytes(Sum::of_file(file)?.hash);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let settled =
        now.is_ok_and(|now| now.as_secs() as i64 > stamp.last_change_secs() + SETTLED_SECS);
    if settled && Stamp::of(file)? == stamp {
        let known = Known { stamp, program };
        let written = files::encode(&known).and_then(|bytes| files::write(index, &name, &bytes));
        if let Err(error) = written {
            tracing::debug!(%error, "the file is not remembered");
        }
    }
    Ok(program)
}

/// All of a file, from its beginning whatever its position, of at most `limit` bytes; one that is longer is cut off
/// after that, so that its length is seen to be over the limit.
pub(super) fn contents(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let bytes = file.metadata()?.len().min(limit.saturating_add(1));
    let mut contents = vec![0; bytes as usize];
    file.read_exact_at(&mut contents, 0)?;
    Ok(contents)
}

/// Forgets the files of programs that are no longer kept.
pub(super) fn prune(index: &Path, is_kept: impl Fn(&ProgramId) -> bool) {
    for entry in std::fs::read_dir(index).into_iter().flatten().flatten() {
        let known = files::read_record::<Known>(&entry.path());
        if known.is_ok_and(|known| is_kept(&known.program)) {
            continue;
        }
        let _ = std::fs::remove_file(entry.path());
    }
}
