//! Real programs that are frozen and thawed again and again in the middle of their work, each time by another OS
//! process: what they print and write is what they print and write when they are left alone.

use std::fs;

use crate::world::{Actor, NO_PYTHON, World, guest, python, scripts, skip};

/// Each is an order for the clerk in `guests/*/desk.*`, who works on it in 20 steps.
const ORDERS: [&str; 8] = [
    "two apples",
    "five pears, a pound of nuts",
    "nothing",
    "one hundred small screws and one large one",
    "a book about terns",
    "ink, paper, twelve envelopes",
    "seven ropes of seven yards",
    "the bill",
];

/// A clerk whose ledger lies in `/desk`.
fn clerk(world: &World, program: &str, script: &str) -> Actor {
    let (folder, _) = script.split_once('/').unwrap();
    let scripts = format!("{}::/{folder}", scripts(folder));
    fs::create_dir_all(world.path("desk")).unwrap();
    let desk = format!("{}::/desk", world.path("desk").display());
    let script = format!("/{script}");
    world.start([
        "run",
        "--name",
        "clerk",
        "--dir",
        &scripts,
        "--dir",
        &desk,
        program,
        &script,
        "/desk/ledger",
    ])
}

fn ledger(world: &World) -> String {
    fs::read_to_string(world.path("desk/ledger")).unwrap()
}

/// Freezes a process as soon as it can be found, wherever it is then, and thaws it in another; false if it has ended.
fn carry(world: &World, actor: &mut Actor, output: &mut String) -> bool {
    let pid = actor.pid();
    let frozen = || {
        world
            .ask(["freeze", &pid, "-o", "image.sterna"])
            .0
            .status
            .success()
    };
    while !frozen() {
        if actor.has_ended() {
            return false;
        }
    }
    *output += &actor.ended(75);
    *actor = world.start(["thaw", "image.sterna"]);
    true
}

/// Freezes a clerk at some line of each order, thaws it elsewhere and goes on with its input.
fn check(program: &str, script: &str) {
    let plain = World::new();
    let mut clerk_at_rest = clerk(&plain, program, script);
    for order in ORDERS {
        clerk_at_rest.say(&format!("{order}\n"));
    }
    clerk_at_rest.hang_up();
    let expected = clerk_at_rest.ended(0);

    let world = World::new();
    let mut actor = clerk(&world, program, script);
    let mut output = String::new();
    for (hop, order) in ORDERS.iter().enumerate() {
        actor.say(&format!("{order}\n"));
        // Somewhere in the work on this order; how far it gets before it is stopped is up to the machine.
        actor
            .out
            .wait_for(&format!("{} step {} ", hop + 1, 1 + hop * 7 % 13));
        for _ in 0..2 {
            assert!(carry(&world, &mut actor, &mut output), "it had ended");
        }
        let done = format!("{} done", hop + 1);
        if !output.contains(&done) {
            actor.out.wait_for(&done);
        }
    }
    actor.hang_up();
    output += &actor.ended(0);
    assert_eq!(output, expected);
    assert_eq!(ledger(&world), ledger(&plain));
}

#[test]
fn lua() {
    check(&guest("lua"), "lua/desk.lua");
}

#[test]
fn quickjs() {
    check(&guest("qjs"), "quickjs/desk.js");
}

#[test]
fn cpython() {
    let Some(program) = python() else {
        skip!("{NO_PYTHON}");
    };
    check(&program, "python/desk.py");
}

#[test]
fn sqlite() {
    let world = World::new();
    fs::create_dir(world.path("data")).unwrap();
    let data = format!("{}::/data", world.path("data").display());
    let arguments = |file: &str| -> Vec<String> {
        let words = [
            "run",
            "--name",
            "database",
            "--dir",
            &data,
            &guest("sqlite"),
            "4000",
            "3",
            file,
        ];
        words.map(str::to_owned).into()
    };
    let expected = world.ask(arguments("/data/plain")).ok();
    let mut actor = world.start(arguments("/data/moved"));
    let mut output = String::new();
    for _ in 0..12 {
        if !carry(&world, &mut actor, &mut output) {
            break;
        }
    }
    output += &actor.ended(0);
    assert_eq!(output, expected);
    let bytes = |name| fs::read(world.path("data").join(name)).unwrap();
    assert!(bytes("plain") == bytes("moved"), "the databases differ");
}
