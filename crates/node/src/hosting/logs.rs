//! The output of processes, wherever it was written.
//!
//! ```text
//! DATA/hosting/logs/PROCESS.EPOCH      what was written here from that epoch on
//! ```
//!
//! The output of a process is one sequence of bytes. Each node on which it was has a part of it, and a part's header
//! says from which node the process came, where the part before is. What cannot be had is named, never left out.

mod files;
mod marks;
mod stitching;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sterna_migration::{Life, NodeId};
use sterna_process::{Epoch, ProcessId};
use sterna_runner::Rewind;
use sterna_runner::log::LogReader;
use tokio::time::{Instant, sleep};

use super::{Hosting, blocking};
use crate::limits::{LOG_LOOK_EVERY, LOG_PAGE_BYTES, LOG_WAIT_MAX, SWEEP_AFTER};
use crate::message::{
    Failure, FailureKind, HostingReply, HostingRequest, LaterPart, LogPage, LogPart, Missing,
    RegistryRequest, Reply,
};
use crate::service::Service;
pub(super) use files::LogFiles;
pub(super) use marks::Marks;

/// A part of a log on this node.
struct Part {
    reader: LogReader,
    start: u64,
    /// What is written from there on does not count: a later part begins, or the process went on from a copy.
    end: u64,
    /// Since when nothing was written elsewhere, and where the process was before.
    before: (Epoch, Option<NodeId>),
}

/// Where a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// Here, or nobody knows better; so many bytes until now, if the runner says that.
    Here(Option<u64>),
    /// On another node: that one has what comes.
    Elsewhere,
    /// Nowhere any more, and last here.
    Over,
}

/// All that was written counts.
const NO_EPOCH: Epoch = Epoch(u64::MAX);
const NOT_KEPT: &str = "it is not kept any more";

impl Hosting {
    /// What this node has of a process's output from some byte on, and was not written from an epoch on.
    pub(super) async fn log_part_before(
        &self,
        process: ProcessId,
        after: u64,
        before: Epoch,
    ) -> Result<LogPart, Failure> {
        let (files, marks) = (self.logs.of(process), Arc::clone(&self.log_marks));
        let had = blocking(move || had(&files, after, before, &marks)).await?;
        had.map_err(|error| Failure::refused(format!("the log could not be read: {error}")))
    }

    /// What this node has, for another that stitches and is older.
    pub(super) async fn log_part(
        &self,
        process: ProcessId,
        after: u64,
    ) -> Result<HostingReply, Failure> {
        let part = self.log_part_before(process, after, NO_EPOCH).await?;
        Ok(HostingReply::Log(match part {
            LogPart::Page(page) => page,
            LogPart::Later(LaterPart {
                start, came_from, ..
            }) => LogPage {
                missing: Some(missing(after, start, came_from, "it is on another node")),
                next: start,
                ..LogPage::default()
            },
            LogPart::Nothing => LogPage {
                missing: Some(missing(after, u64::MAX, None, NOT_KEPT)),
                next: after,
                ..LogPage::default()
            },
        }))
    }
}

fn missing(from: u64, to: u64, node: Option<NodeId>, why: &str) -> Missing {
    Missing {
        from,
        to,
        node,
        why: why.to_owned(),
    }
}

fn had(files: &[PathBuf], after: u64, before: Epoch, marks: &Marks) -> io::Result<LogPart> {
    let parts = parts(files, before)?;
    let later = parts.iter().find(|part| part.start > after);
    let later = later.map(|part| LaterPart {
        start: part.start,
        epoch: part.before.0,
        came_from: part.before.1,
    });
    let holds = |part: &Part| part.start <= after && after < part.end;
    let holding = parts.into_iter().rev().find(holds);
    let Some(mut part) = holding else {
        return Ok(later.map_or(LogPart::Nothing, LogPart::Later));
    };
    let mut page = LogPage {
        next: after,
        ..LogPage::default()
    };
    let header = part.reader.header();
    let of = (header.process, header.epoch);
    if let Some(mark) = marks.before(of, after) {
        part.reader.go_on(&mark)?;
    }
    let (mut bytes, mut mark) = (0, None);
    while bytes < LOG_PAGE_BYTES
        && let Some(record) = part.reader.next_after(after)?
    {
        if record.offset > page.next {
            // There was no room for it. It is named, before what comes after it.
            if page.records.is_empty() {
                let why = "there was no room for it on its node";
                page.missing = Some(missing(after, record.offset, None, why));
                page.next = record.offset;
            }
            break;
        }
        bytes += record.bytes.len();
        page.next = record.offset + record.bytes.len() as u64;
        page.records.push(record);
        mark = part.reader.mark();
    }
    marks.note(of, mark);
    cut(&mut page, part.end);
    // The process left after this part, and has come back since.
    match later {
        Some(later) if page.records.is_empty() && page.missing.is_none() => {
            Ok(LogPart::Later(later))
        }
        _ => Ok(LogPart::Page(page)),
    }
}

/// The parts in some files that were begun before an epoch, in their order.
fn parts(files: &[PathBuf], before: Epoch) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    for path in files {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        // One that has not begun is empty.
        if let Ok(reader) = LogReader::open(file)
            && reader.header().epoch < before
        {
            let header = reader.header();
            parts.push(Part {
                start: header.start,
                end: u64::MAX,
                before: (header.epoch, header.came_from),
                reader,
            });
        }
    }
    // What was written after a copy from which the process went on later is not its output any more: here, as a later
    // part says, or elsewhere, as the latest one knows.
    parts.sort_by_key(|part| std::cmp::Reverse(part.reader.header().epoch));
    let latest = parts.first();
    let rewinds = latest.map_or_else(Vec::new, |part| part.reader.header().rewinds.clone());
    let mut counting: Vec<Part> = Vec::new();
    for mut part in parts {
        let void = Rewind::end(&rewinds, part.reader.header().epoch);
        let end = counting.last().map_or(u64::MAX, |later| later.start);
        if part.start < end.min(void) {
            part.end = end.min(void);
            counting.push(part);
        } else if part.start == end
            && end < void
            && let Some(later) = counting.last_mut()
        {
            // It went away and came back, and wrote nothing meanwhile: nobody need be asked about that.
            later.before = part.before;
        }
    }
    counting.reverse();
    Ok(counting)
}

/// Takes away what is written from a byte on: there a later part begins.
fn cut(page: &mut LogPage, end: u64) {
    page.records.retain(|record| record.offset < end);
    if let Some(last) = page.records.last_mut() {
        let room = usize::try_from(end - last.offset).unwrap_or(usize::MAX);
        last.bytes.truncate(room);
    }
    if let Some(missing) = &mut page.missing {
        missing.to = missing.to.min(end);
    }
    page.next = page.next.min(end);
}

impl Service {
    /// Removes what was written by processes of which nobody knows any more.
    pub(super) async fn sweep_logs(&self, hosting: &Hosting) {
        let logs = Arc::clone(&hosting.logs);
        let idle = blocking(move || logs.idle(SWEEP_AFTER)).await;
        for process in idle.unwrap_or_default() {
            let request = RegistryRequest::Process { process };
            if let Ok(Reply::Process(None)) = self.ask_registry(request).await {
                let logs = Arc::clone(&hosting.logs);
                let _ = blocking(move || logs.remove(process)).await;
            }
        }
    }

    /// Output of a process that this node has, or had last. What is elsewhere is asked for there.
    pub(super) async fn log(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        after: u64,
        wait: Duration,
    ) -> Result<HostingReply, Failure> {
        let until = Instant::now() + wait.min(LOG_WAIT_MAX);
        loop {
            // Asked before: what it writes last is there when its end is known.
            let state = self.writing(process, Instant::now() >= until).await;
            let had = match state {
                Writing::Here(Some(end)) if end <= after => LogPart::Nothing,
                _ => hosting.log_part_before(process, after, NO_EPOCH).await?,
            };
            let page = match had {
                LogPart::Page(page) => page,
                LogPart::Later(later) => self.part_before(hosting, process, after, later).await,
                LogPart::Nothing => LogPage {
                    next: after,
                    ..LogPage::default()
                },
            };
            let empty = page.records.is_empty() && page.missing.is_none();
            if empty && state == Writing::Elsewhere {
                let message = format!("process {} has left this node", process.short());
                return Err(Failure::new(FailureKind::NotHere, message));
            }
            let is_over = state == Writing::Over;
            if !empty || is_over || Instant::now() >= until {
                return Ok(HostingReply::Log(LogPage {
                    is_over: is_over && empty,
                    ..page
                }));
            }
            sleep(LOG_LOOK_EVERY).await;
        }
    }

    /// What nodes beside the one that has a process have of its output from a byte on, if any has it.
    pub(super) async fn log_part_of_others(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        after: u64,
        owner: NodeId,
    ) -> Option<HostingReply> {
        let has_some = |reply: &HostingReply| {
            let page = match reply {
                HostingReply::Log(page) => page,
                _ => return false,
            };
            page.missing.is_none() && !page.records.is_empty()
        };
        let here = hosting.log_part(process, after).await.ok();
        if let Some(part) = here.filter(has_some) {
            return Some(part);
        }
        let others = self.members().into_iter();
        for node in others.filter(|node| *node != self.id && *node != owner) {
            let request = HostingRequest::LogPart { process, after };
            let part = self.pass_on(node, request).await.ok();
            if let Some(part) = part.filter(has_some) {
                return Some(part);
            }
        }
        None
    }

    /// Whether a process still writes, and here: known here, or, if somebody is about to be told, asked for.
    async fn writing(&self, process: ProcessId, for_certain: bool) -> Writing {
        let Some(hosting) = &self.hosting else {
            return Writing::Over;
        };
        // Once its end is written down, the runner forgets it.
        let ended = hosting.ended().contains_key(&process);
        if !for_certain
            && !ended
            && let Ok(seen) = hosting.seen(process).await
        {
            return Writing::Here(Some(seen.output_bytes));
        }
        let record = self.entry(process).await.map(|entry| entry.record());
        match record {
            Ok(Ok(record)) if record.owner != self.id => Writing::Elsewhere,
            Ok(Ok(record)) if record.life != Life::Alive => Writing::Over,
            _ => Writing::Here(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sterna_runner::log::{LogHeader, LogWriter, Stream};

    use super::*;

    /// Bytes that this thread has read from files: `rchar` of proc_pid_io(5).
    fn read_by_this_thread() -> u64 {
        let text = fs::read_to_string("/proc/thread-self/io").unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("rchar: "));
        count.unwrap().parse().unwrap()
    }

    /// The part of a log that began so, and its bytes, each of which says who wrote it.
    fn part(
        folder: &tempfile::TempDir,
        (epoch, start): (u64, u64),
        rewinds: &[Rewind],
        (writer, bytes): (u8, usize),
    ) -> PathBuf {
        let header = LogHeader {
            process: ProcessId::from_bytes([7; 16]),
            epoch: Epoch(epoch),
            start,
            came_from: (epoch > 0).then(|| NodeId::from_bytes([epoch as u8; 32])),
            rewinds: rewinds.to_vec(),
        };
        let path = folder.path().join(epoch.to_string());
        let mut log = LogWriter::begin(File::create(&path).unwrap(), &header).unwrap();
        log.write(Stream::Output, &vec![writer; bytes]).unwrap();
        path
    }

    /// Bytes of a page, or where the next part begins.
    fn page(files: &[PathBuf], after: u64) -> Result<Vec<u8>, u64> {
        match had(files, after, NO_EPOCH, &Marks::default()).unwrap() {
            LogPart::Page(page) => Ok(page.records.into_iter().flat_map(|one| one.bytes).collect()),
            LogPart::Later(later) => Err(later.start),
            LogPart::Nothing => Ok(Vec::new()),
        }
    }

    #[test]
    fn what_a_lost_life_wrote_does_not_count_where_the_process_comes_back_later() {
        let folder = tempfile::tempdir().unwrap();
        // It was lost here after 100 bytes, went on elsewhere from a copy of when there were 60, and came back after 200.
        let rewind = Rewind {
            since: Epoch::FIRST,
            until: Epoch(2),
            start: 60,
        };
        let files = [
            part(&folder, (0, 0), &[], (b'a', 100)),
            part(&folder, (3, 200), &[rewind], (b'c', 10)),
        ];
        assert_eq!(page(&files, 0), Ok(vec![b'a'; 60]));
        assert_eq!(page(&files, 60), Err(200));
        assert_eq!(page(&files, 200), Ok(vec![b'c'; 10]));
        // Asked by who has the part of epoch 2: what was written here before that.
        let before = had(&files, 60, Epoch(2), &Marks::default()).unwrap();
        assert!(matches!(before, LogPart::Page(page) if page.next == 100));
    }

    #[test]
    fn what_goes_on_from_the_copy_of_a_move_is_one_part() {
        let folder = tempfile::tempdir().unwrap();
        // It left after 60 bytes in epoch 1, was lost there, and went on here, in the same file, in epoch 2.
        let rewind = Rewind {
            since: Epoch(1),
            until: Epoch(2),
            start: 60,
        };
        let here = [
            part(&folder, (0, 0), &[], (b'a', 100)),
            part(&folder, (4, 150), &[rewind], (b'd', 10)),
        ];
        assert_eq!(page(&here, 0), Ok(vec![b'a'; 100]));
        assert_eq!(page(&here, 100), Err(150));
        let there = [
            part(&folder, (1, 60), &[], (b'b', 30)),
            part(&folder, (3, 100), &[rewind], (b'c', 50)),
        ];
        assert_eq!(page(&there, 60), Err(100));
        assert_eq!(page(&there, 100), Ok(vec![b'c'; 50]));
    }

    #[test]
    fn nobody_is_asked_about_stays_in_which_nothing_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let empty = |epoch| part(&folder, (epoch, 50), &[], (b'x', 0));
        let mut files: Vec<PathBuf> = [3, 5, 7, 9].map(empty).to_vec();
        let later = had(&files, 0, NO_EPOCH, &Marks::default()).unwrap();
        let from = |epoch: u8| NodeId::from_bytes([epoch; 32]);
        let first = LaterPart {
            start: 50,
            epoch: Epoch(3),
            came_from: Some(from(3)),
        };
        assert_eq!(later, LogPart::Later(first));
        // Nor if it has written something in the last one.
        files.push(part(&folder, (11, 50), &[], (b'k', 5)));
        let later = had(&files, 0, NO_EPOCH, &Marks::default()).unwrap();
        assert_eq!(later, LogPart::Later(first));
        assert_eq!(page(&files, 50), Ok(vec![b'k'; 5]));
        // In between it went on from a copy, and wrote again what was before them.
        let rewind = Rewind {
            since: Epoch::FIRST,
            until: Epoch(6),
            start: 20,
        };
        files.push(part(&folder, (13, 50), &[rewind], (b'm', 5)));
        let later = had(&files, 0, NO_EPOCH, &Marks::default()).unwrap();
        let after = LaterPart {
            epoch: Epoch(7),
            came_from: Some(from(7)),
            ..first
        };
        assert_eq!(later, LogPart::Later(after));
    }

    #[test]
    fn a_long_log_is_read_once_however_many_pages_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let header = LogHeader {
            process: ProcessId::from_bytes([7; 16]),
            epoch: Epoch::FIRST,
            start: 0,
            came_from: None,
            rewinds: Vec::new(),
        };
        let path = folder.path().join("log");
        let mut log = LogWriter::begin(File::create(&path).unwrap(), &header).unwrap();
        let line = [b'x'; 400];
        let lines = 20 * LOG_PAGE_BYTES / line.len();
        (0..lines).for_each(|_| log.write(Stream::Output, &line).unwrap());
        let whole = fs::metadata(&path).unwrap().len();
        let read = |marks: &Marks, mut after| {
            while let LogPart::Page(page) =
                had(std::slice::from_ref(&path), after, NO_EPOCH, marks).unwrap()
                && !page.records.is_empty()
            {
                assert_eq!(page.records[0].offset, after);
                after = page.next;
            }
            assert_eq!(after, log.end());
        };
        let marks = Marks::default();
        let before = read_by_this_thread();
        read(&marks, 0);
        let cost = read_by_this_thread() - before;
        assert!(cost < whole * 3 / 2, "{cost} bytes read of {whole}");
        // Somebody who begins elsewhere; and another file in the place of this one.
        read(&marks, 1000 * line.len() as u64);
        let other = folder.path().join("other");
        fs::copy(&path, &other).unwrap();
        fs::rename(&other, &path).unwrap();
        read(&marks, 0);
    }
}
