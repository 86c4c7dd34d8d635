//! What becomes of a compiled module before it is kept: only what runs, and names for back-traces.
//!
//! A module is `\0asm`, a version, and sections: a byte of kind, a LEB128 length, that many bytes.
//! Kind 0 is a custom section, which begins with its name (WebAssembly core specification, 5.5).

use anyhow::{Context, Result, bail};

const CUSTOM: u8 = 0;

/// One section of a module.
struct Section<'a> {
    kind: u8,
    /// Name of a custom section; empty for others.
    name: &'a str,
    /// All of it, as it stands in the module.
    whole: &'a [u8],
}

/// Reads the sections of a module.
fn sections(module: &[u8]) -> Result<Vec<Section<'_>>> {
    let header = module.get(..8).context("shorter than a module's header")?;
    if header != b"\0asm\x01\0\0\0" {
        bail!("not a WebAssembly core module");
    }
    let (mut found, mut rest) = (Vec::new(), &module[8..]);
    while !rest.is_empty() {
        let start = rest;
        let kind = byte(&mut rest)?;
        let length = leb(&mut rest)?;
        let mut content = take(&mut rest, length)?;
        let whole = &start[..start.len() - rest.len()];
        let name = if kind == CUSTOM {
            text(&mut content)?
        } else {
            ""
        };
        found.push(Section { kind, name, whole });
    }
    Ok(found)
}

/// The module with no custom section but the names of its functions.
pub(super) fn stripped(module: &[u8]) -> Result<Vec<u8>> {
    let mut kept = module
        .get(..8)
        .context("shorter than a module's header")?
        .to_vec();
    for section in sections(module)? {
        if section.kind != CUSTOM || section.name == "name" {
            kept.extend_from_slice(section.whole);
        }
    }
    Ok(kept)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, after) = rest
        .split_at_checked(length)
        .context("the module ends in the middle of a section")?;
    *rest = after;
    Ok(taken)
}

fn byte(rest: &mut &[u8]) -> Result<u8> {
    Ok(take(rest, 1)?[0])
}

fn leb(rest: &mut &[u8]) -> Result<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let next = byte(rest)?;
        value |= usize::from(next & 0x7f) << shift;
        if next < 0x80 {
            return Ok(value);
        }
    }
    bail!("a length of more than 32 bits")
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str> {
    let length = leb(rest)?;
    Ok(std::str::from_utf8(take(rest, length)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One type, and custom sections before and after it.
    const MODULE: &[u8] =
        b"\0asm\x01\0\0\0\0\x06\x05extra\x01\x04\x01\x60\0\0\0\x07\x04name\x01\x00";

    #[test]
    fn only_names_and_what_runs_are_kept() {
        let kept = stripped(MODULE).unwrap();
        assert_eq!(
            kept,
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\0\x07\x04name\x01\x00"
        );
    }

    #[test]
    fn a_cut_module_is_an_error() {
        assert!(stripped(&MODULE[..MODULE.len() - 1]).is_err());
        assert!(stripped(b"MZ").is_err());
    }
}
