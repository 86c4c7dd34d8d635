//! Files beneath the directories of a process, for its users: [`Files`].
//!
//! The runner has nothing but these directories, so it is who answers: whatever a path and its links say, the system
//! resolves it beneath the directory that was handed over (`RESOLVE_BENEATH` of openat2(2)) or not at all. Nothing is kept
//! open between two questions, so a copy goes on while its process moves to a node with the same directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, ftruncate, mkdirat, openat2,
    statat,
};
use rustix::io::Errno;
use sterna_process::Directory;

use crate::limits::{FILE_ENTRIES_MAX, FILE_PIECE_BYTES, PATH_BYTES_MAX};
use crate::message::{FileAnswer, FileDeed, FileFacts, FileSort};

/// Directories, by the paths that their process knows. What was taken from a process that runs nowhere any more is asked
/// in the same way by its node.
pub struct Files(Vec<Given>);

struct Given {
    guest_path: String,
    handle: OwnedFd,
    read_only: bool,
}

/// A path, split.
struct Place<'a> {
    given: &'a Given,
    /// Relative to it; `.` for itself.
    rest: &'a str,
}

impl Files {
    /// Those that a process is given, once more.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn of(directories: &[Directory]) -> io::Result<Self> {
        let again = |directory: &Directory| {
            Ok(Given {
                guest_path: directory.guest_path.clone(),
                handle: directory.handle.try_clone()?,
                read_only: directory.read_only,
            })
        };
        directories
            .iter()
            .map(again)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Does it.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn answer(&self, deed: &FileDeed) -> Result<FileAnswer, String> {
        let path = deed.path();
        let place = self.place(path)?;
        let done = match deed {
            FileDeed::Look { .. } => place.look().map(FileAnswer::Facts),
            FileDeed::List { after, .. } => place.list(after.as_deref()).map(FileAnswer::Entries),
            FileDeed::Read { offset, .. } => place.read(*offset).map(FileAnswer::Piece),
            FileDeed::Write { .. } | FileDeed::MakeDirectory { .. } | FileDeed::Put { .. }
                if place.given.read_only =>
            {
                Err(Errno::ROFS)
            }
            FileDeed::Write {
                offset,
                bytes,
                mode,
                ..
            } => place.write(*offset, bytes, *mode).map(FileAnswer::Facts),
            FileDeed::MakeDirectory { .. } => place.make().map(FileAnswer::Facts),
            FileDeed::Put { offset, bytes, .. } => place.put(*offset, bytes).map(FileAnswer::Facts),
        };
        done.map_err(|errno| why(path, errno))
    }

    /// In which directory a path lies: the one with the longest path that it begins with.
    fn place<'a>(&'a self, path: &'a str) -> Result<Place<'a>, String> {
        if path.len() > PATH_BYTES_MAX {
            return Err(format!("a path has {PATH_BYTES_MAX} bytes at most"));
        }
        let found = self.0.iter().filter_map(|given| {
            let base = given.guest_path.trim_end_matches('/');
            let rest = path.strip_prefix(base)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| Place {
                given,
                rest: match rest.trim_start_matches('/') {
                    "" => ".",
                    rest => rest,
                },
            })
        });
        let longest = found.max_by_key(|place| place.given.guest_path.len());
        longest.ok_or_else(|| {
            let known = self.0.iter().map(|given| &*given.guest_path);
            let known: Vec<&str> = known.collect();
            match known.is_empty() {
                true => "it was given no directory (--dir)".to_owned(),
                false => format!(
                    "{path} is not in a directory that it was given: {}",
                    known.join(", ")
                ),
            }
        })
    }
}

impl FileDeed {
    fn path(&self) -> &str {
        match self {
            Self::Look { path }
            | Self::List { path, .. }
            | Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::MakeDirectory { path }
            | Self::Put { path, .. } => path,
        }
    }
}

fn why(path: &str, errno: Errno) -> String {
    let what = match errno {
        Errno::XDEV => {
            "by a link or `..` it leads out of the directory that the process was given".into()
        }
        Errno::ROFS => "the process was given this directory for reading only".into(),
        Errno::ACCESS | Errno::PERM => "the user of the node may not do that there".into(),
        other => io::Error::from(other).to_string(),
    };
    format!("{path}: {what}")
}

impl Place<'_> {
    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // A pipe without another end must not hold the runner up, and no terminal become its own.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat2(&self.given.handle, self.rest, flags, mode, beneath)
    }

    fn look(&self) -> Result<FileFacts, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let found = openat2(&self.given.handle, self.rest, flags, Mode::empty(), beneath)?;
        Ok(facts(&fstat(found)?))
    }

    fn list(&self, after: Option<&str>) -> Result<Vec<(String, FileFacts)>, Errno> {
        let opened = self.open(OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&opened)? {
            // What is no text cannot be named in a request; it is left to other tools.
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
                && after.is_none_or(|after| name > after)
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.truncate(FILE_ENTRIES_MAX);
        let seen = names.into_iter().filter_map(|name| {
            // One that is gone by now was never there.
            let stat = statat(opened.as_fd(), &*name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((name, facts(&stat)))
        });
        Ok(seen.collect())
    }

    fn read(&self, offset: u64) -> Result<Vec<u8>, Errno> {
        let file = self.open(OFlags::RDONLY, Mode::empty())?;
        only_regular(&file)?;
        let mut bytes = vec![0; FILE_PIECE_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(&file, &mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8], mode: u32) -> Result<FileFacts, Errno> {
        let mode = Mode::from_raw_mode(mode & 0o777);
        let file = self.open(OFlags::WRONLY | OFlags::CREATE, mode)?;
        only_regular(&file)?;
        ftruncate(&file, offset)?;
        let file = File::from(file);
        let written = file.write_all_at(bytes, offset);
        written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(facts(&fstat(file)?))
    }

    fn put(&self, offset: u64, bytes: &[u8]) -> Result<FileFacts, Errno> {
        let file = self.open(OFlags::WRONLY, Mode::empty())?;
        only_regular(&file)?;
        let file = File::from(file);
        let written = file.write_all_at(bytes, offset);
        written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(facts(&fstat(file)?))
    }

    fn make(&self) -> Result<FileFacts, Errno> {
        let path = self.rest.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = Place {
            given: self.given,
            rest: parent,
        };
        let parent = parent.open(OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        match mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let facts = self.look()?;
        match facts.sort {
            FileSort::Directory => Ok(facts),
            _ => Err(Errno::EXIST),
        }
    }
}

fn only_regular(file: &OwnedFd) -> Result<(), Errno> {
    match facts(&fstat(file)?).sort {
        FileSort::File => Ok(()),
        FileSort::Directory => Err(Errno::ISDIR),
        FileSort::Link | FileSort::Other => Err(Errno::INVAL),
    }
}

fn facts(stat: &Stat) -> FileFacts {
    FileFacts {
        sort: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileSort::File,
            FileType::Directory => FileSort::Directory,
            FileType::Symlink => FileSort::Link,
            _ => FileSort::Other,
        },
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn given(folder: &std::path::Path, guest: &str, read_only: bool) -> Directory {
        let mut directory = Directory::open(folder, guest).unwrap();
        directory.read_only = read_only;
        directory
    }

    fn world() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["work", "work/inner", "fixed"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::write(folder.path().join("work/file"), "contents").unwrap();
        fs::write(folder.path().join("fixed/file"), "read only").unwrap();
        let work = folder.path().join("work");
        symlink("../secret", work.join("out")).unwrap();
        symlink("/etc/passwd", work.join("absolute")).unwrap();
        symlink("file", work.join("link")).unwrap();
        let files = Files::of(&[
            given(&work, "/work", false),
            given(&folder.path().join("fixed"), "/work/fixed", true),
        ]);
        (folder, files.unwrap())
    }

    fn read(files: &Files, path: &str) -> Result<Vec<u8>, String> {
        let path = path.to_owned();
        match files.answer(&FileDeed::Read { path, offset: 0 })? {
            FileAnswer::Piece(bytes) => Ok(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn write(files: &Files, path: &str, offset: u64, text: &str) -> Result<(), String> {
        let deed = FileDeed::Write {
            path: path.to_owned(),
            offset,
            bytes: text.into(),
            mode: 0o640,
        };
        files.answer(&deed).map(drop)
    }

    #[test]
    fn files_are_read_beneath_their_directory_alone() {
        let (_folder, files) = world();
        assert_eq!(read(&files, "/work/file").unwrap(), b"contents");
        assert_eq!(read(&files, "/work/link").unwrap(), b"contents");
        assert_eq!(read(&files, "/work/inner/../file").unwrap(), b"contents");
        assert_eq!(read(&files, "/work/fixed/file").unwrap(), b"read only");
        let outside = [
            "/work/out",
            "/work/absolute",
            "/work/../secret",
            "/work/inner/../../secret",
        ];
        for path in outside {
            let refused = read(&files, path).unwrap_err();
            assert!(refused.contains("leads out"), "{refused}");
            assert!(
                write(&files, path, 0, "x")
                    .unwrap_err()
                    .contains("leads out")
            );
        }
        let refused = read(&files, "/workshop/file").unwrap_err();
        assert!(refused.contains("not in a directory that it was given"));
        assert!(
            read(&files, "/work/inner")
                .unwrap_err()
                .contains("directory")
        );
    }

    #[test]
    fn files_are_written_piece_by_piece() {
        let (folder, files) = world();
        write(&files, "/work/new", 0, "one, ").unwrap();
        write(&files, "/work/new", 5, "two").unwrap();
        assert_eq!(read(&files, "/work/new").unwrap(), b"one, two");
        let put = |path: &str, offset, text: &str| {
            files.answer(&FileDeed::Put {
                path: path.to_owned(),
                offset,
                bytes: text.into(),
            })
        };
        put("/work/new", 12, "far").unwrap();
        put("/work/new", 0, "One").unwrap();
        assert_eq!(read(&files, "/work/new").unwrap(), b"One, two\0\0\0\0far");
        assert!(
            put("/work/none", 0, "x")
                .unwrap_err()
                .contains("No such file")
        );
        assert!(put("/work/out", 0, "x").unwrap_err().contains("leads out"));
        assert!(
            put("/work/fixed/file", 0, "x")
                .unwrap_err()
                .contains("for reading only")
        );
        write(&files, "/work/new", 0, "short").unwrap();
        let path = folder.path().join("work/new");
        assert_eq!(fs::read(path).unwrap(), b"short");
        let refused = write(&files, "/work/fixed/file", 0, "x").unwrap_err();
        assert!(refused.contains("for reading only"), "{refused}");
    }

    #[test]
    fn directories_are_made_and_listed_in_pieces() {
        let (_folder, files) = world();
        let make = |path: &str| files.answer(&FileDeed::MakeDirectory { path: path.into() });
        make("/work/many").unwrap();
        make("/work/many").unwrap();
        make("/work/many/a").unwrap();
        assert!(make("/work/file").unwrap_err().contains("exists"));
        assert!(make("/work/../beside").unwrap_err().contains("leads out"));
        let count = FILE_ENTRIES_MAX + 10;
        for number in 0..count - 1 {
            write(&files, &format!("/work/many/{number:05}"), 0, "").unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let path = "/work/many".to_owned();
            let listed = files.answer(&FileDeed::List { path, after }).unwrap();
            let FileAnswer::Entries(entries) = listed else {
                panic!("{listed:?}");
            };
            assert!(entries.len() <= FILE_ENTRIES_MAX);
            if entries.is_empty() {
                break;
            }
            names.extend(entries.into_iter().map(|(name, _)| name));
            after = names.last().cloned();
        }
        assert_eq!(names.len(), count);
        assert!(names.is_sorted() && names.last().unwrap() == "a");
    }
}
