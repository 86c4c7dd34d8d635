//! Processes that are moved so that nodes have their share of the work.

use serde_json::Value;

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::world::{guest, until};

const LUA_FOREVER: &str =
    "local i=0; while true do i=i+1; local s=0; for j=1,500000 do s=s+j%7 end; print(i) end";

/// Three nodes of one machine, the first of which has all there is to do: enough for two of them.
fn unequal() -> (Cluster, Vec<String>) {
    let cluster = Cluster::new(&["one", "two", "three"]);
    let processors = std::thread::available_parallelism().unwrap().get();
    let names: Vec<String> = (0..2 * processors).map(|at| format!("p{at}")).collect();
    for name in &names {
        let lua = guest("lua");
        let words = ["run", "--detach", "--name", name, &lua, "-e", LUA_FOREVER];
        cluster.ask(&words).ok();
    }
    (cluster, names)
}

fn load(told: &Value, node: &str, key: &str) -> f64 {
    let rows = told["nodes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == node).unwrap();
    row[key].as_f64().unwrap()
}

fn end_all(cluster: &Cluster, names: &[String]) {
    for name in names {
        // One that has just arrived may not be ready for it.
        until("it is killed", || {
            cluster.ask(&["kill", name]).0.status.success()
        });
    }
}

fn at_one(cluster: &Cluster, names: &[String]) -> usize {
    let at = |name: &&String| cluster.place(name).unwrap().0 == "one";
    names.iter().filter(at).count()
}

#[test]
fn busy_processes_are_spread_and_then_left_alone() {
    let (cluster, names) = unequal();
    let plan = cluster.json(&["balance", "--dry-run", "--json"]);
    assert!(load(&plan, "one", "load") > 1.9, "{plan}");
    assert!(load(&plan, "one", "load_then") < 1.1, "{plan}");
    assert!(
        plan["moves"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["moved"].is_null())
    );
    assert_eq!(at_one(&cluster, &names), names.len());

    let shown = cluster.ask(&["balance"]).ok();
    assert!(shown.contains("WANTS"), "{shown}");
    assert!(at_one(&cluster, &names) <= names.len() / 2);
    let again = cluster.json(&["balance", "--json"]);
    assert_eq!(again["moves"].as_array().unwrap().len(), 0, "{again}");
    end_all(&cluster, &names);
}

#[test]
fn one_goes_on_until_it_is_told_to_end() {
    let (cluster, names) = unequal();
    let mut balance = cluster.begin(&["balance", "--watch=100ms", "--json"]);
    until("they are spread", || {
        at_one(&cluster, &names) <= names.len() / 2
    });
    balance.signal(Signal::INT);
    balance.ended(0);
    end_all(&cluster, &names);
}

#[test]
fn idle_nodes_are_emptied_and_what_is_fixed_stays() {
    let cluster = Cluster::new(&["one", "two", "three"]);
    let echo = guest("echo");
    let fixed = format!("{}::/here", cluster.desk().display());
    for (node, name, options) in [
        ("one", "a", &["--listen", "0"][..]),
        ("two", "b", &["--dir", &fixed]),
        ("three", "c", &["--dir", "desk::/desk:shared"]),
    ] {
        let mut words = vec!["run", "--detach", "-i", "--name", name];
        words.extend(options);
        words.push(&echo);
        let mut run = cluster.at(node).begin(&cluster.world, &words);
        run.ended(0);
    }
    let told = cluster.json(&["balance", "--pack", "--dry-run", "--json"]);
    assert_eq!(told["goal"], "pack");
    let ports = |row: &Value| row["ports"].as_array().unwrap().len();
    let nodes = told["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(ports).sum::<usize>(), 1, "{told}");
    let packed = cluster.ask(&["balance", "--pack"]);
    packed.ok();
    let said = packed.err();
    assert!(said.contains("(a) moved from one to two"), "{said}");
    let left = "one has no processes now, but clients still come in there";
    assert!(said.contains(left), "{said}");
    for name in ["a", "b", "c"] {
        cluster.is_at(name, "two");
    }
    let none = cluster.ask(&["balance", "--pack"]);
    none.ok();
    assert!(none.err().contains("nothing has to be moved"));
    end_all(&cluster, &["a", "b", "c"].map(str::to_owned));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::new(&["one"]);
    cluster
        .ask(&["balance", "--spread", "--pack"])
        .fails(2, &["cannot be used with"]);
    cluster
        .ask(&["balance", "--watch=0s"])
        .fails(2, &["in no time"]);
    let alone = cluster.ask(&["balance"]);
    alone.ok();
    assert!(alone.err().contains("nothing has to be moved"));
}
