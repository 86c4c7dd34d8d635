//! The system calls left to a confined process: what a multithreaded Rust program needs that computes, allocates, and
//! reads and writes descriptors it already has. All others fail with `EPERM`, so that a library that only tries one goes
//! on.
//!
//! `clone3` fails with `ENOSYS`: its arguments lie in memory, where a filter cannot look, and the C library then uses
//! `clone`, which is allowed for threads alone. For the same reason no `newfstatat` and no `statx`: a filter cannot tell an
//! open descriptor from a path. So metadata may be denied even of open files (it depends on the C library); their
//! length is found by seeking.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition, SeccompFilter, SeccompRule,
};

use super::{Layer, manager, runner, service};

/// Which processes' system calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Profile {
    /// Computing on what is open.
    #[default]
    Computing,
    /// Computing, where memory may become executable.
    Executing,
    /// A runner's.
    Runner,
    /// A node's service's.
    Service,
    /// A manager's: all but a few, since its children need what it has.
    Manager,
}

/// Allowed with any arguments.
const ALWAYS: &[i64] = &[
    // memory
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // threads
    libc::SYS_clone3, // for the second filter to answer
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // signals
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // clocks and chance
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    // open descriptors
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ppoll,
    libc::SYS_dup,
    libc::SYS_close,
];

/// Calls that only one of the architectures has.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &[i64] = &[libc::SYS_poll, libc::SYS_time];
#[cfg(target_arch = "aarch64")]
const OF_THIS_ARCHITECTURE: &[i64] = &[];

/// `prctl(PR_SET_VMA, …)`, with which allocators name their memory.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// Installs the filters for all threads of the process.
pub(super) fn restrict(profile: Profile, also: &[i64]) -> Layer {
    let filters = match profile {
        Profile::Manager => manager::deny().and_then(|rules| {
            let deny = compile(
                rules,
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM as u32),
            )?;
            Ok(vec![deny])
        }),
        profile => answer_clone3().and_then(|clone3| Ok(vec![clone3, allow(profile, also)?])),
    };
    let filters = match filters {
        Ok(filters) => filters,
        Err(error) => return Layer::Unavailable(error.to_string()),
    };
    for (number, filter) in filters.iter().enumerate() {
        if let Err(error) = seccompiler::apply_filter_all_threads(filter) {
            let why =
                std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            // The first filter alone restricts next to nothing.
            return Layer::Unavailable(format!("filter {}: {why}", number + 1));
        }
    }
    Layer::Full
}

fn answer_clone3() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    compile(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
    )
}

fn allow(profile: Profile, also: &[i64]) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = conditional(profile)?;
    if profile == Profile::Runner {
        rules.extend(runner::conditional()?);
        rules.extend(runner::code_from_files()?);
    }
    if let Profile::Runner | Profile::Service = profile {
        for call in runner::ALWAYS.iter().chain(runner::OF_THIS_ARCHITECTURE) {
            rules.insert(*call, Vec::new());
        }
    }
    if profile == Profile::Service {
        rules.extend(service::conditional()?);
        for call in service::ALWAYS.iter().chain(service::OF_THIS_ARCHITECTURE) {
            rules.insert(*call, Vec::new());
        }
    }
    for call in ALWAYS.iter().chain(OF_THIS_ARCHITECTURE).chain(also) {
        rules.insert(*call, Vec::new());
    }
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )
}

/// Calls allowed for certain arguments.
fn conditional(profile: Profile) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let is = |argument, value: u64| one(argument, Len::Dword, Op::Eq, value);
    let mut protection = Vec::new(); // an empty list allows any arguments
    if let Profile::Computing | Profile::Service = profile {
        protection.push(one(2, Len::Dword, Op::MaskedEq(libc::PROT_EXEC as u64), 0)?);
    }
    let any_of = |argument, values: &[u64]| {
        values
            .iter()
            .map(|value| is(argument, *value))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut fcntl = vec![
        libc::F_GETFD as u64,
        libc::F_SETFD as u64,
        libc::F_GETFL as u64,
        libc::F_DUPFD_CLOEXEC as u64,
    ];
    if let Profile::Runner | Profile::Service = profile {
        fcntl.extend_from_slice(runner::FCNTL);
    }
    if profile == Profile::Service {
        fcntl.extend_from_slice(service::FCNTL);
    }
    Ok(BTreeMap::from([
        (libc::SYS_mmap, protection.clone()),
        (libc::SYS_mprotect, protection),
        // Threads of this process only.
        (
            libc::SYS_clone,
            vec![one(
                0,
                Len::Qword,
                Op::MaskedEq(libc::CLONE_THREAD as u64),
                libc::CLONE_THREAD as u64,
            )?],
        ),
        // Signals to this process only: abort raises one.
        (
            libc::SYS_tgkill,
            vec![is(0, u64::from(std::process::id()))?],
        ),
        // Reading limits, not setting them.
        (libc::SYS_prlimit64, vec![one(2, Len::Qword, Op::Eq, 0)?]),
        (
            libc::SYS_prctl,
            any_of(
                0,
                &[
                    libc::PR_SET_NAME as u64,
                    libc::PR_GET_NAME as u64,
                    PR_SET_VMA,
                ],
            )?,
        ),
        (libc::SYS_fcntl, any_of(1, &fcntl)?),
    ]))
}

fn one(argument: u8, length: Len, operation: Op, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument, length, operation, value,
    )?])
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_stay_small() {
        let profiles = [
            Profile::Computing,
            Profile::Executing,
            Profile::Runner,
            Profile::Service,
        ];
        for profile in profiles {
            // The kernel takes at most 4096 instructions.
            assert!(allow(profile, &[libc::SYS_memfd_create]).unwrap().len() < 1000);
        }
        assert!(answer_clone3().unwrap().len() < 20);
        assert!(!manager::deny().unwrap().is_empty());
    }
}
