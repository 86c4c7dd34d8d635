//! Nodes in networks of their own, where links are cut, lossy, or of IPv6 alone.

use crate::network::{Family, NODES, network};
use crate::trial::{Role, Trial};
use crate::world::until;

/// A link is cut at a point of a move, and healed when the side that can has given it up or gone on.
fn check_cut(cut: &str, points: &[(Role, &str)]) {
    let network = network!(Family::Four);
    let mut trial = network.trial();
    for (role, point) in points {
        let case = format!("{cut} is cut off at {point:?}");
        println!("{case}");
        let name = format!("p{}", trial.written.len());
        let id = trial.start(&name);
        let mut moving = trial.move_to_point(&name, (*role, *point));
        network.cut(cut);
        trial.arm(*role, "");
        // The other nodes notice; of a source that is cut off, nothing can be known.
        if cut == "two" {
            moving.end();
        } else {
            until("it is noticed", || {
                let node = trial.cluster.at("home");
                node.state_of(&trial.cluster.world, cut) == "unknown"
            });
        }
        network.heal(cut);
        moving.end();
        trial.settle(&name, &id);
        let log = trial.finish(&name, &case);
        trial.written.push((case, log));
    }
    trial.compare();
}

#[test]
fn a_target_that_is_cut_off_in_a_move_costs_nothing_but_the_move() {
    check_cut(
        "two",
        &[
            (Role::SourceService, "service hear Accept"),
            (Role::SourceRunner, "runner HalfSent"),
            (Role::TargetService, "service ask Commit"),
            (Role::TargetService, "service answered Commit"),
        ],
    );
}

#[test]
fn a_source_that_is_cut_off_in_a_move_goes_on_when_it_is_back() {
    check_cut(
        "one",
        &[
            (Role::SourceService, "service answered Declare"),
            (Role::SourceRunner, "runner tell Captured"),
            (Role::TargetService, "service ask Commit"),
        ],
    );
}

/// Moves a process from node to node; how many moves were made. One that is not is asked for again.
fn check_moves(trial: &mut Trial, how: &str) {
    let id = trial.start("p0");
    for target in ["two", "one", "home", "two"] {
        loop {
            let moved = trial.cluster.ask(&["move", "p0", target]);
            println!("{how}: {}{}", moved.out(), moved.err());
            trial.settle("p0", &id);
            if trial
                .cluster
                .place(&id)
                .is_some_and(|place| place.0 == target)
            {
                break;
            }
        }
        trial.writes_on("p0");
    }
    let log = trial.finish("p0", how);
    trial.written.push((how.to_owned(), log));
    trial.compare();
}

#[test]
fn a_process_is_moved_over_links_that_lose_a_tenth_of_all_packets() {
    let network = network!(Family::Four);
    let mut trial = network.trial();
    for name in NODES {
        // A packet passes two of them.
        network.thin(name, 5);
    }
    check_moves(&mut trial, "with a tenth of all packets lost");
}

#[test]
fn nodes_with_ipv6_alone_move_processes() {
    let network = network!(Family::Six);
    let mut trial = network.trial();
    check_moves(&mut trial, "over IPv6");
}
