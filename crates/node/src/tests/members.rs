//! A node of the cluster that was taken over: it has a key that all others know, and asks for what is not its own.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use quinn::{ClientConfig, Endpoint, TransportConfig};
use sterna_migration::{
    Attempt, Body, Grant, Intent, Life, Message, MoveId, Offer, Readied, Record, Snapshot,
    Strategy, TargetFailure, Timings,
};
use sterna_process::{Epoch, MemoryLayout, ProcessId, ProgramId, Tag};

use super::captive::{LARGE, LARGE_BYTES, Prison, begin};
use super::world::{PATIENCE, Peer, Running, about, info, on_runtime, stolen};
use crate::identity::NodeKey;
use crate::limits::{
    CONNECTIONS_OF_ONE_MAX, HELLO_WITHIN, REPLIES_WAITING_BYTES, REQUEST_BYTES_MAX, REQUESTS_MAX,
};
use crate::message::{
    Deed, FailureKind, HostingReply, HostingRequest, RegistryRequest, Reply, Request, ShelfRequest,
    SwapBytes,
};
use crate::tls;
use crate::wire::{self, VERSIONS};
use crate::workshop::Workshop;

/// A cluster: the registry's node, one that hosts processes, one that owns a process, and the one that was taken over.
/// The last two are keys.
struct Cluster {
    home: Running,
    host: Running,
    /// To the host's runner, which does nothing.
    _link: UnixStream,
    owner: NodeKey,
    evil: NodeKey,
    /// The owner's.
    process: ProcessId,
}

fn failed(reply: Option<Reply>) -> Option<FailureKind> {
    match reply? {
        Reply::Failed(failure) => Some(failure.kind),
        _ => None,
    }
}

impl Cluster {
    fn new() -> Self {
        let home = Running::start("home");
        let (prison, linked) = Prison::new();
        let workshop: Arc<dyn Workshop> = prison;
        let host = Running::start_with("host", |options| options.workshop = Some(workshop));
        host.join(&home);
        let link = linked.recv_timeout(PATIENCE).unwrap();
        begin(&link, Vec::new());
        let cluster = Self {
            home,
            host,
            _link: link,
            owner: NodeKey::random(),
            evil: NodeKey::random(),
            process: ProcessId::random(),
        };
        for (key, name) in [(&cluster.owner, "owner"), (&cluster.evil, "evil")] {
            let admitted = Request::Admit {
                secret: stolen(&cluster.home.invite()).secret,
                candidate: about(name),
            };
            let reply = cluster.asks(key, &cluster.home, &admitted);
            assert!(matches!(reply, Some(Reply::Roster(_))), "{reply:?}");
        }
        let created = RegistryRequest::CreateRecord {
            process: cluster.process,
            info: Box::new(info(cluster.owner.id(), Some("job"))),
        };
        let created = cluster.asks(&cluster.owner, &cluster.home, &Request::Registry(created));
        assert!(
            matches!(created, Some(Reply::Record(Some(_)))),
            "{created:?}"
        );
        // The host has heard of them when it answers them.
        while failed(cluster.asks(&cluster.evil, &cluster.host, &Request::Status)).is_some() {}
        cluster
    }

    fn asks(&self, key: &NodeKey, node: &Running, request: &Request) -> Option<Reply> {
        on_runtime(async {
            let peer = Peer::dial(node.address, node.id, key).await;
            peer.ask(request).await
        })
    }

    /// Asks the host as the one that was taken over.
    fn evil(&self, request: HostingRequest) -> Option<Reply> {
        self.asks(&self.evil, &self.host, &Request::Hosting(request))
    }

    fn evil_at_registry(&self, request: RegistryRequest) -> Option<Reply> {
        self.asks(&self.evil, &self.home, &Request::Registry(request))
    }

    /// What the registry has of the owner's process.
    fn known(&self) -> String {
        let process = self.process;
        format!(
            "{:?}",
            self.evil_at_registry(RegistryRequest::Process { process })
        )
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            process: self.process,
            epoch: Epoch::FIRST,
            move_id: MoveId::from_bytes([3; 16]),
        }
    }
}

// long because: a row for each request
#[test]
fn the_registry_gives_a_member_nothing_that_belongs_to_another() {
    let cluster = Cluster::new();
    let before = cluster.known();
    let (process, evil) = (cluster.process, cluster.evil.id());
    let now = Record::first(cluster.owner.id());
    let grant = Grant::from_bytes([9; 16]);
    let declared = now.declared(Intent {
        move_id: MoveId::from_bytes([3; 16]),
        target: evil,
        seal: grant.seal(),
    });
    let closed = |life| now.closed(life).unwrap();
    let swaps = [
        (now, Record::owned(evil, Epoch(2))),
        (now, Record::owned(evil, Epoch::FIRST)),
        (now, declared),
        (declared, declared.committed().unwrap()),
        (now, closed(Life::Ended)),
        (now, closed(Life::Lost)),
        (now, closed(Life::Frozen(grant.seal()))),
    ];
    for (expected, new) in swaps {
        let swap = SwapBytes {
            process,
            expected: expected.encode().unwrap(),
            new: new.encode().unwrap(),
            grant: Some(grant),
            ending: None,
        };
        let reply = cluster.evil_at_registry(RegistryRequest::SwapRecord(Box::new(swap)));
        // Refused, or answered with the record as it is.
        if let Some(Reply::Record(found)) = &reply {
            assert_eq!(*found, Some(now.encode().unwrap()), "{new:?}");
        } else {
            assert_eq!(failed(reply), Some(FailureKind::Forbidden), "{new:?}");
        }
    }
    let other = ProcessId::random();
    let bytes = vec![1];
    let create = |process, by, name| RegistryRequest::CreateRecord {
        process,
        info: Box::new(info(by, name)),
    };
    let owner = cluster.owner.id();
    for (request, kind) in [
        (create(other, evil, Some("job")), FailureKind::Taken),
        (create(other, owner, None), FailureKind::Forbidden),
        (
            RegistryRequest::SetKeeping {
                process,
                bytes: bytes.clone(),
            },
            FailureKind::Forbidden,
        ),
        (
            RegistryRequest::SetExtra {
                process,
                before: Vec::new(),
                extra: bytes,
            },
            FailureKind::Forbidden,
        ),
        (RegistryRequest::Forget { process }, FailureKind::Refused),
    ] {
        let asked = format!("{request:?}");
        assert_eq!(
            failed(cluster.evil_at_registry(request)),
            Some(kind),
            "{asked}"
        );
    }
    // Made before: it is answered with what there is.
    let reply = cluster.evil_at_registry(create(process, evil, None));
    assert!(matches!(reply, Some(Reply::Record(Some(found))) if found == now.encode().unwrap()));
    assert_eq!(cluster.known(), before);
}

// long because: a row for each request
#[test]
fn a_node_does_nothing_for_a_member_that_is_not_that_ones_to_ask() {
    let cluster = Cluster::new();
    let before = cluster.known();
    let (process, attempt) = (cluster.process, cluster.attempt());
    let request = |request| HostingRequest::Shelf {
        folder: process,
        request,
    };
    let name = || String::from("manifest-1");
    let put = |offset, name| ShelfRequest::Put {
        name,
        offset,
        bytes: vec![7],
        end: true,
    };
    for (request, kind) in [
        // What users of its own machine may ask only.
        (HostingRequest::List { ended: true }, FailureKind::Forbidden),
        (
            HostingRequest::Find { text: "j".into() },
            FailureKind::Forbidden,
        ),
        // A move that is not its own.
        (HostingRequest::Channel { attempt }, FailureKind::Forbidden),
        (
            HostingRequest::SaltedChannel(attempt, [7; 16]),
            FailureKind::Forbidden,
        ),
        // A folder of another's process, from the beginning and from the middle.
        (request(put(0, name())), FailureKind::Forbidden),
        (request(put(1, name())), FailureKind::Refused),
        (
            request(ShelfRequest::Remove { name: name() }),
            FailureKind::Forbidden,
        ),
        // Its memory, as it was.
        (request(ShelfRequest::List), FailureKind::Forbidden),
        (
            request(ShelfRequest::Get {
                name: name(),
                offset: 1,
            }),
            FailureKind::Forbidden,
        ),
        // A clone of another's process.
        (
            HostingRequest::Adopt {
                process: ProcessId::random(),
                key: sterna_snapshot::Key::from_bytes([1; 32]),
                parent: process,
            },
            FailureKind::Refused,
        ),
        // What is not here.
        (
            HostingRequest::Steer {
                process,
                deed: Deed::Forget,
            },
            FailureKind::Refused,
        ),
        (
            HostingRequest::Program {
                program: ProgramId::of(b"none"),
                offset: 0,
            },
            FailureKind::NotHere,
        ),
        (
            HostingRequest::Message {
                bytes: b"SM\x03\0\0\0\0\0".to_vec(),
            },
            FailureKind::Refused,
        ),
        (
            HostingRequest::Message { bytes: Vec::new() },
            FailureKind::Refused,
        ),
    ] {
        let asked = format!("{request:?}");
        assert_eq!(failed(cluster.evil(request)), Some(kind), "{asked}");
    }
    assert_eq!(cluster.known(), before);
    cluster.host.is_well();
}

/// Names that would lead out of a folder.
// long because: a row for each request
#[test]
fn a_folder_that_a_node_keeps_for_others_has_no_way_out() {
    let cluster = Cluster::new();
    let folder = ProcessId::random();
    let key = std::fs::read(cluster.host.data().join("node.key")).unwrap();
    let out = [
        "../../node.key",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "",
        "x\0y",
        "../x.partial",
    ];
    for name in out.map(String::from) {
        let offset = 0;
        let requests = [
            ShelfRequest::Get {
                name: name.clone(),
                offset,
            },
            ShelfRequest::Remove { name: name.clone() },
            ShelfRequest::Put {
                name: name.clone(),
                offset,
                bytes: vec![7],
                end: true,
            },
        ];
        for request in requests {
            let asked = format!("{request:?}");
            let reply = cluster.evil(HostingRequest::Shelf { folder, request });
            assert_eq!(failed(reply), Some(FailureKind::Refused), "{asked}");
        }
    }
    assert_eq!(
        std::fs::read(cluster.host.data().join("node.key")).unwrap(),
        key
    );
    assert!(!cluster.host.data().join("snapshots/x.partial").exists());
    // A whole object is not there before its last piece, and pieces come in their turn.
    let put = |offset, end| {
        let (name, bytes) = (String::from("0-pack"), vec![7; 10]);
        let request = ShelfRequest::Put {
            name,
            offset,
            bytes,
            end,
        };
        cluster.evil(HostingRequest::Shelf { folder, request })
    };
    let get = || {
        let request = ShelfRequest::Get {
            name: "0-pack".into(),
            offset: 0,
        };
        cluster.evil(HostingRequest::Shelf { folder, request })
    };
    let absent = |reply: Option<Reply>| {
        matches!(
            reply,
            Some(Reply::Hosting(HostingReply::Shelf(
                crate::message::ShelfReply::Absent
            )))
        )
    };
    assert!(matches!(put(0, false), Some(Reply::Done)));
    assert!(absent(get()));
    assert_eq!(failed(put(20, true)), Some(FailureKind::Refused), "a gap");
    assert!(absent(get()));
    // Beyond the file's end nothing is read.
    assert!(matches!(put(0, true), Some(Reply::Done)));
    let request = ShelfRequest::Get {
        name: "0-pack".into(),
        offset: u64::MAX,
    };
    let reply = cluster.evil(HostingRequest::Shelf { folder, request });
    assert!(
        !matches!(&reply, Some(Reply::Hosting(HostingReply::Shelf(
        crate::message::ShelfReply::Piece { bytes, .. }))) if !bytes.is_empty()),
        "{reply:?}"
    );
}

/// Whatever it says of a move of others is not heard, in whichever order and how often.
#[test]
fn what_a_member_says_of_moves_of_others_changes_nothing() {
    let cluster = Cluster::new();
    let before = cluster.known();
    let attempt = cluster.attempt();
    let offer = Offer {
        kind: Tag::new("wasm"),
        program: LARGE,
        layout: MemoryLayout::default(),
        image_format: sterna_process::image::FORMAT_NEWEST,
        strategy: Strategy::StopAndCopy,
    };
    let snapshot = Snapshot {
        grant: Grant::from_bytes([9; 16]),
        size: sterna_migration::Size {
            image_bytes: u64::MAX,
            pages: u64::MAX,
        },
    };
    let bodies = [
        Body::Done(Timings::default()),
        Body::Committed,
        Body::State(snapshot),
        Body::Accept(Readied::default()),
        Body::Failed(TargetFailure::Unknown),
        Body::Abort,
        Body::Ask,
        Body::Offer(offer),
        Body::State(snapshot),
        Body::Abort,
    ];
    for _ in 0..3 {
        for body in bodies.clone() {
            for node in [&cluster.host, &cluster.home] {
                let bytes = Message {
                    attempt,
                    body: body.clone(),
                }
                .encode(2)
                .unwrap();
                let request = Request::Hosting(HostingRequest::Message { bytes });
                let reply = cluster.asks(&cluster.evil, node, &request);
                let hosts = node.id == cluster.host.id;
                assert_eq!(matches!(reply, Some(Reply::Done)), hosts, "{reply:?}");
            }
        }
    }
    assert_eq!(cluster.known(), before);
    cluster.host.is_well();
}

/// A connection whose answers nobody reads holds a certain amount of them, and no more.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    let cluster = Cluster::new();
    let host = &cluster.host;
    let large = Request::Hosting(HostingRequest::Program {
        program: LARGE,
        offset: 0,
    });
    on_runtime(async {
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let crypto = tls::client(&cluster.evil, host.id, &Arc::default());
        let mut config = ClientConfig::new(Arc::new(crypto));
        let mut stingy = TransportConfig::default();
        stingy.stream_receive_window(1024_u32.into());
        config.transport_config(Arc::new(stingy));
        let connecting = endpoint.connect_with(config, host.address, tls::SERVER_NAME);
        let connection = connecting.unwrap().await.unwrap();
        let (mut to, mut from) = connection.open_bi().await.unwrap();
        wire::greet(&mut from, &mut to, &VERSIONS, HELLO_WITHIN)
            .await
            .unwrap();
        let frame = wire::encode(&large, REQUEST_BYTES_MAX).unwrap();
        let mut unread = Vec::new();
        for _ in 0..REQUESTS_MAX - 2 {
            let (mut to, from) = connection.open_bi().await.unwrap();
            to.write_all(&frame).await.unwrap();
            unread.push((to, from));
        }
        // Every one of them is answered before the first is read: a head has come of each, unless it was given up.
        let mut heads = Vec::new();
        for (_, from) in &mut unread {
            let mut head = [0; 4];
            if from.read_exact(&mut head).await.is_ok() {
                heads.push(u32::from_le_bytes(head) as usize);
            }
        }
        let (whole, refused): (Vec<&usize>, Vec<&usize>) =
            heads.iter().partition(|bytes| **bytes > LARGE_BYTES);
        assert!(!whole.is_empty() && !refused.is_empty(), "{heads:?}");
        let room = REPLIES_WAITING_BYTES / LARGE_BYTES;
        assert!(whole.len() <= room || heads.len() < unread.len());
        assert!(refused.iter().all(|bytes| **bytes < 1024), "{heads:?}");
        // Others are answered meanwhile.
        let other = Peer::dial(host.address, host.id, &cluster.owner).await;
        let reply = other.ask(&large).await;
        assert!(matches!(
            reply,
            Some(Reply::Hosting(HostingReply::Program { .. }))
        ));
    });
    cluster.host.is_well();
}

#[test]
fn one_key_has_a_few_connections_and_no_more() {
    let cluster = Cluster::new();
    let host = &cluster.host;
    on_runtime(async {
        let other = Peer::dial(host.address, host.id, &cluster.owner).await;
        let mut open = Vec::new();
        for _ in 0..=CONNECTIONS_OF_ONE_MAX {
            open.push(Peer::dial(host.address, host.id, &cluster.evil).await);
        }
        // The newest is the one that is most likely alive.
        assert!(open[0].closed().await.contains("too many connections"));
        let (newest, other) = (
            open[CONNECTIONS_OF_ONE_MAX].ask(&Request::Status),
            other.ask(&Request::Status),
        );
        assert!(matches!(newest.await, Some(Reply::Status(_))));
        assert!(matches!(other.await, Some(Reply::Status(_))));
    });
}

/// The port for pages is open to everybody, and gives nothing to who is not expected.
#[test]
fn who_is_not_expected_on_the_port_for_pages_is_sent_away() {
    // It has the number of the other port, unless somebody else has that for TCP.
    let mut clusters = std::iter::repeat_with(Cluster::new).take(20);
    let open = |cluster: &Cluster| TcpStream::connect(cluster.host.address).is_ok();
    let cluster = clusters.find(open).expect("ports that are free");
    let address = cluster.host.address;
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert_eq!(said, b"");
    }
    cluster.host.is_well();
}
