//! What a program's file holds: WebAssembly in its binary or text format, or something else, and what then.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The binary format begins with this and a version.
const MAGIC: &[u8; 4] = b"\0asm";
const CORE: &[u8] = &[1, 0, 0, 0];
/// A component's version and layer, see the component model's binary format.
const COMPONENT_LAYER: u8 = 1;
/// So much of a file tells a module from a component.
const START_BYTES: usize = 8;
/// Longest program file that is not in the binary format.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// In what format a file's beginning says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Binary,
    Text,
}

/// A regular file that holds a program in the binary format; `None` if it is to be read and translated. Files that
/// hold no program are refused here, by their first bytes.
pub(super) fn binary_file(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut start = [0; START_BYTES];
    let got = file.read_at(&mut start, 0);
    let got = got.with_context(|| format!("could not read {}", path.display()))?;
    let start = &start[..got];
    Ok(match start.starts_with(MAGIC) {
        true => {
            format(start).with_context(|| path.display().to_string())?;
            Some(file)
        }
        false => None,
    })
}

/// The program in a file, in the binary format.
pub(super) fn read_wasm(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    match format(&bytes).with_context(|| path.display().to_string())? {
        Format::Binary => Ok(bytes),
        Format::Text => wat::Parser::new()
            .parse_bytes(Some(path), &bytes)
            .map(|wasm| wasm.into_owned())
            .with_context(|| format!("could not read the text format in {}", path.display())),
    }
}

/// A file's contents, if it is not too long.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = open(path)?;
    let mut bytes = Vec::new();
    let got = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    let got = got.with_context(|| format!("could not read {shown}"))?;
    ensure!(
        got as u64 <= FILE_BYTES_MAX,
        "{shown} is longer than {FILE_BYTES_MAX} bytes: it is no program"
    );
    Ok(bytes)
}

pub(super) fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("could not open {shown}"))?;
    ensure!(
        !file.metadata()?.is_dir(),
        "{shown} is a directory: name the program in it"
    );
    Ok(file)
}

/// What people call the program in a file.
pub(super) fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().into_owned()
}

/// The format, or what is wrong with it.
pub(super) fn format(bytes: &[u8]) -> Result<Format> {
    if let Some(rest) = bytes.strip_prefix(MAGIC) {
        return match rest {
            _ if rest.starts_with(CORE) => Ok(Format::Binary),
            [_, _, COMPONENT_LAYER, 0, ..] => bail!(
                "this is a WebAssembly component; only core modules are supported, those for WASI \
                 preview 1 (Rust: target wasm32-wasip1; C: wasm32-wasi)"
            ),
            [a, b, c, d, ..] => bail!(
                "this is WebAssembly of version {}, only version 1 is supported",
                u32::from_le_bytes([*a, *b, *c, *d])
            ),
            _ => bail!("this WebAssembly module is cut off in its first bytes"),
        };
    }
    if std::str::from_utf8(bytes).is_ok_and(looks_like_text) {
        return Ok(Format::Text);
    }
    let what = match bytes {
        [] => "it is empty",
        [0x7f, b'E', b'L', b'F', ..] => {
            "it is a native program; compile it for WebAssembly (WASI preview 1)"
        }
        [b'S', b'T', b'E', b'R', b'N', b'A', b'I', b'M', ..] => {
            "it is a frozen process; go on with it by `sterna thaw`"
        }
        [b'#', b'!', ..] => "it is a script; run its interpreter's .wasm and give it the script",
        _ => "it has neither the binary format's beginning nor is it the text format",
    };
    bail!("this is not a WebAssembly module: {what}")
}

/// Whether the first thing that is not white space or a comment is a parenthesis.
fn looks_like_text(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix(";;") {
            rest = comment
                .split_once('\n')
                .map_or("", |(_, rest)| rest)
                .trim_start();
        } else if let Some(comment) = rest.strip_prefix("(;") {
            rest = comment
                .split_once(";)")
                .map_or("", |(_, rest)| rest)
                .trim_start();
        } else {
            return rest.starts_with('(');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart() {
        let fine = |bytes: &[u8]| format(bytes).unwrap();
        assert_eq!(fine(b"\0asm\x01\0\0\0"), Format::Binary);
        assert_eq!(fine(b" ;; (no)\n (; (no) ;) (module)"), Format::Text);
        let wrong = |bytes: &[u8]| format(bytes).unwrap_err().to_string();
        assert!(wrong(b"\0asm\x0d\0\x01\0").contains("component"));
        assert!(wrong(b"\0asm\x02\0\0\0").contains("version 2"));
        assert!(wrong(b"\0as").contains("not a WebAssembly module"));
        assert!(wrong(b"\0asm\x01").contains("cut off"));
        assert!(wrong(b"").contains("empty"));
        assert!(wrong(b"\x7fELF").contains("native"));
        assert!(wrong(b";; nothing").contains("not a WebAssembly module"));
        assert!(wrong(b"#!/bin/sh\n(").contains("script"));
    }
}
