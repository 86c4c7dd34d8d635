//! A service that starts a runner, and the runner taken over by an intruder: `sterna-sys-intruder ROLE`. The intruder
//! runs native code with all that a runner has, and tries to get more. It writes a line per attempt to standard output:
//! `attack NAME: …` for what must fail, `need NAME: …` for what a runner has to be able to do.

mod attacks;
mod needs;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use sterna_sys::confine::{self, Confinement, Limits};
use sterna_sys::enclosure::{self, Enclosure};
use sterna_sys::spawn::{Spawn, inherited};
use sterna_sys::trees::{self, Access, DetachError};
use sterna_sys::{memory, messages};

/// The service's process id, noted before asking for it was forbidden.
static PARENT: std::sync::OnceLock<u32> = std::sync::OnceLock::new();

/// A user that owns nothing.
const NOBODY: u32 = 65534;

const SOON: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let role = std::env::args().nth(1).expect("a role");
    match role.as_str() {
        "as-nobody" => as_nobody(),
        "service" => service(),
        "tree" => return trees::run_helper(),
        "runner" => runner(false),
        "runner-without-enclosure" => runner(true),
        "unconfined" => unconfined(),
        "landlocked" => landlocked(),
        "leaky" => leaky(),
        "threaded" => threaded(),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

/// Becomes another user and goes on as a service. By exec, since a process that changed its user cannot be dumped.
fn as_nobody() {
    let user = rustix::process::Uid::from_raw(NOBODY);
    let group = rustix::process::Gid::from_raw(NOBODY);
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
    let error = std::process::Command::new("/proc/self/exe")
        .args(std::env::args().skip(2))
        .exec();
    panic!("{error}");
}

fn folder() -> PathBuf {
    std::env::var_os("FOLDER").expect("a folder").into()
}

/// What a service does: opens, detaches, starts, hands over.
fn service() {
    let role = std::env::args().nth(2).expect("the runner's role");
    let folder = folder();
    let open = |name: &str| OwnedFd::from(std::fs::File::open(folder.join(name)).unwrap());
    let detach = |name: &str, access| {
        let directory = open(name);
        match trees::detach(directory.as_fd(), access) {
            Err(DetachError::Privilege(_)) => {
                let helper = Spawn::new("/proc/self/exe").arg("tree");
                trees::detach_with_helper(helper, directory.as_fd(), access)
            }
            result => result,
        }
    };
    // What must not come along, with or without a mark.
    let key = open("key");
    rustix::io::fcntl_setfd(&key, rustix::io::FdFlags::empty()).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let child = Spawn::new("/proc/self/exe")
        .arg(role)
        .env("FOLDER", &folder)
        .descriptor("SERVICE", there.into())
        .descriptor("PROGRAMS", open("programs"))
        .stdout(std::io::stdout().as_fd().try_clone_to_owned().unwrap())
        .stderr(std::io::stderr().as_fd().try_clone_to_owned().unwrap())
        .die_with_this_thread()
        .start()
        .unwrap();
    let mut ready = [0; 1];
    let count = messages::receive(&here, &mut ready, &mut Vec::new()).unwrap();
    assert_eq!(count, 1, "the runner ended early");
    let trees = [
        detach("tree", Access::Change).unwrap(),
        detach("fixed", Access::Read).unwrap(),
    ];
    messages::send(&here, b"t", &[trees[0].as_fd(), trees[1].as_fd()]).unwrap();
    let (one, other) = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| {
            let one = std::net::TcpStream::connect(listener.local_addr()?)?;
            Ok((one, listener.accept()?.0))
        })
        .unwrap();
    messages::send(&here, b"s", &[one.as_fd(), other.as_fd()]).unwrap();
    let finished = child.finish(SOON).unwrap();
    assert!(finished.exit.status.success(), "{:?}", finished.exit);
}

/// The attacks that only read, by a process that nothing was taken from, with everything open.
fn unconfined() {
    let folder = folder();
    let tree = OwnedFd::from(std::fs::File::open(folder.join("tree")).unwrap());
    let _key = std::fs::File::open(folder.join("key")).unwrap();
    attacks::look_around(folder.to_str().unwrap());
    attacks::upwards("the tree", tree.as_fd());
}

/// Landlock alone, with rules for directories that are known at the start, and used through other mounts of them.
fn landlocked() {
    let open = |name: &str| OwnedFd::from(std::fs::File::open(folder().join(name)).unwrap());
    let detached = |name, access| match trees::detach(open(name).as_fd(), access) {
        Err(DetachError::Privilege(_)) => open(name),
        tree => tree.unwrap(),
    };
    let tree = detached("tree", Access::Change);
    let fixed = detached("fixed", Access::Change);
    let applied = Confinement::for_runner()
        .changeable_beneath(open("tree"))
        .readable_beneath(open("fixed"))
        .apply();
    println!("applied: {applied}");
    needs::files(tree.as_fd(), fixed.as_fd());
    attacks::on_fixed_tree(fixed.as_fd());
    attacks::look_around(folder().to_str().unwrap());
}

/// An enclosure with directories of the outside open: the root, and another.
fn leaky() {
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let leaks = [open("/"), open("/usr"), open("/etc/passwd")];
    let tree = OwnedFd::from(std::fs::File::open(folder().join("tree")).unwrap());
    let safe = trees::detach(tree.as_fd(), Access::Read);
    drop(tree);
    let enclosed = Enclosure::new().enter();
    let numbers: Vec<_> = leaks[..2].iter().map(AsRawFd::as_raw_fd).collect();
    println!("leaks: {numbers:?}, and a tree: {}", safe.is_ok());
    println!("enclosed: {enclosed}");
    assert!(enclosed.files.holds() && enclosed.extent() == enclosure::Extent::Partial);
}

/// No new namespaces for a process with two threads.
fn threaded() {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv().is_err());
    let programs = std::fs::File::open(folder().join("programs")).unwrap();
    let number = programs.as_raw_fd();
    let enclosed = Enclosure::new().bind("programs", programs.into()).enter();
    println!("enclosed: {enclosed}");
    // The caller goes on with what it gave, and Landlock.
    let directory = enclosed.directory("programs").unwrap();
    assert_eq!(directory.as_raw_fd(), number);
    assert_eq!(enclosed.extent(), enclosure::Extent::None);
    drop(end);
    assert!(thread.join().unwrap());
}

/// What a runner does at its start; and then everything else.
fn runner(without_enclosure: bool) {
    PARENT.get_or_init(std::os::unix::process::parent_id);
    let service = UnixStream::from(inherited("SERVICE").unwrap());
    let programs = inherited("PROGRAMS").unwrap();
    memory::keep_pagemap().unwrap();
    let confinement = Confinement::for_runner().limits(Limits {
        descriptors: Some(256),
        ..Limits::default()
    });
    let (applied, programs) = if without_enclosure {
        let kept = programs.try_clone().unwrap();
        (confinement.readable_beneath(programs).apply(), kept)
    } else {
        let enclosed = Enclosure::new().bind("programs", programs).enter();
        println!("enclosed: {enclosed}");
        assert_eq!(enclosed.extent(), enclosure::Extent::Full);
        let programs = enclosed.directory("programs").unwrap();
        let programs = programs.try_clone_to_owned().unwrap();
        (confinement.files_by_mounts().apply(), programs)
    };
    println!("applied: {applied}");
    if applied.extent() != confine::Extent::Full {
        return;
    }
    messages::send(&service, b"r", &[]).unwrap();
    let (mut trees, mut sockets) = (Vec::new(), Vec::new());
    let mut byte = [0; 1];
    messages::receive(&service, &mut byte, &mut trees).unwrap();
    messages::receive(&service, &mut byte, &mut sockets).unwrap();
    let [tree, fixed] = <[OwnedFd; 2]>::try_from(trees).unwrap();
    let path = CString::new(folder().into_os_string().into_encoded_bytes()).unwrap();
    if without_enclosure {
        attacks::on_files(&path, tree.as_fd(), fixed.as_fd(), false);
        attacks::on_the_system();
        needs::code(programs.as_fd());
        needs::memory_and_threads();
        return;
    }
    needs::files(tree.as_fd(), fixed.as_fd());
    needs::code(programs.as_fd());
    needs::memory_and_threads();
    needs::sockets(sockets);
    attacks::on_files(&path, tree.as_fd(), fixed.as_fd(), true);
    attacks::on_programs(programs.as_fd());
    attacks::on_the_system();
}
