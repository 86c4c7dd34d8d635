//! Sockets that were handed to the process: accept, receive, send, shut down.

use crate::abi::{Errno, fdflags};
use crate::memory::{Cursor, IOVECS_AT_ONCE, Memory, TRANSFER_MAX};
use crate::rights::Rights;
use crate::step::{Halt, Interest, Outcome, Wait};
use crate::streams::HostFile;
use crate::table::{Entry, Resource};
use crate::wasi::{Arguments, Wasi};
use rustix::net::{RecvFlags, Shutdown, SocketFlags};
use std::io::IoSlice;
use std::os::fd::AsFd;

/// `riflags`: look without taking.
const RECV_PEEK: u16 = 1;
/// `riflags`: all or nothing. Not supported: a call that waits has no effect, so half a message
/// cannot be held.
const RECV_WAITALL: u16 = 2;
/// `roflags`: the rest of a datagram was dropped.
const RECV_DATA_TRUNCATED: u16 = 1;

impl Entry {
    /// The socket, of a passed one or of a standard stream that is one.
    fn socket_host(&self) -> Result<&HostFile, Errno> {
        match self.host() {
            Some(host) if host.kind().is_socket() => Ok(host),
            _ => Err(Errno::NOTSOCK),
        }
    }

    /// The same, if bytes can go over it.
    fn connected_host(&self) -> Result<&HostFile, Errno> {
        match self.resource {
            Resource::Listener { .. } => Err(Errno::NOTCONN),
            _ => self.socket_host(),
        }
    }
}

impl Wasi {
    /// `sock_accept(fd, flags, fd*)`
    pub(crate) fn sock_accept(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let flags = a.flags(1, fdflags::NONBLOCK)?;
        let entry = self.table.get(a.u32(0))?;
        let host = entry.socket_host()?;
        entry.require(Rights::SOCK_ACCEPT)?;
        m.check(a.u32(2), 4)?;
        self.table.check_room()?;
        if let Resource::Listener { index, .. } = entry.resource {
            let accepted = sterna_process::listener::accept(host.fd().as_fd());
            let Some((id, handle)) = accepted? else {
                return entry.or_again(Err(Halt::Wait(Wait::on(host.fd(), Interest::READ))));
            };
            let mut connection = Entry::connection(index, id, handle);
            connection.rights = connection.rights.only(entry.inheriting);
            connection.flags = flags;
            let number = self.table.insert(connection)?;
            return Ok(m.put_u32(a.u32(2), number)?);
        }
        if !rustix::net::sockopt::socket_acceptconn(host.fd())? {
            return Err(Errno::INVAL.into());
        }
        // The listening socket may be shared and blocking: ask first. If another process takes the
        // connection in between, this waits for the next one.
        if host.ready(Interest::READ).is_empty() {
            return entry.or_again(Err(Halt::Wait(Wait::on(host.fd(), Interest::READ))));
        }
        let accepted =
            rustix::net::accept_with(host.fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let accepted = match accepted {
            Err(rustix::io::Errno::AGAIN) => {
                return entry.or_again(Err(Halt::Wait(Wait::on(host.fd(), Interest::READ))));
            }
            accepted => accepted?,
        };
        let mut connection = Entry::socket(
            HostFile::owned(accepted, host.kind()),
            "accepted connection".to_owned(),
        );
        connection.rights = connection.rights.only(entry.inheriting);
        connection.flags = flags;
        let number = self.table.insert(connection)?;
        Ok(m.put_u32(a.u32(2), number)?)
    }

    /// `sock_recv(fd, ri_data, ri_data_len, ri_flags, ro_datalen*, ro_flags*)`
    pub(crate) fn sock_recv(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let wanted = a.flags(3, RECV_PEEK | RECV_WAITALL)?;
        let entry = self.table.get(a.u32(0))?;
        let host = entry.connected_host()?;
        entry.require(Rights::FD_READ)?;
        if wanted & RECV_WAITALL != 0 {
            return Err(Errno::NOTSUP.into());
        }
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(4), 4)?;
        m.check(a.u32(5), 2)?;
        let flags = if wanted & RECV_PEEK != 0 {
            RecvFlags::PEEK
        } else {
            RecvFlags::empty()
        };
        let mut areas = m.scatter(vectors, &mut Cursor::default(), TRANSFER_MAX)?;
        let (bytes, cut) = entry.or_again(host.receive(&mut areas, flags))?;
        m.put_u32(a.u32(4), bytes as u32)?;
        Ok(m.put(
            a.u32(5),
            &if cut { RECV_DATA_TRUNCATED } else { 0 }.to_le_bytes(),
        )?)
    }

    /// `sock_send(fd, si_data, si_data_len, si_flags, so_datalen*)`
    pub(crate) fn sock_send(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        a.flags(3, 0)?;
        let entry = self.table.get(a.u32(0))?;
        let host = entry.connected_host()?;
        entry.require(Rights::FD_WRITE)?;
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(4), 4)?;
        let allowed = self.output.allowance(TRANSFER_MAX)?;
        let mut areas = [IoSlice::new(&[]); IOVECS_AT_ONCE];
        let (count, _) = m.gather(vectors, Cursor::default(), allowed, &mut areas)?;
        let sent = entry.or_again(host.send(&areas[..count]))?;
        self.output.charge(sent as u64);
        Ok(m.put_u32(a.u32(4), sent as u32)?)
    }

    /// `sock_shutdown(fd, how)`
    pub(crate) fn sock_shutdown(&mut self, a: Arguments<'_>) -> Outcome {
        let how = match a.u32(1) {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Err(Errno::INVAL.into()),
        };
        let entry = self.table.get(a.u32(0))?;
        let host = entry.connected_host()?;
        entry.require(Rights::SOCK_SHUTDOWN)?;
        Ok(rustix::net::shutdown(host.fd(), how)?)
    }
}
