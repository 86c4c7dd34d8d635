//! Cells, and the graph of who needs whom: after a change only what depends on it is computed again, each cell once,
//! after all that it needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;

use crate::formula::{Cell, Fault, Formula, Value};

struct Entry {
    text: String,
    formula: Formula,
    value: Value,
}

/// A sheet.
#[derive(Default)]
pub(crate) struct Sheet {
    cells: BTreeMap<Cell, Entry>,
    /// Who needs a cell.
    users: HashMap<Cell, BTreeSet<Cell>>,
}

impl Sheet {
    /// Puts a formula into a cell, which has its value after the next recalculation. An empty one empties it.
    ///
    /// # Errors
    /// What is wrong with the formula; the cell stays as it was.
    pub(crate) fn set(&mut self, cell: Cell, text: &str) -> Result<(), String> {
        let formula = match text {
            "" => None,
            text => Some(Formula::parse(text)?),
        };
        for needed in self.needs(cell) {
            if let Some(users) = self.users.get_mut(&needed) {
                users.remove(&cell);
            }
        }
        let Some(formula) = formula else {
            self.cells.remove(&cell);
            return Ok(());
        };
        let entry = Entry {
            text: text.to_owned(),
            formula,
            value: Ok(0.0),
        };
        self.cells.insert(cell, entry);
        for needed in self.needs(cell) {
            self.users.entry(needed).or_default().insert(cell);
        }
        Ok(())
    }

    /// Computes some cells and all that depend on them, and names those cells in the order of the work.
    pub(crate) fn recalculate(&mut self, edited: &[Cell]) -> Vec<Cell> {
        let affected = self.affected(edited);
        let mut missing: HashMap<Cell, usize> = HashMap::new();
        for cell in &affected {
            let needs = self.needs(*cell);
            let among = needs.iter().filter(|needed| affected.contains(needed));
            missing.insert(*cell, among.count());
        }
        let ready = affected.iter().filter(|cell| missing[cell] == 0);
        let mut ready: VecDeque<Cell> = ready.copied().collect();
        let mut order = Vec::new();
        while let Some(cell) = ready.pop_front() {
            self.compute(cell);
            order.push(cell);
            for user in self.users.get(&cell).into_iter().flatten() {
                if let Some(count) = missing.get_mut(user) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push_back(*user);
                    }
                }
            }
        }
        // Whoever still misses something lies on a circle, or behind one.
        for cell in affected.iter().filter(|cell| missing[cell] > 0) {
            if let Some(entry) = self.cells.get_mut(cell) {
                entry.value = Err(Fault::Circular);
            }
            order.push(*cell);
        }
        order
    }

    /// What a cell needs, each once.
    fn needs(&self, cell: Cell) -> BTreeSet<Cell> {
        let mut cells = Vec::new();
        if let Some(entry) = self.cells.get(&cell) {
            entry.formula.needs(&mut cells);
        }
        cells.into_iter().collect()
    }

    fn affected(&self, edited: &[Cell]) -> BTreeSet<Cell> {
        let mut affected = BTreeSet::new();
        let mut next = edited.to_vec();
        while let Some(cell) = next.pop() {
            if affected.insert(cell) {
                next.extend(self.users.get(&cell).into_iter().flatten());
            }
        }
        affected
    }

    fn compute(&mut self, cell: Cell) {
        let value = self
            .cells
            .get(&cell)
            .map(|entry| entry.formula.value(&|other| self.value(other)));
        if let (Some(value), Some(entry)) = (value, self.cells.get_mut(&cell)) {
            entry.value = value;
        }
    }

    pub(crate) fn value(&self, cell: Cell) -> Value {
        self.cells.get(&cell).map_or(Ok(0.0), |entry| entry.value)
    }

    /// A value for people.
    pub(crate) fn shown(&self, cell: Cell) -> String {
        match self.value(cell) {
            Ok(value) => value.to_string(),
            Err(fault) => fault.to_string(),
        }
    }

    /// The sheet as lines that can be typed again.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (cell, entry) in &self.cells {
            let _ = writeln!(text, "{cell} = {}", entry.text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str) -> Cell {
        Cell::parse(name).unwrap()
    }

    fn change(sheet: &mut Sheet, edits: &[(&str, &str)]) -> Vec<String> {
        for (name, text) in edits {
            sheet.set(cell(name), text).unwrap();
        }
        let edited: Vec<Cell> = edits.iter().map(|(name, _)| cell(name)).collect();
        let order = sheet.recalculate(&edited);
        order
            .iter()
            .map(|one| format!("{one}={}", sheet.shown(*one)))
            .collect()
    }

    #[test]
    fn only_what_depends_on_a_change_is_computed_and_in_order() {
        let mut sheet = Sheet::default();
        change(
            &mut sheet,
            &[
                ("D1", "B1 + C1"),
                ("B1", "A1 * 2"),
                ("C1", "A1 + B1"),
                ("E1", "1"),
            ],
        );
        assert_eq!(
            change(&mut sheet, &[("A1", "5")]),
            ["A1=5", "B1=10", "C1=15", "D1=25"]
        );
        assert_eq!(change(&mut sheet, &[("C1", "0")]), ["C1=0", "D1=10"]);
        assert_eq!(change(&mut sheet, &[("A1", "")]), ["A1=0", "B1=0", "D1=0"]);
        assert_eq!(sheet.text(), "B1 = A1 * 2\nC1 = 0\nD1 = B1 + C1\nE1 = 1\n");
    }

    #[test]
    fn circles_are_said_and_can_be_broken() {
        let mut sheet = Sheet::default();
        change(&mut sheet, &[("A1", "B1"), ("B1", "C1"), ("D1", "A1")]);
        let all = ["A1=circular", "B1=circular", "C1=circular", "D1=circular"];
        assert_eq!(change(&mut sheet, &[("C1", "A1 + 1")]), all);
        assert_eq!(
            change(&mut sheet, &[("C1", "7")]),
            ["C1=7", "B1=7", "A1=7", "D1=7"]
        );
        assert_eq!(
            change(&mut sheet, &[("A1", "A1")]),
            ["A1=circular", "D1=circular"]
        );
    }

    #[test]
    fn a_long_chain_is_one_recalculation() {
        let mut sheet = Sheet::default();
        for row in 2..=9999_u16 {
            let before = row - 1;
            sheet
                .set(cell(&format!("A{row}")), &format!("A{before} + 1"))
                .unwrap();
        }
        sheet.set(cell("A1"), "1").unwrap();
        assert_eq!(sheet.recalculate(&[cell("A1")]).len(), 9999);
        assert_eq!(sheet.value(cell("A9999")), Ok(9999.0));
    }

    #[test]
    fn a_wrong_formula_changes_nothing() {
        let mut sheet = Sheet::default();
        change(&mut sheet, &[("A1", "1"), ("B1", "A1")]);
        assert!(sheet.set(cell("B1"), "A1 +").is_err());
        assert_eq!(change(&mut sheet, &[("A1", "2")]), ["A1=2", "B1=2"]);
    }
}
