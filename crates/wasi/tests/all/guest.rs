//! A guest: a memory, and calls with the arguments laid out in it.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sterna_wasi::{
    Clocks, Config, Directory, Errno, Function, Rebind, RestoreError, Rights, Step, Wait, Wasi,
    WasiState,
};

/// Time that goes on when told to: wall time, monotonic time, CPU time.
#[derive(Clone, Default)]
pub(crate) struct Time(Arc<Mutex<[Duration; 3]>>);

impl Time {
    pub(crate) fn pass(&self, time: Duration) {
        let mut clocks = self.0.lock().unwrap();
        clocks[0] += time;
        clocks[1] += time;
    }

    pub(crate) fn set(&self, index: usize, time: Duration) {
        self.0.lock().unwrap()[index] = time;
    }
}

impl Clocks for Time {
    fn realtime(&self) -> Duration {
        self.0.lock().unwrap()[0]
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap()[1]
    }

    fn cpu_time(&self) -> Duration {
        self.0.lock().unwrap()[2]
    }
}

pub(crate) const MEMORY: usize = 1 << 20;
/// Where results go.
pub(crate) const OUT: u64 = 0x100;
/// Where vectors go.
const VECTORS: u64 = 0x200;
/// Where paths go.
const PATHS: u64 = 0x1000;
/// Where data goes.
pub(crate) const DATA: u64 = 0x4000;

pub(crate) const READ: Rights = Rights::ALL.without(Rights::FD_WRITE);
pub(crate) const WRITE: Rights = Rights::ALL.without(Rights::FD_READ);
pub(crate) const BOTH: Rights = Rights::ALL;
pub(crate) const CREAT: u64 = 1;
pub(crate) const DIRECTORY: u64 = 2;
pub(crate) const EXCL: u64 = 4;
pub(crate) const TRUNC: u64 = 8;

pub(crate) struct Guest {
    pub(crate) wasi: Wasi,
    pub(crate) memory: Vec<u8>,
}

pub(crate) fn config(time: &Time) -> Config {
    Config::new(Box::new(time.clone()))
}

/// A guest with one directory, as descriptor 3 under the name `/data`.
pub(crate) fn with_dir(host: &Path) -> Guest {
    let mut config = config(&Time::default());
    config
        .directories
        .push(Directory::open(host, "/data", false).unwrap());
    Guest::new(config)
}

impl Guest {
    pub(crate) fn new(config: Config) -> Guest {
        Guest::of(Wasi::new(config).unwrap())
    }

    pub(crate) fn of(wasi: Wasi) -> Guest {
        Guest {
            wasi,
            memory: vec![0; MEMORY],
        }
    }

    pub(crate) fn step(&mut self, function: Function, arguments: &[u64]) -> Step {
        self.wasi.call(function, arguments, &mut self.memory)
    }

    /// A call that must be done at once.
    pub(crate) fn call(&mut self, function: Function, arguments: &[u64]) -> Result<(), Errno> {
        match self.step(function, arguments) {
            Step::Done(Errno::SUCCESS) => Ok(()),
            Step::Done(errno) => Err(errno),
            other => panic!("{function:?} is not done: {other:?}"),
        }
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> &[u8] {
        &self.memory[at as usize..][..len]
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap())
    }

    pub(crate) fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().unwrap())
    }

    /// Lays out vectors; returns the two arguments that name them.
    pub(crate) fn vectors(&mut self, areas: &[(u64, u64)]) -> [u64; 2] {
        for (index, (at, len)) in (0..).zip(areas) {
            self.put(VECTORS + index * 8, &(*at as u32).to_le_bytes());
            self.put(VECTORS + index * 8 + 4, &(*len as u32).to_le_bytes());
        }
        [VECTORS, areas.len() as u64]
    }

    /// Lays out a path; returns the two arguments that name it.
    pub(crate) fn path(&mut self, path: &str) -> [u64; 2] {
        self.path_at(PATHS, path)
    }

    fn path_at(&mut self, at: u64, path: &str) -> [u64; 2] {
        self.put(at, path.as_bytes());
        [at, path.len() as u64]
    }

    pub(crate) fn open(
        &mut self,
        dir: u32,
        path: &str,
        oflags: u64,
        rights: Rights,
    ) -> Result<u32, Errno> {
        self.open_with(dir, path, oflags, rights, 0, 1)
    }

    pub(crate) fn open_with(
        &mut self,
        dir: u32,
        path: &str,
        oflags: u64,
        rights: Rights,
        fdflags: u64,
        lookup: u64,
    ) -> Result<u32, Errno> {
        let [at, len] = self.path(path);
        let arguments = [
            dir.into(),
            lookup,
            at,
            len,
            oflags,
            rights.bits(),
            u64::MAX,
            fdflags,
            OUT,
        ];
        self.call(Function::PathOpen, &arguments)?;
        Ok(self.u32(OUT))
    }

    pub(crate) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.call(Function::FdClose, &[fd.into()])
    }

    pub(crate) fn write_step(&mut self, fd: u32, data: &[u8]) -> Step {
        self.put(DATA, data);
        let [at, count] = self.vectors(&[(DATA, data.len() as u64)]);
        self.step(Function::FdWrite, &[fd.into(), at, count, OUT])
    }

    pub(crate) fn write(&mut self, fd: u32, data: &[u8]) -> Result<usize, Errno> {
        match self.write_step(fd, data) {
            Step::Done(Errno::SUCCESS) => Ok(self.u32(OUT) as usize),
            Step::Done(errno) => Err(errno),
            other => panic!("the write is not done: {other:?}"),
        }
    }

    pub(crate) fn read_step(&mut self, fd: u32, len: usize) -> Step {
        let [at, count] = self.vectors(&[(DATA, len as u64)]);
        self.step(Function::FdRead, &[fd.into(), at, count, OUT])
    }

    pub(crate) fn read(&mut self, fd: u32, len: usize) -> Result<Vec<u8>, Errno> {
        match self.read_step(fd, len) {
            Step::Done(Errno::SUCCESS) => Ok(self.bytes(DATA, self.u32(OUT) as usize).to_vec()),
            Step::Done(errno) => Err(errno),
            other => panic!("the read is not done: {other:?}"),
        }
    }

    pub(crate) fn read_waits(&mut self, fd: u32) -> Wait {
        match self.read_step(fd, 16) {
            Step::Wait(wait) => wait,
            other => panic!("the read does not wait: {other:?}"),
        }
    }

    pub(crate) fn seek(&mut self, fd: u32, offset: i64, whence: u64) -> Result<u64, Errno> {
        self.call(Function::FdSeek, &[fd.into(), offset as u64, whence, OUT])?;
        Ok(self.u64(OUT))
    }

    pub(crate) fn tell(&mut self, fd: u32) -> Result<u64, Errno> {
        self.call(Function::FdTell, &[fd.into(), OUT])?;
        Ok(self.u64(OUT))
    }

    /// A function that takes a descriptor and a path.
    pub(crate) fn on_path(&mut self, function: Function, fd: u32, path: &str) -> Result<(), Errno> {
        let [at, len] = self.path(path);
        self.call(function, &[fd.into(), at, len])
    }

    pub(crate) fn rename(
        &mut self,
        fd: u32,
        old: &str,
        new_fd: u32,
        new: &str,
    ) -> Result<(), Errno> {
        let [old, old_len] = self.path(old);
        let [new, new_len] = self.path_at(PATHS + 0x1000, new);
        self.call(
            Function::PathRename,
            &[fd.into(), old, old_len, new_fd.into(), new, new_len],
        )
    }

    pub(crate) fn link(&mut self, fd: u32, old: &str, new_fd: u32, new: &str) -> Result<(), Errno> {
        let [old, old_len] = self.path(old);
        let [new, new_len] = self.path_at(PATHS + 0x1000, new);
        self.call(
            Function::PathLink,
            &[fd.into(), 0, old, old_len, new_fd.into(), new, new_len],
        )
    }

    pub(crate) fn symlink(&mut self, target: &str, fd: u32, new: &str) -> Result<(), Errno> {
        let [old, old_len] = self.path(target);
        let [new, new_len] = self.path_at(PATHS + 0x1000, new);
        self.call(
            Function::PathSymlink,
            &[old, old_len, fd.into(), new, new_len],
        )
    }

    /// Type and size, following links or not.
    pub(crate) fn stat(&mut self, fd: u32, path: &str, follow: bool) -> Result<(u8, u64), Errno> {
        let [at, len] = self.path(path);
        self.call(
            Function::PathFilestatGet,
            &[fd.into(), follow.into(), at, len, OUT],
        )?;
        Ok((self.memory[OUT as usize + 16], self.u64(OUT + 32)))
    }

    /// Type, flags, rights, inheriting rights.
    pub(crate) fn fdstat(&mut self, fd: u32) -> Result<(u8, u16, Rights, Rights), Errno> {
        self.call(Function::FdFdstatGet, &[fd.into(), OUT])?;
        let flags = u16::from_le_bytes(self.bytes(OUT + 2, 2).try_into().unwrap());
        let rights = |at| Rights::from_bits(self.u64(OUT + at));
        Ok((self.memory[OUT as usize], flags, rights(8), rights(16)))
    }

    /// One `fd_readdir`: names with the cookies that follow them; a name cut short is left out.
    pub(crate) fn readdir(
        &mut self,
        fd: u32,
        cookie: u64,
        room: u64,
    ) -> Result<Vec<(String, u64)>, Errno> {
        self.call(Function::FdReaddir, &[fd.into(), DATA, room, cookie, OUT])?;
        let used = u64::from(self.u32(OUT));
        let (mut at, mut names) = (0, Vec::new());
        while at + 24 <= used {
            let next = self.u64(DATA + at);
            let len = u64::from(self.u32(DATA + at + 16));
            if at + 24 + len > used {
                break;
            }
            let name =
                String::from_utf8(self.bytes(DATA + at + 24, len as usize).to_vec()).unwrap();
            names.push((name, next));
            at += 24 + len;
        }
        Ok(names)
    }

    /// The state as an image would carry it: encoded and decoded.
    pub(crate) fn state(&self) -> WasiState {
        let bytes = postcard::to_stdvec(&self.wasi.capture().unwrap()).unwrap();
        postcard::from_bytes(&bytes).unwrap()
    }

    /// Moves the guest to a host with `rebind`.
    pub(crate) fn moved(self, rebind: Rebind) -> Result<Guest, RestoreError> {
        let state = self.state();
        let memory = self.memory;
        drop(self.wasi);
        Ok(Guest {
            wasi: Wasi::restore(state, rebind)?,
            memory,
        })
    }
}
