//! This program as a node's service: what it gives up once its sockets and its data directory are open. See [`confine`].

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sterna_node::StoreAt;
use sterna_sys::confine::{Applied, Confinement, Extent};

/// Files that a service reads beside its data directory: how much the machine has to do and how much room it has; and how
/// the C library resolves the names of buckets and of an etcd's members. One that is replaced later is not read any more.
const READ: &[&str] = &[
    "/proc/loadavg",
    "/proc/meminfo",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
];

/// Gives up all privilege, programs, and files but those of the data directory and of stores, for good. To be called
/// before there are threads. The answer is how well that went.
///
/// # Errors
/// It has lost its data directory by that.
pub(crate) fn confine(data: BorrowedFd<'_>, path: &Path, stores: &[StoreAt]) -> Result<String> {
    let mut confinement = Confinement::for_service().own_beneath(data.try_clone_to_owned()?);
    for path in stores.iter().filter_map(StoreAt::directory) {
        let failed = || format!("could not open the store {}", path.display());
        let directory = File::open(path).with_context(failed)?;
        confinement = confinement.changeable_beneath(directory.into());
    }
    for path in READ {
        // A machine that has none of it does without.
        if let Ok(file) = File::open(path) {
            confinement = confinement.readable_file(file.into());
        }
    }
    let applied = confinement.apply();
    let again = File::open(path).with_context(|| {
        format!(
            "a node gives up root's rights, and then cannot reach its data directory {}: let user {} through to it, or \
             name another one with --data",
            path.display(),
            rustix::process::geteuid().as_raw()
        )
    })?;
    let same = |one: &rustix::fs::Stat, other: &rustix::fs::Stat| {
        (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
    };
    ensure!(
        same(
            &rustix::fs::fstat(data)?,
            &rustix::fs::fstat(again.as_fd())?
        ),
        "the data directory {} was replaced while the node was started",
        path.display()
    );
    Ok(told(&applied))
}

/// In one line: `full`, or `partial` or `none`, and what is missing.
pub(crate) fn told(applied: &Applied) -> String {
    let text = applied.to_string();
    match applied.extent() {
        Extent::Full => text,
        _ => text.replacen("; ", ": ", 1),
    }
}
