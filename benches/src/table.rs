//! Figures in rows and columns: Markdown for people, JSON for programs.

use std::fmt;

use serde_json::{Value, json};

/// A table of figures.
pub struct Table {
    /// What it is called.
    pub title: String,
    /// What the figures are, under the title.
    pub note: String,
    /// Names of all columns, that of the rows' names included.
    pub columns: Vec<String>,
    /// A name and a cell for each other column.
    pub rows: Vec<(String, Vec<Cell>)>,
}

/// One figure.
#[derive(Clone)]
pub enum Cell {
    /// A number and how many decimals of it mean something.
    Number(f64, usize),
    /// Not measured.
    None,
}

impl Table {
    /// One without rows.
    #[must_use]
    pub fn new(title: &str, note: &str, columns: &[&str]) -> Table {
        Table {
            title: title.to_owned(),
            note: note.to_owned(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, name: &str, cells: Vec<Cell>) {
        self.rows.push((name.to_owned(), cells));
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let cell = |cell: &Cell| match cell {
            Cell::Number(number, _) => json!(number),
            Cell::None => Value::Null,
        };
        let row = |(name, cells): &(String, Vec<Cell>)| {
            let figures = self.columns.iter().skip(1).zip(cells);
            let figures: serde_json::Map<_, _> = figures
                .map(|(column, figure)| (column.clone(), cell(figure)))
                .collect();
            json!({ "name": name, "figures": figures })
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "note": self.note, "rows": rows })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        if !self.note.is_empty() {
            writeln!(f, "{}\n", self.note)?;
        }
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        let rule = |index| if index == 0 { "---" } else { "---:" };
        let rules: Vec<_> = (0..self.columns.len()).map(rule).collect();
        writeln!(f, "|{}|", rules.join("|"))?;
        for (name, cells) in &self.rows {
            let cells: Vec<_> = cells.iter().map(ToString::to_string).collect();
            writeln!(f, "| {name} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Number(number, decimals) => write!(f, "{number:.decimals$}"),
            Cell::None => f.write_str("–"),
        }
    }
}

/// The tables of one run: each is printed as soon as it is there; with `json`, for people on standard error, and all of
/// them as one value at the end.
pub struct Sheet {
    json: bool,
    tables: Vec<Value>,
}

impl Sheet {
    /// An empty one.
    #[must_use]
    pub const fn new(json: bool) -> Sheet {
        Sheet {
            json,
            tables: Vec::new(),
        }
    }

    /// Adds a table.
    pub fn add(&mut self, table: &Table) {
        match self.json {
            true => eprintln!("{table}"),
            false => println!("{table}"),
        }
        self.tables.push(table.to_json());
    }

    /// There are no more.
    pub fn end(self) {
        if self.json {
            let all = json!({ "machine": crate::measure::machine(), "tables": self.tables });
            println!("{all:#}");
        }
    }
}
