//! What clients of the key-value store saw while it was moved about and everything around it broke, and whether a store that
//! never moves could have answered so: see `linear`.
//!
//! Clients are in a network of their own, nodes in others, and what nodes send to each other takes a detour. A history ends
//! when its process is reported lost; with another process begins another one.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, How};
use crate::detour::Detour;
use crate::kv::Client;
use crate::linear::{Answer, Call, Deed, check};
use crate::network::{CLIENTS, Family, NODES, Network, network};
use crate::trial::{Fate, Trial};
use crate::world::{Actor, guest, until};

/// Ways for memory to travel.
const STRATEGIES: [&str; 5] = ["auto", "stop-and-copy", "pre-copy", "post-copy", "hybrid"];
/// Moves of the usual run; `MOVES=N` for more.
const MOVES: usize = 12;
/// Moves of one server, unless it is lost before.
const MOVES_OF_ONE: usize = 24;
const CLIENT_COUNT: usize = 6;
const KEYS: usize = 4;
/// The store's table, in MiB: there are rounds.
const TABLE: &str = "4";
/// Answers between two events, at most.
const ANSWERS_BETWEEN: u64 = 400;
/// How long a link is cut, if the move is not over before.
const CUT: Duration = Duration::from_secs(3);
const DELAY: Duration = Duration::from_millis(15);
/// Of a hundred packets, at each of two links.
const LOST: u32 = 3;

/// What happens during a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Everything takes longer.
    Delay,
    /// Packets get lost, the clients', too.
    Loss,
    Cut(Whose),
    /// The service dies and is started again.
    Service(Whose),
    /// The runner dies, with all that it alone has.
    Runner(Whose),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Source,
    Target,
    /// Who has the registry.
    Home,
    /// Who has the port.
    Ingress,
    Clients,
}

/// One after the other.
const FAULTS: [Fault; 12] = [
    Fault::Nothing,
    Fault::Service(Whose::Target),
    Fault::Loss,
    Fault::Service(Whose::Source),
    Fault::Cut(Whose::Target),
    Fault::Service(Whose::Ingress),
    Fault::Delay,
    Fault::Runner(Whose::Target),
    Fault::Cut(Whose::Source),
    Fault::Service(Whose::Home),
    Fault::Cut(Whose::Clients),
    Fault::Runner(Whose::Source),
];

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The order of all beginnings and answers.
static MOMENT: AtomicU64 = AtomicU64::new(0);
/// No two writes are of the same value.
static VALUE: AtomicU64 = AtomicU64::new(0);

fn next(of: &AtomicU64) -> u64 {
    of.fetch_add(1, Ordering::SeqCst)
}

/// Clients that ask all the time.
struct Clients {
    is_over: Arc<AtomicBool>,
    answers: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Vec<(usize, Call)>>>,
}

impl Clients {
    fn begin(network: &Network, address: SocketAddr, seed: u64) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let mut clients = Self {
            is_over: Arc::clone(&is_over),
            answers: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..CLIENT_COUNT {
            let answers = Arc::<AtomicU64>::default();
            clients.answers.push(Arc::clone(&answers));
            let (namespace, is_over) = (network.namespace(CLIENTS), Arc::clone(&is_over));
            let random = Random(seed ^ number as u64);
            clients.threads.push(thread::spawn(move || {
                Network::enter(&namespace);
                ask(address, random, &is_over, &answers)
            }));
        }
        clients
    }

    fn all_answers(&self) -> u64 {
        let each = self.answers.iter();
        each.map(|answers| answers.load(Ordering::Relaxed)).sum()
    }

    /// Each of them is served.
    fn are_served(&self) {
        for answers in &self.answers {
            let before = answers.load(Ordering::Relaxed);
            // The one that is under way may have been asked for long ago.
            until("a client is served", || {
                answers.load(Ordering::Relaxed) > before + 1
            });
        }
    }

    /// How many calls were answered; whether all that was seen can have happened.
    fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        let mut keys = vec![Vec::new(); KEYS];
        for client in self.threads {
            for (key, call) in client.join().unwrap() {
                keys[key].push(call);
            }
        }
        for (key, calls) in keys.iter().enumerate() {
            if let Err(why) = check(calls) {
                panic!("key {key}: {why}");
            }
        }
        let calls = keys.iter().flatten();
        calls.filter(|call| call.answered.is_some()).count()
    }
}

/// What one client asks and hears. When it is cut off it comes again.
fn ask(
    address: SocketAddr,
    mut random: Random,
    is_over: &AtomicBool,
    answers: &AtomicU64,
) -> Vec<(usize, Call)> {
    let mut calls = Vec::new();
    let mut connection = None;
    while !is_over.load(Ordering::Relaxed) {
        let Some(client) = &mut connection else {
            let connected = TcpStream::connect_timeout(&address, Duration::from_secs(1));
            connection = connected.and_then(Client::on).ok();
            continue;
        };
        let key = random.below(KEYS as u64) as usize;
        let deed = match random.below(9) {
            0..4 => Deed::Put(next(&VALUE)),
            4..8 => Deed::Get,
            _ => Deed::Delete,
        };
        let begun = next(&MOMENT);
        let answered = match answer(client, key, deed) {
            Ok(answer) => {
                answers.fetch_add(1, Ordering::Relaxed);
                Some((next(&MOMENT), answer))
            }
            Err(error) => {
                let hung = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                assert!(!hung.contains(&error.kind()), "a client hears nothing");
                connection = None;
                None
            }
        };
        let call = Call {
            deed,
            begun,
            answered,
        };
        calls.push((key, call));
    }
    calls
}

fn answer(client: &mut Client, key: usize, deed: Deed) -> io::Result<Answer> {
    let (method, body) = match deed {
        Deed::Put(value) => ("PUT", value.to_string()),
        Deed::Get => ("GET", String::new()),
        Deed::Delete => ("DELETE", String::new()),
    };
    client.send(method, &format!("key{key}"), &body)?;
    let said = client.hear()?;
    let number = || said.body.trim_end().parse().unwrap();
    Ok(match (deed, said.status) {
        (Deed::Put(_), 200) => Answer::Put(number()),
        (Deed::Get, 200) => Answer::Got(said.version.unwrap(), number()),
        (Deed::Delete, 204) => Answer::Deleted,
        (Deed::Get | Deed::Delete, 404) => Answer::Nothing,
        _ => panic!("{deed:?}: {said:?}"),
    })
}

/// Nodes in a network, and how their links are.
struct Lab {
    trial: Trial,
    detour: Detour,
    random: Random,
    network: Network,
}

/// One server and its clients.
struct Server {
    name: String,
    id: String,
    ingress: &'static str,
    clients: Clients,
}

impl Lab {
    fn new(network: Network, seed: u64) -> Self {
        let ways = NODES.map(|name| {
            let at = |host: String| SocketAddr::new(host.parse().unwrap(), PORT);
            (at(network.detour(name)), at(network.host(name)))
        });
        let detour = network.within_detour(move || Detour::begin(&ways).unwrap());
        let trial = Trial::on(|name| {
            let advertised = format!("{}:{PORT}", network.detour(name));
            let how = How {
                within: network.within(name),
                options: vec!["--advertise".to_owned(), advertised],
                ..How::default()
            };
            (format!("{}:{PORT}", network.host(name)), how)
        });
        Self {
            trial,
            detour,
            random: Random(seed),
            network,
        }
    }

    fn cluster(&self) -> &Cluster {
        &self.trial.cluster
    }

    fn serve(&mut self, number: usize) -> Server {
        let ingress = NODES[(number + 1) % NODES.len()];
        let (name, kv) = (format!("kv{number}"), guest("kv"));
        let words = [
            "run", "--detach", "--name", &name, "--listen", "0", &kv, TABLE,
        ];
        let id = self
            .cluster()
            .ask_at(ingress, &words)
            .ok()
            .trim()
            .to_owned();
        let address = self.cluster().address_of(&name);
        let clients = Clients::begin(&self.network, address, self.random.below(u64::MAX));
        clients.are_served();
        Server {
            name,
            id,
            ingress,
            clients,
        }
    }

    /// One move, in which something happens. Whether it was made; nothing if the process is lost.
    fn move_in_spite_of(&mut self, server: &Server, strategy: &str, fault: Fault) -> Option<bool> {
        let (source, _) = self.cluster().place(&server.id).unwrap();
        let others: Vec<&str> = NODES.into_iter().filter(|node| *node != source).collect();
        let target = others[self.random.below(2) as usize];
        let name = |whose| match whose {
            Whose::Source => NODES.into_iter().find(|node| *node == source).unwrap(),
            Whose::Target => target,
            Whose::Home => "home",
            Whose::Ingress => server.ingress,
            Whose::Clients => CLIENTS,
        };
        match fault {
            Fault::Delay => self.detour.delay(DELAY),
            Fault::Loss => {
                for name in NODES.into_iter().chain([CLIENTS]) {
                    self.network.thin(name, LOST);
                }
            }
            _ => {}
        }
        let disturbed = match fault {
            Fault::Cut(whose) | Fault::Service(whose) | Fault::Runner(whose) => name(whose),
            Fault::Nothing | Fault::Delay | Fault::Loss => "",
        };
        let asked = NODES.into_iter().find(|node| *node != disturbed).unwrap();
        let node = self.cluster().at(asked);
        let words = ["move", &server.name, target, "--strategy", strategy];
        let mut moving = node.begin(&self.cluster().world, &words);
        self.after_some(server, &moving);
        match fault {
            Fault::Cut(_) => {
                self.network.cut(disturbed);
                let begun = Instant::now();
                until("the link is mended", || {
                    moving.out.has_ended() || begun.elapsed() > CUT
                });
                self.network.heal(disturbed);
            }
            Fault::Service(_) => {
                self.trial.cluster.kill(disturbed);
                self.trial.cluster.start_again(disturbed);
            }
            Fault::Runner(_) => self.cluster().at(disturbed).kill_runner(),
            Fault::Nothing | Fault::Delay | Fault::Loss => {}
        }
        let moved = moving.end().success();
        self.detour.delay(Duration::ZERO);
        if fault == Fault::Loss {
            for name in NODES.into_iter().chain([CLIENTS]) {
                self.network.heal(name);
            }
        }
        println!("{strategy} from {source} to {target}, {fault:?}: moved {moved}");
        match self.trial.settle(&server.name, &server.id) {
            Fate::Lost => {
                let could = [Fault::Runner(Whose::Source), Fault::Runner(Whose::Target)];
                assert!(could.contains(&fault), "it is lost");
                self.trial.is_lost_once(&server.id, "a runner was killed");
                None
            }
            _ => {
                server.clients.are_served();
                let place = self.cluster().place(&server.id);
                Some(place.is_some_and(|place| place.0 == target))
            }
        }
    }

    /// Clients get some more answers, or the move ends.
    fn after_some(&mut self, server: &Server, moving: &Actor) {
        let after = server.clients.all_answers() + self.random.below(ANSWERS_BETWEEN);
        until("clients are answered, or the move ends", || {
            server.clients.all_answers() >= after || moving.out.has_ended()
        });
    }
}

const PORT: u16 = 7355;

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn what_clients_see_is_what_a_store_that_never_moves_would_show() {
    let network = network!(Family::Four);
    let (wanted, seed) = (
        number("MOVES").unwrap_or(MOVES),
        number("SEED").unwrap_or(1),
    );
    println!("SEED={seed}");
    let mut lab = Lab::new(network, seed as u64);
    let (mut asked, mut made, mut lost, mut answers) = (0, 0, 0, 0);
    for number in 0.. {
        if asked >= wanted {
            break;
        }
        let server = lab.serve(number);
        let mut lives = true;
        for _ in 0..MOVES_OF_ONE {
            if asked >= wanted || !lives {
                break;
            }
            // Each with each, in time.
            let strategy = STRATEGIES[(asked + asked / FAULTS.len()) % STRATEGIES.len()];
            let moved = lab.move_in_spite_of(&server, strategy, FAULTS[asked % FAULTS.len()]);
            asked += 1;
            made += usize::from(moved == Some(true));
            lives = moved.is_some();
        }
        lost += usize::from(!lives);
        answers += server.clients.end();
        if lives {
            lab.cluster().ask(&["kill", &server.name]).ok();
        }
    }
    println!("{asked} moves, {made} of them made, {lost} servers lost, {answers} answers");
    assert!(made > 0 && answers > asked);
}
