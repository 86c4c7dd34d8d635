//! On real pipes and terminals, of which the test is the process.

use rustix::pty::{grantpt, openpt, unlockpt};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn terminal() -> (Arc<Input>, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = File::from(ioctl_tiocgptpeer(&master, flags).unwrap());
    never_block(&slave).unwrap();
    (Input::terminal(master.into()).unwrap().into(), slave)
}

fn pipe() -> (Arc<Input>, OwnedFd) {
    let (input, end) = Input::pipe().unwrap();
    (input.into(), end)
}

/// Lines that the process reads, so many.
fn read_lines(slave: &mut File, count: usize) -> String {
    let (mut all, mut line) = (Vec::new(), [0; 100]);
    while all.iter().filter(|&&byte| byte == b'\n').count() < count {
        let got = slave.read(&mut line).unwrap();
        all.extend_from_slice(&line[..got]);
    }
    String::from_utf8(all).unwrap()
}

fn carried(input: &Input) -> Carried {
    input.take_out().unwrap().decode().unwrap()
}

#[test]
fn a_full_pipe_takes_a_part_and_the_rest_travels() {
    let (input, end) = pipe();
    let much = vec![b'x'; 1 << 20];
    let taken = input.give(&much, false, Duration::ZERO).unwrap();
    assert!(0 < taken && taken < much.len(), "{taken}");
    let mut first = [0; 10];
    File::from(end).read_exact(&mut first).unwrap();
    assert_eq!(carried(&input).unread.len(), taken - 10);
    assert_eq!(input.give(b"more", false, SOON).unwrap(), 0, "it leaves");
}

#[test]
fn input_of_one_that_stays_is_there_again() {
    let (input, end) = pipe();
    input.give(b"not read", false, SOON).unwrap();
    assert_eq!(carried(&input).unread, b"not read");
    input.give_again();
    input.give(b", and more", true, SOON).unwrap();
    let mut all = String::new();
    File::from(end).read_to_string(&mut all).unwrap();
    assert_eq!(all, "not read, and more");
}

#[test]
fn what_was_given_before_an_end_is_there_after_any_copy() {
    let (input, end) = pipe();
    input.give(&[b'x'; 9000], false, SOON).unwrap();
    input.give(b"the last", true, SOON).unwrap();
    for _ in 0..3 {
        let carried = carried(&input);
        assert!(carried.has_ended && carried.unread.ends_with(b"xthe last"));
        assert_eq!(carried.unread.len(), 9008);
        input.give_again();
    }
    let mut all = String::new();
    File::from(end).read_to_string(&mut all).unwrap();
    assert_eq!(all.len(), 9008);
}

#[test]
fn an_end_that_comes_while_older_input_waits_comes_after_it() {
    let (input, end) = pipe();
    let much = vec![b'x'; 60_000];
    assert_eq!(input.give(&much, false, SOON).unwrap(), much.len());
    let carried = carried(&input);
    let (there, small) = pipe();
    fcntl_setpipe_size(&small, 4096).unwrap();
    there.carry(carried);
    there.give_again();
    assert_eq!(there.give(b"", true, Duration::ZERO).unwrap(), 0);
    drop((input, end));
    let flags = fcntl_getfl(&small).unwrap();
    fcntl_setfl(&small, flags - OFlags::NONBLOCK).unwrap();
    let mut all = Vec::new();
    File::from(small).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), much.len());
}

#[test]
fn an_end_travels() {
    let (input, _end) = pipe();
    input.give(b"the last", true, SOON).unwrap();
    let carried = carried(&input);
    assert!(carried.has_ended && carried.unread == b"the last");
    let (there, end) = pipe();
    there.carry(carried);
    there.give_again();
    let mut all = String::new();
    File::from(end).read_to_string(&mut all).unwrap();
    assert_eq!(all, "the last");
}

#[test]
fn lines_that_nobody_has_read_and_one_that_is_being_typed_travel() {
    let (input, mut slave) = terminal();
    let size = WindowSize {
        columns: 91,
        rows: 23,
    };
    assert!(input.resize(size).unwrap());
    input.give(b"read\nnot read\nhalf a", false, SOON).unwrap();
    let mut line = [0; 100];
    let got = slave.read(&mut line).unwrap();
    assert_eq!(&line[..got], b"read\n");
    let carried = carried(&input);
    assert_eq!(carried.unread, b"not read\nhalf a");
    let (there, mut slave) = terminal();
    there.carry(carried);
    there.give_again();
    assert_eq!(there.size(), Some(size));
    there.give(b" line\n", false, SOON).unwrap();
    assert_eq!(read_lines(&mut slave, 2), "not read\nhalf a line\n");
}

#[test]
fn a_line_that_is_being_typed_to_one_that_stays_is_there_once() {
    let (input, mut slave) = terminal();
    input.give(b"not read\nhalf a", false, SOON).unwrap();
    for _ in 0..3 {
        assert_eq!(carried(&input).unread, b"not read\nhalf a");
        input.give_again();
    }
    input.give(b" line\n", false, SOON).unwrap();
    assert_eq!(read_lines(&mut slave, 2), "not read\nhalf a line\n");
}

#[test]
fn ends_of_input_at_a_terminal_travel_in_their_places() {
    let (input, _slave) = terminal();
    input.give(b"a line\n", true, SOON).unwrap();
    input.give(b"no line", true, SOON).unwrap();
    input.give(b"the next\n", false, SOON).unwrap();
    let carried = carried(&input);
    assert_eq!(carried.unread, b"a line\n\x04no line\x04the next\n");
    let (there, mut slave) = terminal();
    there.carry(carried);
    there.give_again();
    let mut line = [0; 100];
    let reads: Vec<usize> = (0..4).map(|_| slave.read(&mut line).unwrap()).collect();
    assert_eq!(reads, [7, 0, 7, 9]);
}

#[test]
fn what_does_not_fit_into_a_smaller_pipe_follows_before_what_comes_later() {
    let (input, end) = pipe();
    let mut much: Vec<u8> = (0..60_000_u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(input.give(&much, false, SOON).unwrap(), much.len());
    let carried = carried(&input);
    drop((input, end));
    let (there, end) = pipe();
    fcntl_setpipe_size(&end, 4096).unwrap();
    there.carry(carried);
    there.give_again();
    let more = Arc::clone(&there);
    let giving = thread::spawn(move || more.give(b"and more", true, SOON).unwrap());
    let flags = fcntl_getfl(&end).unwrap();
    fcntl_setfl(&end, flags - OFlags::NONBLOCK).unwrap();
    let mut all = Vec::new();
    File::from(end).read_to_end(&mut all).unwrap();
    assert_eq!(giving.join().unwrap(), 8);
    much.extend(b"and more");
    assert!(all == much, "{} bytes of {}", all.len(), much.len());
}

#[test]
fn an_end_that_comes_too_late_is_said_not_to_be_taken() {
    let (input, _end) = pipe();
    drop(carried(&input));
    assert!(input.give(b"", true, Duration::ZERO).is_err());
    assert_eq!(input.give(b"x", true, Duration::ZERO).unwrap(), 0);
}

#[test]
fn a_pipe_has_no_size() {
    let (input, _end) = pipe();
    let size = WindowSize {
        columns: 1,
        rows: 1,
    };
    assert!(!input.resize(size).unwrap() && input.size().is_none());
}
