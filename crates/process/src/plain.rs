//! Text from guests made harmless to terminals: [`Plain`].

use std::fmt::{self, Write as _};

/// Shows a text with everything escaped that a terminal would act on or that hides what is there: control
/// characters, and the marks that change the direction of writing.
///
/// ```
/// use sterna_process::Plain;
/// assert_eq!(Plain("naïve \x1b[31m").to_string(), "naïve \\u{1b}[31m");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                // Bidirectional controls, zero-width and other format characters: see Unicode TR36 and the
                // "Trojan Source" paper (Boucher and Anderson, 2021).
                '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}' => {
                    write!(f, "{}", letter.escape_unicode())?;
                }
                _ if letter.is_control() => write!(f, "{}", letter.escape_default())?,
                _ => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}
