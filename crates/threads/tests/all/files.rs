//! Files: with io_uring, without it, and on threads of the kernel.

use std::fs::OpenOptions as StdOptions;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{Advice, FileType, Mode, OFlags, fadvise, mknodat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use sterna_threads::fs::{self, File, OpenOptions};
use sterna_threads::{Cancelled, Runtime, scope, spawn, yield_now};

use crate::IMPLEMENTATIONS;

/// More reads than a ring has room for.
const MANY: usize = 300;

/// Runs a function in a folder of its own under each implementation, with and without io_uring.
fn in_folders(f: impl Fn(&Path) + Send + Sync) {
    for &implementation in IMPLEMENTATIONS {
        for io_uring in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let builder = Runtime::builder(implementation).workers(2);
            let runtime = builder.io_uring(io_uring).build().unwrap();
            runtime.run(|| f(folder.path()));
        }
    }
}

pub(crate) fn make_fifo(path: &Path) {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(rustix::fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn written_read_moved_and_cut() {
    in_folders(|folder| {
        let path = folder.join("file");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(b"Sterna paradisaea").unwrap();
        assert_eq!(file.stream_position().unwrap(), 17);
        file.seek(SeekFrom::Start(7)).unwrap();
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "paradisaea");
        // At given places the position stays.
        file.write_all_at(b"hirundo   ", 7).unwrap();
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, file.stream_position().unwrap()), (b"Sterna", 17));
        assert_eq!(file.read_at(&mut bytes, 100).unwrap(), 0);
        file.set_len(14).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 14);
        let mut end = OpenOptions::new().append(true).open(&path).unwrap();
        end.write_all(b", a tern").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "Sterna hirundo, a tern");
        let mut shared = file.try_clone().unwrap();
        shared.rewind().unwrap();
        assert_eq!(file.stream_position().unwrap(), 0);
        file.set_permissions(PermissionsExt::from_mode(0o600))
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    });
}

#[test]
fn options_mean_what_they_mean_in_the_standard_library() {
    in_folders(|folder| {
        for number in 0..1_u32 << 7 {
            let [read, write, append, truncate, create, create_new, exists] =
                std::array::from_fn(|bit| number >> bit & 1 == 1);
            let outcome = |name: &str, open: &dyn Fn(&Path) -> std::io::Result<Vec<bool>>| {
                let path = folder.join(name);
                if exists {
                    std::fs::write(&path, "text").unwrap();
                }
                let opened = open(&path).map_err(|error| error.kind());
                let left = std::fs::read(&path).ok();
                let _ = std::fs::remove_file(&path);
                (opened, left)
            };
            let theirs = outcome("theirs", &|path| {
                let mut options = StdOptions::new();
                options.read(read).write(write).append(append);
                options
                    .truncate(truncate)
                    .create(create)
                    .create_new(create_new);
                let mut file = options.open(path)?;
                Ok(vec![
                    file.write(b"abc").is_ok(),
                    file.read(&mut [0]).is_ok(),
                ])
            });
            let ours = outcome("ours", &|path| {
                let options = OpenOptions::new().read(read).write(write).append(append);
                let options = options.truncate(truncate).create(create);
                let mut file = options.create_new(create_new).open(path)?;
                Ok(vec![
                    file.write(b"abc").is_ok(),
                    file.read(&mut [0]).is_ok(),
                ])
            });
            assert_eq!(ours, theirs, "{number:07b}");
        }
    });
}

#[test]
fn errors_are_the_kernels() {
    in_folders(|folder| {
        let kind = |path: &Path| fs::read(path).unwrap_err().kind();
        assert_eq!(kind(&folder.join("nothing")), ErrorKind::NotFound);
        assert_eq!(kind(folder), ErrorKind::IsADirectory);
        assert_eq!(kind(Path::new("a\0b")), ErrorKind::InvalidInput);
        let path = folder.join("file");
        fs::write(&path, [0xff]).unwrap();
        let text = fs::read_to_string(&path);
        assert_eq!(text.unwrap_err().kind(), ErrorKind::InvalidData);
        let mut unreadable = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(unreadable.read(&mut [0]).is_err());
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(full.write(b"x").unwrap_err().kind(), ErrorKind::StorageFull);
    });
}

/// Reads what was put out of the page cache: the kernel has to fetch it from the disk, and threads wait.
#[test]
fn read_from_the_disk_by_many() {
    in_folders(|folder| {
        let path = folder.join("file");
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        fadvise(file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        scope(|scope| {
            for part in (0..40_usize).rev() {
                let (file, bytes) = (&file, &bytes);
                scope.spawn(move || {
                    let mut got = vec![0; 100_000];
                    file.read_exact_at(&mut got, part as u64 * 100_000).unwrap();
                    assert!(got == bytes[part * 100_000..][..100_000]);
                });
            }
        });
        assert!(fs::read(&path).unwrap() == bytes);
    });
}

#[test]
fn a_fifo_waits_for_its_other_end() {
    in_folders(|folder| {
        let path = folder.join("fifo");
        make_fifo(&path);
        for reader_first in [true, false] {
            let read = || {
                let path = path.clone();
                spawn(move || fs::read(path).unwrap())
            };
            let write = || {
                let path = path.clone();
                spawn(move || {
                    let mut writer = OpenOptions::new().write(true).open(path).unwrap();
                    (0..20_000).for_each(|_| writer.write_all(b"0123456789").unwrap());
                })
            };
            let (got, wrote) = if reader_first {
                let got = read();
                yield_now();
                (got, write())
            } else {
                let wrote = write();
                yield_now();
                (read(), wrote)
            };
            wrote.join().unwrap();
            assert_eq!(got.join().unwrap().len(), 200_000);
        }
    });
}

#[test]
fn who_waits_for_the_other_end_of_a_fifo_is_cancelled() {
    in_folders(|folder| {
        let path = folder.join("fifo");
        make_fifo(&path);
        let reads = || File::options().read(true);
        let (writes, appends) = (File::options().write(true), File::options().append(true));
        for options in [reads(), writes, appends] {
            let path = path.clone();
            let waits = spawn(move || options.open(path));
            yield_now();
            waits.cancel();
            assert!(waits.join().unwrap_err().is::<Cancelled>());
        }
        // Both at once is no waiting, and so is what the flags say.
        drop(reads().write(true).open(&path).unwrap());
        let flags = OFlags::NONBLOCK.bits() as i32;
        drop(reads().custom_flags(flags).open(&path).unwrap());
        let nobody = File::options().write(true).custom_flags(flags).open(&path);
        assert_eq!(
            nobody.unwrap_err().raw_os_error(),
            Some(Errno::NXIO.raw_os_error())
        );
    });
}

/// A pipe, a socket, a FIFO and both sides of a terminal, from which nothing comes and of which nothing is taken: what is written
/// to, and what is read from.
fn silent(folder: &Path) -> Vec<(&'static str, File, File)> {
    let file = |end: OwnedFd| File::from_std(end.into());
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, two) = UnixStream::pair().unwrap();
    let path = folder.join("silent");
    make_fifo(&path);
    let fifo = || File::options().read(true).write(true).open(&path).unwrap();
    let (master, slave) = terminal();
    vec![
        ("pipe", file(writer.into()), file(reader.into())),
        ("socket", file(one.into()), file(two.into())),
        ("fifo", fifo(), fifo()),
        ("terminal", file(slave), file(master)),
    ]
}

/// In raw mode.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    let mut raw = tcgetattr(&slave).unwrap();
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw).unwrap();
    (master, slave)
}

#[test]
fn who_reads_what_does_not_come_is_cancelled() {
    in_folders(|folder| {
        for (name, mut writer, mut reader) in silent(folder) {
            for side in [&mut reader, &mut writer] {
                // A pipe has one direction.
                let Ok(()) = side.read(&mut []).map(drop) else {
                    continue;
                };
                let mut side = side.try_clone().unwrap();
                let waits = spawn(move || side.read(&mut [0]));
                yield_now();
                waits.cancel();
                assert!(waits.join().unwrap_err().is::<Cancelled>(), "{name}");
            }
        }
    });
}

#[test]
fn who_writes_what_nobody_takes_is_cancelled() {
    in_folders(|folder| {
        for (name, mut writer, mut reader) in silent(folder) {
            let waits = spawn(move || writer.write_all(&[7; 1 << 20]));
            // Nobody else waits with it. It has more when there is room.
            yield_now();
            let mut taken = [0; 1 << 17];
            reader.read_exact(&mut taken).unwrap();
            waits.cancel();
            assert!(waits.join().unwrap_err().is::<Cancelled>(), "{name}");
            assert!(taken.iter().all(|&byte| byte == 7), "{name}");
        }
    });
}

#[test]
fn what_comes_late_is_read_by_all_who_wait() {
    in_folders(|folder| {
        for (name, mut writer, reader) in silent(folder) {
            let file = Arc::new(reader);
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let file = Arc::clone(&file);
                    spawn(move || {
                        let mut byte = [0];
                        (&*file).read_exact(&mut byte).unwrap();
                        byte[0]
                    })
                })
                .collect();
            yield_now();
            writer.write_all(&[1, 2, 4]).unwrap();
            let read = readers.into_iter().map(|reader| reader.join().unwrap());
            assert_eq!(read.sum::<u8>(), 7, "{name}");
        }
    });
}

#[test]
fn a_writer_that_has_written_nothing_is_an_end_too() {
    in_folders(|folder| {
        let path = folder.join("fifo");
        make_fifo(&path);
        let reader = {
            let path = path.clone();
            spawn(move || File::open(path).unwrap())
        };
        let writer = File::options().write(true).open(&path).unwrap();
        let mut reader = reader.join().unwrap();
        drop(writer);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn the_runtime_ends_while_a_fifo_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    make_fifo(&path);
    for &implementation in IMPLEMENTATIONS {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(|| {
            let path = path.clone();
            drop(spawn(move || File::open(path)));
            yield_now();
        });
        drop(runtime);
    }
}

#[test]
fn more_reads_than_a_ring_has_room_for() {
    in_folders(|_| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = File::from_std(std::os::fd::OwnedFd::from(reader).into());
        let sum = std::sync::atomic::AtomicUsize::new(0);
        scope(|scope| {
            for _ in 0..MANY {
                scope.spawn(|| {
                    let mut byte = [0];
                    assert_eq!((&file).read(&mut byte).unwrap(), 1);
                    sum.fetch_add(usize::from(byte[0]), std::sync::atomic::Ordering::Relaxed);
                });
            }
            yield_now();
            writer.write_all(&[1; MANY]).unwrap();
        });
        assert_eq!(sum.into_inner(), MANY);
    });
}

#[test]
fn a_read_in_a_ring_is_cancelled() {
    if io_uring::IoUring::new(2).is_err() {
        println!("SKIPPED: the kernel has no io_uring for this process");
        return;
    }
    for &implementation in &IMPLEMENTATIONS[1..] {
        let runtime = Runtime::builder(implementation).workers(2).build().unwrap();
        runtime.run(|| {
            let (reader, mut writer) = std::io::pipe().unwrap();
            let file = File::from_std(std::os::fd::OwnedFd::from(reader).into());
            for _ in 0..100 {
                let mut theirs = file.try_clone().unwrap();
                let reads = spawn(move || theirs.read(&mut [0; 10]));
                yield_now();
                reads.cancel();
                assert!(reads.join().unwrap_err().is::<Cancelled>());
            }
            // Nothing is read for those that have gone.
            writer.write_all(b"tern").unwrap();
            assert_eq!((&file).read(&mut [0; 10]).unwrap(), 4);
        });
    }
}

#[test]
fn folders() {
    in_folders(|folder| {
        let deep = folder.join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        (0..500).for_each(|i| fs::write(deep.join(i.to_string()), "x").unwrap());
        let mut names: Vec<usize> = fs::read_dir(&deep)
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        names.sort_unstable();
        assert!(names.into_iter().eq(0..500));
        fs::rename(deep.join("0"), folder.join("moved")).unwrap();
        assert_eq!(
            fs::copy(folder.join("moved"), folder.join("copy")).unwrap(),
            1
        );
        fs::remove_file(folder.join("moved")).unwrap();
        std::os::unix::fs::symlink("copy", folder.join("link")).unwrap();
        assert!(
            fs::symlink_metadata(folder.join("link"))
                .unwrap()
                .is_symlink()
        );
        assert_eq!(
            fs::canonicalize(folder.join("link")).unwrap(),
            fs::canonicalize(folder).unwrap().join("copy")
        );
        assert!(fs::remove_dir(&deep).is_err());
        fs::remove_dir_all(folder.join("a")).unwrap();
        fs::create_dir(folder.join("a")).unwrap();
        fs::remove_dir(folder.join("a")).unwrap();
    });
}

#[test]
fn descriptors_of_files_are_given_back() {
    // In a process of its own, since other tests open files beside this one.
    if let Some((success, text)) = crate::in_child("files::descriptors_of_files_are_given_back") {
        assert!(success, "{text}");
        return;
    }
    in_folders(|folder| {
        let path = folder.join("file");
        fs::write(&path, "text").unwrap();
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let round = || assert_eq!(fs::read(&path).unwrap(), b"text");
        round();
        let before = count();
        (0..500).for_each(|_| round());
        assert!(count() <= before + 2);
    });
}

#[test]
fn a_file_that_a_child_writes() {
    in_folders(|folder| {
        let path = folder.join("file");
        let mut command = Command::new("sh");
        command.args(["-c", "echo tern > \"$0\""]).arg(&path);
        assert!(
            sterna_threads::process::status(&mut command)
                .unwrap()
                .success()
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "tern\n");
    });
}
