//! The manager's end of the link: what is asked is checked, and done if it may be.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::fs::{FileType, OFlags, SealFlags, fcntl_get_seals, fcntl_getfl, fstat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use sterna_runner::link::{self, LinkError};

use super::message::{Answer, Answered, Asked, Errand, Ready};
use super::remote::sealed;
use crate::hosting::{runner_errors, runner_socket};
use crate::limits::{ERRANDS_MAX, PROGRAM_BYTES_MAX};
use crate::trees::TreeDeed;
use crate::workshop::Workshop;

/// What keeps a memory file from being changed.
pub(super) const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK);

/// What came of an errand, or why it was not run.
type Done = Result<(Answer, Vec<OwnedFd>), String>;

/// Who serves, and for which node.
struct Office {
    workshop: Arc<dyn Workshop>,
    /// Of the node's data directory: where its runner listens and what it says is written.
    folder: Arc<Path>,
    stream: Mutex<UnixStream>,
    running: AtomicUsize,
}

/// Serves the service of the node whose data directory is `data`, until it goes.
///
/// # Errors
/// The other end is no service, or says what makes no sense.
pub fn serve(
    mut stream: UnixStream,
    data: &Path,
    confinement: String,
    workshop: Arc<dyn Workshop>,
) -> Result<(), LinkError> {
    link::greet(&mut stream)?;
    let kinds = workshop.kinds();
    link::send(&stream, &Ready { kinds, confinement }, &[])?;
    let office = Arc::new(Office {
        workshop,
        folder: crate::data::hosting_in(data).into(),
        stream: Mutex::new(stream.try_clone()?),
        running: AtomicUsize::new(0),
    });
    loop {
        let (Asked { number, errand }, given) = match link::receive(&stream) {
            Ok(asked) => asked,
            Err(LinkError::Gone) => return Ok(()),
            Err(error) => return Err(error),
        };
        let before = office.running.fetch_add(1, Ordering::SeqCst);
        let office = Arc::clone(&office);
        let run = move || {
            let done = match before < ERRANDS_MAX {
                true => office.run(errand, given),
                false => Err("too much is asked of the manager at once: try again".into()),
            };
            office.answer(number, done);
        };
        // What builds takes long, and nobody waits for that but who asked for it.
        match before < ERRANDS_MAX {
            true => drop(thread::Builder::new().name("errand".into()).spawn(run)?),
            false => run(),
        }
    }
}

impl Office {
    fn answer(&self, number: u64, done: Done) {
        let (answer, descriptors) = done.unwrap_or_else(|why| (Answer::Failed(why), Vec::new()));
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // If the service has gone, whoever reads hears it.
        let _ = link::send(&stream, &Answered { number, answer }, &descriptors);
        drop(stream);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn run(&self, errand: Errand, given: Vec<OwnedFd>) -> Done {
        let done = |brought: Vec<OwnedFd>| Ok((Answer::Done, brought));
        let shop = &self.workshop;
        match errand {
            Errand::StartRunner => {
                let [bound, errors] = expected(given)?;
                self.check_socket(&bound)?;
                let errors = self.check_errors(errors.into())?;
                let started = shop.start_runner(bound, errors);
                started.map_err(|error| error.to_string())?;
                done(Vec::new())
            }
            Errand::Has(kind, program) => {
                let [] = expected(given)?;
                Ok((Answer::Is(shop.has(&kind, &program)), Vec::new()))
            }
            Errand::Module(program) => {
                let [] = expected(given)?;
                done(vec![shop.module(&program)?.into()])
            }
            Errand::Add(kind) => {
                let [file] = expected(given)?;
                shop.add(&kind, sealed_bytes(file.into())?)?;
                done(Vec::new())
            }
            Errand::Prepare {
                kind,
                program,
                waypoints,
            } => {
                let [] = expected(given)?;
                shop.prepare(&kind, &program, &waypoints)?;
                done(Vec::new())
            }
            Errand::ExpectMoves(kind, program) => {
                let [] = expected(given)?;
                shop.expect_moves(&kind, &program);
                done(Vec::new())
            }
            Errand::Detach { read_only } => {
                let [directory] = expected(given)?;
                check_directory(&directory)?;
                let tree = shop.detach(directory, read_only);
                done(vec![tree.map_err(|error| error.to_string())?])
            }
            Errand::Tree => {
                let mut given = given.into_iter();
                let deed = given.next().ok_or("a deed belongs to it")?;
                let deed: TreeDeed = postcard::from_bytes(&sealed_bytes(deed.into())?)
                    .map_err(|_| "what came is no deed".to_owned())?;
                let directories: Vec<OwnedFd> = given.collect();
                if directories.len() != deed.directories() {
                    return Err("other directories belong to it".into());
                }
                directories.iter().try_for_each(check_directory)?;
                let descriptors: Vec<_> = directories.iter().map(AsFd::as_fd).collect();
                let done = postcard::to_stdvec(&shop.tree(deed, &descriptors)?)
                    .map_err(|error| error.to_string())?;
                done_in(&done)
            }
            Errand::Terminal(size) => {
                let [] = expected(given)?;
                let pair = shop.terminal(size).map_err(|error| error.to_string())?;
                done(pair.into())
            }
        }
    }

    /// A runner listens where the node looks for it and nowhere else.
    fn check_socket(&self, bound: &OwnedFd) -> Result<(), String> {
        let refused = |_| "what came is no socket for a runner".to_owned();
        let family = sockopt::socket_domain(bound).map_err(refused)?;
        let sort = sockopt::socket_type(bound).map_err(refused)?;
        let address = rustix::net::getsockname(bound).map_err(refused)?;
        let address = SocketAddrUnix::try_from(address).map_err(refused)?;
        let own = SocketAddrUnix::new(runner_socket(&self.folder)).map_err(refused)?;
        match family == AddressFamily::UNIX && sort == SocketType::STREAM && address == own {
            true => Ok(()),
            false => Err("a runner listens in its node's data directory only".into()),
        }
    }

    /// What it says of itself is appended to the node's own file for that.
    fn check_errors(&self, errors: File) -> Result<File, String> {
        let text = |error: io::Error| error.to_string();
        let given = errors.metadata().map_err(text)?;
        let own = std::fs::symlink_metadata(runner_errors(&self.folder)).map_err(text)?;
        let flags = fcntl_getfl(&errors).map_err(|error| text(error.into()))?;
        let same = (given.dev(), given.ino()) == (own.dev(), own.ino()) && own.is_file();
        match same && flags.contains(OFlags::APPEND) && !flags.contains(OFlags::PATH) {
            true => Ok(errors),
            false => Err("a runner writes into its node's data directory only".into()),
        }
    }
}

/// What came of an errand, in a file.
fn done_in(bytes: &[u8]) -> Done {
    let file = sealed(bytes).map_err(|error| error.to_string())?;
    Ok((Answer::Done, vec![file]))
}

/// As many descriptors as belong to an errand.
fn expected<const COUNT: usize>(given: Vec<OwnedFd>) -> Result<[OwnedFd; COUNT], String> {
    let count = given.len();
    let given = given.try_into();
    given.map_err(|_| format!("{count} descriptors came, and {COUNT} belong to it"))
}

/// A directory that the service could read: one that it only names, by a descriptor that opens nothing (`O_PATH`), would
/// become one that it can read by being detached.
fn check_directory(directory: &OwnedFd) -> Result<(), String> {
    let text = |error: rustix::io::Errno| io::Error::from(error).to_string();
    let flags = fcntl_getfl(directory).map_err(text)?;
    let mode = fstat(directory).map_err(text)?.st_mode;
    match FileType::from_raw_mode(mode).is_dir() && !flags.contains(OFlags::PATH) {
        true => Ok(()),
        false => Err("only a directory that was opened for reading can be given".into()),
    }
}

/// The bytes of a memory file that nobody changes while they are read.
pub(super) fn sealed_bytes(file: File) -> Result<Arc<[u8]>, String> {
    // Nothing else has seals: no pipe that never ends, no file of somebody else's.
    let seals = fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
    if !seals.contains(SEALS) {
        return Err("it has to come in a memory file that is sealed".into());
    }
    let text = |error: io::Error| error.to_string();
    let length = file.metadata().map_err(text)?.len();
    if length > PROGRAM_BYTES_MAX {
        return Err(format!(
            "what came has {length} bytes, {PROGRAM_BYTES_MAX} are allowed"
        ));
    }
    let mut bytes = vec![0; length as usize];
    let mut from = &file;
    io::Seek::rewind(&mut from).map_err(text)?;
    from.read_exact(&mut bytes).map_err(text)?;
    Ok(bytes.into())
}
