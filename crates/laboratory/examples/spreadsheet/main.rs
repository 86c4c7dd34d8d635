//! A spreadsheet with three threads: one takes what the user types, one recalculates, one saves in the background. The
//! user never waits for the other two: what is typed while a long recalculation runs is taken and done next, and the
//! file is written from a copy. What is in the file is there at the beginning.
//!
//! `cargo run -p sterna-laboratory --example spreadsheet [FILE]`, then lines such as `A1 = 3`, `B1 = A1 * SUM(A1:A9)`.
//!
//! - `sheet`: cells, and who depends on whom
//! - `formula`: what stands in a cell

mod formula;
mod sheet;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sterna_threads::sync::Mutex;
use sterna_threads::sync::channel::{Receiver, Sender, bounded};
use sterna_threads::{Builder, Priority, Runtime, blocking, scope};

use formula::Cell;
use sheet::Sheet;

/// Edits that wait while a recalculation runs; then typing has to wait.
const EDITS_MAX: usize = 100;

struct Edit {
    cell: Cell,
    text: String,
}

impl Edit {
    fn parse(line: &str) -> Option<Self> {
        let (cell, text) = line.split_once('=')?;
        let cell = Cell::parse(cell.trim())?;
        let text = text.trim().to_owned();
        Some(Self { cell, text })
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let sheet = match &file {
        Some(file) => read(file)?,
        None => Sheet::default(),
    };
    let sheet = Mutex::new(sheet);
    let (edits, to_do) = bounded(EDITS_MAX);
    // One is enough: a change during a save is seen by the next one.
    let (changed, to_save) = bounded(1);
    Runtime::hybrid()?.run(|| {
        scope(|threads| {
            let input = Builder::new().name("input").priority(Priority::Urgent);
            let input = input.spawn_scoped(threads, move || take(&edits))?;
            let recalculation = Builder::new().name("recalculation");
            let recalculation =
                recalculation.spawn_scoped(threads, || recalculate(&sheet, &to_do, changed))?;
            let saving = Builder::new().name("saving").priority(Priority::Background);
            let saving =
                saving.spawn_scoped(threads, || save(&sheet, &to_save, file.as_deref()))?;
            let ended = [input.join(), recalculation.join().map(Ok), saving.join()];
            for result in ended {
                result.map_err(|_| io::Error::other("a thread failed"))??;
            }
            Ok(())
        })
    })
}

/// What is in a file already; if there is none, nothing. A file that is no sheet is not touched.
fn read(file: &Path) -> io::Result<Sheet> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let (sheet, cells) = parse(file, &text)?;
            println!("read {} from {}", counted(cells), file.display());
            Ok(sheet)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Sheet::default()),
        Err(error) => Err(named("could not read", file, &error)),
    }
}

/// A sheet from the lines of a file, and how many cells were in these.
fn parse(file: &Path, text: &str) -> io::Result<(Sheet, usize)> {
    let mut sheet = Sheet::default();
    let mut cells = Vec::new();
    let lines = text.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: String| {
            let (file, number) = (file.display(), number + 1);
            let text = format!("{file}, line {number}: {why}; correct it or choose another file");
            io::Error::other(text)
        };
        let edit = Edit::parse(line).ok_or_else(|| wrong("this is no cell".to_owned()))?;
        sheet.set(edit.cell, &edit.text).map_err(wrong)?;
        cells.push(edit.cell);
    }
    sheet.recalculate(&cells);
    Ok((sheet, cells.len()))
}

fn named(what: &str, file: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{what} {}: {error}", file.display()))
}

fn counted(cells: usize) -> String {
    match cells {
        1 => "1 cell".to_owned(),
        many => format!("{many} cells"),
    }
}

/// Reads lines until there are no more. Reading blocks in the kernel, and so nobody else.
fn take(edits: &Sender<Edit>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if blocking(|| io::stdin().read_line(&mut line))? == 0 {
            return Ok(());
        }
        let line = line.trim();
        match Edit::parse(line) {
            Some(edit) => {
                if edits.send(edit).is_err() {
                    return Ok(());
                }
            }
            None if line.is_empty() => {}
            None => println!("? {line}: write A1 = 3 or B1 = A1 * 2"),
        }
    }
}

/// Takes all edits that there are, and recalculates once what depends on them.
fn recalculate(sheet: &Mutex<Sheet>, edits: &Receiver<Edit>, changed: Sender<()>) {
    while let Ok(first) = edits.recv() {
        let mut batch = vec![first];
        batch.extend(std::iter::from_fn(|| edits.try_recv().ok()));
        let mut sheet = sheet.lock();
        let mut edited = Vec::new();
        for Edit { cell, text } in batch {
            match sheet.set(cell, &text) {
                Ok(()) => edited.push(cell),
                Err(error) => println!("? {cell} = {text}: {error}"),
            }
        }
        for cell in sheet.recalculate(&edited) {
            println!("{cell} is {}", sheet.shown(cell));
        }
        drop(sheet);
        // If the saver has not yet taken the last one, this change goes with it.
        let _ = changed.try_send(());
    }
}

/// Saves after changes: a copy is taken under the lock, and written without it.
fn save(sheet: &Mutex<Sheet>, changed: &Receiver<()>, file: Option<&Path>) -> io::Result<()> {
    while changed.recv().is_ok() {
        let Some(file) = file else { continue };
        let text = sheet.lock().text();
        let mut beside = file.as_os_str().to_owned();
        beside.push(".new");
        // In one step, so that there is always a whole file.
        let saved = blocking(|| fs::write(&beside, &text).and_then(|()| fs::rename(&beside, file)));
        saved.map_err(|error| named("could not save", file, &error))?;
        let cells = counted(text.lines().count());
        println!("saved {cells} in {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_there_again_and_nothing_else_is_taken_for_a_sheet() {
        let file = Path::new("folder/sheet.txt");
        let text = "A1 = 3\nB1 = A1 * 2\n";
        let (sheet, cells) = parse(file, text).unwrap();
        assert_eq!((sheet.text().as_str(), cells), (text, 2));
        assert_eq!(sheet.shown(Cell::parse("B1").unwrap()), "6");
        for (text, line) in [("dear diary\n", "line 1"), ("A1 = 1\nA2 = )\n", "line 2")] {
            let error = parse(file, text).err().unwrap().to_string();
            assert!(error.contains("folder/sheet.txt") && error.contains(line));
        }
    }

    #[test]
    fn errors_name_the_file() {
        let error = read(Path::new("/")).err().unwrap().to_string();
        assert!(error.starts_with("could not read /: "), "{error}");
    }
}
