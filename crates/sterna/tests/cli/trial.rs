//! Moves that are disturbed: they stand still at a point that the test names (`fault` of `sterna-runner`), and there it
//! happens.
//!
//! The process that is moved writes each line to its output and to a file that all nodes have. So if two of it ever ran,
//! if one was taken up twice or somewhere earlier, or if a line was lost, the file says so. What it writes is compared byte
//! for byte with a run that was never moved.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Cluster, How, free_address, has_id};
use crate::world::{Actor, World, guest, until};

/// Who stands still, to be killed or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    SourceService,
    SourceRunner,
    TargetService,
    TargetRunner,
    /// The service of the node that has the registry.
    Home,
}

impl Role {
    pub(crate) const fn node(self) -> &'static str {
        match self {
            Self::SourceService | Self::SourceRunner => "one",
            Self::TargetService | Self::TargetRunner => "two",
            Self::Home => "home",
        }
    }

    pub(crate) const fn is_runner(self) -> bool {
        matches!(self, Self::SourceRunner | Self::TargetRunner)
    }
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`; a service is started again, a runner by its service.
    Kill,
    /// It is stopped, and goes on when the others have given the move up or have gone on without it.
    Stop,
}

/// What becomes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It runs on, on one of the two.
    Lives,
    /// The runner that had it is gone: it is reported lost, once.
    Lost,
    /// The only copy may have been at the target already: either, but never both.
    Either,
}

use Fate::{Lives, Lost};

/// At each point the same happens, however fast the machine is.
const STOP_AND_COPY: &[&str] = &["--strategy", "stop-and-copy"];

/// One cluster in which many moves are disturbed.
pub(crate) struct Trial {
    pub(crate) cluster: Cluster,
    /// What the processes wrote, with the points at which they were disturbed.
    pub(crate) written: Vec<(String, String)>,
    /// How memory is to travel.
    pub(crate) way: &'static [&'static str],
}

pub(crate) fn faults(world: &World, node: &str) -> PathBuf {
    world.path(&format!("{node}.faults"))
}

/// It writes lines until there is a file.
pub(crate) fn program(name: &str, until: &str) -> String {
    format!(
        "local f=io.open('/data/{name}.log','a') local i=0 \
         while {until} do i=i+1 local s=i for j=1,50000 do s=(s*31+j)%1000003 end \
         local line=i..' '..s..'\\n' io.write(line) io.stdout:flush() f:write(line) f:flush() end"
    )
}

impl Trial {
    pub(crate) fn new() -> Self {
        Self::on(|_| (free_address(), How::default()))
    }

    /// On nodes at these addresses, started so.
    pub(crate) fn on(place: impl Fn(&str) -> (String, How)) -> Self {
        let cluster = Cluster::new_so(&["home", "one", "two"], |world, name| {
            let (address, mut how) = place(name);
            let file = faults(world, name);
            fs::write(&file, "").unwrap();
            let variable = (
                "STERNA_FAULTS".to_owned(),
                file.to_str().unwrap().to_owned(),
            );
            how.environment.push(variable);
            (address, how)
        });
        cluster.have_runners();
        let written = Vec::new();
        Self {
            cluster,
            written,
            way: STOP_AND_COPY,
        }
    }

    pub(crate) fn arm(&self, role: Role, text: &str) {
        fs::write(faults(&self.cluster.world, role.node()), text).unwrap();
    }

    pub(crate) fn has_reached(&self, role: Role) -> bool {
        let text = fs::read_to_string(faults(&self.cluster.world, role.node()));
        text.unwrap().starts_with("reached")
    }

    /// Starts a process on `one`, and waits until it has written something.
    pub(crate) fn start(&self, name: &str) -> String {
        self.start_with("", name)
    }

    /// The same, after some other work.
    pub(crate) fn start_with(&self, before: &str, name: &str) -> String {
        let lua = guest("lua");
        let until = format!("not io.open('/data/{name}.end')");
        let text = format!("{before} {}", program(name, &until));
        let words = ["run", "--detach", "--on", "one", "--name", name];
        let given = ["--dir", "desk::/data:shared", &lua, "-e", &text];
        let started = self.cluster.ask(&[&words[..], &given].concat());
        self.writes_on(name);
        started.ok().trim().to_owned()
    }

    fn log(&self, name: &str) -> String {
        let file = self.cluster.desk().join(format!("{name}.log"));
        fs::read_to_string(file).unwrap_or_default()
    }

    pub(crate) fn writes_on(&self, name: &str) {
        let before = self.log(name).len();
        until("it writes on", || self.log(name).len() > before + 20);
    }

    /// Moves it until somebody comes to a point, at which he stands still.
    pub(crate) fn move_to_point(&self, name: &str, (role, point): (Role, &str)) -> Actor {
        let asked = ["home", "two"]
            .into_iter()
            .find(|node| *node != role.node());
        let node = self.cluster.at(asked.unwrap());
        self.arm(role, point);
        loop {
            let words = [&["move", name, "two"], self.way].concat();
            let mut moving = node.begin(&self.cluster.world, &words);
            until("the point, or the end of the move", || {
                self.has_reached(role) || moving.out.has_ended()
            });
            if self.has_reached(role) {
                return moving;
            }
            let is_told = moving.end().success();
            let place = self.cluster.place(name);
            if is_told || place.is_some_and(|(node, _)| node == "two") {
                // What is left to be done comes soon after.
                until("the point", || self.has_reached(role));
                return moving;
            }
            println!("  {}", moving.err.text().trim());
        }
    }

    pub(crate) fn disturb(&mut self, role: Role, point: &str, fault: Fault, fate: Fate) {
        let case = format!("{fault:?} of {role:?} at {point:?}");
        println!("{case}");
        let name = format!("p{}", self.written.len());
        let id = self.start(&name);
        let mut moving = self.move_to_point(&name, (role, point));
        let node = self.cluster.at(role.node());
        let victim = match role.is_runner() {
            true => node.runner().unwrap(),
            false => Pid::from_raw(node.actor.child.id() as i32).unwrap(),
        };
        match fault {
            Fault::Kill => {
                kill_process(victim, Signal::KILL).unwrap();
                self.arm(role, "");
                if !role.is_runner() {
                    self.cluster.node(role.node()).actor.end();
                    self.cluster.start_again(role.node());
                }
            }
            Fault::Stop => {
                kill_process(victim, Signal::STOP).unwrap();
                self.arm(role, "");
                if role.node() == "two" {
                    moving.end();
                } else {
                    self.cluster.at("two").nodes(&self.cluster.world);
                }
                kill_process(victim, Signal::CONT).unwrap();
            }
        }
        moving.end();
        let log = match self.settle(&name, &id) {
            Lost => {
                assert_ne!(fate, Lives, "{case}: it was lost");
                self.is_lost_once(&id, &case);
                self.log(&name)
            }
            _ => {
                assert_ne!(fate, Lost, "{case}: it lives");
                self.finish(&name, &case)
            }
        };
        self.written.push((case, log));
        for node in ["one", "two"] {
            until("the node has a runner", || {
                self.cluster.at(node).runner().is_some()
            });
            self.cluster.at(node).notes_nothing();
        }
    }

    /// Waits until one node has it and all agree on that, or it is lost.
    pub(crate) fn settle(&self, name: &str, id: &str) -> Fate {
        let (mut fate, mut last) = (None, None);
        until("it is somewhere", || {
            let at = self.cluster.running_at(id);
            assert!(at.len() <= 1, "{name} runs on {at:?}");
            let place = self.cluster.place(id);
            let seen = Some((at.clone(), place.clone()));
            if seen != last {
                println!("  runs on {at:?}; the cluster has {place:?}");
                last = seen;
            }
            let Some((node, state)) = place else {
                return false;
            };
            fate = match (&at[..], &*state) {
                ([], state) if state.contains("lost") => Some(Lost),
                ([at], state) if *at == node && !state.contains("moved") => Some(Lives),
                _ => None,
            };
            fate.is_some()
        });
        fate.unwrap()
    }

    pub(crate) fn is_lost_once(&self, id: &str, case: &str) {
        // The registry has it a moment before it is told.
        let mut times = 0;
        until("it is told", || {
            let told = self.cluster.ask(&["events", "--json"]).ok();
            let events = told
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let lost = events.filter(|event| event["event"] == "lost" && has_id(event, id));
            times = lost.count();
            times > 0
        });
        assert_eq!(times, 1, "{case}");
        let listed = self.cluster.json(&["ps", "--all", "--json"]);
        let rows = listed.as_array().unwrap().iter();
        assert_eq!(rows.filter(|row| has_id(row, id)).count(), 1, "{case}");
    }

    /// Has it write some more, and end; what it wrote.
    pub(crate) fn finish(&self, name: &str, case: &str) -> String {
        self.writes_on(name);
        fs::write(self.cluster.desk().join(format!("{name}.end")), "").unwrap();
        let output = self.cluster.whole(name);
        let log = self.log(name);
        assert!(output == log, "{case}: output and file differ");
        self.cluster.ask(&["rm", name]).ok();
        log
    }

    /// All of them wrote what one writes that nothing happens to.
    pub(crate) fn compare(&self) {
        let lines = |log: &str| log.lines().count();
        let most = self.written.iter().map(|(_, log)| lines(log)).max();
        let plain = World::new();
        let directory = format!("{}::/data", plain.directory.path().display());
        let text = program("plain", &format!("i<{}", most.unwrap()));
        let words = ["run", "--dir", &directory, &guest("lua"), "-e", &text];
        let expected = plain.ask(words).ok();
        for (case, log) in &self.written {
            assert!(expected.starts_with(log.as_str()), "{case}: another output");
            assert!(!log.is_empty());
        }
    }
}
