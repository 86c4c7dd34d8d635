//! Files over HTTP, and the comparison of models. What the server itself does is tested in `sterna-gateway`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::world::World;

/// All that a server says to one request.
fn get(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_directory_is_served_until_a_signal_and_the_log_is_whole() {
    // The second is the one that starts this program again.
    for model in ["hybrid", "processes"] {
        let world = World::new();
        fs::create_dir(world.path("site")).unwrap();
        world.file("site/hello.txt", "hello");
        world.file("secret", "secret");
        let (site, log) = (world.path("site"), world.path("log"));
        let (site, log) = (site.to_str().unwrap(), log.to_str().unwrap());
        let options = ["--bind", "127.0.0.1:0", "--workers", "2", "--listing"];
        let mut arguments = vec!["serve", site, "--model", model, "--log", log];
        arguments.extend(options);
        let mut server = world.start(arguments);
        server.err.wait_for(&format!("/, {model}"));
        let said = server.err.text();
        let address = said
            .split("http://")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        let hello = get(address, "/hello.txt");
        assert!(
            hello.starts_with("HTTP/1.1 200 ") && hello.ends_with("\r\n\r\nhello"),
            "{hello}"
        );
        assert!(get(address, "/").contains("href=\"./hello.txt\""));
        assert!(get(address, "/%2e%2e/secret").starts_with("HTTP/1.1 400 "));
        server.signal(Signal::TERM);
        server.ended(0);
        assert!(
            server.err.text().contains("3 requests on 3 connections"),
            "{model}"
        );
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.lines().count(), 3, "{log}");
        assert!(log.contains("\"GET /hello.txt HTTP/1.1\" 200 5"), "{log}");
    }
}

#[test]
fn a_comparison_gives_figures_and_drawings() {
    let world = World::new();
    let plot = world.path("plot.html");
    let arguments = [
        "serve",
        "--compare",
        "--only",
        "fast,slow-disk",
        "--duration",
        "100ms",
        "--json",
        "--plot",
    ];
    let arguments = arguments.into_iter().chain([plot.to_str().unwrap()]);
    let compared: Value = serde_json::from_str(&world.ask(arguments).ok()).unwrap();
    let rows = compared["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 12);
    assert!(rows.iter().all(|row| row["errors"] == 0), "{rows:?}");
    // Not each of them: on a busy machine a tenth of a second may pass without any.
    assert!(
        rows.iter()
            .any(|row| row["per_second"].as_f64().unwrap() > 0.0),
        "{rows:?}"
    );
    let page = fs::read_to_string(plot).unwrap();
    assert_eq!(page.matches("<svg").count(), 2);
}

#[test]
fn what_cannot_be_served_is_said() {
    let world = World::new();
    world
        .ask(["serve", "missing"])
        .fails(1, &["could not serve", "missing"]);
    world.ask(["serve"]).fails(2, &["DIR"]);
    let nobody = ["serve", ".", "--connections", "0"];
    world.ask(nobody).fails(2, &["0 is not in 1.."]);
    let no_time = ["serve", "--compare", "--duration", "0s"];
    world.ask(no_time).fails(2, &["no time"]);
    let nowhere = ["serve", "--compare", "--plot", "missing/models.html"];
    let words = ["could not write the plot", "missing"];
    world.ask(nowhere).fails(1, &words);
}
