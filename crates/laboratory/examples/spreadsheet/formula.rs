//! What stands in a cell: numbers, cells, `+ - * /`, brackets, and `SUM(A1:B9)`.

use std::fmt;

/// Brackets and signs inside each other.
const DEPTH_MAX: usize = 50;
/// Rows of the sheet.
const ROWS_MAX: u16 = 9999;
/// Cells of a sum.
const RANGE_MAX: usize = 10_000;

/// The name of a cell: a letter and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cell {
    column: u8,
    row: u16,
}

impl Cell {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let column = text.bytes().next()?.to_ascii_uppercase();
        let digits = text.get(1..)?;
        let valid = column.is_ascii_uppercase() && digits.bytes().all(|one| one.is_ascii_digit());
        let row = digits.parse().ok()?;
        (valid && (1..=ROWS_MAX).contains(&row)).then_some(Self { column, row })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.column), self.row)
    }
}

/// Why a cell has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It depends on itself.
    Circular,
    /// Something is divided by zero.
    Division,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Circular => "circular",
            Self::Division => "division by zero",
        })
    }
}

/// The value of a cell; an empty one is 0.
pub(crate) type Value = Result<f64, Fault>;

/// A formula.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Formula {
    Number(f64),
    Cell(Cell),
    Sum(Vec<Cell>),
    Minus(Box<Formula>),
    Both(Box<Formula>, char, Box<Formula>),
}

impl Formula {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader {
            rest: text,
            depth: 0,
        };
        let formula = reader.sum()?;
        match reader.rest.trim_start() {
            "" => Ok(formula),
            rest => Err(format!("{rest:?} is too much")),
        }
    }

    /// Its value, given those of others.
    pub(crate) fn value(&self, of: &impl Fn(Cell) -> Value) -> Value {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Cell(cell) => of(*cell),
            Self::Sum(cells) => cells.iter().map(|cell| of(*cell)).sum(),
            Self::Minus(inner) => inner.value(of).map(|value| -value),
            Self::Both(one, operator, two) => {
                let (one, two) = (one.value(of)?, two.value(of)?);
                match operator {
                    '+' => Ok(one + two),
                    '-' => Ok(one - two),
                    '*' => Ok(one * two),
                    _ if two == 0.0 => Err(Fault::Division),
                    _ => Ok(one / two),
                }
            }
        }
    }

    /// Adds the cells that it needs.
    pub(crate) fn needs(&self, cells: &mut Vec<Cell>) {
        match self {
            Self::Number(_) => {}
            Self::Cell(cell) => cells.push(*cell),
            Self::Sum(sum) => cells.extend(sum),
            Self::Minus(inner) => inner.needs(cells),
            Self::Both(one, _, two) => {
                one.needs(cells);
                two.needs(cells);
            }
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    fn take(&mut self, wanted: &[char]) -> Option<char> {
        self.rest = self.rest.trim_start();
        let found = self
            .rest
            .chars()
            .next()
            .filter(|one| wanted.contains(one))?;
        self.rest = &self.rest[found.len_utf8()..];
        Some(found)
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.take(&[wanted]) {
            Some(_) => Ok(()),
            None => Err(format!("{wanted} is missing before {:?}", self.rest)),
        }
    }

    fn word(&mut self) -> &str {
        self.rest = self.rest.trim_start();
        let end = self
            .rest
            .find(|one: char| !one.is_ascii_alphanumeric() && one != '.');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn sum(&mut self) -> Result<Formula, String> {
        let mut left = self.product()?;
        while let Some(operator) = self.take(&['+', '-']) {
            let right = self.product()?;
            left = Formula::Both(Box::new(left), operator, Box::new(right));
        }
        Ok(left)
    }

    fn product(&mut self) -> Result<Formula, String> {
        let mut left = self.factor()?;
        while let Some(operator) = self.take(&['*', '/']) {
            let right = self.factor()?;
            left = Formula::Both(Box::new(left), operator, Box::new(right));
        }
        Ok(left)
    }

    fn factor(&mut self) -> Result<Formula, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("too many brackets".to_owned());
        }
        let factor = if self.take(&['-']).is_some() {
            Formula::Minus(Box::new(self.factor()?))
        } else if self.take(&['(']).is_some() {
            let inner = self.sum()?;
            self.expect(')')?;
            inner
        } else {
            self.name()?
        };
        self.depth -= 1;
        Ok(factor)
    }

    fn name(&mut self) -> Result<Formula, String> {
        let word = self.word().to_owned();
        if word.eq_ignore_ascii_case("sum") {
            self.expect('(')?;
            let from = self.cell()?;
            self.expect(':')?;
            let to = self.cell()?;
            self.expect(')')?;
            return range(from, to);
        }
        if let Some(cell) = Cell::parse(&word) {
            return Ok(Formula::Cell(cell));
        }
        match word.parse() {
            Ok(number) if word.starts_with(|one: char| one.is_ascii_digit()) => {
                Ok(Formula::Number(number))
            }
            _ => Err(format!("{word:?} is neither a number nor a cell")),
        }
    }

    fn cell(&mut self) -> Result<Cell, String> {
        let word = self.word();
        Cell::parse(word).ok_or_else(|| format!("{word:?} is no cell"))
    }
}

/// All cells of a rectangle.
fn range(from: Cell, to: Cell) -> Result<Formula, String> {
    let columns = from.column.min(to.column)..=from.column.max(to.column);
    let rows = from.row.min(to.row)..=from.row.max(to.row);
    if columns.len() * rows.len() > RANGE_MAX {
        return Err(format!("{from}:{to} has more than {RANGE_MAX} cells"));
    }
    let cells = columns.flat_map(|column| rows.clone().map(move |row| Cell { column, row }));
    Ok(Formula::Sum(cells.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Formula::parse(text).unwrap().value(&|cell| match cell.row {
            9 => Err(Fault::Circular),
            row => Ok(f64::from(row)),
        })
    }

    #[test]
    fn formulas_have_values() {
        assert_eq!(value("1 + 2*3 - 4/2"), Ok(5.0));
        assert_eq!(value("-(A1 + b2) * 2.5"), Ok(-7.5));
        assert_eq!(value("SUM(A1:B3)"), Ok(12.0));
        assert_eq!(value("sum(B3:A1) - A1"), Ok(11.0));
        assert_eq!(value("1 / (A1 - 1)"), Err(Fault::Division));
        assert_eq!(value("A9 + 1"), Err(Fault::Circular));
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = "(".repeat(1000);
        for text in [
            "",
            "1 +",
            "A0",
            "é1",
            "SUM(A1)",
            "SUM(A1:Z9999)",
            "(1",
            "1 2",
            "1e",
            &deep,
        ] {
            assert!(Formula::parse(text).is_err(), "{text}");
        }
        for text in ["", "A", "1", "AA1", "A10000", "é1"] {
            assert_eq!(Cell::parse(text), None, "{text}");
        }
    }
}
