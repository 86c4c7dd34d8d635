//! The program cache and its builders, with real programs and builders in processes of their own.

mod sharing;

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sterna_process::ProgramId;
use sterna_wasm::builder::{BuildError, BuildLimits, Launch, Progress};
use sterna_wasm::cache::{AddError, FindError, OpenCacheError, ProgramCache, Prune};
use sterna_wasm::pass::InstrumentError;
use sterna_wasm::{Engine, EngineOptions, Installed, Processor, Target};

fn guest(name: &str) -> Arc<[u8]> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/wasm");
    fs::read(guests.join(format!("{name}.wasm")))
        .unwrap()
        .into()
}

fn builder() -> Launch {
    Launch::Process {
        program: env!("CARGO_BIN_EXE_sterna-wasm-builder").into(),
        arguments: Vec::new(),
    }
}

fn engine() -> Engine {
    Engine::new(EngineOptions::default()).unwrap()
}

fn open(directory: &Path, limits: BuildLimits) -> ProgramCache {
    let cache = ProgramCache::open(directory, engine(), limits).unwrap();
    cache.launch(builder())
}

/// A cache in a folder that is removed in the end.
fn cache() -> (tempfile::TempDir, ProgramCache) {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("cache"), BuildLimits::default());
    (folder, cache)
}

fn silent(_: Progress) -> ControlFlow<()> {
    Continue(())
}

/// Adds, and says which steps it took.
fn add(
    cache: &ProgramCache,
    bytes: &Arc<[u8]>,
) -> (Result<Arc<Installed>, AddError>, Vec<Progress>) {
    let mut steps = Vec::new();
    let added = cache.add(bytes, Some("a name"), &mut |progress| {
        let same =
            |last: &Progress| std::mem::discriminant(last) == std::mem::discriminant(&progress);
        if !steps.last().is_some_and(same) {
            steps.push(progress);
        }
        Continue(())
    });
    (added, steps)
}

fn build_error(added: Result<Arc<Installed>, AddError>) -> BuildError {
    match added {
        Err(AddError::Build(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The files of a program's folder, by name, without the folder for the engine that they are in.
fn files(cache: &ProgramCache, id: &ProgramId) -> Vec<PathBuf> {
    let folder = cache.directory().join("programs").join(id.hex());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            files.push(path);
        }
    }
    files
}

fn file(cache: &ProgramCache, id: &ProgramId, name: &str) -> PathBuf {
    let found = files(cache, id)
        .into_iter()
        .find(|path| path.ends_with(name));
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn built_once_then_loaded() {
    let (_folder, cache) = cache();
    let bytes = guest("hello");
    let (program, steps) = add(&cache, &bytes);
    let program = program.unwrap();
    assert!(
        matches!(&steps[0], Progress::Confined(how) if how == "full" || how.starts_with("partial")),
        "{steps:?}"
    );
    assert_eq!(steps[1..3], [Progress::Checking, Progress::Instrumenting]);
    assert_eq!(steps.last(), Some(&Progress::Keeping));
    assert_eq!(program.bytes().unwrap(), bytes);
    // The same one, while it is in use.
    let (again, steps) = add(&cache, &bytes);
    assert!(Arc::ptr_eq(&program, &again.unwrap()) && steps.is_empty());
    drop(program);
    // Then, and from another opening, from the disk.
    let other = open(cache.directory(), BuildLimits::default());
    let (_, steps) = add(&other, &bytes);
    assert!(steps.is_empty(), "{steps:?}");
    let id = ProgramId::of(&bytes);
    assert!(other.get(&id, &mut silent).unwrap().is_some());
    assert!(
        other
            .get(&ProgramId::of(b"else"), &mut silent)
            .unwrap()
            .is_none()
    );
    assert_eq!(other.bytes(&id).unwrap(), bytes);
    for path in files(&cache, &id) {
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{path:?}"
        );
    }
}

/// Native code for every machine like this one is found by this one; that for others lies beside it and is left alone.
#[test]
fn compiled_for_machines_of_a_kind() {
    let (_folder, cache) = cache();
    let bytes = guest("hello");
    let id = ProgramId::of(&bytes);
    for (count, processor) in Processor::ALL.into_iter().enumerate() {
        let target = Target::Every(processor);
        let add_for = || {
            cache
                .add_for(target, &bytes, Some("a name"), &mut silent)
                .unwrap()
        };
        assert!(add_for());
        assert!(!add_for(), "compiled a second time");
        let entry = &cache.list().unwrap()[0];
        assert_eq!(entry.made_by.len(), count + 1);
        let is_mine =
            |made_by: &String| made_by.contains(&format!("every {}", std::env::consts::ARCH));
        assert_eq!(entry.usable, entry.made_by.iter().any(is_mine));
    }
    let (program, steps) = add(&cache, &bytes);
    assert_eq!(program.unwrap().bytes().unwrap(), bytes);
    assert_eq!(steps, [], "built although it was there");
    assert!(cache.remove(&id).unwrap());
    assert!(cache.ready(&id).is_none());
}

#[test]
fn files_are_recognised_without_reading_them() {
    let (folder, cache) = cache();
    let path = folder.path().join("hello.wasm");
    fs::write(&path, guest("hello")).unwrap();
    let settled = std::time::SystemTime::now() - Duration::from_secs(60);
    let file = File::options().write(true).read(true).open(&path).unwrap();
    file.set_modified(settled).unwrap();
    let index = cache.directory().join("index");
    let program = cache
        .install(&file, Some("hello.wasm"), &mut silent)
        .unwrap();
    // The time of the last change of its metadata cannot be set back: it may be too young to be remembered.
    assert!(fs::read_dir(&index).unwrap().count() <= 1);
    assert_eq!(
        cache.identify(&file).unwrap(),
        ProgramId::of(&program.bytes().unwrap())
    );
    assert_eq!(
        cache.find("hello.wasm").unwrap(),
        cache.identify(&file).unwrap()
    );
    // Changed in place, it is another program.
    (&file).write_all(b"\0asm\x01\0\0\0\0\x02\x01x").unwrap();
    file.set_len(12).unwrap();
    let empty = ProgramId::of(b"\0asm\x01\0\0\0\0\x02\x01x");
    assert_eq!(cache.identify(&file).unwrap(), empty);
    cache.install(&file, None, &mut silent).unwrap();
    assert!(
        cache.identify(&File::open(folder.path()).unwrap()).is_err(),
        "a folder"
    );
}

#[test]
fn what_cannot_be_trusted_is_built_again() {
    let (_folder, cache) = cache();
    let bytes = guest("hello");
    let id = ProgramId::of(&bytes);
    add(&cache, &bytes).0.unwrap();
    let check = |what: &str, spoil: &dyn Fn(&Path)| {
        for name in ["main.cwasm", "main.meta", "points", "module.wasm"] {
            let path = file(&cache, &id, name);
            spoil(&path);
            assert!(cache.ready(&id).is_none(), "{what} {name}");
            let (program, steps) = add(&cache, &bytes);
            assert_eq!(program.unwrap().bytes().unwrap(), bytes);
            assert!(steps.contains(&Progress::Instrumenting), "{what} {name}");
        }
    };
    check("a changed bit in", &|path| {
        let mut contents = fs::read(path).unwrap();
        let middle = contents.len() / 2;
        contents[middle] ^= 1;
        fs::write(path, contents).unwrap();
    });
    check("half of", &|path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(path.metadata().unwrap().len() / 2).unwrap();
    });
    check("nothing in", &|path| fs::write(path, b"").unwrap());
    check("no", &|path| fs::remove_file(path).unwrap());
    check("a writable", &|path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    });
    check("a link for", &|path| {
        let there = path.with_extension("there");
        fs::rename(path, &there).unwrap();
        std::os::unix::fs::symlink(&there, path).unwrap();
    });
    if rustix_is_root() {
        check("a stranger's", &|path| {
            std::os::unix::fs::chown(path, Some(12345), None).unwrap()
        });
    } else {
        println!("skipped: files of strangers, since this is not root");
    }
    // A damaged mark of what was checked is only forgotten, and so is a damaged list of continuations.
    fs::write(file(&cache, &id, "verified"), b"nonsense").unwrap();
    assert!(cache.ready(&id).is_some());
}

fn rustix_is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

#[test]
fn folders_that_are_no_cache_of_ours() {
    let (folder, cache) = cache();
    let reopen = || ProgramCache::open(cache.directory(), engine(), BuildLimits::default());
    fs::write(
        cache.directory().join("VERSION"),
        "sterna program cache 7\n",
    )
    .unwrap();
    let newer = reopen().unwrap_err();
    assert!(
        matches!(newer, OpenCacheError::Newer { version: 7, .. }),
        "{newer}"
    );
    fs::write(cache.directory().join("VERSION"), "nonsense").unwrap();
    assert!(matches!(reopen(), Err(OpenCacheError::Foreign { .. })));
    let foreign = ProgramCache::open(folder.path(), engine(), BuildLimits::default());
    assert!(matches!(foreign, Err(OpenCacheError::Foreign { .. })));
    fs::set_permissions(cache.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(reopen(), Err(OpenCacheError::NotPrivate { .. })));
}

#[test]
fn refusals_and_limits_name_themselves() {
    let (_folder, cache) = cache();
    let limited = |limits| open(cache.directory(), limits);
    let default = BuildLimits::default();
    let not_wasm = build_error(add(&cache, &Arc::from(&b"#!/bin/sh"[..])).0);
    assert!(
        matches!(
            not_wasm,
            BuildError::Instrument(InstrumentError::Invalid { .. })
        ),
        "{not_wasm}"
    );
    let lua = guest("lua");
    let (_, steps) = add(&cache, &Arc::from(&lua[..lua.len() / 2]));
    assert!(!steps.contains(&Progress::Instrumenting));

    let small = limited(BuildLimits {
        module_bytes: 1000,
        ..default
    });
    let error = build_error(add(&small, &lua).0);
    assert!(
        matches!(error, BuildError::ModuleSize { limit: 1000, .. })
            && error.to_string().contains("--build-size")
    );
    let small = limited(BuildLimits {
        artifact_bytes: 100_000,
        ..default
    });
    let error = build_error(add(&small, &lua).0);
    assert!(
        matches!(error, BuildError::ArtifactSize { limit: 100_000 }),
        "{error}"
    );
    let quick = limited(BuildLimits {
        time: Duration::from_millis(20),
        ..default
    });
    let error = build_error(add(&quick, &lua).0);
    assert!(
        matches!(error, BuildError::Time { what: "time", .. }),
        "{error}"
    );
    let mut cancel = |progress| {
        if progress == Progress::Instrumenting {
            Break(())
        } else {
            Continue(())
        }
    };
    let cancelled = cache.add(&lua, None, &mut cancel);
    assert!(matches!(build_error(cancelled), BuildError::Cancelled));
    // Nothing of all this is left in the way.
    add(&cache, &lua).0.unwrap();
}

/// A module of one function with so many times `operator` in it.
fn repeated(local: &str, operator: &str, count: usize) -> Arc<[u8]> {
    let body = operator.repeat(count);
    wat::parse_str(format!("(module (func (export \"f\") {local} {body}))"))
        .unwrap()
        .into()
}

#[test]
fn hostile_modules_meet_the_limits() {
    let (_folder, cache) = cache();
    let limited = |limits| open(cache.directory(), limits);
    let default = BuildLimits::default();
    // Half a million loads and stores in one function keep the register allocator busy.
    let busy = repeated(
        "(param i32) (local i32)",
        "(local.set 1 (i32.add (local.get 0) (i32.rotl (local.get 1) (local.get 0)))) (br_if 0 (local.get 1))",
        300_000,
    );
    let hasty = limited(BuildLimits {
        cpu_time: Duration::from_secs(1),
        ..default
    });
    let error = build_error(add(&hasty, &busy).0);
    assert!(
        matches!(
            error,
            BuildError::Time {
                what: "CPU time",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("--build-time"));
    let poor = limited(BuildLimits {
        memory_bytes: 48 << 20,
        ..default
    });
    let error = build_error(add(&poor, &busy).0);
    assert!(
        matches!(error, BuildError::Memory { limit: 0x300_0000 }),
        "{error}"
    );
    assert!(error.to_string().contains("--build-memory"));
}

#[test]
fn hostile_shapes_are_built_or_refused() {
    let (_folder, cache) = cache();
    let deep = |depth: usize| {
        let (open, close) = ("block ".repeat(depth), "end ".repeat(depth));
        let text = format!(
            "(module (func (export \"f\") (param i32) (loop {open} local.get 0 br_if 0 {close})))"
        );
        Arc::from(wat::parse_str(text).unwrap())
    };
    let locals = |count: usize| {
        Arc::from(
            wat::parse_str(format!(
                "(module (func (export \"f\") (local {})))",
                "i32 ".repeat(count)
            ))
            .unwrap(),
        )
    };
    let table = |count: usize| {
        let labels = "0 ".repeat(count);
        let text = format!(
            "(module (func (export \"f\") (param i32) (block (br_table {labels} (local.get 0)))))"
        );
        Arc::from(wat::parse_str(text).unwrap())
    };
    let shapes: [(&str, Arc<[u8]>); 4] = [
        ("blocks", deep(100_000)),
        ("locals", locals(49_000)),
        ("labels", table(60_000)),
        ("data", {
            let text = "(module (memory 65536) (data (i32.const 0xfffffff0) \"0123456789abcdef\"))";
            Arc::from(wat::parse_str(text).unwrap())
        }),
    ];
    for (name, shape) in shapes {
        match add(&cache, &shape).0 {
            Ok(_) => println!("{name}: built"),
            Err(AddError::Build(BuildError::Crashed { how, said })) => {
                panic!("{name}: {how}: {said}")
            }
            Err(error) => println!("{name}: {error}"),
        }
    }
}

// long because: one story, told in order
#[test]
fn listed_found_removed_pruned() {
    let (_folder, cache) = cache();
    let programs = ["hello", "echo", "spin"].map(|name| {
        let (bytes, name) = (guest(name), format!("{name}\x1b[2J.wasm"));
        cache.add(&bytes, Some(&name), &mut silent).unwrap();
        ProgramId::of(&bytes)
    });
    let list = cache.list().unwrap();
    assert_eq!(list.len(), 3);
    for entry in &list {
        assert!(
            entry.usable
                && entry.module_bytes > 0
                && entry.artifact_bytes > 0
                && entry.last_used.is_some()
        );
        assert!(entry.made_by.len() == 1 && entry.made_by[0].starts_with("pass "));
        assert!(
            entry.name.as_ref().unwrap().contains("\\u{1b}"),
            "{:?}",
            entry.name
        );
    }
    assert_eq!(cache.find(&programs[0].short()).unwrap(), programs[0]);
    assert_eq!(cache.find("echo\x1b[2J.wasm").unwrap(), programs[1]);
    assert!(matches!(
        cache.find("zebra"),
        Err(FindError::Unknown { .. })
    ));
    // Removed while in use: it goes on having what it needs.
    let running = cache.ready(&programs[0]).unwrap();
    assert!(cache.remove(&programs[0]).unwrap() && !cache.remove(&programs[0]).unwrap());
    assert_eq!(running.bytes().unwrap(), guest("hello"));
}

#[test]
fn pruned_by_version_size_and_time() {
    let (_folder, cache) = cache();
    let programs = ["echo", "spin"].map(|name| {
        let bytes = guest(name);
        cache.add(&bytes, None, &mut silent).unwrap();
        ProgramId::of(&bytes)
    });
    // Something of an older version.
    let stale = file(&cache, &programs[0], "main.cwasm")
        .parent()
        .unwrap()
        .with_file_name("0ld");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("main.cwasm"), [0; 5000]).unwrap();
    let pruned = cache
        .prune(&Prune {
            stale: true,
            ..Prune::default()
        })
        .unwrap();
    assert!(pruned.programs.is_empty() && pruned.bytes >= 5000 && !stale.exists());
    assert!(cache.ready(&programs[0]).is_some());
    let largest = cache
        .list()
        .unwrap()
        .iter()
        .map(sterna_wasm::cache::Entry::bytes)
        .max()
        .unwrap();
    let pruned = cache
        .prune(&Prune {
            total_bytes_max: Some(largest),
            ..Prune::default()
        })
        .unwrap();
    assert_eq!(pruned.programs.len(), 1);
    let hour = Prune {
        unused_for: Some(Duration::from_secs(3600)),
        ..Prune::default()
    };
    assert!(cache.prune(&hour).unwrap().programs.is_empty());
    let now = Prune {
        unused_for: Some(Duration::ZERO),
        ..Prune::default()
    };
    assert_eq!(cache.prune(&now).unwrap().programs.len(), 1);
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn a_full_disk_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Which of them is there depends on the user; both are full from the beginning.
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "none"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let result = std::panic::catch_unwind(|| {
        let cache = open(&folder.path().join("cache"), BuildLimits::default());
        let lua = guest("lua");
        let Err(AddError::NotKept { program, source }) = add(&cache, &lua).0 else {
            panic!("it was kept");
        };
        assert_eq!(source.source.kind(), std::io::ErrorKind::StorageFull);
        assert!(source.to_string().contains("programs prune"), "{source}");
        assert_eq!(program.bytes().unwrap(), lua);
        assert!(cache.ready(&ProgramId::of(&lua)).is_none());
    });
    let unmounted = std::process::Command::new("umount")
        .arg(folder.path())
        .status();
    assert!(unmounted.unwrap().success());
    result.unwrap();
}

#[test]
fn loop_headers_are_compiled_in_advance_and_kept() {
    let (_folder, cache) = cache();
    let bytes = guest("lua");
    let program = add(&cache, &bytes).0.unwrap();
    let mut last = 0.0;
    let first = program
        .compile_loop_headers(&mut |progress| {
            if let Progress::Compiling { done } = progress {
                assert!(done >= last);
                last = done;
            }
            Continue(())
        })
        .unwrap();
    assert!(
        first.compiled > 100 && first.bytes > 100_000 && first.left_out == 0,
        "{first:?}"
    );
    assert_eq!(cache.list().unwrap()[0].continuation_bytes, first.bytes);
    let again = program.compile_loop_headers(&mut silent).unwrap();
    assert_eq!(again.compiled, 0);
    let cancelled = cache
        .add(&guest("sqlite"), None, &mut silent)
        .unwrap()
        .compile_loop_headers(&mut |_| Break(()));
    assert!(cancelled.is_err());
}
