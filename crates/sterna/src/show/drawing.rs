//! [`Drawing`]: a file for a page of figures, opened before they are measured.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::path as shown;

/// A file that can be written. What it held stays until it is.
pub(crate) struct Drawing {
    path: PathBuf,
    file: File,
}

impl Drawing {
    /// Opens it, so that nothing is measured for a file that cannot be.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Ok(Self {
            file: opened.with_context(|| refused(path))?,
            path: path.to_owned(),
        })
    }

    /// Puts a page in the place of what it held.
    pub(crate) fn write(self, page: &str) -> Result<()> {
        let mut file = self.file;
        let mut write = || -> io::Result<()> {
            if file.metadata()?.is_file() {
                file.set_len(0)?;
            }
            file.write_all(page.as_bytes())
        };
        write().with_context(|| refused(&self.path))
    }
}

fn refused(path: &Path) -> String {
    format!("could not write the plot to {}", shown(path))
}
