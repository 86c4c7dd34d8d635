//! Columns that line up: [`Table`].

use std::fmt;

use super::Paint;

/// On which side of its column a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a head.
pub(crate) struct Table<const COLUMNS: usize> {
    head: [(&'static str, Align); COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) const fn new(head: [(&'static str, Align); COLUMNS]) -> Self {
        Self {
            head,
            rows: Vec::new(),
        }
    }

    /// Adds a row; texts from guests must be plain.
    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    pub(crate) fn shown(&self, paint: Paint) -> Shown<'_, COLUMNS> {
        Shown { table: self, paint }
    }

    fn line(&self, cells: &[&str; COLUMNS], widths: &[usize; COLUMNS]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.head) {
            let padding = " ".repeat(width - cell.chars().count());
            match align {
                Align::Left => line.extend([cell, padding.as_str(), "  "]),
                Align::Right => line.extend([padding.as_str(), cell, "  "]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// A table as it is printed.
pub(crate) struct Shown<'a, const COLUMNS: usize> {
    table: &'a Table<COLUMNS>,
    paint: Paint,
}

impl<const COLUMNS: usize> fmt::Display for Shown<'_, COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table;
        let head = table.head.map(|(text, _)| text);
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            let cells = table.rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        });
        writeln!(f, "{}", self.paint.bold(table.line(&head, &widths)))?;
        for row in &table.rows {
            let cells = std::array::from_fn(|column| row[column].as_str());
            writeln!(f, "{}", table.line(&cells, &widths))?;
        }
        Ok(())
    }
}
