//! What a guest is given, in WASI's terms; the same whether it can move or not.

use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sterna_process::{Environment, Limits, Resources};
use sterna_wasi::{Config, HostClocks, Rebind};

use crate::cpu::CpuMeter;

fn stdio(resources: sterna_process::Stdio) -> [sterna_wasi::Stdio; 3] {
    [resources.input, resources.output, resources.error]
        .map(|stream| stream.map_or(sterna_wasi::Stdio::Null, sterna_wasi::Stdio::Inherit))
}

fn directories(directories: Vec<sterna_process::Directory>) -> Vec<sterna_wasi::Directory> {
    let directory = |directory: sterna_process::Directory| {
        let link = format!("/proc/self/fd/{}", directory.handle.as_raw_fd());
        // Shown to people, and a hint to who thaws the process; nothing is opened by it.
        let host =
            std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from(&directory.guest_path));
        sterna_wasi::Directory::from_fd(
            directory.handle,
            host,
            directory.guest_path,
            directory.read_only,
        )
    };
    directories.into_iter().map(directory).collect()
}

fn wasi_limits(limits: &Limits) -> sterna_wasi::Limits {
    sterna_wasi::Limits {
        descriptors: limits.descriptors_max,
        output_bytes: limits.output_bytes_max,
    }
}

/// The world of a new process.
pub(crate) fn config(environment: Environment, cpu: &Arc<CpuMeter>) -> Config {
    let cpu = cpu.clone();
    let mut config = Config::new(Box::new(HostClocks::new(move || cpu.read())));
    config.arguments = environment
        .arguments
        .into_iter()
        .map(OsStringExt::into_vec)
        .collect();
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        [name.into_vec(), value.into_vec()].join(&b'=')
    };
    config.environment = environment.variables.into_iter().map(variable).collect();
    config.stdio = stdio(environment.resources.stdio);
    config.directories = directories(environment.resources.directories);
    config.listeners = environment.resources.listeners;
    config.limits = wasi_limits(&environment.resources.limits);
    config
}

/// What a process that arrives is tied to; it has used `before_ns` of CPU time elsewhere.
pub(crate) fn rebind(resources: Resources, cpu: &Arc<CpuMeter>, before_ns: u64) -> Rebind {
    let cpu = cpu.clone();
    let before = Duration::from_nanos(before_ns);
    let here = move || cpu.read().saturating_sub(before);
    let mut rebind = Rebind::new(Box::new(HostClocks::new(here)));
    rebind.stdio = stdio(resources.stdio);
    rebind.directories = directories(resources.directories);
    rebind.listeners = resources.listeners;
    rebind.connections = resources.connections;
    rebind.limits = wasi_limits(&resources.limits);
    rebind
}
