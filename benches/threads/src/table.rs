//! Figures in rows and columns: Markdown for people, JSON for programs.

use std::fmt;

use serde_json::{Value, json};

/// A table of figures. The load of the machine is part of it.
pub(crate) struct Table {
    title: String,
    note: String,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Option<f64>>)>,
    load: String,
}

impl Table {
    pub(crate) fn new(title: &str, note: &str, columns: &[String]) -> Table {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Table {
            title: title.to_owned(),
            note: note.to_owned(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// A row; what was not measured is `None`.
    pub(crate) fn row(&mut self, name: &str, figures: Vec<Option<f64>>) {
        self.rows.push((name.to_owned(), figures));
    }

    pub(crate) fn to_json(&self) -> Value {
        let row = |(name, figures): &(String, Vec<Option<f64>>)| {
            let named = self.columns.iter().cloned().zip(figures);
            let figures: serde_json::Map<_, _> = named
                .map(|(column, figure)| (column, json!(figure)))
                .collect();
            json!({ "name": name, "figures": figures })
        };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "note": self.note, "load": self.load, "rows": rows })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "### {}\n\n{} Load: {}.\n",
            self.title, self.note, self.load
        )?;
        writeln!(f, "| | {} |", self.columns.join(" | "))?;
        writeln!(f, "|---|{}", "---:|".repeat(self.columns.len()))?;
        for (name, figures) in &self.rows {
            let cell = |figure: &Option<f64>| match figure {
                Some(figure) if *figure >= 100.0 => format!("{figure:.0}"),
                Some(figure) => format!("{figure:.2}"),
                None => "–".to_owned(),
            };
            let cells: Vec<_> = figures.iter().map(cell).collect();
            writeln!(f, "| {name} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// The middle value, if there is one.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
