//! The run directory, the key, the program cache: private, of a version, sometimes damaged.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::world::{Actor, Answer, World, guest};

#[test]
fn the_run_directory_is_private_and_of_a_version() {
    let world = World::new();
    let run = world.path("run");
    world.ask(["ps"]).ok();
    assert_eq!(
        fs::metadata(&run).unwrap().permissions().mode() & 0o777,
        0o700
    );
    fs::write(run.join("version"), "2").unwrap();
    world
        .ask(["run", &guest("hello")])
        .fails(125, &["version 2", "STERNA_RUN_DIR"]);
    fs::write(run.join("version"), "\x1b?").unwrap();
    world.ask(["ps"]).fails(1, &["damaged"]);
    fs::remove_file(run.join("version")).unwrap();
    world.ask(["ps"]).ok();
    fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
    world
        .ask(["ps"])
        .fails(1, &["open to other users", "chmod"]);
    fs::remove_dir_all(&run).unwrap();
    world.file("run", "a file");
    world.ask(["ps"]).fails(1, &["not a directory"]);
}

#[test]
fn a_link_is_no_run_directory() {
    let world = World::new();
    fs::create_dir(world.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(world.path("elsewhere"), world.path("run")).unwrap();
    world.ask(["ps"]).fails(1, &["not a directory"]);
}

#[test]
fn a_long_path_is_no_hindrance() {
    let (outer, mut world) = (World::new(), World::new());
    let long = outer.path(&"d".repeat(120));
    fs::create_dir(&long).unwrap();
    world.directory = tempfile::tempdir_in(long).unwrap();
    assert!(
        world
            .ask(["run", &guest("hello")])
            .ok()
            .starts_with("hello")
    );
}

#[test]
fn the_key_is_made_once_and_kept_private() {
    let world = World::new();
    world.ask(["run", &guest("hello")]).ok();
    let key = world.path("own/image.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let before = fs::read(&key).unwrap();
    world.ask(["run", &guest("hello")]).ok();
    assert_eq!(fs::read(&key).unwrap(), before);
    fs::write(&key, "sterna image key 1\nxyz\n").unwrap();
    world
        .ask(["run", &guest("hello")])
        .fails(125, &["image.key", "damaged"]);
    fs::write(&key, &before).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    world
        .ask(["run", &guest("hello")])
        .fails(125, &["image.key", "open to other users"]);
}

#[test]
fn the_directory_of_the_key_is_private_also_if_a_node_makes_it() {
    let world = World::new();
    let directory = world.path("share/sterna");
    let command = |words: &[&str]| {
        let mut command = world.command(words);
        command.env("STERNA_DATA_DIR", &directory);
        command
    };
    let mut node = Actor::start(command(&["node", "start", "--bind", "127.0.0.1:0"]));
    node.err.wait_for("is ready at");
    let made = fs::metadata(&directory).unwrap();
    assert_eq!(made.permissions().mode() & 0o777, 0o700);
    let run = command(&["run", &guest("hello")]).output();
    Answer(run.unwrap()).ok();
    let stop = command(&["node", "stop"]).output();
    Answer(stop.unwrap()).ok();
    node.ended(0);
}

#[test]
fn programs_are_listed_added_and_removed() {
    let mut world = World::new();
    world.cache = world.path("cache");
    let list = |world: &World| -> Vec<Value> {
        serde_json::from_str(&world.ask(["programs", "ls", "--json"]).ok()).unwrap()
    };
    assert!(list(&world).is_empty());
    let added = world
        .ask(["programs", "add", &guest("hello"), &guest("echo")])
        .ok();
    let ids: Vec<&str> = added
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let listed = list(&world);
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|row| row["usable"] == true && ids.contains(&row["id"].as_str().unwrap()))
    );
    assert!(world.ask(["programs", "ls"]).ok().contains("hello"));

    let dry = world
        .ask(["programs", "prune", "--unused", "0s", "--dry-run", "--json"])
        .ok();
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!(dry["programs"].as_array().unwrap().len(), 2);
    assert_eq!(list(&world).len(), 2);
    world.ask(["programs", "prune", "--unused", "30d"]).ok();
    assert_eq!(list(&world).len(), 2);
    world
        .ask(["programs", "rm", "echo", "nothing"])
        .fails(1, &["nothing", "programs ls"]);
    world.ask(["programs", "rm", &ids[1][..10]]).ok();
    assert_eq!(list(&world)[0]["id"], ids[0]);
    world.ask(["programs", "prune", "--max-bytes", "0"]).ok();
    assert!(list(&world).is_empty());
}

#[test]
fn a_program_may_be_removed_while_it_runs() {
    let mut world = World::new();
    world.cache = world.path("cache");
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    world.ask(["programs", "rm", "echo"]).ok();
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    run.ended(75);
    assert!(world.ask(["thaw", "echo.sterna"]).ok().contains("lines"));
}

#[test]
fn a_cache_that_cannot_be_used_says_so() {
    let mut world = World::new();
    world.cache = world.path("cache");
    world.ask(["programs", "ls"]).ok();
    fs::write(world.cache.join("VERSION"), "sterna program cache 99\n").unwrap();
    world
        .ask(["run", &guest("hello")])
        .fails(125, &["newer", "99", "STERNA_CACHE_DIR"]);
    fs::write(world.cache.join("VERSION"), "damaged").unwrap();
    world
        .ask(["programs", "ls"])
        .fails(1, &["not a program cache"]);
    world.cache = world.path("open");
    fs::create_dir(&world.cache).unwrap();
    fs::set_permissions(&world.cache, Permissions::from_mode(0o777)).unwrap();
    world
        .ask(["run", &guest("hello")])
        .fails(125, &["cannot be trusted", "chmod"]);
}
