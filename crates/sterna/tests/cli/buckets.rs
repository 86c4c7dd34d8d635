//! Snapshots in buckets of real servers: over TLS, from a node that is killed; and a server that stands still and dies.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{How, Node, join, start_with};
use crate::servers::{Buckets, NO_SERVER, Speaks};
use crate::world::{World, guest, skip, until};

const PROGRAM: &str = "for i=1,150 do local s=0; for j=1,1000000 do s=s+j%7 end; print(i,s) end";
const ENDLESS: &str = "local i=0; while true do i=i+1; for j=1,300000 do end print(i) end";
/// Prints all keys of a bucket, as another program than ours sees them.
const LIST: &str = r#"
import boto3, os, sys
s3 = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"], region_name="us-east-1", verify=sys.argv[1])
for found in s3.list_objects_v2(Bucket="bucket").get("Contents", []): print(found["Key"])
"#;

/// Node that is to use the bucket as `b`.
fn start(world: &World, name: &str, speaks: Speaks, environment: &[(String, String)]) -> Node {
    let store = format!("b={}/kept/here", speaks.url());
    let how = How {
        options: ["--store".to_owned(), store].into(),
        environment: environment.to_vec(),
        ..How::default()
    };
    Node::start_so(world, name, "127.0.0.1:0", how)
}

fn run(node: &Node, world: &World, on: &str, program: &str) {
    let lua = guest("lua");
    let words = ["run", "--detach", "--name", "lua", "--on", on];
    node.ok(world, &[&words[..], &[&lua, "-e", program]].concat());
    until("some output", || {
        node.ok(world, &["logs", "lua"]).lines().count() > 3
    });
}

/// A certificate for this machine that vouches for itself, and its key.
fn certificate(world: &World) -> Option<[PathBuf; 2]> {
    let [certificate, key] = ["tls.pem", "tls.key"].map(|name| world.path(name));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"]);
    openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key);
    let made = openssl.output().ok()?;
    assert!(made.status.success(), "{made:?}");
    Some([certificate, key])
}

fn keys(environment: &[(String, String)], certificate: &Path) -> Vec<String> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    let mut list = Command::new(python);
    list.args(["-c", LIST]).arg(certificate);
    let listed = list.envs(environment.iter().cloned()).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn a_lost_process_comes_back_from_s3_which_forgets_it_after_its_end() {
    comes_back_from(Speaks::S3);
}

#[test]
fn a_lost_process_comes_back_from_azure() {
    comes_back_from(Speaks::Azure);
}

#[test]
fn a_lost_process_comes_back_from_google() {
    comes_back_from(Speaks::Google);
}

fn comes_back_from(speaks: Speaks) {
    let world = World::new();
    let Some(tls) = certificate(&world) else {
        skip!("no openssl on this machine, to make a certificate with");
    };
    let Some(server) = Buckets::start(speaks, 0, Some([&tls[0], &tls[1]])) else {
        skip!("{NO_SERVER}");
    };
    let mut environment = server.environment();
    environment.retain(|(name, _)| !name.ends_with("_ALLOW_HTTP"));
    let stranger = start(&world, "stranger", speaks, &environment);
    stranger.actor.err.wait_for("invalid peer certificate");
    stranger.stop(&world);
    let trusted = ("SSL_CERT_FILE".into(), tls[0].to_str().unwrap().into());
    environment.push(trusted);
    let one = start_with(&world, "one", &[]);
    let [mut other, mut third] = ["two", "three"].map(|name| {
        let node = start(&world, name, speaks, &environment);
        join(&world, &one, &node);
        node
    });
    run(&one, &world, "two", PROGRAM);
    let every = [
        "snapshot", "lua", "--every", "1s", "--keep", "2", "--to", "store:b",
    ];
    let told = one.ok(&world, &every);
    assert!(told.contains("store:b"), "{told}");
    let rows: Value = serde_json::from_str(&one.ok(&world, &["ps", "--json"])).unwrap();
    let folder = format!("kept/here/{}/", rows[0]["id"].as_str().unwrap());
    // As another program sees them; there is one for S3.
    let keys = || (speaks == Speaks::S3).then(|| keys(&environment, &tls[0]));
    if let Some(kept) = keys() {
        assert!(kept.iter().all(|key| key.starts_with(&folder)), "{kept:?}");
        assert!(kept.contains(&format!("{folder}program")), "{kept:?}");
    }

    other.kill_runner();
    other.kill();
    other.start_again(&world);
    one.hears_of_a_loss(&world);
    let told = one.ok(&world, &["recover", "lua", "--on", "three"]);
    assert!(told.contains("from snapshot"), "{told}");
    one.ok(&world, &["wait", "lua"]);
    let plain = world.ask(["run", &guest("lua"), "-e", PROGRAM]).ok();
    assert_eq!(one.ok(&world, &["logs", "lua"]), plain);
    // A node looks after its stores when it starts, and from then on again and again.
    third.kill();
    third.start_again(&world);
    until("the bucket has nothing of it any more", || {
        keys().is_none_or(|kept| kept.is_empty())
    });
    for node in [third, other, one] {
        node.stop(&world);
    }
}

/// Why a process has no newer snapshot, once that is so or not so.
fn until_trouble(node: &Node, world: &World, is: impl Fn(Option<&str>) -> bool) {
    until("word of its snapshots", || {
        let rows: Value = serde_json::from_str(&node.ok(world, &["ps", "--json"])).unwrap();
        // It stands still for a moment now and then.
        let state = rows[0]["state"].as_str().unwrap();
        assert!(["running", "being copied"].contains(&state), "{rows}");
        is(rows[0]["snapshot_trouble"].as_str())
    });
}

#[test]
fn a_bucket_that_stands_still_or_is_gone_is_told_of_and_used_when_it_is_back() {
    let world = World::new();
    let Some(s3) = Buckets::start(Speaks::S3, 0, None) else {
        skip!("{NO_SERVER}");
    };
    let signal = |s3: &Buckets, signal| {
        let server = Pid::from_child(&s3.server);
        kill_process(server, signal).unwrap();
    };
    let (port, environment) = (s3.port, s3.environment());
    let one = start(&world, "one", Speaks::S3, &environment);
    run(&one, &world, "one", ENDLESS);
    one.ok(
        &world,
        &["snapshot", "lua", "--every", "1s", "--to", "store:b"],
    );
    let says = |told: Option<&str>, what| told.is_some_and(|told| told.contains(what));

    signal(&s3, Signal::STOP);
    // What waits for an answer keeps no node from starting, or from ending.
    let mut hasty = start(&world, "hasty", Speaks::S3, &environment);
    hasty.ok(&world, &["node", "stop"]);
    hasty.actor.ended(0);
    assert!(
        !hasty.actor.err.text().contains("panicked"),
        "{}",
        hasty.actor.err.text()
    );
    until_trouble(&one, &world, |told| says(told, "no answer"));
    signal(&s3, Signal::CONT);
    until_trouble(&one, &world, |told| told.is_none());

    drop(s3);
    until_trouble(&one, &world, |told| says(told, "Connection refused"));
    // Another node starts all the same, and says so.
    let other = start(&world, "two", Speaks::S3, &environment);
    other
        .actor
        .err
        .wait_for("could not list s3://bucket/kept/here: Connection refused");
    // The new one has nothing of what the old one had.
    let again = Buckets::start(Speaks::S3, port, None).unwrap();
    until_trouble(&one, &world, |told| told.is_none());
    for node in [other, one] {
        node.stop(&world);
    }
    drop(again);
}

#[test]
fn a_node_says_what_a_bucket_wants_to_know() {
    let world = World::new();
    let start = |url: &str| {
        let data = world.path("one");
        let mut start = world.command(["node", "start", "--bind", "127.0.0.1:0", "--data"]);
        start.arg(data).args(["--store", url]);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT"] {
            start.env_remove(name);
        }
        start
    };
    let said = |mut start: Command, code, words: &[&str]| {
        crate::world::Answer(start.output().unwrap()).fails(code, words);
    };
    let url = "b=s3://bucket/kept";
    said(start(url), 1, &[url, "AWS_ACCESS_KEY_ID is not set"]);
    let mut plain = start(url);
    plain.envs([
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]);
    plain.env("AWS_ENDPOINT", "http://localhost:9");
    said(
        plain,
        1,
        &["AWS_ENDPOINT is without TLS", "AWS_ALLOW_HTTP=true"],
    );
    said(
        start("b=ftp://bucket"),
        2,
        &["file:///DIRECTORY or s3://BUCKET/PREFIX"],
    );
}
