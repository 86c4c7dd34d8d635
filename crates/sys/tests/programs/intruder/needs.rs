//! What a runner has to be able to do.
#![allow(unsafe_code, reason = "maps code")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use sterna_sys::memory::{PAGE_BYTES, Reservation, Scanner};
use sterna_sys::tracking::DirtyTracker;

fn need<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) {
    match result {
        Ok(_) => println!("need {name}: done"),
        Err(error) => println!("need {name}: {error}"),
    }
}

fn open(directory: BorrowedFd<'_>, path: &str, flags: OFlags) -> std::io::Result<std::fs::File> {
    let mode = Mode::RUSR | Mode::WUSR;
    Ok(rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, mode)?.into())
}

pub(crate) fn files(tree: BorrowedFd<'_>, fixed: BorrowedFd<'_>) {
    let read = |directory, path: &str| {
        let mut text = String::new();
        open(directory, path, OFlags::RDONLY)?.read_to_string(&mut text)?;
        if text == "inside" {
            Ok(())
        } else {
            Err(std::io::Error::other(text))
        }
    };
    need("read", read(tree, "file"));
    need("read in a folder", read(tree, "folder/file"));
    need("read through a link", read(tree, "link"));
    need("read in a fixed tree", read(fixed, "file"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    need(
        "write",
        open(tree, "new", flags).and_then(|mut file| file.write_all(b"inside")),
    );
    need(
        "make a folder",
        rustix::fs::mkdirat(tree, "made", Mode::RWXU),
    );
    // From folder to folder, which Landlock would forbid.
    need(
        "rename",
        rustix::fs::renameat(tree, "new", tree, "made/new"),
    );
    let keep = RenameFlags::NOREPLACE;
    need(
        "rename strictly",
        rustix::fs::renameat_with(tree, "made/new", tree, "again", keep),
    );
    need(
        "link",
        rustix::fs::linkat(tree, "again", tree, "made/other", AtFlags::empty()),
    );
    need(
        "read a link",
        rustix::fs::readlinkat(tree, "link", Vec::new()),
    );
    need(
        "make a link",
        rustix::fs::symlinkat("again", tree, "made/symbolic"),
    );
    need(
        "read what was made",
        read(tree, "made/symbolic").or_else(|_| read(tree, "made/other")),
    );
    need(
        "metadata",
        rustix::fs::statat(tree, "again", AtFlags::SYMLINK_NOFOLLOW),
    );
    need(
        "list",
        open(tree, ".", OFlags::RDONLY | OFlags::DIRECTORY).map(|directory| {
            let names = rustix::fs::Dir::read_from(&directory).unwrap();
            assert!(names.flatten().any(|entry| entry.file_name() == c"again"));
        }),
    );
    for name in ["made/symbolic", "made/other", "again"] {
        need("remove", rustix::fs::unlinkat(tree, name, AtFlags::empty()));
    }
    need(
        "remove a folder",
        rustix::fs::unlinkat(tree, "made", AtFlags::REMOVEDIR),
    );
}

/// A function that adds its two arguments, as native code in a file of `programs`.
pub(crate) fn code(programs: BorrowedFd<'_>) {
    let file = match open(programs, "code", OFlags::RDONLY) {
        Ok(file) => file,
        Err(error) => return need::<(), _>("run code of a file", Err(error)),
    };
    let length = 4096;
    // SAFETY: 1. A new mapping touches no existing memory.
    let mapped = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            length,
            rustix::mm::ProtFlags::READ,
            rustix::mm::MapFlags::PRIVATE,
            &file,
            0,
        )
    };
    let run = mapped.and_then(|code| {
        let flags = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::EXEC;
        // SAFETY: 1. The mapping was just made and is nobody else's.
        unsafe { rustix::mm::mprotect(code, length, flags) }?;
        // SAFETY: 1. The file holds a function of this type, for this processor, written by the test.
        let add: extern "C" fn(u64, u64) -> u64 = unsafe { std::mem::transmute(code) };
        assert_eq!(add(40, 2), 42);
        Ok(())
    });
    need("run code of a file", run);
}

pub(crate) fn memory_and_threads() {
    need(
        "threads",
        std::thread::spawn(|| 1).join().map_err(|_| "panicked"),
    );
    let memory = Arc::new(Reservation::new(1 << 20, 0, 1 << 20, None).unwrap());
    let tracked = DirtyTracker::start(memory.clone()).map_err(|error| error.to_string());
    need(
        "track writes",
        tracked.and_then(|mut tracker| {
            memory.write(2 * PAGE_BYTES, &[1]).unwrap();
            match tracker
                .take()
                .map_err(|error| error.to_string())?
                .as_slice()
            {
                [run] if run.first == 2 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }),
    );
    let scanner = Scanner::new();
    need(
        "find changed pages",
        match scanner.changed(&memory).unwrap().written.len() {
            1 if scanner.method() != sterna_sys::memory::ScanMethod::CompareAll => Ok(()),
            _ => Err(format!("{scanner:?}")),
        },
    );
    need(
        "a memory file",
        rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC),
    );
    need("a pipe", std::io::pipe());
    need("the time", {
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok::<(), &str>(())
    });
}

/// Two ends of a TCP connection that the service made.
pub(crate) fn sockets(sockets: Vec<OwnedFd>) {
    use rustix::event::epoll;
    let [one, other] = <[OwnedFd; 2]>::try_from(sockets)
        .unwrap()
        .map(std::net::TcpStream::from);
    let ready = || -> std::io::Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(&poll, &wake, epoll::EventData::new_u64(1), flags)?;
        epoll::add(&poll, &other, epoll::EventData::new_u64(2), flags)?;
        one.set_nonblocking(true)?;
        (&one).write_all(b"over TCP")?;
        let mut events = Vec::with_capacity(2);
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        assert_eq!(events[0].data.u64(), 2);
        let mut text = [0; 8];
        (&other).read_exact(&mut text)?;
        assert_eq!(&text, b"over TCP");
        one.peer_addr()?;
        one.shutdown(std::net::Shutdown::Both)
    };
    need("use a socket", ready());
    need("duplicate", other.as_fd().try_clone_to_owned());
}
