//! The functions of preview 1: names, signatures, and which of them may wait.

use crate::abi::ValType::{self, I32, I64};

/// The module name of WASI preview 1 as published.
pub const MODULE: &str = "wasi_snapshot_preview1";
/// The module name of the version before it, which early toolchains emit.
pub const MODULE_UNSTABLE: &str = "wasi_unstable";

const RESULT: &[ValType] = &[I32];

macro_rules! functions {
    ($($variant:ident = $module:ident $name:literal ($($param:ident)*) -> $result:ident;)*) => {
        /// A function of preview 1. The four whose ABI differs in `wasi_unstable` exist twice;
        /// all others serve both modules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Function {
            $(#[doc = concat!("`", $name, "`.")] $variant,)*
        }

        impl Function {
            /// All functions.
            pub const ALL: &[Function] = &[$(Function::$variant),*];

            /// The name a module imports it by.
            pub fn name(self) -> &'static str {
                match self { $(Function::$variant => $name,)* }
            }

            /// Parameters and results. Results are one errno, except of `proc_exit`.
            pub fn signature(self) -> (&'static [ValType], &'static [ValType]) {
                match self { $(Function::$variant => (&[$($param),*], $result),)* }
            }

            fn modules(self) -> Modules {
                match self { $(Function::$variant => Modules::$module,)* }
            }
        }
    };
}

/// Which modules export a function.
#[derive(PartialEq)]
enum Modules {
    Both,
    Snapshot1,
    Unstable,
}

const NONE: &[ValType] = &[];

functions! {
    ArgsGet = Both "args_get" (I32 I32) -> RESULT;
    ArgsSizesGet = Both "args_sizes_get" (I32 I32) -> RESULT;
    EnvironGet = Both "environ_get" (I32 I32) -> RESULT;
    EnvironSizesGet = Both "environ_sizes_get" (I32 I32) -> RESULT;
    ClockResGet = Both "clock_res_get" (I32 I32) -> RESULT;
    ClockTimeGet = Both "clock_time_get" (I32 I64 I32) -> RESULT;
    FdAdvise = Both "fd_advise" (I32 I64 I64 I32) -> RESULT;
    FdAllocate = Both "fd_allocate" (I32 I64 I64) -> RESULT;
    FdClose = Both "fd_close" (I32) -> RESULT;
    FdDatasync = Both "fd_datasync" (I32) -> RESULT;
    FdFdstatGet = Both "fd_fdstat_get" (I32 I32) -> RESULT;
    FdFdstatSetFlags = Both "fd_fdstat_set_flags" (I32 I32) -> RESULT;
    FdFdstatSetRights = Both "fd_fdstat_set_rights" (I32 I64 I64) -> RESULT;
    FdFilestatGet = Snapshot1 "fd_filestat_get" (I32 I32) -> RESULT;
    FdFilestatGetUnstable = Unstable "fd_filestat_get" (I32 I32) -> RESULT;
    FdFilestatSetSize = Both "fd_filestat_set_size" (I32 I64) -> RESULT;
    FdFilestatSetTimes = Both "fd_filestat_set_times" (I32 I64 I64 I32) -> RESULT;
    FdPread = Both "fd_pread" (I32 I32 I32 I64 I32) -> RESULT;
    FdPrestatGet = Both "fd_prestat_get" (I32 I32) -> RESULT;
    FdPrestatDirName = Both "fd_prestat_dir_name" (I32 I32 I32) -> RESULT;
    FdPwrite = Both "fd_pwrite" (I32 I32 I32 I64 I32) -> RESULT;
    FdRead = Both "fd_read" (I32 I32 I32 I32) -> RESULT;
    FdReaddir = Both "fd_readdir" (I32 I32 I32 I64 I32) -> RESULT;
    FdRenumber = Both "fd_renumber" (I32 I32) -> RESULT;
    FdSeek = Snapshot1 "fd_seek" (I32 I64 I32 I32) -> RESULT;
    FdSeekUnstable = Unstable "fd_seek" (I32 I64 I32 I32) -> RESULT;
    FdSync = Both "fd_sync" (I32) -> RESULT;
    FdTell = Both "fd_tell" (I32 I32) -> RESULT;
    FdWrite = Both "fd_write" (I32 I32 I32 I32) -> RESULT;
    PathCreateDirectory = Both "path_create_directory" (I32 I32 I32) -> RESULT;
    PathFilestatGet = Snapshot1 "path_filestat_get" (I32 I32 I32 I32 I32) -> RESULT;
    PathFilestatGetUnstable = Unstable "path_filestat_get" (I32 I32 I32 I32 I32) -> RESULT;
    PathFilestatSetTimes = Both "path_filestat_set_times" (I32 I32 I32 I32 I64 I64 I32) -> RESULT;
    PathLink = Both "path_link" (I32 I32 I32 I32 I32 I32 I32) -> RESULT;
    PathOpen = Both "path_open" (I32 I32 I32 I32 I32 I64 I64 I32 I32) -> RESULT;
    PathReadlink = Both "path_readlink" (I32 I32 I32 I32 I32 I32) -> RESULT;
    PathRemoveDirectory = Both "path_remove_directory" (I32 I32 I32) -> RESULT;
    PathRename = Both "path_rename" (I32 I32 I32 I32 I32 I32) -> RESULT;
    PathSymlink = Both "path_symlink" (I32 I32 I32 I32 I32) -> RESULT;
    PathUnlinkFile = Both "path_unlink_file" (I32 I32 I32) -> RESULT;
    PollOneoff = Snapshot1 "poll_oneoff" (I32 I32 I32 I32) -> RESULT;
    PollOneoffUnstable = Unstable "poll_oneoff" (I32 I32 I32 I32) -> RESULT;
    ProcExit = Both "proc_exit" (I32) -> NONE;
    ProcRaise = Both "proc_raise" (I32) -> RESULT;
    RandomGet = Both "random_get" (I32 I32) -> RESULT;
    SchedYield = Both "sched_yield" () -> RESULT;
    SockAccept = Snapshot1 "sock_accept" (I32 I32 I32) -> RESULT;
    SockRecv = Both "sock_recv" (I32 I32 I32 I32 I32 I32) -> RESULT;
    SockSend = Both "sock_send" (I32 I32 I32 I32 I32) -> RESULT;
    SockShutdown = Both "sock_shutdown" (I32 I32) -> RESULT;
}

impl Function {
    /// The function a module imports as `module`.`name`, if WASI has it.
    pub fn by_name(module: &str, name: &str) -> Option<Function> {
        let other = match module {
            MODULE => Modules::Unstable,
            MODULE_UNSTABLE => Modules::Snapshot1,
            _ => return None,
        };
        Function::ALL
            .iter()
            .copied()
            .find(|f| f.name() == name && f.modules() != other)
    }

    /// Whether a call can be answered by [`Step::Wait`](crate::Step::Wait) at all.
    pub fn may_wait(self) -> bool {
        use Function::*;
        matches!(
            self,
            FdRead
                | FdWrite
                | PollOneoff
                | PollOneoffUnstable
                | RandomGet
                | SockAccept
                | SockRecv
                | SockSend
        )
    }
}
