//! How processes are found and looked at: ps, names, pause, resume, kill, inspect.

use serde_json::Value;

use crate::world::{Actor, World, guest};

fn named(world: &World, name: &str) -> Actor {
    let mut run = world.start(["run", "--name", name, &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one\n");
    run
}

#[test]
fn a_process_is_listed_and_named_in_several_ways() {
    let world = World::new();
    let mut run = named(&world, "worker");
    let rows = world.ps();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(
        (row["name"].as_str(), row["state"].as_str()),
        (Some("worker"), Some("waiting"))
    );
    assert_eq!(row["pid"].to_string(), run.pid());
    assert!(row["memory_bytes"].as_u64() > Some(0) && row["cpu_ms"].is_u64());
    let id = row["id"].as_str().unwrap();
    for wanted in [id, &id[..6], "worker", &run.pid(), &id[..8].to_uppercase()] {
        let live: Value =
            serde_json::from_str(&world.ask(["inspect", wanted, "--json"]).ok()).unwrap();
        assert_eq!(live["record"]["id"], id, "{wanted}");
        assert_eq!(live["processor"], std::env::consts::ARCH);
        assert!(live["memory_bytes"].as_u64() > Some(0) && live["cpu_ms"].is_u64());
        assert!(live["started_ms"].is_u64());
        let frames = live["description"]["frames"].as_array().unwrap();
        assert!(
            frames.iter().any(|frame| frame["name"] == "_start"),
            "{frames:?}"
        );
    }
    assert!(world.ask(["ps"]).ok().contains("worker"));
    run.hang_up();
    run.ended(0);
    world
        .ask(["kill", "worker"])
        .fails(1, &["just ended", "ago"]);
}

#[test]
fn an_unknown_name_gets_suggestions() {
    let world = World::new();
    world
        .ask(["pause", "lua"])
        .fails(1, &["lua", "none runs here"]);
    let _run = named(&world, "interpreter");
    world
        .ask(["freeze", "interpeter", "-o", "x"])
        .fails(1, &["did you mean interpreter"]);
    world.ask(["kill", "zzz"]).fails(1, &["sterna ps"]);
    world
        .ask(["inspect", "./nothing"])
        .fails(1, &["nothing", "No such file"]);
    world
        .ask(["inspect", "nothing"])
        .fails(1, &["no file nothing", "no process nothing"]);
    let _other = named(&world, "interpreter");
    world
        .ask(["kill", "interpreter"])
        .fails(1, &["several", "by its id", "pid"]);
}

#[test]
fn pause_resume_and_kill() {
    let world = World::new();
    let mut run = world.start(["run", &guest("count"), "1000000", "100000"]);
    run.out.wait_for("\n5 ");
    world.ask(["pause", "count"]).ok();
    assert_eq!(world.ps()[0]["state"], "paused");
    let standing = |world: &World| -> Value {
        serde_json::from_str(&world.ask(["inspect", "count", "--json"]).ok()).unwrap()
    };
    let frames = standing(&world)["description"]["frames"].clone();
    assert_eq!(standing(&world)["description"]["frames"], frames);
    world.ask(["pause", "count"]).ok();
    world.ask(["resume", "count"]).ok();
    let printed = run.out.text().lines().count();
    run.out.wait_for(&format!("\n{} ", printed + 5));
    let killed = world.ask(["kill", "count", "--json"]).ok();
    assert!(killed.contains("killed"), "{killed}");
    assert!(world.ps().is_empty());
    run.ended(137);
    assert!(run.err.text().contains("killed"));
}

#[test]
fn a_paused_process_can_be_frozen_and_killed() {
    let world = World::new();
    let mut run = world.start(["run", &guest("count"), "30", "3000000"]);
    run.out.wait_for("\n2 ");
    world.ask(["pause", "count"]).ok();
    world
        .ask(["freeze", "count", "-o", "kept.sterna", "--keep"])
        .ok();
    assert_eq!(world.ps()[0]["state"], "paused");
    world.ask(["kill", "count"]).ok();
    run.ended(137);
    let rest = world.ask(["thaw", "kept.sterna"]).ok();
    let plain = world.ask(["run", &guest("count"), "30", "3000000"]).ok();
    assert_eq!(run.out.text() + &rest, plain);
}

#[test]
fn an_endless_loop_is_killed() {
    let world = World::new();
    let mut run = world.start(["run", &guest("spin")]);
    crate::world::until("it runs", || !world.ps().is_empty());
    world.ask(["kill", "spin"]).ok();
    run.ended(137);
}

#[test]
fn names_cannot_take_a_terminal_over() {
    let world = World::new();
    let name = "x\x1b[2J\u{202e}\u{9b}31m";
    let mut run = named(&world, name);
    let safe = |text: &str| {
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{text:?}"
        );
        text.to_owned()
    };
    assert!(safe(&world.ask(["ps"]).ok()).contains(r"x\u{1b}[2J"));
    let rows: Vec<Value> = serde_json::from_str(&safe(&world.ask(["ps", "--json"]).ok())).unwrap();
    assert_eq!(rows[0]["name"], name);
    safe(&world.ask(["inspect", name]).ok());
    safe(&world.ask(["kill", "x\x1b[31mz"]).err());
    safe(&world.ask(["freeze", name, "-o", "nasty.sterna"]).ok());
    run.ended(75);
    safe(&run.err.text());
    safe(&world.ask(["inspect", "nasty.sterna"]).ok());
    safe(&world.ask(["inspect", "nasty.sterna", "--json"]).ok());
    safe(&world.ask(["run", "\x1b[31m.wasm"]).err());
    // Names of functions come from the program.
    let trap =
        "(module (func $f (export \"\\1b[2J\") unreachable) (func (export \"_start\") call $f)
        (@custom \"name\" \"\\01\\09\\01\\00\\06\\1b[31mX\"))";
    let answer = world.ask(["run", &world.file("nasty.wat", trap)]);
    answer.fails(134, &["trapped"]);
    safe(&answer.err());
}

#[test]
fn of_an_immobile_process_is_shown_what_is_known() {
    let world = World::new();
    let mut run = world.start(["run", "--immobile", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    let shown = world.ask(["inspect", "echo"]).ok();
    for part in ["state", "CPU time", "immobile"] {
        assert!(shown.contains(part), "{part} is not in: {shown}");
    }
    run.hang_up();
    run.ended(0);
}
