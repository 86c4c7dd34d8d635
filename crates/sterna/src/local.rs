//! What an image says beside the process itself: how it was started here, so that it can be thawed here without
//! being told again. See [`Local`].

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sterna_process::{Image, Limits, Section, Tag};

const LOCAL: Tag = Tag::new("sterna.local");
const VERSION: u16 = 2;
/// The version that said of processes with canonical NaNs what their kind says now.
const BEFORE: u16 = 1;

/// The command's own section of an image. Kinds do not know it.
///
/// Texts come from an image: escape them before printing. Paths are used only if the image is our own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Local {
    /// What the process is called.
    pub(crate) name: String,
    /// The file its program came from.
    pub(crate) file: String,
    /// The directories it was given.
    pub(crate) directories: Vec<GivenDirectory>,
    /// How much it may use.
    pub(crate) limits: Limits,
}

/// A directory given with `--dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenDirectory {
    /// As the process knows it.
    pub(crate) guest: String,
    /// Where it was on the machine that made the image: an absolute path, in bytes.
    host: Vec<u8>,
    pub(crate) read_only: bool,
}

impl GivenDirectory {
    pub(crate) fn new(guest: &str, host: &Path, read_only: bool) -> Self {
        Self {
            guest: guest.to_owned(),
            host: host.as_os_str().as_bytes().to_vec(),
            read_only,
        }
    }

    /// Where it was.
    pub(crate) fn host(&self) -> PathBuf {
        OsString::from_vec(self.host.clone()).into()
    }
}

impl Local {
    /// Adds the section to an image.
    pub(crate) fn put_into(&self, image: &mut Image) -> Result<()> {
        let section = Section::encode(LOCAL, VERSION, self);
        section
            .and_then(|section| image.sections.push(section))
            .context("could not note in the image how the process was started")
    }

    /// Takes the section out of an image, whose kind would not understand it.
    pub(crate) fn take_from(image: &mut Image) -> Result<Option<Self>> {
        let Some(section) = image.sections.take(&LOCAL, BEFORE..=VERSION)? else {
            return Ok(None);
        };
        if section.version() == BEFORE {
            let (local, canonical_nans): (Self, bool) = section.decode()?;
            ensure!(
                !canonical_nans,
                "it was started with --canonical-nans by an older sterna: thaw it with that one"
            );
            return Ok(Some(local));
        }
        Ok(Some(section.decode()?))
    }
}
