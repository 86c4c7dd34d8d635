//! What people and programs are shown: lines, JSON, tables, colours, progress.
//!
//! Text that comes from guests or images passes [`Plain`](sterna_process::Plain) on its way to people, and
//! [`json`] escapes in JSON what a terminal would act on, so that neither can take a terminal over.

mod drawing;
mod ending;
mod paint;
mod progress;
mod table;
mod units;

pub(crate) use drawing::Drawing;
pub(crate) use ending::{ending, exit_code};
pub(crate) use paint::Paint;
pub(crate) use progress::{Bar, Building, Line, Steps};
pub(crate) use table::{Align, Table};
pub(crate) use units::{
    age, bytes, moment, parse_address, parse_bytes, parse_duration, parse_rate, parse_some_time,
    since_epoch_ms, time, time_us,
};

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::process;

use anyhow::{Context, Result};
use serde::Serialize;
use sterna_process::Plain;

/// The code of a wrong command line, also where only all of it together is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;

/// The code of a program whose reader went away: 128 + SIGPIPE.
const READER_GONE: i32 = 141;

/// Writes a text to standard output. Ends quietly if nobody reads it any more, as in `sterna ps | head -1`.
pub(crate) fn print(text: impl Display) {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            process::exit(READER_GONE);
        }
        note(format_args!("could not write to standard output: {error}"));
        process::exit(1);
    }
}

/// Writes a line of Sterna's own to standard error. Nothing can be done if that fails.
pub(crate) fn note(text: impl Display) {
    let mut line = format!("sterna: {}", Lines(&text.to_string()));
    line.push('\n');
    // In one piece, since the guest writes there as well.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Writes a value as JSON to standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    print(json_text(value)?);
    Ok(())
}

/// A value as JSON that is harmless to terminals.
pub(crate) fn json_text(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).context("could not write JSON")?;
    let mut safe = String::with_capacity(text.len() + 1);
    // Outside of strings JSON is ASCII without control characters but line ends, and in strings those below
    // U+0020 are escaped: what is left of them is in a string, where an escape means the same.
    for letter in text.chars() {
        let shown = Plain(letter.encode_utf8(&mut [0; 4])).to_string();
        if letter == '\n' || shown.starts_with(letter) {
            safe.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let _ = write!(safe, "\\u{unit:04x}");
            }
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// A file's path as one would type it here: relative if it is below the current directory. Harmless to terminals.
pub(crate) fn path(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok());
    Plain(&below.unwrap_or(path).to_string_lossy()).to_string()
}

/// A text of several lines with everything escaped but the line ends.
pub(crate) struct Lines<'a>(pub(crate) &'a str);

impl Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.lines().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            Plain(line).fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json_and_is_harmless() {
        let nasty = "é \u{1b}[2J \u{7f} \u{9b}31m \u{202e} \u{1f600} \n \"";
        let text = json_text(&[nasty]).unwrap();
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}')
        );
        assert!(text.contains('é'));
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [nasty]);
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else() {
        assert_eq!(Lines("a\x1b\nb\n").to_string(), "a\\u{1b}\nb");
    }
}
