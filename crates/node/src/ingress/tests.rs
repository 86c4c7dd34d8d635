//! A port with real clients; the other end of its attachments is an echo.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use sterna_ingress::{Back, Decoder, Event};
use sterna_process::Epoch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::Port;
use super::places::Places;

/// Attachments, one in place of the other.
const TIMES: u64 = 300;

fn port() -> Arc<Port> {
    open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 16).unwrap()
}

fn open(address: SocketAddr, places: usize) -> io::Result<Arc<Port>> {
    Port::open(address, 1, Arc::new(Places::of(places)))
}

/// Attaches, and echoes what clients send until it does so again.
async fn echo(port: &Arc<Port>, process: &Arc<Mutex<(u64, Back)>>, epoch: u64) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let attached = Arc::clone(port);
    tokio::spawn(async move {
        let (from, to) = ours.into_split();
        let _ = attached.attach(Epoch(epoch), from, to).await;
    });
    let process = Arc::clone(process);
    {
        let mut process = process.lock().unwrap();
        process.0 = epoch;
        process.1.attach();
    }
    tokio::spawn(async move {
        let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
        loop {
            let mut frames = Vec::new();
            {
                let (current, back) = &mut *process.lock().unwrap();
                if *current != epoch {
                    return;
                }
                while let Some(event) = back.event() {
                    if let Event::Deliver(id) = event {
                        let (bytes, _) = back.pending(id);
                        let bytes = bytes.to_vec();
                        back.delivered(id, bytes.len(), true);
                        back.push(id, &bytes);
                    }
                }
                back.write(&mut frames, 1 << 20);
            }
            if theirs.write_all(&frames).await.is_err() {
                return;
            }
            match theirs.read(&mut buffer).await {
                Ok(got) if got > 0 => decoder.extend(&buffer[..got]),
                _ => return,
            }
            let (current, back) = &mut *process.lock().unwrap();
            if *current != epoch {
                return;
            }
            while let Some(frame) = decoder.frame().unwrap() {
                back.take(&frame).unwrap();
            }
        }
    });
}

#[test]
fn clients_are_answered_however_often_another_attaches() {
    on_runtime(async {
        let (port, process) = (port(), Arc::default());
        let mut client = TcpStream::connect(port.address()).await.unwrap();
        for epoch in 1..=TIMES {
            client.write_all(&epoch.to_le_bytes()).await.unwrap();
            echo(&port, &process, epoch).await;
            let answer = client.read_u64_le().await.unwrap();
            assert_eq!(answer, epoch);
        }
    });
}

/// One that keeps trying is there before the port is.
#[test]
fn a_client_that_connects_at_once_is_answered() {
    on_runtime(async {
        for _ in 0..TIMES {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let client = tokio::task::spawn_blocking(move || {
                loop {
                    if let Ok(client) = std::net::TcpStream::connect(address) {
                        return client;
                    }
                }
            });
            let port = loop {
                // The client may have got the port itself: it connects from any.
                match open(address, 1) {
                    Ok(port) => break port,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let client = client.await.unwrap();
            if client.local_addr().unwrap() != address {
                client.set_nonblocking(true).unwrap();
                let mut client = TcpStream::from_std(client).unwrap();
                echo(&port, &Arc::default(), 1).await;
                client.write_u8(7).await.unwrap();
                assert_eq!(client.read_u8().await.unwrap(), 7);
            }
            port.close();
        }
    });
}

#[test]
fn who_had_the_process_before_attaches_no_more() {
    on_runtime(async {
        let (port, process) = (port(), Arc::default());
        let mut client = TcpStream::connect(port.address()).await.unwrap();
        echo(&port, &process, 2).await;
        client.write_u8(7).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 7);
        let (from, to) = UnixStream::pair().unwrap().0.into_split();
        assert!(port.attach(Epoch(1), from, to).await.is_err());
        client.write_u8(8).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 8);
    });
}

#[test]
fn clients_of_a_port_that_is_closed_are_cut_off() {
    on_runtime(async {
        let port = port();
        let mut client = TcpStream::connect(port.address()).await.unwrap();
        client.write_u8(7).await.unwrap();
        while port.with(|front| front.clients()) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!port.was_attached());
        port.close();
        let ended = client.read(&mut [0]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        assert!(port.has_waited().is_some());
    });
}

#[test]
fn clients_for_whom_there_is_no_place_are_turned_away() {
    on_runtime(async {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let places = Arc::new(Places::of(2));
        let one = Port::open(any, 1, Arc::clone(&places)).unwrap();
        let other = Port::open(any, 1, places).unwrap();
        let (mut first, mut second) = (
            TcpStream::connect(one.address()).await.unwrap(),
            TcpStream::connect(other.address()).await.unwrap(),
        );
        echo(&one, &Arc::default(), 1).await;
        echo(&other, &Arc::default(), 1).await;
        for client in [&mut first, &mut second] {
            client.write_u8(7).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), 7);
        }
        let mut third = TcpStream::connect(one.address()).await.unwrap();
        let ended = third.read(&mut [0]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        other.close();
        // A place is free as soon as its client has heard of that.
        loop {
            let mut client = TcpStream::connect(one.address()).await.unwrap();
            let _ = client.write_u8(8).await;
            if matches!(client.read_u8().await, Ok(8)) {
                break;
            }
        }
    });
}

fn on_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let within = std::time::Duration::from_secs(120);
        tokio::time::timeout(within, work)
            .await
            .expect("it comes to an end");
    });
}
