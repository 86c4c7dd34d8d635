//! Those who attack real nodes: other users of the machine, members that offer native code, and who looks for secrets.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Seek, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use sterna_node::message::{
    Belongings, Binding, BindingSort, Confinement, HostingReply, HostingRequest, Reply, Request,
    SnapshotOrder, StartOrder, TicketText, Where,
};
use sterna_node::wire::Versions;
use sterna_node::{AskError, Node, Options, Workshop};
use sterna_process::{ProgramId, Tag, Waypoint};
use sterna_runner::message::WindowSize;

use crate::cluster::{self, How};
use crate::world::{Answer, World, guest, skip};

/// A user without any rights, by the numbers that all systems give him.
const NOBODY: u32 = 65_534;

fn as_nobody(world: &World, words: &[&str], node: &Path) -> Answer {
    let mut command = world.command(words);
    let command = command
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env("STERNA_RUN_DIR", world.path("nobody/run"))
        .env("STERNA_DATA_DIR", world.path("nobody/own"))
        .env("STERNA_CACHE_DIR", world.path("nobody/cache"))
        .env("STERNA_NODE", node);
    Answer(command.stdin(Stdio::null()).output().unwrap())
}

/// Opens everything on the way to a file, as a careless administrator would.
fn open_up(path: &Path) {
    for path in path
        .ancestors()
        .take_while(|path| path.starts_with("/tmp") && *path != "/tmp")
    {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
}

/// By no path, link or open door does a user get from the root user's node what he may not have himself.
// long because: each way on its own
#[test]
fn another_user_gets_nothing_of_roots_node() {
    if !rustix::process::geteuid().is_root() {
        skip!("only root can be another user as well");
    }
    let world = World::new();
    if !world.directory.path().starts_with("/tmp") {
        skip!("temporary files are not in /tmp, and other users may not get there");
    }
    let node = cluster::start_with(&world, "one", &[]);
    let data = world.path("one");
    let secret = world.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "of root").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(world.path("nobody")).unwrap();
    std::os::unix::fs::chown(world.path("nobody"), Some(NOBODY), Some(NOBODY)).unwrap();
    std::os::unix::fs::symlink(&secret, world.path("nobody/link")).unwrap();
    let program = world.path("nobody/hello.wasm");
    fs::copy(guest("hello"), &program).unwrap();
    let program = program.to_str().unwrap();
    let through_root = format!("/proc/1/root{}", secret.display());
    let link = world.path("nobody/link");
    let dotted = format!("{}/nobody/../secret", world.directory.path().display());
    let paths = [
        secret.to_str().unwrap(),
        &through_root,
        link.to_str().unwrap(),
        &dotted,
    ];
    let tries = |words: &dyn Fn(&str) -> Vec<String>, said: &[&str]| {
        for path in paths {
            let words = words(path);
            let words: Vec<&str> = words.iter().map(|word| &**word).collect();
            let answer = as_nobody(&world, &words, &data);
            assert!(!answer.0.status.success(), "{words:?}: {}", answer.out());
            let err = answer.err();
            assert!(
                said.iter().any(|said| err.contains(said)),
                "{words:?}: {err}"
            );
            assert!(!answer.out().contains("of root"));
        }
    };
    let detached = |path: &str| -> Vec<String> {
        let directory = format!("{path}::/data");
        ["run", "--detach", "--dir", &directory, program]
            .map(String::from)
            .to_vec()
    };
    open_up(world.directory.path());
    // The node's directory is closed, and what is to be bound is closed to him.
    tries(&detached, &["ermission denied"]);
    // It stays so when somebody opens the node's directory, and all the way to it.
    let socket = fs::read_dir(&data).unwrap().flatten();
    let sockets: Vec<PathBuf> = socket
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "sock"))
        .collect();
    assert!(!sockets.is_empty(), "the node has no socket");
    sockets.iter().for_each(|socket| open_up(socket));
    tries(&detached, &["ermission denied", "belongs to user 0"]);
    // And the node hears nothing of him, whatever he asks.
    for words in [
        &["ps"][..],
        &["nodes"],
        &["node", "invite"],
        &["node", "stop", "--kill"],
        &["run", "--detach", program],
        &["events"],
    ] {
        let answer = as_nobody(&world, words, &data);
        assert!(!answer.0.status.success(), "{words:?}: {}", answer.out());
        let err = answer.err();
        assert!(
            err.contains("belongs to user 0, and you are user 65534")
                || err.contains("ermission denied")
                || err.contains("other users"),
            "{words:?}: {err}"
        );
    }
    node.ask(&world, &["ps"]).ok();
}

/// A node that has as a program whatever it likes.
#[derive(Debug)]
struct Forger(Arc<[u8]>);

impl Workshop for Forger {
    fn kinds(&self) -> Vec<Tag> {
        vec![sterna_wasm::KIND]
    }

    fn start_runner(&self, _: OwnedFd, _: File) -> io::Result<()> {
        Err(io::Error::other("it has none"))
    }

    fn has(&self, _: &Tag, _: &ProgramId) -> bool {
        true
    }

    fn module(&self, _: &ProgramId) -> Result<File, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.0).unwrap();
        file.rewind().unwrap();
        Ok(file)
    }

    fn terminal(&self, size: WindowSize) -> io::Result<[OwnedFd; 2]> {
        sterna_node::workshop::terminal(size)
    }

    fn add(&self, _: &Tag, _: Arc<[u8]>) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, _: &Tag, _: &ProgramId, _: &[Waypoint]) -> Result<(), String> {
        Ok(())
    }

    fn expect_moves(&self, _: &Tag, _: &ProgramId) {}

    fn detach(&self, directory: OwnedFd, _: bool) -> io::Result<OwnedFd> {
        Ok(directory)
    }
}

fn order(at: sterna_node::NodeId, program: ProgramId, bindings: Vec<Binding>) -> Request {
    Request::Hosting(HostingRequest::Start(Box::new(StartOrder {
        place: Where::At(at),
        name: None,
        program,
        kind: sterna_wasm::KIND,
        file: "forged".into(),
        arguments: vec![b"forged".to_vec()],
        variables: Vec::new(),
        entry: None,
        belongings: Belongings {
            bindings,
            ..Belongings::default()
        },
    })))
}

/// Native code in a cache, by its first bytes: ELF.
fn artifact(cache: &Path) -> Option<Vec<u8>> {
    let mut folders = vec![cache.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes
                .windows(4)
                .take(4096)
                .any(|window| window == b"\x7fELF")
            {
                return Some(bytes);
            }
        }
    }
    None
}

/// A member offers native code that this very machine has compiled, under its true hash, and asks for directories that
/// nobody exports.
// long because: a node is started by its parts
#[test]
fn native_code_and_directories_that_a_member_offers_are_not_taken() {
    let mut world = World::new();
    world.cache = world.path("cache");
    world.ask(["run", &guest("hello")]).ok();
    let native = artifact(&world.cache).expect("a program was compiled");
    let node = cluster::start_with(&world, "one", &[]);
    for forged in [native, b"\x7fELF\x02\x01\x01".to_vec(), Vec::new()] {
        let program = ProgramId::of(&forged);
        let data = world.path(&format!("forger-{}", forged.len()));
        let forger = Node::start(&Options {
            data: data.clone(),
            bind: Some((Ipv4Addr::LOCALHOST, 0).into()),
            advertise: Vec::new(),
            name: format!("forger-{}", forged.len()),
            software: "0".into(),
            confinement: "none".into(),
            exports: Vec::new(),
            copies_bytes_max: None,
            prepares: false,
            workshop: Some(Arc::new(Forger(forged.into()))),
            registry: None,
            stores: Vec::new(),
            confined: Confinement::default(),
            registry_login: None,
            versions: Versions::ALL,
        });
        let forger = forger.unwrap();
        let stopper = forger.stopper();
        let serving = std::thread::spawn(move || forger.serve());
        let ticket = TicketText(node.invite(&world).trim().to_owned());
        let joined = sterna_node::ask(&data, &Request::Join { ticket });
        let Ok(Reply::Roster(roster)) = joined else {
            panic!("{joined:?}");
        };
        let home = roster.home.unwrap();
        let refused = |request: &Request| match sterna_node::ask(&data, request) {
            Err(AskError::Failed(failure)) => failure.message,
            Ok(Reply::Hosting(HostingReply::Started { .. })) => panic!("it was started"),
            other => panic!("{other:?}"),
        };
        let said = refused(&order(home, program, Vec::new()));
        assert!(
            !said.contains("another program"),
            "it is the one that was asked for: {said}"
        );
        assert!(
            said.to_lowercase().contains("module") || said.contains("WebAssembly"),
            "{said}"
        );
        // Under a hash that is another's.
        let said = refused(&order(home, ProgramId::of(b"another"), Vec::new()));
        assert!(said.contains("another program"), "{said}");
        for export in ["/etc", "../etc", "", ".", "desk/../../etc"] {
            let sort = BindingSort::Shared {
                export: export.to_owned(),
            };
            let binding = Binding {
                guest_path: "/data".into(),
                read_only: true,
                sort,
            };
            let hello = ProgramId::of(&fs::read(guest("hello")).unwrap());
            let said = refused(&order(home, hello, vec![binding]));
            assert!(said.contains("export"), "{export:?}: {said}");
        }
        stopper.stop();
        serving.join().unwrap();
    }
    let listed = world.ask(["programs", "ls", "--json"]).ok();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|program| program["name"].as_str())
        .collect();
    assert_eq!(names, [Some("hello")]);
    node.ask(&world, &["node", "stop", "--kill"]).ok();
}

/// What processes were started with, and what they have in their environments, of those that belong to a world.
fn arguments_and_environments(world: &World) -> Vec<(String, String, String)> {
    let folder = world.directory.path().to_str().unwrap();
    let read =
        |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let files = fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let uses = files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|file| file.to_string_lossy().contains(folder));
        let (line, variables) = (read(path.join("cmdline")), read(path.join("environ")));
        if uses || line.contains(folder) {
            found.push((entry.file_name().into_string().unwrap(), line, variables));
        }
    }
    found
}

/// Asks a node: by the environment, which all commands read.
fn ask(world: &World, node: &cluster::Node, words: &[&str]) -> Answer {
    let mut command = world.command(words);
    command.env("STERNA_NODE", &node.data);
    Answer(command.stdin(Stdio::null()).output().unwrap())
}

/// All files of a node that are for people.
fn logs(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => logs(&path, into),
            false
                if path
                    .extension()
                    .is_some_and(|ext| ext == "log" || ext == "errors") =>
            {
                into.push(String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
            }
            false => {}
        }
    }
}

const PASSWORD: &str = "correct-horse-battery";

/// A node that has been given the password of an etcd, and the key of a bucket that is not there.
fn start_with_password(world: &World, name: &str) -> cluster::Node {
    let environment = [
        ("STERNA_ETCD_LOGIN", &*format!("sterna:{PASSWORD}")),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", PASSWORD),
        ("AWS_ENDPOINT", "http://127.0.0.1:9"),
        ("AWS_ALLOW_HTTP", "true"),
    ];
    let how = How {
        environment: environment
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        options: ["--store", "b=s3://bucket"].map(String::from).into(),
        ..How::default()
    };
    cluster::Node::start_so(world, name, "127.0.0.1:0", how)
}

/// What the key of a process's snapshots looks like in JSON.
fn snapshot_key(world: &World, node: &cluster::Node) -> String {
    let listed = node.ask(world, &["ps", "--json"]).ok();
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let process = listed[0]["id"].as_str().unwrap().parse().unwrap();
    let order = SnapshotOrder::Once { to: None };
    let request = Request::Hosting(HostingRequest::Snapshot { process, order });
    match sterna_node::ask(Path::new(&node.data), &request) {
        Ok(Reply::Hosting(HostingReply::Keeping(kept))) => {
            serde_json::to_string(&kept.key).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

/// The second line of a key's file.
fn key_in(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().nth(1).unwrap().to_owned()
}

/// Two nodes at work, with an etcd's password, moves, files and snapshots: what is secret is nowhere to be read.
#[test]
fn secrets_are_nowhere_while_a_cluster_works() {
    let world = World::new();
    let nodes = ["one", "two"].map(|name| start_with_password(&world, name));
    let ticket = nodes[0].invite(&world);
    nodes[1].join(&world, &ticket).ok();
    let lua = guest("lua");
    let forever = "local i=0; while true do i=i+1; for j=1,500000 do end; print(i) end";
    let run = ["run", "--detach", "--name", "p", &lua, "-e", forever];
    ask(&world, &nodes[0], &run).ok();
    let mut said = Vec::new();
    let mut told = |words: &[&str]| {
        let answer = ask(&world, &nodes[0], words);
        assert!(answer.0.status.success(), "{words:?}: {}", answer.err());
        said.push(answer.out() + &answer.err());
    };
    for words in [
        &["move", "p", "two", "--json"][..],
        &["snapshot", "p", "--once", "--to", "one", "--json"],
        &["snapshot", "p", "--every", "1h", "--json"],
        &["ps", "--all", "--json"],
        &["nodes", "--json"],
        &["registry", "status", "--json"],
        &["inspect", "p", "--json"],
        &["stats", "--json"],
        &["events", "--json"],
        &["programs", "ls", "--json"],
        &["logs", "p", "--json"],
    ] {
        told(words);
    }
    let found = arguments_and_environments(&world);
    let mut secrets = vec![PASSWORD.to_owned(), snapshot_key(&world, &nodes[0])];
    for words in [
        &["move", "p", "one", "--json"][..],
        &["freeze", "p", "-o", "frozen.sterna", "--json"],
        &["inspect", "frozen.sterna", "--json"],
    ] {
        told(words);
    }
    for node in &nodes {
        logs(Path::new(&node.data), &mut said);
        said.extend([node.actor.out.text(), node.actor.err.text()]);
        secrets.push(key_in(&format!("{}/node.key", node.data)));
    }
    secrets.push(key_in(world.path("own/image.key").to_str().unwrap()));
    let ticket = ticket.trim();
    secrets.push(ticket[ticket.len() - 24..].to_owned());
    check_secrets(&secrets, &said, &found, &nodes);
    for node in &nodes {
        node.ask(&world, &["node", "stop", "--kill"]).ok();
    }
}

/// That none is in what was said, in anybody's arguments, or in another environment than the services' own.
fn check_secrets(
    secrets: &[String],
    said: &[String],
    found: &[(String, String, String)],
    nodes: &[cluster::Node],
) {
    let long = secrets.iter().all(|secret| secret.len() > 15);
    assert!(long, "{secrets:?}");
    let services: BTreeSet<String> = nodes.iter().map(|node| node.actor.pid()).collect();
    let is_service = |process: &String| services.contains(process);
    // What is looked for is found where it must be, and who is looked at is there.
    let knows = |variables: &String| variables.contains(PASSWORD);
    let knowing = found
        .iter()
        .filter(|one| is_service(&one.0) && knows(&one.2));
    assert_eq!(knowing.count(), nodes.len());
    let runners = found.iter().filter(|one| one.1.contains("__runner"));
    assert!(runners.count() >= nodes.len(), "{found:?}");
    for secret in secrets {
        for text in said {
            assert!(!text.contains(secret), "{secret} is in: {text}");
        }
        for (process, line, variables) in found {
            assert!(!line.contains(secret), "{secret} is an argument: {line}");
            let told = is_service(process) || !variables.contains(secret);
            assert!(told, "{secret} is in an environment: {variables}");
        }
    }
}
