//! What must not be there any more when a test is over: processes, mounts, sockets and temporary files that know its
//! folder.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// All that is left of a world in a folder.
pub(crate) fn of(folder: &Path) -> Vec<String> {
    let mut left = processes(folder);
    left.extend(mounts(folder));
    left.extend(files(folder, &|path, kind| {
        let is_temporary = path.extension().is_some_and(|ending| ending == "partial")
            || path.parent() == Some(&folder.join("tmp"));
        kind.is_socket() || is_temporary
    }));
    left
}

/// Processes that were started with it, work in it, or have something of it open: the last holds for runners, whose
/// environment is empty and whose root is elsewhere.
pub(crate) fn processes(folder: &Path) -> Vec<String> {
    let name = folder.to_str().unwrap();
    let sockets = sockets(name);
    let knows = |text: &str| {
        let inode = text.strip_prefix("socket:[");
        let inode = inode.and_then(|text| text.strip_suffix(']'));
        text.contains(name) || inode.is_some_and(|inode| sockets.contains(inode))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().into_string().unwrap();
        if pid.parse::<u32>().is_err() || pid == std::process::id().to_string() {
            continue;
        }
        let path = entry.path();
        let said = |file: &str| {
            let bytes = fs::read(path.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let opened = fs::read_dir(path.join("fd")).into_iter().flatten();
        let opened = opened.flatten().map(|entry| entry.path());
        let mut links = opened.chain([path.join("cwd")]).map(|path| {
            let link = fs::read_link(path).unwrap_or_default();
            link.to_string_lossy().into_owned()
        });
        if knows(&said("cmdline")) || knows(&said("environ")) || links.any(|link| knows(&link)) {
            found.push(format!("process {pid}: {}", said("cmdline")));
        }
    }
    found
}

/// Inodes of the sockets with names in a folder, by proc_net(5).
fn sockets(folder: &str) -> HashSet<String> {
    let listed = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let named = listed.lines().filter(|line| line.contains(folder));
    let inode = |line: &str| line.split_whitespace().nth(6).map(str::to_owned);
    named.filter_map(inode).collect()
}

/// Mounts in it, by proc_pid_mountinfo(5).
fn mounts(folder: &Path) -> Vec<String> {
    let listed = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let in_folder = |line: &&str| line.contains(folder.to_str().unwrap());
    listed
        .lines()
        .filter(in_folder)
        .map(str::to_owned)
        .collect()
}

/// Files in it of some sort.
fn files(folder: &Path, is: &dyn Fn(&Path, fs::FileType) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind): (PathBuf, _) = (entry.path(), entry.file_type().unwrap());
        if is(&path, kind) {
            found.push(format!("file {}", path.display()));
        }
        if kind.is_dir() {
            found.extend(files(&path, is));
        }
    }
    found
}
