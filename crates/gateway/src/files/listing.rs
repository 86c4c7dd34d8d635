//! The page that lists a directory without an index.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use super::{condition, target};

/// Names on one page. A directory with more is cut, and says so.
const NAMES_MAX: usize = 10_000;

struct Entry {
    name: Vec<u8>,
    is_directory: bool,
    bytes: u64,
    modified: SystemTime,
}

/// The page for a directory that is open. `path`: below the root, as bytes.
pub(crate) fn page(directory: impl AsFd, path: &[u8], hidden: bool) -> Result<Vec<u8>, Errno> {
    let (entries, cut) = entries(directory.as_fd(), hidden)?;
    let title = escape(&format!("/{}", String::from_utf8_lossy(path)));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>:root{{color-scheme:light dark;\
         font-family:system-ui,sans-serif}}td{{padding:.1em 1em .1em 0}}td+td{{text-align:right;\
         font-variant-numeric:tabular-nums}}</style></head>\n<body><h1>{title}</h1>\n<table>\n"
    );
    if !path.is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    for entry in &entries {
        let slash = if entry.is_directory { "/" } else { "" };
        let name = escape(&String::from_utf8_lossy(&entry.name));
        // With `./`, or a name with a colon would be a scheme.
        let link = target::encode(&entry.name);
        let size = if entry.is_directory {
            String::new()
        } else {
            entry.bytes.to_string()
        };
        let date = condition::named(entry.modified);
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"./{link}{slash}\">{name}{slash}</a></td><td>{size}</td><td>{date}</td></tr>"
        );
    }
    page.push_str("</table>\n");
    if cut {
        let _ = writeln!(page, "<p>Only {NAMES_MAX} names are shown.</p>");
    }
    page.push_str("</body>\n</html>\n");
    Ok(page.into_bytes())
}

/// Sorted: directories first. And whether there were more than fit.
fn entries(directory: impl AsFd, hidden: bool) -> Result<(Vec<Entry>, bool), Errno> {
    let (mut entries, mut cut) = (Vec::new(), false);
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if bytes == b"." || bytes == b".." || (bytes[0] == b'.' && !hidden) {
            continue;
        }
        if entries.len() == NAMES_MAX {
            cut = true;
            break;
        }
        let mut about = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(about) => about,
            // It went away meanwhile.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        if FileType::from_raw_mode(about.st_mode) == FileType::Symlink {
            // What it leads to, unless that is outside: then it is not served, and so not listed.
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            let led = openat2(&directory, name, flags, Mode::empty(), beneath);
            let Some(led) = led.ok().and_then(|led| rustix::fs::fstat(led).ok()) else {
                continue;
            };
            about = led;
        }
        let is_directory = match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => false,
            _ => continue,
        };
        let since = Duration::from_secs(u64::try_from(about.st_mtime).unwrap_or(0));
        entries.push(Entry {
            name: bytes.to_vec(),
            is_directory,
            bytes: u64::try_from(about.st_size).unwrap_or(0),
            modified: SystemTime::UNIX_EPOCH + since,
        });
    }
    entries.sort_by(|one, two| (!one.is_directory, &one.name).cmp(&(!two.is_directory, &two.name)));
    Ok((entries, cut))
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_harmless_and_links_lead_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let name = "<script>alert('x')&\"y\".html";
        std::fs::write(folder.path().join(name), "abc").unwrap();
        std::fs::write(folder.path().join("a:b"), "").unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join(".secret"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("a:b", folder.path().join("in")).unwrap();
        let directory = std::fs::File::open(folder.path()).unwrap();
        let page = String::from_utf8(page(&directory, b"", false).unwrap()).unwrap();
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(page.contains("href=\"./%3Cscript%3Ealert%28%27x%27%29%26%22y%22.html\""));
        assert!(page.contains("href=\"./a%3Ab\"") && page.contains("href=\"./sub/\""));
        assert!(page.contains("href=\"./in\""));
        assert!(!page.contains("secret") && !page.contains("out"));
        assert!(page.find("sub/") < page.find("a:b"), "directories first");
    }
}
