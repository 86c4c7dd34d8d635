//! Memory that comes after its process: on one connection and on several, with what it writes being what one writes that
//! stayed.

use std::time::Duration;

use sterna_migration::{Command, Holding, Rest, RunnerEvent};
use sterna_process::ProcessId;
use sterna_runner::message::{Order, Said, Side};

use crate::rig::{Journey, Runner, SOURCE, Service, tcp};
use crate::toys;

impl Journey<'_> {
    /// One more connection.
    fn lane(&self, secret: u8) {
        let (one, other) = tcp();
        let (source, lane) = (SOURCE, true);
        let target = Side::Target { source, lane };
        self.to.channel(self.attempt, other, secret, target);
        let source = Side::Source { lane };
        self.from.channel(self.attempt, one, secret, source);
    }

    /// It runs at the target, and its memory comes after it.
    fn go_before(&self) {
        let (attempt, process) = (self.attempt, self.attempt.process);
        self.pause();
        let size = self.capture();
        let rest = Rest::Follows {
            rate_max: None,
            within: Duration::from_secs(60),
        };
        self.push_so(rest).unwrap();
        self.restore(size);
        let epoch = attempt.epoch.next().unwrap();
        self.to.step(Command::Resume { process, epoch });
        let (mut resumed, mut followed) = (None, false);
        self.to.hear("that all has come", |said| {
            match said {
                Said::Event(RunnerEvent::Resumed { follows, .. }) => resumed = Some(follows),
                Said::Event(RunnerEvent::Followed { attempt: of }) => followed = of == attempt,
                _ => {}
            }
            let whole = followed || resumed == Some(false);
            (resumed.is_some() && whole).then_some(())
        });
        let seen = self.to.seen(process);
        assert_eq!(seen.holding, Holding::Running { epoch });
        self.from.step(Command::Discard { attempt });
    }
}

fn moves(process: ProcessId, runners: [&Runner; 2], services: [&Service; 2], lanes: u8) -> String {
    let [one, two] = runners;
    for number in 1..=10 {
        let (here, there) = (services[(number + 1) % 2], services[number % 2]);
        let journey = Journey::of(process, here, there);
        journey.prepare([one, two][number % 2].log(&format!("{lanes}-{number}")));
        journey.connect();
        (0..lanes).for_each(|lane| journey.lane(100 + lane));
        journey.go_before();
    }
    services[0].done(Order::Kill(process));
    services[0].ended(process);
    let first = one.text(&format!("{lanes}-0"));
    let rest = (1..=10).map(|number| [one, two][number % 2].text(&format!("{lanes}-{number}")));
    rest.fold(first, |all, next| all + &next)
}

#[test]
fn memory_follows_on_one_connection_and_on_several_and_nothing_is_lost() {
    let [one, two] = [Runner::start(), Runner::start()];
    let services = [one.service(), two.service()];
    let stays = services[0].spawn(toys::FREE, &toys::large(), one.log("stays"));
    for lanes in [0, 2] {
        let log = one.log(&format!("{lanes}-0"));
        let process = services[0].spawn(toys::FREE, &toys::large(), log);
        let written = moves(process, [&one, &two], [&services[0], &services[1]], lanes);
        let lines = written.lines().count();
        let mut plain = String::new();
        while plain.lines().count() < lines {
            plain = one.text("stays");
        }
        assert!(lines > 0 && plain.starts_with(&written), "{lines} lines");
    }
    services[0].done(Order::Kill(stays));
}
