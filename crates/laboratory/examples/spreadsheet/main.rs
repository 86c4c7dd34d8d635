//! A spreadsheet with three threads: one takes what the user types, one recalculates, one saves in the background. The
//! user never waits for the other two: what is typed while a long recalculation runs is taken and done next, and the
//! file is written from a copy.
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

fn main() -> io::Result<()> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let sheet = Mutex::new(Sheet::default());
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

/// Reads lines until there are no more. Reading blocks in the kernel, and so nobody else.
fn take(edits: &Sender<Edit>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        if blocking(|| io::stdin().read_line(&mut line))? == 0 {
            return Ok(());
        }
        let line = line.trim();
        let edit = line.split_once('=').and_then(|(cell, text)| {
            let cell = Cell::parse(cell.trim())?;
            let text = text.trim().to_owned();
            Some(Edit { cell, text })
        });
        match edit {
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
        let beside = file.with_extension("new");
        // In one step, so that there is always a whole file.
        blocking(|| fs::write(&beside, &text).and_then(|()| fs::rename(&beside, file)))?;
        println!("saved {} cells in {}", text.lines().count(), file.display());
    }
    Ok(())
}
