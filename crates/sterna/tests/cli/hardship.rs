//! Nodes whose disks are full. What cannot be done is refused with its reason, and everything goes on when there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, How, free_address};
use crate::world::{guest, skip, until};

/// A small file system on a node's data directory. Dropping it unmounts it.
struct Small(PathBuf);

const SMALL_MIB: usize = 16;

impl Small {
    fn mount(at: PathBuf) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting a small file system needs root".into());
        }
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={SMALL_MIB}m,mode=700"),
            "tmpfs",
        ]);
        match mount.arg(&at).output() {
            Ok(output) if output.status.success() => Ok(Self(at)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for piece in [64 << 10, 4096, 1] {
            while file.write_all(&vec![1; piece]).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Two nodes, of which one has a small disk.
struct Cramped {
    cluster: Cluster,
    small: Option<Small>,
}

impl Drop for Cramped {
    /// The nodes, then the file system, then the folder in which it is.
    fn drop(&mut self) {
        while let Some(node) = self.cluster.nodes.pop() {
            drop(node);
        }
        self.small = None;
    }
}

fn cramped(name: &str) -> Result<Cramped, String> {
    let small = std::cell::RefCell::new(Err(String::new()));
    let cluster = Cluster::new_so(&["one", "two"], |world, node| {
        if node == name {
            *small.borrow_mut() = Small::mount(world.path(node));
        }
        (free_address(), How::default())
    });
    cluster.have_runners();
    Ok(Cramped {
        small: Some(small.into_inner()?),
        cluster,
    })
}

macro_rules! cramped {
    ($name:expr) => {
        match cramped($name) {
            Ok(cramped) => cramped,
            Err(why) => skip!("no small file system here: {why}"),
        }
    };
}

/// It writes numbers, to its output and to a file that both nodes have, until there is another file.
const LUA: &str = "local f=io.open('/data/log','a') local i=0 while not io.open('/data/end') do i=i+1 \
                   for j=1,20000 do end local line=i..'\\n' io.write(line) io.stdout:flush() f:write(line) f:flush() end";

impl Cramped {
    fn fill(&self) {
        self.small.as_ref().unwrap().fill();
    }

    fn empty(&self) {
        self.small.as_ref().unwrap().empty();
    }

    fn run(&self, on: &str) {
        let lua = guest("lua");
        let words = ["run", "--detach", "--name", "counter", "--on", on];
        let given = ["--dir", "desk::/data:shared", &lua, "-e", LUA];
        self.cluster.ask(&[&words[..], &given].concat()).ok();
        self.writes_on();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.cluster.desk().join("log")).unwrap_or_default()
    }

    fn writes_on(&self) {
        self.writes(20);
    }

    /// Waits until it has written so many bytes more.
    fn writes(&self, bytes: usize) {
        let before = self.log().len();
        until("it writes on", || self.log().len() > before + bytes);
    }

    /// Ends the process; that it wrote all numbers, once and in their order, into its file. Gives its output.
    fn finish(&self) -> String {
        fs::write(self.cluster.desk().join("end"), "").unwrap();
        self.cluster.ask(&["wait", "counter"]).ok();
        let log = self.log();
        let count = log.lines().count();
        let all: String = (1..=count).map(|number| format!("{number}\n")).collect();
        assert!(log == all, "numbers are missing, or are there twice");
        self.cluster.ask(&["logs", "counter"]).out()
    }
}

#[test]
fn a_target_whose_disk_is_full_refuses_and_takes_the_process_later() {
    let cramped = cramped!("two");
    cramped.run("one");
    cramped.fill();
    let moved = cramped.cluster.ask(&["move", "counter", "two"]);
    moved.fails(3, &[]);
    assert!(moved.out().contains("No space left"), "{}", moved.out());
    cramped.cluster.is_at("counter", "one");
    cramped.writes_on();
    cramped.empty();
    cramped.cluster.ask(&["move", "counter", "two"]).ok();
    cramped.writes_on();
    assert!(cramped.finish() == cramped.log(), "output is missing");
}

#[test]
fn a_process_on_a_node_whose_disk_is_full_runs_on_and_can_be_moved_away() {
    let cramped = cramped!("two");
    cramped.run("two");
    cramped.fill();
    // More than the last page of its log there has room for.
    cramped.writes(8192);
    cramped.cluster.ask(&["move", "counter", "one"]).ok();
    cramped.writes_on();
    cramped.empty();
    let output = cramped.finish();
    // What could not be kept is missing as a whole, and all that was written later is there.
    let log = cramped.log();
    let last = log.lines().last().unwrap();
    assert!(output.ends_with(&format!("{last}\n")) && output.len() < log.len());
    assert!(log.starts_with(output.lines().next().unwrap()));
    let lines = log.lines().count().to_string();
    let last = cramped.cluster.ask(&["logs", "counter", "--tail", &lines]);
    assert!(last.err().contains("output are missing here"));
    assert_eq!(last.out(), output);
}

#[test]
fn a_registry_whose_disk_was_full_goes_on_when_there_is_room() {
    let cramped = cramped!("one");
    cramped.run("two");
    cramped.fill();
    let program = cramped
        .cluster
        .world
        .file("empty.wat", "(module (func (export \"_start\")))");
    let run = |name: &str| {
        let words = ["run", "--detach", "--on", "two", "--name", name, &program];
        cramped.cluster.ask_at("two", &words)
    };
    let mut refused = run("q0");
    for number in 1..100 {
        if !refused.0.status.success() {
            break;
        }
        // There may be room in the registry's file itself.
        refused = run(&format!("q{number}"));
    }
    refused.fails(125, &["registry", "No space left", "free some room"]);
    cramped.writes_on();
    assert!(
        cramped
            .cluster
            .at("one")
            .nodes(&cramped.cluster.world)
            .len()
            == 2
    );
    cramped.empty();
    run("again").ok();
    cramped.cluster.ask(&["move", "counter", "one"]).ok();
    assert!(cramped.finish() == cramped.log(), "output is missing");
}

#[test]
fn a_node_that_has_no_room_to_start_says_so() {
    let world = crate::world::World::new();
    let small = match Small::mount(world.path("one")) {
        Ok(small) => small,
        Err(why) => skip!("no small file system here: {why}"),
    };
    small.fill();
    let data: &Path = &small.0;
    let words = ["node", "start", "--bind", "127.0.0.1:0", "--data"];
    let answer = world.ask([&words[..], &[data.to_str().unwrap()]].concat());
    answer.fails(1, &[data.to_str().unwrap(), "No space left"]);
}
