//! Gives the crate a hash of the pass's sources, so that artifacts made by another pass are never used, whether or
//! not someone remembered to raise its version.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

fn main() {
    let folder = Path::new("src/pass");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("src/pass is a folder")
        .map(|entry| entry.expect("src/pass can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(&file)
            .expect("a source can be read")
            .hash(&mut hasher);
    }
    println!("cargo::rustc-env=STERNA_PASS_HASH={:016x}", hasher.finish());
}
