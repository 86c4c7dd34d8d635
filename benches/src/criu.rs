//! CRIU on the same C program, compiled natively: dump, restore and image, beside Sterna's.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sterna_process::ImageKey;

use crate::Plan;
use crate::measure::{median, ms};
use crate::movable::{Movable, freeze_to, pause};
use crate::programs::Job;
use crate::table::{Cell, Table};
use sterna_benches::peers::{self, quietly};

/// How long each program works before it is frozen.
const WORK: Duration = Duration::from_millis(500);

/// Programs that are there as C sources, with more work than anybody waits for.
const PROGRAMS: &[(&str, &[&str])] = &[("fannkuch", &["12"]), ("sqlite", &["20000", "1000000"])];

/// Times in milliseconds and sizes in KiB, an entry a round.
#[derive(Default)]
struct Seen {
    dump: Vec<f64>,
    restore: Vec<f64>,
    size: Vec<f64>,
}

/// The table of this part.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Table>> {
    if peers::criu(&plan.root).is_none() {
        eprintln!("criu: skipped, there is none; cargo xtask bench --install gets it");
        return Ok(Vec::new());
    }
    let note = "Milliseconds from the request until all is in files (*dump*), from the files until the program \
                runs (*restore*), KiB of the files. CRIU is a command, its start included; Sterna is measured as a \
                library, its image written and read as a file too.";
    let columns = [
        "program",
        "CRIU: dump",
        "restore",
        "KiB",
        "Sterna: dump",
        "restore ",
        "KiB ",
    ];
    let mut table = Table::new("Beside CRIU", note, &columns);
    let movable = Movable::cached(&plan.root)?;
    for &(name, arguments) in PROGRAMS {
        let Some(native) = compile(plan, name)? else {
            eprintln!("criu: {name} skipped, its C sources come with cargo xtask guests");
            continue;
        };
        let job = Job::new(&plan.root, name, arguments)?;
        movable.install(&job.bytes)?;
        let (mut theirs, mut ours) = (Seen::default(), Seen::default());
        for round in 0..plan.rounds {
            eprint!("\rcriu: {name}, round {} of {}", round + 1, plan.rounds);
            if let Err(error) = with_criu(plan, &native, arguments, &mut theirs) {
                eprintln!("\ncriu: skipped, it does not work here: {error:#}");
                return Ok(Vec::new());
            }
            with_sterna(&movable, &job, &mut ours)?;
        }
        eprintln!();
        let cells = |seen: &Seen| {
            let number = |values: &[f64], decimals| Cell::Number(median(values), decimals);
            [
                number(&seen.dump, 2),
                number(&seen.restore, 2),
                number(&seen.size, 0),
            ]
        };
        table.row(name, [cells(&theirs), cells(&ours)].concat());
    }
    Ok(vec![table])
}

/// The program for this machine.
fn compile(plan: &Plan, name: &str) -> Result<Option<PathBuf>> {
    let output = plan
        .root
        .join("target/bench")
        .join(format!("{name}-native"));
    if output.exists() {
        return Ok(Some(output));
    }
    fs::create_dir_all(plan.root.join("target/bench"))?;
    let mut compiler = Command::new("cc");
    compiler.arg("-O2").arg("-o").arg(&output);
    if name == "sqlite" {
        let Some(sources) = sqlite_sources(&plan.root) else {
            return Ok(None);
        };
        compiler
            .arg("-I")
            .arg(&sources)
            .arg(plan.root.join("guests/sqlite/main.c"))
            .arg(sources.join("sqlite3.c"));
        compiler.args([
            "-DSQLITE_THREADSAFE=0",
            "-DSQLITE_OMIT_LOAD_EXTENSION",
            "-lm",
        ]);
    } else {
        compiler.arg(
            plan.root
                .join("guests/kernels")
                .join(name)
                .with_extension("c"),
        );
    }
    quietly(&mut compiler)?;
    Ok(Some(output))
}

fn sqlite_sources(root: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(root.join("target/guests/sources")).ok()?;
    let named = |entry: fs::DirEntry| {
        let is = entry
            .file_name()
            .to_string_lossy()
            .starts_with("libsqlite3-sys");
        is.then(|| entry.path().join("sqlite3"))
    };
    folders
        .flatten()
        .find_map(named)
        .filter(|sources| sources.join("sqlite3.c").exists())
}

/// Kills and reaps what it holds.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have gone already: CRIU ends what it has dumped.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_criu(plan: &Plan, program: &Path, arguments: &[&str], seen: &mut Seen) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let criu = |verb: &str| -> Result<Command> {
        let mut command = peers::criu(&plan.root).context("it has gone")?;
        command
            .arg(verb)
            .arg("-D")
            .arg(folder.path())
            .args(["-v1", "-o", "log"]);
        Ok(command)
    };
    let output = File::create(folder.path().join("output"))?;
    let mut native = Command::new(program);
    native
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = Killed(native.process_group(0).spawn()?);
    std::thread::sleep(WORK);
    ensure!(
        child.0.try_wait()?.is_none(),
        "the native program ended too early"
    );
    let pid = child.0.id().to_string();
    let begin = Instant::now();
    quietly(criu("dump")?.args(["-t", &pid, "--shell-job"]))?;
    seen.dump.push(ms(begin.elapsed()));
    drop(child);
    let images = fs::read_dir(folder.path())?
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|e| e == "img"));
    let sizes = images.map(|entry| entry.metadata().map(|metadata| metadata.len()));
    seen.size
        .push(sizes.sum::<std::io::Result<u64>>()? as f64 / 1024.0);
    let begin = Instant::now();
    let pidfile = folder.path().join("restored.pid");
    quietly(
        criu("restore")?
            .args(["-d", "--shell-job", "--pidfile"])
            .arg(&pidfile),
    )?;
    seen.restore.push(ms(begin.elapsed()));
    // It has a parent of its own by now.
    let restored = fs::read_to_string(&pidfile)?;
    quietly(Command::new("kill").args(["-9", restored.trim()]))?;
    Ok(())
}

fn with_sterna(movable: &Movable, job: &Job, seen: &mut Seen) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let running = movable.start(job, None)?;
    std::thread::sleep(WORK);
    let begin = Instant::now();
    let (path, key) = (folder.path().join("image"), ImageKey::random());
    let mut paused = pause(running.process)?;
    let bytes = freeze_to(&mut *paused, &path, &key)?;
    paused.discard();
    seen.dump.push(ms(begin.elapsed()));
    seen.size.push(bytes as f64 / 1024.0);
    // Its continuations are compiled here, so that they are ready as the native program is.
    movable.thaw_file(job, &path, &key)?.discard();
    let begin = Instant::now();
    let running = movable.thaw_file(job, &path, &key)?.resume();
    seen.restore.push(ms(begin.elapsed()));
    running.control.kill();
    Ok(())
}
