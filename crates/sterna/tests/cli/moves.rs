//! Freeze and thaw: what a process was doing goes on, in another process.

use std::fs;

use serde_json::Value;

use crate::world::{Actor, World, guest, scripts, until};

/// A script that prints a line per step, for so many steps.
fn steps(steps: &str) -> Vec<String> {
    let lua = format!("{}::/lua", scripts("lua"));
    ["run", "--dir", &lua, &guest("lua"), "/lua/steps.lua", steps]
        .map(str::to_owned)
        .into()
}

#[test]
fn the_rest_of_the_work_is_done_elsewhere() {
    let world = World::new();
    let plain = world.ask(steps("150")).ok();
    let mut actor = world.start(steps("150"));
    let mut output = String::new();
    for hop in 0..4 {
        actor.out.wait_for_lines(5);
        let report = world
            .ask(["freeze", &actor.pid(), "-o", "lua.sterna", "--json"])
            .ok();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert!(report["pages_stored"].as_u64().unwrap() > 0);
        output += &actor.ended(75);
        assert!(actor.err.text().contains("frozen into"));
        let image = world
            .ask(["inspect", "./lua.sterna", "--json", "--check"])
            .ok();
        let image: Value = serde_json::from_str(&image).unwrap();
        assert_eq!(image["header"]["epoch"], hop);
        assert_eq!(image["header"]["process"], report["process"]);
        let frames = image["description"]["frames"].as_array().unwrap();
        assert!(frames.iter().any(|frame| frame["name"] == "luaV_execute"));
        actor = world.start(["thaw", "lua.sterna"]);
    }
    output += &actor.ended(0);
    assert_eq!(output, plain);
}

/// Frozen by the version of its name after 33 steps of 60; new ones are made as the tests above make theirs, with `--thin`.
/// Its program is a committed one: see `cargo xtask guests --check`.
#[test]
fn a_process_that_another_version_froze_goes_on() {
    let world = World::new();
    let lua = format!("{}::/lua", scripts("lua"));
    let plain = world.ask(steps("60")).ok();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/lua-v1.image");
    let rest = world.ask(["thaw", "--yes", "--dir", &lua, sample]).ok();
    assert!(plain.ends_with(&rest), "{rest}");
    assert_eq!(rest.lines().count(), 60 - 33);
}

#[test]
fn the_place_where_it_is_thawed_gives_input_and_gets_output() {
    let world = World::new();
    let mut here = world.start(["run", &guest("echo")]);
    here.say("one\nhalf of ");
    here.out.wait_for("1: one\n");
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    assert_eq!(here.ended(75), "1: one\n");
    let mut there = world.start(["thaw", "echo.sterna"]);
    there.say("a line\nlast");
    there.hang_up();
    let out = there.ended(0);
    assert!(out.starts_with("2: half of a line\n3: last\n"), "{out}");
}

#[test]
fn a_snapshot_leaves_the_process_running_and_is_a_clone() {
    let world = World::new();
    let mut run = world.start(["run", "--name", "first", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one\n");
    let report = world
        .ask(["freeze", "first", "-o", "s.sterna", "--keep"])
        .ok();
    assert!(
        report.contains("runs on") && report.contains("stood still"),
        "{report}"
    );
    let mut clone = world.start(["thaw", "--name", "second", "s.sterna"]);
    clone.say("clone\n");
    clone.out.wait_for("2: clone\n");
    assert!(clone.err.text().contains("clone"));
    let ids: Vec<_> = world.ps().iter().map(|row| row["id"].clone()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1]);
    run.say("original\n");
    run.hang_up();
    assert!(run.ended(0).contains("2: original\n"));
    clone.hang_up();
    clone.ended(0);
}

#[test]
fn snapshots_are_taken_by_the_clock() {
    let world = World::new();
    let to = world.path("snapshots");
    fs::create_dir(&to).unwrap();
    let mut arguments = steps("400");
    let options = ["--snapshot-every", "20ms", "--to", to.to_str().unwrap()];
    arguments.splice(1..1, options.map(str::to_owned));
    let mut run = world.start(arguments);
    run.out.wait_for("\n 10 ");
    let images = || -> Vec<_> {
        let images = fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        images
            .filter(|path| path.extension().is_some_and(|end| end == "sterna"))
            .collect()
    };
    until("a snapshot", || !images().is_empty());
    run.signal(rustix::process::Signal::KILL);
    run.end();
    let image = images().remove(0);
    assert_eq!(images().len(), 1, "one file for one process");
    let before = run.out.text();
    // The snapshot may be of before the last lines that were printed.
    let rest = world
        .ask(
            [Some("thaw".as_ref()), Some(image.as_os_str())]
                .into_iter()
                .flatten(),
        )
        .ok();
    let plain = world.ask(steps("400")).ok();
    assert!(plain.ends_with(&rest) && plain.starts_with(&before));
    assert!(before.len() + rest.len() >= plain.len());
}

#[test]
fn a_snapshot_that_cannot_be_written_is_only_reported() {
    let world = World::new();
    let to = world.path("snapshots");
    fs::create_dir(&to).unwrap();
    let options = [
        "run",
        "--snapshot-every",
        "20ms",
        "--to",
        "snapshots",
        &guest("echo"),
    ];
    let mut run = world.start(options);
    run.say("one\n");
    run.out.wait_for("1: one");
    fs::remove_dir_all(&to).unwrap();
    run.err.wait_for("no snapshot was taken");
    run.hang_up();
    run.ended(0);
}

#[test]
fn a_thin_image_needs_the_program_in_the_cache() {
    let mut world = World::new();
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    world
        .ask(["freeze", "echo", "-o", "thick.sterna", "--keep"])
        .ok();
    world
        .ask(["freeze", "echo", "-o", "thin.sterna", "--thin"])
        .ok();
    run.ended(75);
    let size = |name| fs::metadata(world.path(name)).unwrap().len();
    assert!(size("thin.sterna") < size("thick.sterna"));
    assert!(world.ask(["thaw", "thin.sterna"]).ok().contains("lines"));
    world.cache = world.path("empty");
    world
        .ask(["thaw", "thin.sterna"])
        .fails(125, &["thin", "sterna programs add"]);
    world.ask(["programs", "add", &guest("echo")]).ok();
    assert!(world.ask(["thaw", "thin.sterna"]).ok().contains("lines"));
}

#[test]
fn directories_are_opened_again_or_asked_for() {
    let world = World::new();
    for name in ["data", "other"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    world.file(
        "data/script.lua",
        "for l in io.lines() do print(io.open('/data/x', 'a') ~= nil) io.stdout:flush() end",
    );
    let dir = format!("{}::/data", world.path("data").display());
    let mut run = world.start(["run", "--dir", &dir, &guest("lua"), "/data/script.lua"]);
    run.say("1\n");
    run.out.wait_for("true\n");
    world.ask(["freeze", "lua", "-o", "lua.sterna"]).ok();
    run.ended(75);
    let mut again = world.start(["thaw", "lua.sterna"]);
    again.say("2\n");
    again.out.wait_for("true\n");
    again.hang_up();
    again.ended(0);

    fs::rename(world.path("data"), world.path("moved")).unwrap();
    world
        .ask(["thaw", "lua.sterna"])
        .fails(125, &["--dir HOST::/data", "data", "No such file"]);
    let moved = format!("{}::/data", world.path("moved").display());
    let mut command = world.command(["thaw", "--dir", &moved, "lua.sterna"]);
    command.env("RUST_BACKTRACE", "0");
    let mut given = Actor::start(command);
    given.say("3\n");
    given.out.wait_for("true\n");
    given.hang_up();
    given.ended(0);
}

#[test]
fn a_new_file_replaces_an_old_one_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.file("image", "old");
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    world.ask(["freeze", "echo", "-o", "image"]).ok();
    run.ended(75);
    let mode = fs::metadata(world.path("image"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        world
            .ask(["inspect", "image"])
            .ok()
            .contains("made by    you")
    );
}
