//! Directories that are copied along with a process: what it writes while it is moved, where that is in the end, and what
//! is left of it on the nodes. And moves that cannot be because of what the process is bound to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::world::{World, guest, skip, until};

/// Keeps a file open while it moves, and makes, changes, renames and removes others. Ends when it finds `stop`.
const WRITES: &str = "
local log = assert(io.open('/work/log', 'a'))
for i = 1, 90 do
  local s = 0
  for j = 1, 700000 do s = s + j % 7 end
  log:write(i, ' ', s, '\\n')
  log:flush()
  local name = '/work/sub/' .. (i % 10)
  local file = assert(io.open(name, 'w'))
  file:write(string.rep(tostring(i), 1000))
  file:close()
  if i % 3 == 0 then assert(os.rename(name, '/work/renamed')) end
  if i == 45 then assert(os.remove('/work/old')) end
  print(i)
  io.stdout:flush()
end
while not io.open('/work/stop') do
  local s = 0
  for j = 1, 200000 do s = s + j end
end
log:write('end\\n')
log:close()";

const FOREVER: &str = "while true do end";
const LARGE_BYTES: usize = 3 << 20;

/// What the process is started with.
fn furnish(folder: &Path) {
    fs::create_dir_all(folder.join("sub/deeper")).unwrap();
    fs::write(folder.join("old"), "to be removed").unwrap();
    fs::write(folder.join("sub/7"), "to be written over").unwrap();
    let large: Vec<u8> = (0..LARGE_BYTES as u32)
        // No zeros: those at the end of a piece are not sent.
        .map(|at| (at.wrapping_mul(at) >> 7) as u8 | 1)
        .collect();
    fs::write(folder.join("large"), large).unwrap();
    File::create(folder.join("hole"))
        .unwrap()
        .set_len(LARGE_BYTES as u64)
        .unwrap();
    symlink("large", folder.join("link")).unwrap();
    symlink("/etc/passwd", folder.join("out")).unwrap();
}

/// Files, links and directories of a folder, with their contents.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, at: &Path, to: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let about = fs::symlink_metadata(&path).unwrap();
            let contents = match (about.is_dir(), about.is_symlink()) {
                (true, _) => Vec::new(),
                (_, true) => fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
                _ => fs::read(&path).unwrap(),
            };
            to.insert(name, contents);
            if about.is_dir() {
                walk(root, &path, to);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(folder, folder, &mut all);
    all
}

/// What a process writes that is never moved.
fn expected() -> BTreeMap<String, Vec<u8>> {
    let plain = World::new();
    let work = plain.path("work");
    furnish(&work);
    fs::write(work.join("stop"), "").unwrap();
    let given = format!("{}::/work", work.display());
    plain
        .ask(["run", "--dir", &given, &guest("lua"), "-e", WRITES])
        .ok();
    contents(&work)
}

/// What there is on a node's disk of copies.
fn copies(cluster: &Cluster, node: &str) -> Vec<String> {
    let folder = cluster.world.path(node).join("hosting/copies");
    let list = |folder: &Path| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    };
    let mut all = list(&folder);
    all.retain(|name| name != "gone");
    all.extend(list(&folder.join("gone")));
    all
}

fn none_is_left(cluster: &Cluster, node: &str) {
    until("no copy is left", || copies(cluster, node).is_empty());
}

/// A cluster with a process that was started with a copy of the folder `given`; nothing if this machine cannot.
fn begin(script: &str, two: &[&str]) -> Option<Cluster> {
    let cluster = Cluster::with(&["one", "two"], |_, name| match name {
        "two" => two.iter().map(|word| (*word).to_owned()).collect(),
        _ => Vec::new(),
    });
    furnish(&cluster.world.path("given"));
    let lua = guest("lua");
    let given = format!("{}::/work:copy", cluster.world.path("given").display());
    let words = [
        "run", "--detach", "--name", "p", "--dir", &given, &lua, "-e", script,
    ];
    let started = cluster.ask(&words);
    if started.err().contains("cannot confine") {
        return None;
    }
    started.ok();
    Some(cluster)
}

const NO_DIRECTORIES: &str = "runners take no directories on this machine: see `sterna doctor`";

fn moved(cluster: &Cluster, to: &str) -> Value {
    let report = cluster.ask(&["move", "p", to, "--json"]).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(
        report["copied"]["bytes"].as_u64() >= Some(2 * LARGE_BYTES as u64),
        "{report}"
    );
    report["copied"].clone()
}

fn stop(cluster: &Cluster) {
    let stop = cluster.world.file("stop", "");
    cluster.ask(&["cp", &stop, "p:/work/stop"]).ok();
    cluster.ask(&["wait", "p"]).ok();
}

#[test]
fn what_it_writes_while_it_moves_is_in_its_directory_when_it_ends_at_home() {
    let Some(cluster) = begin(WRITES, &[]) else {
        skip!("{NO_DIRECTORIES}");
    };
    let given = cluster.world.path("given");
    let before = contents(&given);
    for round in 0..3 {
        let there = moved(&cluster, "two");
        let large = LARGE_BYTES as u64;
        let sent = |copied: &Value, key: &str| copied[key].as_u64().unwrap();
        assert!(sent(&there, "running_bytes") >= large, "{there}");
        assert!(sent(&there, "still_bytes") < large, "{there}");
        none_is_left(&cluster, "one");
        assert_eq!(copies(&cluster, "two").len(), 1, "round {round}");
        let back = moved(&cluster, "one");
        let all = sent(&back, "running_bytes") + sent(&back, "still_bytes");
        assert!(
            all < large,
            "what the first node has is not sent to it: {back}"
        );
        none_is_left(&cluster, "two");
    }
    assert_eq!(contents(&given), before, "until it ends it works in a copy");
    stop(&cluster);
    cluster.is_at("p", "one");
    assert!(contents(&given) == expected(), "the directory differs");
    none_is_left(&cluster, "one");
    cluster
        .ask(&["cp", "p:/work/log", "log"])
        .fails(1, &["went back to the directory"]);
}

#[test]
fn what_it_has_written_stays_where_it_ends_until_it_is_removed() {
    let Some(cluster) = begin(WRITES, &[]) else {
        skip!("{NO_DIRECTORIES}");
    };
    let given = cluster.world.path("given");
    let before = contents(&given);
    moved(&cluster, "two");
    stop(&cluster);
    cluster.is_at("p", "two");
    let fetched = cluster.world.path("fetched");
    cluster
        .ask(&["cp", "-r", "p:/work", fetched.to_str().unwrap()])
        .ok();
    let mut expected = expected();
    for link in ["link", "out"] {
        expected.remove(link); // cp leaves them out
    }
    assert!(contents(&fetched) == expected, "what was fetched differs");
    assert_eq!(contents(&given), before);
    let words = ["cp", "given/old", "p:/work/new"];
    cluster.ask(&words).fails(1, &["ended"]);
    cluster.ask(&["rm", "p"]).ok();
    none_is_left(&cluster, "one");
    none_is_left(&cluster, "two");
    cluster.ask(&["cp", "p:/work/log", "log"]).fails(1, &["p"]);
}

#[test]
fn a_node_without_room_for_copies_says_how_much_and_the_process_stays() {
    let Some(cluster) = begin(FOREVER, &["--copies", "1M"]) else {
        skip!("{NO_DIRECTORIES}");
    };
    let needed = (2 * LARGE_BYTES).to_string();
    let room = ["copied along", &needed[..5], "1048576 bytes", "--copies"];
    cluster.ask(&["move", "p", "two"]).fails(1, &room);
    cluster
        .ask(&["move", "p", "two", "--dry-run"])
        .fails(1, &room);
    cluster.is_at("p", "one");
    none_is_left(&cluster, "two");
    let given = format!("{}::/work:copy", cluster.world.path("given").display());
    let lua = guest("lua");
    let words = [
        "run", "--detach", "--name", "q", "--dir", &given, &lua, "-e", FOREVER,
    ];
    cluster
        .ask_at("two", &words)
        .fails(125, &["/work", "1048576 bytes", "--copies"]);
    none_is_left(&cluster, "two");
    let on_two = [&words[..2], &["--on", "two"], &words[2..]].concat();
    cluster
        .ask(&on_two)
        .fails(125, &["/work", "start the process here, and move it"]);
    // Files that are nowhere else are in no image.
    let image = cluster.world.path("image");
    let image = image.to_str().unwrap();
    let others = [
        vec!["freeze", "p", "-o", image],
        vec!["clone", "p", "two"],
        vec!["snapshot", "p", "--once", "--to", "one"],
    ];
    for (words, node) in others
        .iter()
        .flat_map(|words| [(words, "one"), (words, "two")])
    {
        let refused = cluster.ask_at(node, words);
        assert!(!refused.0.status.success(), "{words:?}");
        let said = refused.err();
        assert!(
            said.contains("/work") && said.contains(":shared"),
            "{words:?} at {node}: {said}"
        );
    }
    cluster.is_at("p", "one");
    cluster.ask(&["kill", "p"]).ok();
    cluster.ask(&["wait", "p"]).fails(137, &[]);
    none_is_left(&cluster, "one");
}

/// A small disk at a folder. Dropping it takes it away.
struct Disk(std::path::PathBuf);

impl Disk {
    fn at(folder: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(folder).unwrap();
        let size = format!("size={size},mode=700");
        let words = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted = Command::new("mount")
            .args(words)
            .arg(folder)
            .output()
            .ok()?;
        mounted.status.success().then(|| Self(folder.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(gone.unwrap().success());
    }
}

#[test]
fn a_disk_without_room_is_told_and_the_process_stays() {
    let disk = RefCell::new(None);
    let cluster = Cluster::with(&["one", "two"], |world, name| {
        if name == "two" {
            let data = world.path("two");
            fs::create_dir_all(data.join("hosting")).unwrap();
            for folder in [&data, &data.join("hosting")] {
                fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
            }
            // Copies leave 64 MiB free.
            *disk.borrow_mut() = Disk::at(&data.join("hosting/copies"), "68m");
        }
        Vec::new()
    });
    let disk = disk.into_inner();
    if disk.is_none() {
        skip!("this user may not mount a small disk");
    }
    furnish(&cluster.world.path("given"));
    let given = format!("{}::/work:copy", cluster.world.path("given").display());
    let lua = guest("lua");
    let words = [
        "run", "--detach", "--name", "p", "--dir", &given, &lua, "-e", FOREVER,
    ];
    let started = cluster.ask(&words);
    if started.err().contains("cannot confine") {
        skip!("{NO_DIRECTORIES}");
    }
    started.ok();
    let room = ["copied along", "bytes in", "bytes free", "make room"];
    cluster.ask(&["move", "p", "two"]).fails(1, &room);
    cluster.is_at("p", "one");
    none_is_left(&cluster, "two");
    cluster.ask(&["kill", "p"]).ok();
}

#[test]
fn a_node_without_the_export_says_how_to_have_it_and_the_process_stays() {
    let cluster = Cluster::with(&["one", "two"], |world, name| match name {
        "one" => vec![
            "--export".into(),
            format!("desk={}", world.path("desk").display()),
        ],
        _ => Vec::new(),
    });
    let lua = guest("lua");
    let run = |name: &str, directory: &str| {
        let words = [
            "run", "--detach", "--name", name, "--dir", directory, &lua, "-e", FOREVER,
        ];
        cluster.ask(&words)
    };
    let started = run("p", "desk::/desk:shared");
    if started.err().contains("cannot confine") {
        skip!("{NO_DIRECTORIES}");
    }
    started.ok();
    let missing = ["desk", "--export desk=DIR"];
    cluster.ask(&["move", "p", "two"]).fails(1, &missing);
    cluster
        .ask(&["move", "p", "two", "--dry-run"])
        .fails(1, &missing);
    cluster.is_at("p", "one");
    let fixed = format!("{}::/fixed", cluster.world.path("desk").display());
    run("q", &fixed).ok();
    cluster
        .ask(&["move", "q", "two"])
        .fails(1, &["/fixed", "fixed to its node", ":shared"]);
    cluster.is_at("q", "one");
    // Out of a file as well; there the user can open again what was fixed.
    let image = |name: &str| cluster.world.path(name).to_str().unwrap().to_owned();
    for name in ["p", "q"] {
        cluster.ask(&["freeze", name, "-o", &image(name)]).ok();
    }
    cluster
        .ask_at("two", &["thaw", "--detach", &image("p")])
        .fails(125, &missing);
    cluster
        .ask_at("two", &["thaw", "--detach", "--on", "one", &image("p")])
        .ok();
    cluster
        .ask(&["thaw", "--detach", "--on", "two", &image("q")])
        .fails(125, &["/fixed", "without --on"]);
    cluster
        .ask(&["thaw", "--detach", &image("q")])
        .fails(125, &["--dir HOST::/fixed"]);
    cluster
        .ask(&[
            "thaw",
            "--detach",
            "--dir",
            &fixed,
            "--dir",
            "/tmp::/other",
            &image("q"),
        ])
        .fails(125, &["/other", "leave that --dir out"]);
    cluster
        .ask(&["thaw", "--detach", "--dir", &fixed, &image("q")])
        .ok();
    for name in ["p", "q"] {
        cluster.is_at(name, "one");
        cluster.ask(&["kill", name]).ok();
    }
}

/// The source's or the target's service is killed in the middle: the files are where the process is, and nowhere else.
#[test]
fn a_service_that_dies_in_a_move_leaves_the_files_with_the_process() {
    for killed in ["one", "two"] {
        let Some(mut cluster) = begin(WRITES, &[]) else {
            skip!("{NO_DIRECTORIES}");
        };
        let mut moving = cluster.begin(&["move", "p", "two"]);
        cluster.ask(&["nodes"]);
        cluster.kill(killed);
        cluster.start_again(killed);
        moving.end();
        let place = || {
            let listed = cluster.ask(&["ps", "--json"]);
            let rows: Vec<Value> = serde_json::from_str(&listed.out()).unwrap_or_default();
            let row = rows
                .iter()
                .find(|row| row["name"] == "p" && row["state"] == "running");
            row.map(|row| row["node"].as_str().unwrap().to_owned())
        };
        until("it runs", || place().is_some());
        let stop = cluster.world.file("stop", "");
        until("it can be reached", || {
            cluster
                .ask(&["cp", &stop, "p:/work/stop"])
                .0
                .status
                .success()
        });
        cluster.ask(&["wait", "p"]).ok();
        let files = contents(&cluster.world.path("given"));
        let mut expected = expected();
        if files != expected {
            let fetched = cluster.world.path("fetched");
            cluster
                .ask(&["cp", "-r", "p:/work", fetched.to_str().unwrap()])
                .ok();
            for link in ["link", "out"] {
                expected.remove(link);
            }
            assert!(
                contents(&fetched) == expected,
                "{killed} was killed: the files differ"
            );
        }
        cluster.ask(&["rm", "p"]).ok();
    }
}
