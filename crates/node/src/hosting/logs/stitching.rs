//! What was written elsewhere: each part of a log says from which node the process came.

use sterna_migration::NodeId;
use sterna_process::ProcessId;
use tokio::time::timeout;

use super::{Hosting, NOT_KEPT, cut, missing};
use crate::limits::{ANSWER_WITHIN, LOG_NODES_MAX, PROBE_WITHIN};
use crate::message::{Failure, HostingReply, HostingRequest, LaterPart, LogPage, LogPart, Missing};
use crate::service::Service;

impl Service {
    /// What was written before a part began, from the nodes on which the process was then: each says where it came from.
    pub(super) async fn part_before(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        after: u64,
        mut later: LaterPart,
    ) -> LogPage {
        let mut why = "nobody knows where it was".to_owned();
        let looking = async {
            for _ in 0..LOG_NODES_MAX {
                let Some(node) = later.came_from else {
                    break;
                };
                let part = self.part_at(hosting, node, process, after, later);
                let part = timeout(PROBE_WITHIN, part).await;
                match part.unwrap_or_else(|_| Err(self.silent(node, "no answer"))) {
                    Ok(LogPart::Page(page)) => match fit(page, after, later.start) {
                        Some(page) => return Some(page),
                        None => why = NOT_KEPT.to_owned(),
                    },
                    Ok(LogPart::Later(before)) if before.is_before(later, after) => {
                        let start = before.start.min(later.start);
                        later = LaterPart { start, ..before };
                        continue;
                    }
                    Ok(_) => why = NOT_KEPT.to_owned(),
                    Err(failure) => why = failure.message,
                }
                // Another one may have it: the process was there before, too.
                return self.part_of_any(hosting, process, after, later).await;
            }
            None
        };
        if let Ok(Some(page)) = timeout(ANSWER_WITHIN, looking).await {
            return page;
        }
        LogPage {
            missing: Some(missing(after, later.start, later.came_from, &why)),
            next: later.start,
            ..LogPage::default()
        }
    }

    /// The same, from any node but the one where it should be.
    async fn part_of_any(
        &self,
        hosting: &Hosting,
        process: ProcessId,
        after: u64,
        later: LaterPart,
    ) -> Option<LogPage> {
        let others = self.members().into_iter();
        for node in others.filter(|node| Some(*node) != later.came_from) {
            let part = self.part_at(hosting, node, process, after, later);
            if let Ok(Ok(LogPart::Page(page))) = timeout(PROBE_WITHIN, part).await
                && page.missing.is_none()
                && let Some(page) = fit(page, after, later.start)
            {
                return Some(page);
            }
        }
        None
    }

    /// What a node, perhaps this one, has of what was written before a part began.
    async fn part_at(
        &self,
        hosting: &Hosting,
        node: NodeId,
        process: ProcessId,
        after: u64,
        later: LaterPart,
    ) -> Result<LogPart, Failure> {
        let before = later.epoch;
        if node == self.id {
            return hosting.log_part_before(process, after, before).await;
        }
        let request = HostingRequest::LogPartBefore {
            process,
            after,
            before,
        };
        match self.pass_on(node, request).await? {
            HostingReply::LogPart(part) => Ok(part),
            // It is older, and says what it has of all epochs.
            HostingReply::Log(page) => Ok(match page.missing {
                None => LogPart::Page(page),
                Some(Missing {
                    node: Some(came_from),
                    to,
                    ..
                }) if came_from != node => LogPart::Later(LaterPart {
                    start: to,
                    came_from: Some(came_from),
                    ..later
                }),
                Some(_) => LogPart::Nothing,
            }),
            _ => Err(Failure::refused("the other node answers another question")),
        }
    }
}

/// What a page of another node has between two bytes of output, whatever it says; nothing if that is none of it.
fn fit(mut page: LogPage, after: u64, end: u64) -> Option<LogPage> {
    page.records.retain(|record| record.offset >= after);
    cut(&mut page, end);
    if let Some(missing) = &mut page.missing {
        missing.from = after;
    }
    let says_something = !page.records.is_empty() || page.missing.is_some();
    (says_something && page.next > after).then_some(page)
}

impl LaterPart {
    /// Whether another node's word leads back to where a byte was written. An older one's says no epoch.
    fn is_before(self, later: Self, after: u64) -> bool {
        self.start > after && self.epoch <= later.epoch
    }
}

#[cfg(test)]
mod tests {
    use sterna_process::Epoch;
    use sterna_runner::log::{Record, Stream};

    use super::*;

    #[test]
    fn what_another_node_says_leads_on() {
        let record = |offset, bytes: &[u8]| Record {
            offset,
            at_ms: 0,
            stream: Stream::Output,
            bytes: bytes.to_vec(),
        };
        let page = |records, missing, next| LogPage {
            records,
            missing,
            next,
            is_over: false,
        };
        let whole = page(vec![record(5, b"abcdefgh")], None, 13);
        let fitted = fit(whole.clone(), 5, 10).unwrap();
        assert_eq!(fitted, page(vec![record(5, b"abcde")], None, 10));
        // What was asked for is not in it; it leads back; it says nothing.
        assert_eq!(fit(whole.clone(), 6, 10), None);
        assert_eq!(fit(page(whole.records, None, 0), 5, 10), None);
        assert_eq!(fit(page(Vec::new(), None, 9), 5, 10), None);
        let gap = missing(0, u64::MAX, None, "");
        let fitted = fit(page(Vec::new(), Some(gap), 9), 5, 10).unwrap();
        let gap = fitted.missing.unwrap();
        assert_eq!((gap.from, gap.to), (5, 10));
        let part = |start, epoch| LaterPart {
            start,
            epoch: Epoch(epoch),
            came_from: None,
        };
        assert!(part(6, 3).is_before(part(10, 4), 5));
        assert!(!part(5, 3).is_before(part(10, 4), 5));
        assert!(!part(6, 5).is_before(part(10, 4), 5));
    }
}
