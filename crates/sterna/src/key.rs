//! The user's key: images marked with it are thawed without a question. See [`own`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sterna_process::{ImageKey, ProcessId};

use crate::private;

const FILE: &str = "image.key";
const HEAD: &str = "sterna image key 1";
const FILE_BYTES_MAX: u64 = 1024;

/// The user's key, which is made on first use.
pub(crate) fn own() -> Result<ImageKey> {
    let directory = private::data_directory()?;
    let path = directory.join(FILE);
    match read(&path) {
        Err(error) if is_missing(&error) => {}
        other => return other,
    }
    private::ensure_directory(&directory)?;
    let shown = path.display();
    make(&directory, &path).with_context(|| format!("could not make the key {shown}"))?;
    read(&path)
}

/// The user's key, or one made up if there is none: then every image is someone else's. Writes nothing.
pub(crate) fn own_or_none() -> Result<ImageKey> {
    match private::data_directory().and_then(|directory| read(&directory.join(FILE))) {
        Err(error) if is_missing(&error) => Ok(ImageKey::random()),
        other => other,
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn read(path: &Path) -> Result<ImageKey> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("could not open the key {shown}"))?;
    private::check_owner(path, &file.metadata()?)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .with_context(|| format!("could not read the key {shown}"))?;
    let mut lines = text.lines();
    let (head, digits) = (lines.next(), lines.next());
    match (head, digits.and_then(decode)) {
        (Some(HEAD), Some(bits)) => Ok(ImageKey::from_bytes(bits)),
        _ => bail!(
            "the key {shown} is damaged or of a newer version: restore it; or remove it, then the \
             images made with it are treated as someone else's"
        ),
    }
}

/// Makes a key under a name of its own and links it to its place, where it does not replace one that another
/// process made meanwhile.
fn make(directory: &Path, path: &Path) -> Result<()> {
    let temporary = directory.join(format!(".{FILE}.{}", ProcessId::random().short()));
    let digits: String = ImageKey::random()
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(format!("{HEAD}\n{digits}\n").as_bytes())?;
            file.sync_all()
        });
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&temporary);
    Ok(linked?)
}

fn decode(digits: &str) -> Option<[u8; 32]> {
    let mut bits = [0; 32];
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (index, bit) in bits.iter_mut().enumerate() {
        *bit = u8::from_str_radix(&digits[index * 2..][..2], 16).ok()?;
    }
    Some(bits)
}
