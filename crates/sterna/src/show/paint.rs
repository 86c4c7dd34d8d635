//! Colours, on terminals only: [`Paint`].

use std::fmt::{self, Display};
use std::io::{self, IsTerminal};

/// Whether and how text is coloured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// None.
    pub(crate) const fn plain() -> Self {
        Self { on: false }
    }

    /// For standard output.
    pub(crate) fn stdout() -> Self {
        Self::for_terminal(io::stdout().is_terminal())
    }

    /// Whoever sets `NO_COLOR` wants none, see <https://no-color.org>.
    fn for_terminal(terminal: bool) -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            on: terminal && !unwanted && !dumb,
        }
    }

    pub(crate) const fn bold<T: Display>(self, text: T) -> Painted<T> {
        self.with("1", text)
    }

    pub(crate) const fn dim<T: Display>(self, text: T) -> Painted<T> {
        self.with("2", text)
    }

    pub(crate) const fn red<T: Display>(self, text: T) -> Painted<T> {
        self.with("31", text)
    }

    pub(crate) const fn green<T: Display>(self, text: T) -> Painted<T> {
        self.with("32", text)
    }

    pub(crate) const fn cyan<T: Display>(self, text: T) -> Painted<T> {
        self.with("36", text)
    }

    const fn with<T: Display>(self, code: &'static str, text: T) -> Painted<T> {
        Painted {
            code: if self.on { Some(code) } else { None },
            text,
        }
    }
}

/// Text with a colour, if there are colours.
pub(crate) struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.code else {
            return self.text.fmt(f);
        };
        write!(f, "\x1b[{code}m")?;
        self.text.fmt(f)?;
        f.write_str("\x1b[0m")
    }
}
