//! Places in a move at which a test has a service or a runner stand still, to kill or stop it there.
//!
//! A node that is started with [`VARIABLE`] set to a file hands that file to its runner, too. While the file names a
//! point, whoever comes to it writes `reached` before the name and waits until the file says something else:
//!
//! ```text
//! test: "runner tell Paused"  ──►  runner comes there: "reached runner tell Paused", waits
//! test: kill -9, or stops it, and empties the file  ──►  whoever lives goes on
//! ```
//!
//! It is compiled in with debug assertions alone; a release has none of it. Neither guests nor peers have the file.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

/// The environment variable that names the file.
pub const VARIABLE: &str = "STERNA_FAULTS";
/// Name under which a runner inherits it.
pub const DESCRIPTOR: &str = "RUNNER_FAULTS";

/// Points of a runner that are neither an order nor an event.
#[derive(Debug)]
pub(crate) enum Midway {
    /// Source: the process was looked at, and the target was told where it is.
    Looked,
    /// Source: half of the pages of a round were sent, while the process runs.
    HalfRound,
    /// Source: half of the pages were sent.
    HalfSent,
    /// Source: pages are about to go unasked, after their process.
    Following,
    /// Source: some of them were sent.
    SomeFollowed,
    /// Target: some pages have come.
    SomeTaken,
    /// Target: some pages have come of a memory that follows its process.
    SomeCame,
    /// Target: the process was made of what has come.
    Made,
}

/// Comes to a point: where, and what is done or heard there (of a value whose name is that of a variant).
#[cfg(debug_assertions)]
pub fn point(place: &str, what: &dyn Debug) {
    armed::point(place, what);
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub fn point(_: &str, _: &dyn Debug) {}

/// Whether there are points: then a move is to wait for less long than otherwise.
#[cfg(debug_assertions)]
#[must_use]
pub fn is_armed() -> bool {
    armed::file().is_some()
}

/// Never.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn is_armed() -> bool {
    false
}

/// The file, for a runner that is being started.
#[must_use]
pub fn handed_on() -> Option<OwnedFd> {
    #[cfg(debug_assertions)]
    return armed::file().and_then(|file| Some(file.try_clone().ok()?.into()));
    #[cfg(not(debug_assertions))]
    None
}

/// Takes the file that this runner inherited.
pub fn take(file: OwnedFd) {
    #[cfg(debug_assertions)]
    armed::take(file);
    #[cfg(not(debug_assertions))]
    drop(file);
}

#[cfg(debug_assertions)]
mod armed {
    use std::fmt::{self, Debug, Write as _};
    use std::fs::{File, OpenOptions};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;
    use std::sync::OnceLock;
    use std::thread;
    use std::time::Duration;

    /// Longest text of the file.
    const TEXT_BYTES_MAX: usize = 128;
    /// Between two looks at whether the test has done what it wants.
    const LOOK_EVERY: Duration = Duration::from_millis(1);

    static FILE: OnceLock<Option<File>> = OnceLock::new();

    /// A runner has no environment, so that this finds none there; it [takes](take) its own first.
    pub(super) fn file() -> Option<&'static File> {
        let from_environment = || {
            let path = std::env::var_os(super::VARIABLE)?;
            OpenOptions::new().read(true).write(true).open(path).ok()
        };
        FILE.get_or_init(from_environment).as_ref()
    }

    pub(super) fn take(file: OwnedFd) {
        let _ = FILE.set(Some(file.into()));
    }

    pub(super) fn point(place: &str, what: &dyn Debug) {
        let Some(file) = file() else {
            return;
        };
        let mut name = Name(String::new());
        // It ends early by an error.
        let _ = write!(name, "{what:?}");
        let name = format!("{place} {}", name.0);
        if text(file) != name {
            return;
        }
        let reached = format!("reached {name}");
        if file.write_all_at(reached.as_bytes(), 0).is_err() {
            return;
        }
        while text(file) == reached {
            thread::sleep(LOOK_EVERY);
        }
    }

    fn text(file: &File) -> String {
        let mut bytes = [0; TEXT_BYTES_MAX];
        let read = file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    /// The first word of what is written: the name of a variant, without what it holds.
    struct Name(String);

    impl fmt::Write for Name {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                if !letter.is_alphanumeric() {
                    return Err(fmt::Error);
                }
                self.0.push(letter);
            }
            Ok(())
        }
    }
}
