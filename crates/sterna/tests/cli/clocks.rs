//! Nodes whose clocks are wrong, or jump: libfaketime(1) gives each node a clock that is an offset in a file away from the
//! machine's. The monotonic clock, by which nodes wait, is left alone, as it is when a machine's clock is set.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, How, Node, free_address};
use crate::trial::program;
use crate::world::{World, guest, skip, until};

/// Where distributions have it.
fn library() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ];
    let mut files = folders
        .map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"))
        .into_iter();
    files.find(|file| file.exists())
}

/// In its data directory: a node reaches no other files.
fn file(world: &World, node: &str) -> PathBuf {
    world.path(node).join("clock")
}

/// How a node is started whose clock can be set.
fn with_clock(world: &World, node: &str, library: &Path) -> How {
    let data = world.path(node);
    DirBuilder::new().mode(0o700).create(data).unwrap();
    set(world, node, "+0");
    let variables = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", &file(world, node)),
        ("FAKETIME_NO_CACHE", Path::new("1")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
        ("DONT_FAKE_MONOTONIC", Path::new("1")),
    ];
    let text = |(name, value): (&str, &Path)| (name.to_owned(), value.to_str().unwrap().to_owned());
    How {
        environment: variables.map(text).to_vec(),
        ..How::default()
    }
}

fn set(world: &World, node: &str, offset: &str) {
    let (file, new) = (file(world, node), world.path(node).join("clock.new"));
    fs::write(&new, format!("{offset}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

const NONE: &str = "there is no libfaketime: apt-get install faketime";

#[test]
fn clocks_that_jump_by_weeks_change_nothing_for_processes_and_their_moves() {
    let Some(library) = library() else {
        skip!("{NONE}");
    };
    let names = ["one", "two", "three"];
    let cluster = Cluster::new_so(&names, |world, name| {
        (free_address(), with_clock(world, name, &library))
    });
    cluster.have_runners();
    let lua = guest("lua");
    let text = program("lua", "not io.open('/data/lua.end')");
    let run = ["run", "--detach", "--name", "lua", "--on", "one"];
    let given = ["--dir", "desk::/data:shared", &lua, "-e", &text];
    let started = cluster.ask(&[&run[..], &given].concat());
    let id = started.ok().trim().to_owned();
    let jumps = [
        ("two", "+30d", "two"),
        ("one", "+8d", "three"),
        ("three", "-30d", "one"),
        ("one", "-8d", "two"),
        ("two", "+0", "one"),
    ];
    for (node, offset, target) in jumps {
        set(&cluster.world, node, offset);
        cluster.ask(&["move", "lua", target]).ok();
        assert_eq!(cluster.running_at(&id), [target]);
        until("all nodes are reachable", || {
            let nodes = cluster.at("one").nodes(&cluster.world);
            nodes.iter().all(|node| node["state"] != "unknown")
        });
    }
    fs::write(cluster.desk().join("lua.end"), "").unwrap();
    let output = cluster.whole("lua");
    let plain = World::new();
    let directory = format!("{}::/data", plain.directory.path().display());
    let text = program("lua", &format!("i<{}", output.lines().count()));
    let words = ["run", "--dir", &directory, &lua, "-e", &text];
    assert!(
        !output.is_empty() && output == plain.ask(words).ok(),
        "the output differs"
    );
}

#[test]
fn a_ticket_of_a_node_whose_clock_has_jumped_is_refused_in_time_and_a_wrong_clock_is_named() {
    let Some(library) = library() else {
        skip!("{NONE}");
    };
    let world = World::new();
    let how = |name: &str| with_clock(&world, name, &library);
    let one = Node::start_so(&world, "one", "127.0.0.1:0", how("one"));
    let two = Node::start_so(&world, "two", "127.0.0.1:0", how("two"));
    let ticket = one.invite(&world);
    set(&world, "two", "-1d");
    two.join(&world, &ticket)
        .fails(1, &["clock", "behind that of"]);
    set(&world, "two", "+1d");
    set(&world, "one", "+1d");
    two.join(&world, &ticket).fails(1, &["expired", "new one"]);
    two.join(&world, &one.invite(&world)).ok();
    set(&world, "one", "-1d");
    // It has joined: now clocks may be what they like.
    assert_eq!(two.nodes(&world).len(), 2);
    one.ask(&world, &["node", "invite"]).ok();
}
