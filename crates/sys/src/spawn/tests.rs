//! Tests of starting programs: usage, time-outs, no zombies, no stray descriptors.

use std::io::{Read, Write};

use super::*;

const SOON: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Spawn {
    Spawn::new("/bin/sh").arg("-c").arg(script)
}

#[test]
fn status_signal_and_usage() {
    let finished = shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exit 9")
        .start()
        .unwrap()
        .finish(SOON)
        .unwrap();
    assert_eq!(finished.exit.status.code(), Some(9));
    assert!(finished.exit.cpu_user > Duration::ZERO && finished.exit.max_rss_bytes > 100_000);
    let finished = shell("kill -TERM $$")
        .start()
        .unwrap()
        .finish(SOON)
        .unwrap();
    assert_eq!(finished.exit.status.signal(), Some(libc::SIGTERM));
    assert!(!finished.timed_out);
}

#[test]
fn missing_program_is_an_error() {
    let error = Spawn::new("/nonexistent/program").start().unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}

/// Such as a program for another processor. It is not given to a shell.
#[test]
fn what_the_kernel_cannot_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::fs::write(&program, "exit 0\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, executable).unwrap();
    let error = Spawn::new(&program).start().unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOEXEC));
}

#[test]
fn child_over_its_time_is_killed_and_reaped() {
    let child = shell("while :; do :; done").start().unwrap();
    let id = child.id();
    let finished = child.finish(Duration::from_millis(30)).unwrap();
    assert!(finished.timed_out);
    assert!(!exists(id));
}

#[test]
fn dropped_child_is_killed_and_reaped_and_waiting_twice_is_harmless() {
    let (waits_for, _never_written) = io::pipe().unwrap();
    let mut child = shell("read line").stdin(waits_for).start().unwrap();
    assert_eq!(child.wait(Some(Duration::from_millis(1))).unwrap(), None);
    let id = child.id();
    assert!(exists(id));
    child.kill();
    let exit = child.wait(Some(SOON)).unwrap().unwrap();
    assert_eq!(child.wait(None).unwrap(), Some(exit));
    assert!(!exists(id));
    let endless = shell("while :; do :; done").start().unwrap();
    let id = endless.id();
    drop(endless);
    assert!(!exists(id));
}

/// Whether there is a process of that id, zombies included.
fn exists(id: u32) -> bool {
    std::path::Path::new(&format!("/proc/{id}")).exists()
}

#[test]
fn only_the_named_descriptors_are_inherited_and_the_environment_is_empty() {
    let (mut reader, writer) = io::pipe().unwrap();
    // A descriptor without close-on-exec, as a careless library leaves them behind.
    let stray = rustix::io::dup(&reader).unwrap();
    let number = writer.as_raw_fd();
    let script = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=; ls /proc/self/fd | tr '\\n' ' '; eval \"echo given >&$STERNA_FD_OUT\"";
    let (mut list, out) = io::pipe().unwrap();
    let child = shell(script)
        .descriptor("OUT", writer.into())
        .stdout(out)
        .env("PATH", "/bin:/usr/bin")
        .start()
        .unwrap();
    let mut listed = String::new();
    list.read_to_string(&mut listed).unwrap();
    let mut given = String::new();
    reader.read_to_string(&mut given).unwrap();
    assert!(child.finish(SOON).unwrap().exit.status.success());
    assert_eq!(given, "given\n");
    let (environment, descriptors) = listed.rsplit_once('\n').unwrap();
    let mut environment: Vec<&str> = environment.lines().collect();
    environment.sort_unstable();
    assert_eq!(
        environment,
        [
            "PATH=/bin:/usr/bin".to_owned(),
            format!("STERNA_FD_OUT={number}")
        ]
    );
    // 0, 1, 2, ours, and the one by which `ls` reads the directory.
    let numbers: Vec<RawFd> = descriptors
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(numbers.len(), 5, "{numbers:?}");
    assert!(numbers.contains(&number));
    drop(stray);
}

#[test]
fn standard_streams() {
    let (theirs, mut ours) = io::pipe().unwrap();
    let (mut output, writer) = io::pipe().unwrap();
    let child = shell("read line; echo \"$line\" twice; echo bad >&2")
        .stdin(theirs)
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .start()
        .unwrap();
    ours.write_all(b"once\n").unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "once twice\nbad\n");
    assert!(child.finish(SOON).unwrap().exit.status.success());
}

#[test]
fn nothing_to_take() {
    assert_eq!(
        inherited("NEVER_GIVEN").unwrap_err(),
        InheritedError::Missing("NEVER_GIVEN".into())
    );
}

#[test]
fn child_dies_with_the_thread_that_started_it() {
    let (mut end, held) = io::pipe().unwrap();
    let starter = std::thread::spawn(move || {
        let child = shell("while :; do :; done")
            .stdout(held)
            .die_with_this_thread()
            .start()
            .unwrap();
        let id = child.id();
        std::mem::forget(child); // as if the process were killed: no destructor runs
        id
    });
    let id = starter.join().unwrap();
    // End of file: the child, which held the other end, is gone.
    assert_eq!(end.read_to_end(&mut Vec::new()).unwrap(), 0);
    let status = reap(Pid::from_raw(id as i32).unwrap()).unwrap().status;
    assert_eq!(status.signal(), Some(libc::SIGKILL));
}

/// On a terminal, which `script` of util-linux makes.
#[test]
fn a_child_without_terminal_stays_in_the_session() {
    const INSIDE: &str = "STERNA_TEST_ON_TERMINAL";
    let code = |spawn: Spawn| {
        let finished = spawn.start().unwrap().finish(SOON).unwrap();
        finished.exit.status.code()
    };
    let has_terminal = || shell("exec 3</dev/tty");
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(code(has_terminal()), Some(0));
        assert_ne!(code(has_terminal().without_terminal()), Some(0));
        let leads_group = "read -r _ _ _ _ group session _ </proc/$$/stat; test $group = $$";
        let leads_group = || shell(leads_group);
        assert_eq!(code(leads_group().without_terminal()), Some(0));
        assert_ne!(code(leads_group()), Some(0));
        let session = rustix::process::getsid(None).unwrap().as_raw_nonzero();
        let same = format!("read -r _ _ _ _ _ session _ </proc/$$/stat; test $session = {session}");
        assert_eq!(code(shell(&same).without_terminal()), Some(0));
        return;
    }
    if Command::new("script").arg("--version").output().is_err() {
        return println!("skipped: there is no `script`");
    }
    let this = std::env::current_exe().unwrap();
    let this = this.display();
    let again = format!("{this} a_child_without_terminal_stays_in_the_session --nocapture");
    let mut script = Command::new("script");
    let script = script.args(["-qefc", &again, "/dev/null"]).env(INSIDE, "1");
    let done = script.output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}
