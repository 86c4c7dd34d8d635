//! Files over HTTP, and the comparison of models. What the server itself does is tested in `sterna-gateway`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;
use serde_json::Value;

use crate::world::{World, until};

/// All that a server says to one request.
fn get(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Where a server says that it is.
fn address_in(said: &str) -> &str {
    let (_, after) = said.split_once("http://").unwrap();
    after.split('/').next().unwrap()
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
        let address = address_in(&said);
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

/// Nothing of it is left then, whoever still takes something; and the log is whole.
#[test]
fn a_second_signal_ends_it_at_once() {
    for model in ["hybrid", "processes"] {
        let world = World::new();
        fs::create_dir(world.path("site")).unwrap();
        world.file("site/hello.txt", "hello");
        let large = fs::File::create(world.path("site/large")).unwrap();
        large.set_len(1 << 30).unwrap();
        let (site, log) = (world.path("site"), world.path("log"));
        let (site, log) = (site.to_str().unwrap(), log.to_str().unwrap());
        let options = ["--bind", "127.0.0.1:0", "--workers", "2", "--grace", "1h"];
        let arguments = ["serve", site, "--model", model, "--log", log];
        let mut server = world.start(arguments.into_iter().chain(options));
        server.err.wait_for(&format!("/, {model}"));
        let said = server.err.text();
        let address = address_in(&said);
        let mut client = TcpStream::connect(address).unwrap();
        let both =
            "GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\nGET /large HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(both.as_bytes()).unwrap();
        client.read_exact(&mut [0; 4096]).unwrap();
        server.signal(Signal::INT);
        until("nobody is let in", || TcpStream::connect(address).is_err());
        server.signal(Signal::INT);
        server.ended(130);
        until("its port is free", || TcpListener::bind(address).is_ok());
        until("the log is whole", || {
            let log = fs::read_to_string(log).unwrap();
            log.contains("\"GET /hello.txt HTTP/1.1\" 200 5")
        });
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
