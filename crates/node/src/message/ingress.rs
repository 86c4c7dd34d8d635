//! Ports at which clients connect to processes: [`ListenOrder`], [`Listen`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;

use super::Belongings;
use crate::limits::{LISTEN_NAME_BYTES_MAX, LISTENS_MAX};

/// A port that a process is to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenOrder {
    /// What the process knows it by.
    pub name: String,
    /// Whose port; otherwise that of the node on which it is started.
    pub ingress: Option<NodeId>,
    /// The number of the port; 0: any that is free.
    pub port: u16,
}

/// A port that a process has, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// What the process knows it by.
    pub name: String,
    /// The node that has the port, and the connections of clients.
    pub ingress: NodeId,
    /// Where clients connect, as that node sees it.
    pub address: SocketAddr,
}

impl ListenOrder {
    /// Whether orders keep to the limits: names as sd_listen_fds_with_names(3) wants them.
    #[must_use]
    pub fn are_plain(orders: &[Self]) -> bool {
        let plain = |letter: char| letter.is_ascii_graphic() && letter != ':';
        let is_name = |name: &str| {
            (1..=LISTEN_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
        };
        orders.len() <= LISTENS_MAX && orders.iter().all(|order| is_name(&order.name))
    }
}

impl Listen {
    /// One of those that are kept with a process's record, if this program can read them.
    #[must_use]
    pub fn of(extra: &[u8], index: u32) -> Option<Self> {
        let mut listens = Belongings::decode(extra)?.listens;
        let index = index as usize;
        (index < listens.len()).then(|| listens.swap_remove(index))
    }

    /// The environment variables by which a process learns of its ports, as sd_listen_fds(3) has them.
    #[must_use]
    pub fn variables(listens: &[Self]) -> Vec<(Vec<u8>, Vec<u8>)> {
        if listens.is_empty() {
            return Vec::new();
        }
        let names: Vec<&str> = listens.iter().map(|listen| listen.name.as_str()).collect();
        let variable = |name: &str, value: String| (name.into(), value.into_bytes());
        vec![
            variable("LISTEN_FDS", listens.len().to_string()),
            variable("LISTEN_FDNAMES", names.join(":")),
        ]
    }
}
