//! tokio: tasks without stacks, on one worker.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn, spawn_blocking, yield_now};

use crate::peers::{Task, processor_time, resident, wait_for_end};

/// Bytes of a server's buffer: more than a request, as is usual.
const BUFFER: usize = 4096;
/// How long the task blocks that others must not wait for.
const BLOCKS: Duration = Duration::from_millis(500);

pub(crate) fn run(task: Task, count: usize) -> Result<Option<f64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // As a task of its own: what `block_on` is given runs elsewhere.
    runtime.block_on(async move { spawn(figure(task, count)).await? })
}

async fn figure(task: Task, count: usize) -> Result<Option<f64>> {
    let start = Instant::now();
    match task {
        Task::Create => {
            for number in 0..count {
                spawn(async move { black_box(number) }).await?;
            }
        }
        Task::Yield => {
            let one = move || async move {
                for _ in 0..count / 2 {
                    yield_now().await;
                }
            };
            let (one, two) = (spawn(one()), spawn(one()));
            one.await?;
            two.await?;
        }
        Task::Channel => channel(count).await?,
        Task::Blocked => return Ok(Some(blocked(count, async {}).await?)),
        Task::Echo => return echo().await,
        Task::Gap => return Ok(Some(gap(async { std::thread::sleep(BLOCKS) }).await?)),
        Task::AnnouncedGap => {
            let blocks = async { drop(spawn_blocking(|| std::thread::sleep(BLOCKS)).await) };
            return Ok(Some(gap(blocks).await?));
        }
        Task::Idle => {
            let mut used = 0.0;
            blocked(count, async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let before = processor_time("self");
                tokio::time::sleep(Duration::from_secs(1)).await;
                used = processor_time("self") - before;
            })
            .await?;
            return Ok(Some(used / 1e6));
        }
        Task::Share => return Ok(None),
    }
    Ok(Some(start.elapsed().as_nanos() as f64 / count as f64))
}

async fn channel(count: usize) -> Result<()> {
    let (there, mut inbox) = mpsc::channel(1);
    let (back, mut answers) = mpsc::channel(1);
    let echo = spawn(async move {
        while let Some(value) = inbox.recv().await {
            if back.send(value).await.is_err() {
                return;
            }
        }
    });
    for value in 0..count / 2 {
        there.send(value).await?;
        assert_eq!(answers.recv().await, Some(value));
    }
    drop(there);
    Ok(echo.await?)
}

async fn blocked(count: usize, meanwhile: impl Future<Output = ()>) -> Result<f64> {
    let before = resident();
    let (go_on, gate) = watch::channel(false);
    let mut tasks = Vec::with_capacity(count);
    for _ in 0..count {
        let mut gate = gate.clone();
        tasks.push(spawn(
            async move { drop(gate.wait_for(|open| *open).await) },
        ));
    }
    // The newest task runs last.
    yield_now().await;
    spawn(async {}).await?;
    let bytes = (resident() - before) / count as f64;
    meanwhile.await;
    go_on.send(true)?;
    for task in tasks {
        task.await?;
    }
    Ok(bytes)
}

async fn gap(block: impl Future<Output = ()> + Send + 'static) -> Result<f64> {
    let blocks = spawn(async {
        // The other has begun to measure.
        tokio::time::sleep(Duration::from_millis(20)).await;
        block.await;
    });
    let measures = spawn(async {
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while start.elapsed() < 2 * BLOCKS {
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    });
    blocks.await?;
    Ok(measures.await?.as_secs_f64() * 1e3)
}

async fn echo() -> Result<Option<f64>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(|| {
        wait_for_end();
        std::process::exit(0);
    });
    loop {
        let (mut stream, _) = listener.accept().await?;
        spawn(async move {
            let mut buffer = [0; BUFFER];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
    }
}
