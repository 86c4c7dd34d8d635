//! This command's own terminal while it is not used line by line: [`Raw`], and [`restore`] for every way out.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use sterna_runner::message::WindowSize;

/// What a terminal that says nothing is taken for.
const SIZE_USUAL: WindowSize = WindowSize {
    columns: 80,
    rows: 24,
};

/// How the terminal was, and what is printed before it is so again.
static BEFORE: Mutex<Option<(Termios, &'static str)>> = Mutex::new(None);

/// What is typed arrives at once, unseen and as it is. Until it is dropped, or [`restore`] is called.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// All keys arrive as they are, those for signals too. What is printed is treated as ever.
    pub(crate) fn all_keys() -> io::Result<Self> {
        Self::enter("", "", |modes| {
            modes.make_raw();
            modes.output_modes |= OutputModes::OPOST;
        })
    }

    /// A screen of its own. Keys for signals do what they do.
    pub(crate) fn screen() -> io::Result<Self> {
        // The alternate screen and the cursor, by xterm's control sequences.
        Self::enter("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", |modes| {
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        })
    }

    fn enter(
        begin: &str,
        end: &'static str,
        change: impl FnOnce(&mut Termios),
    ) -> io::Result<Self> {
        let mut modes = tcgetattr(io::stdin())?;
        let before = modes.clone();
        change(&mut modes);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((before, end));
        let raw = Self(());
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        print(begin);
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was. Whoever ends the command otherwise than by returning calls it first.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((modes, end)) = before {
        print(end);
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &modes);
    }
}

fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Whether this command is used at a terminal, both ways.
pub(crate) fn is_used() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// How large the terminal is.
pub(crate) fn size() -> WindowSize {
    match tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => WindowSize {
            columns: size.ws_col,
            rows: size.ws_row,
        },
        _ => SIZE_USUAL,
    }
}
