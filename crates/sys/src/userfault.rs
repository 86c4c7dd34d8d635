//! A descriptor of userfaultfd(2), and what is asked of it: of `tracking` and `missing`, each of which knows what it may ask
//! for.
#![allow(unsafe_code, reason = "userfaultfd and its ioctls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mm::UserfaultfdFlags;

use crate::memory::pagemap::last_errno;

/// `_IOWR(0xAA, …)` of `include/uapi/linux/userfaultfd.h`, the same on x86-64 and AArch64.
const UFFDIO_API: libc::Ioctl = 0xC018_AA3F_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xC020_AA00_u32 as libc::Ioctl;

const UFFD_API: u64 = 0xAA;
/// `UFFD_USER_MODE_ONLY`: faults of the kernel are not held up, so that no privilege is needed.
const USER_MODE_ONLY: u32 = 1;

/// `struct uffdio_api`.
#[repr(C)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct RegisterArgument {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// Why there is no such descriptor.
pub(crate) enum OpenError {
    /// There is no userfaultfd, or it is forbidden.
    Unavailable(io::Error),
    /// The kernel does not have the features.
    Features(io::Error),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// One with these features; reads of it wait only if there is nothing and `flags` do not say otherwise.
    pub(crate) fn open(flags: UserfaultfdFlags, features: u64) -> Result<Self, OpenError> {
        let always = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::from_bits_retain(USER_MODE_ONLY);
        // SAFETY: 1. With no range registered nothing is withheld from anybody; whoever registers one answers for that.
        let opened = unsafe { rustix::mm::userfaultfd(flags | always) };
        let opened = Self(opened.map_err(|error| OpenError::Unavailable(error.into()))?);
        let mut api = ApiArgument {
            api: UFFD_API,
            features,
            ioctls: 0,
        };
        // SAFETY: 1. The argument is the structure this request reads and writes.
        unsafe { opened.ask(UFFDIO_API, &mut api) }
            .map_err(|error| OpenError::Features(error.into()))?;
        Ok(opened)
    }

    /// Registers a range, until this is dropped.
    ///
    /// # Safety
    /// It is the caller's own memory, and whoever uses it bears what `mode` does to them meanwhile.
    pub(crate) unsafe fn register(
        &self,
        start: u64,
        len: u64,
        mode: u64,
    ) -> rustix::io::Result<()> {
        let mut argument = RegisterArgument {
            start,
            len,
            mode,
            ioctls: 0,
        };
        // SAFETY: 1. The argument is the structure this request reads and writes. 2. The caller answers for the range.
        unsafe { self.ask(UFFDIO_REGISTER, &mut argument) }
    }

    /// Makes a request.
    ///
    /// # Safety
    /// `argument` is the structure that the request reads and writes, and the caller answers for what it does.
    pub(crate) unsafe fn ask<T>(
        &self,
        request: libc::Ioctl,
        argument: &mut T,
    ) -> rustix::io::Result<()> {
        // SAFETY: 1. The caller's.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, std::ptr::from_mut(argument)) } < 0
        {
            true => Err(last_errno()),
            false => Ok(()),
        }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
