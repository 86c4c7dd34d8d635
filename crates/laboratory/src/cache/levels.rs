//! The caches of this machine, as the kernel describes them.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// A cache that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Level {
    /// 1 is next to the processor.
    pub level: u32,
    /// Its size in bytes.
    pub bytes: usize,
    /// Places that a line may have.
    pub ways: usize,
}

impl Level {
    /// The first processor's caches, the nearest first; none if the kernel does not know them
    /// (`/sys/devices/system/cpu/cpu0/cache`).
    pub fn all() -> Vec<Self> {
        let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
        let entries = fs::read_dir(folder).into_iter().flatten();
        let mut levels: Vec<Self> = entries
            .filter_map(|entry| Self::read(&entry.ok()?.path()))
            .collect();
        levels.sort_by_key(|level| level.level);
        levels
    }

    fn read(folder: &Path) -> Option<Self> {
        let text = |name| fs::read_to_string(folder.join(name)).ok();
        if text("type")?.trim() == "Instruction" {
            return None;
        }
        Some(Self {
            level: text("level")?.trim().parse().ok()?,
            bytes: parse_size(text("size")?.trim())?,
            ways: text("ways_of_associativity")?.trim().parse().ok()?,
        })
    }
}

/// A size such as `48K`.
fn parse_size(text: &str) -> Option<usize> {
    let (number, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("48K"), Some(49_152));
        assert_eq!(parse_size("2M"), Some(2 << 20));
        assert_eq!(parse_size("64"), Some(64));
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("K"), None);
    }

    #[test]
    fn nearer_caches_come_first() {
        let levels = Level::all();
        assert!(levels.is_sorted_by_key(|level| level.level));
        assert!(levels.iter().all(|level| level.bytes > 0));
    }
}
