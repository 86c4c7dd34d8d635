//! `sterna run` as a runtime: exit codes, arguments, streams, signals; and what it does not start.

use rustix::process::Signal;

use crate::world::{World, guest, scripts};

#[test]
fn a_program_runs_with_arguments_and_leaves_nothing_behind() {
    let world = World::new();
    assert_eq!(
        world.ask(["run", &guest("hello"), "you", "-x"]).ok(),
        "hello, you\nhello, -x\n"
    );
    assert_eq!(world.entries(), [""; 0]);
}

#[test]
fn the_exit_code_is_the_programs() {
    let world = World::new();
    let mut run = world.start(["run", &guest("count"), "2", "1", "7"]);
    assert_eq!(run.ended(7).lines().count(), 2);
}

#[test]
fn variables_directories_and_standard_input_are_passed() {
    let world = World::new();
    let script = "print(os.getenv('A'), os.getenv('B'), os.getenv('HOME'))
        for line in io.lines() do print('got ' .. line) end
        print(io.open('/ro/new', 'w'))
        print(io.open('/rw/new', 'w') ~= nil)";
    world.file("script.lua", script);
    let here = world.directory.path().to_str().unwrap();
    let (rw, ro) = (format!("{here}::/rw"), format!("{here}::/ro:ro"));
    let lua = guest("lua");
    let command = [
        "run",
        "--env",
        "A=1",
        "--env",
        "B",
        "--dir",
        &rw,
        "--dir",
        &ro,
        &lua,
        "/rw/script.lua",
    ];
    let mut command = world.command(command);
    command.env("B", "from here");
    let mut run = crate::world::Actor::start(command);
    run.say("one\ntwo\n");
    run.hang_up();
    let out = run.ended(0);
    assert!(
        out.starts_with("1\tfrom here\tnil\ngot one\ngot two\nnil\t/ro/new: "),
        "{out}"
    );
    assert!(out.ends_with("true\n"), "{out}");
}

#[test]
fn a_function_is_called() {
    let world = World::new();
    let add = "(module (func (export \"add\") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))";
    let file = world.file("add.wat", add);
    assert_eq!(
        world.ask(["run", "--invoke", "add", &file, "2", "-5"]).ok(),
        "-3\n"
    );
    world.ask(["run", &file]).fails(125, &["_start"]);
    world
        .ask(["run", "--invoke", "sub", &file])
        .fails(125, &["`sub`"]);
    world
        .ask(["run", "--invoke", "add", &file, "2"])
        .fails(125, &["2 arguments, 1"]);
}

#[test]
fn a_trap_shows_where_it_was() {
    let world = World::new();
    let file = world.file(
        "trap.wat",
        "(module (func $deep (param i32) local.get 0 if unreachable end)
            (func $outer i32.const 1 call $deep)
            (func (export \"_start\") call $outer))",
    );
    let answer = world.ask(["run", &file]);
    answer.fails(134, &["trapped: ", "unreachable", "deep", "outer"]);
}

#[test]
fn signals_end_the_program() {
    let world = World::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut run = world.start(["run", &guest("count"), "100000", "100000"]);
        run.out.wait_for("3 ");
        run.signal(signal);
        run.ended(code);
        assert_eq!(world.entries(), [""; 0]);
    }
}

#[test]
fn what_is_no_program_is_not_started() {
    let world = World::new();
    let wrong = |contents: &[u8], said: &[&str]| {
        let file = world.file("wrong.wasm", contents);
        world.ask(["run", &file]).fails(125, said);
    };
    wrong(b"", &["wrong.wasm", "not a WebAssembly module", "empty"]);
    wrong(b"\x7fELF\x02\x01", &["native program"]);
    wrong(b"\0asm\x0d\0\x01\0", &["component", "wasm32-wasip1"]);
    wrong(b"\0asm\x01\0\0\0\xff", &["wrong.wasm", "not a valid"]);
    wrong(b"(module (func", &["text format"]);
    wrong(
        b"(module (import \"wasi_snapshot_preview1\" \"fd_jump\" (func)) (func (export \"_start\")))",
        &["fd_jump"],
    );
    wrong(
        b"(module (import \"wasi_snapshot_preview1\" \"fd_close\" (func)) (func (export \"_start\")))",
        &["fd_close"],
    );
    world
        .ask(["run", "missing.wasm"])
        .fails(125, &["missing.wasm", "No such file"]);
    world.ask(["run", "."]).fails(125, &["directory"]);
    let big = world.file(
        "big.wat",
        "(module (memory 100) (func (export \"_start\")))",
    );
    world
        .ask(["run", "--memory", "1M", &big])
        .fails(125, &["6553600", "1048576", "limit"]);
    world
        .ask(["run", "--dir", "nowhere::/x", &guest("hello")])
        .fails(125, &["nowhere", "--dir"]);
    world
        .ask(["run", "--env", "=1", &guest("hello")])
        .fails(125, &["--env"]);
    world
        .ask(["run", "--memory", "lots", &guest("hello")])
        .fails(2, &["lots"]);
    assert_eq!(world.entries(), [""; 0]);
}

#[test]
fn a_script_gives_the_same_with_and_without_limits() {
    let world = World::new();
    let lua = format!("{}::/lua", scripts("lua"));
    let plain = world
        .ask(["run", "--dir", &lua, &guest("lua"), "/lua/steps.lua", "3"])
        .ok();
    let limited = [
        "run",
        "--memory",
        "64M",
        "--dir",
        &lua,
        &guest("lua"),
        "/lua/steps.lua",
        "3",
    ];
    assert_eq!(world.ask(limited).ok(), plain);
    assert_eq!(plain.lines().count(), 3);
}
