//! Reading, writing and seeking in real files; metadata, listings, limits.

use crate::guest::{
    BOTH, CREAT, DATA, DIRECTORY, Guest, OUT, READ, TRUNC, Time, WRITE, config, with_dir,
};
use std::fs;
use sterna_wasi::{Directory, Errno, Function, Rights};
use tempfile::tempdir;

#[test]
fn write_seek_read() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open(3, "f", CREAT, BOTH).unwrap();
    assert_eq!(fd, 4);
    assert_eq!(guest.write(fd, b"hello world"), Ok(11));
    assert_eq!(guest.seek(fd, -5, 2), Ok(6));
    assert_eq!(guest.read(fd, 100).unwrap(), b"world");
    assert_eq!(guest.read(fd, 100).unwrap(), b"");
    assert_eq!(guest.seek(fd, 2, 0), Ok(2));
    assert_eq!(guest.seek(fd, 2, 1), Ok(4));
    assert_eq!(guest.tell(fd), Ok(4));
    assert_eq!(guest.seek(fd, -5, 1), Err(Errno::INVAL));
    assert_eq!(guest.seek(fd, -1, 0), Err(Errno::INVAL));
    assert_eq!(guest.seek(fd, 0, 3), Err(Errno::INVAL));
    assert_eq!(guest.tell(fd), Ok(4), "a refused seek moves nothing");
    // The unstable order: current, end, set.
    guest
        .call(Function::FdSeekUnstable, &[fd.into(), 1, 2, OUT])
        .unwrap();
    assert_eq!(guest.u64(OUT), 1);
    guest.close(fd).unwrap();
    assert_eq!(guest.close(fd), Err(Errno::BADF));
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"hello world");
}

#[test]
fn vectors_of_all_shapes() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open(3, "f", CREAT, BOTH).unwrap();
    guest.put(DATA, b"abcdefgh");
    // Overlapping when writing, and more than are handed to the kernel at once.
    let many: Vec<_> = (0..100).map(|i| (DATA + i % 4, 1 + i % 3)).collect();
    let expected: Vec<u8> = many
        .iter()
        .flat_map(|&(at, len)| guest.bytes(at, len as usize).to_vec())
        .collect();
    let [at, count] = guest.vectors(&many);
    guest
        .call(Function::FdWrite, &[fd.into(), at, count, OUT])
        .unwrap();
    assert_eq!(guest.u32(OUT) as usize, expected.len());
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), expected);
    // Reading into many, descending, with empty ones between.
    guest.seek(fd, 0, 0).unwrap();
    let areas = [
        (DATA + 900, 0),
        (DATA + 500, 3),
        (DATA + 400, 5),
        (DATA, 0),
        (DATA + 100, 4),
    ];
    let [at, count] = guest.vectors(&areas);
    guest
        .call(Function::FdRead, &[fd.into(), at, count, OUT])
        .unwrap();
    assert_eq!(guest.u32(OUT), 12);
    let got = [
        guest.bytes(DATA + 500, 3),
        guest.bytes(DATA + 400, 5),
        guest.bytes(DATA + 100, 4),
    ]
    .concat();
    assert_eq!(got, expected[..12]);
    // Overlapping when reading: the later one wins, as if read one after the other.
    guest.seek(fd, 0, 0).unwrap();
    let [at, count] = guest.vectors(&[(DATA, 4), (DATA + 2, 4)]);
    guest
        .call(Function::FdRead, &[fd.into(), at, count, OUT])
        .unwrap();
    assert_eq!(guest.u32(OUT), 8);
    assert_eq!(guest.bytes(DATA, 2), &expected[..2]);
    assert_eq!(guest.bytes(DATA + 2, 4), &expected[4..8]);
    // Too many vectors, and none.
    assert_eq!(
        guest.call(Function::FdRead, &[fd.into(), DATA, 1025, OUT]),
        Err(Errno::INVAL)
    );
    assert_eq!(
        guest.call(Function::FdRead, &[fd.into(), DATA, 0, OUT]),
        Ok(())
    );
    assert_eq!(guest.u32(OUT), 0);
}

#[test]
fn bad_pointers_have_no_effect() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open(3, "f", CREAT, BOTH).unwrap();
    let end = guest.memory.len() as u64;
    let [at, count] = guest.vectors(&[(DATA, 4)]);
    assert_eq!(
        guest.call(Function::FdWrite, &[fd.into(), at, count, end - 3]),
        Err(Errno::FAULT)
    );
    let [at, count] = guest.vectors(&[(DATA, 4), (end - 1, 2)]);
    assert_eq!(
        guest.call(Function::FdWrite, &[fd.into(), at, count, OUT]),
        Err(Errno::FAULT)
    );
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"");
    let [path, len] = guest.path("new");
    let open = [3, 0, path, len, CREAT, BOTH.bits(), 0, 0, end];
    assert_eq!(guest.call(Function::PathOpen, &open), Err(Errno::FAULT));
    assert!(!dir.path().join("new").exists());
    assert_eq!(
        guest.call(Function::FdSeek, &[fd.into(), 5, 0, end]),
        Err(Errno::FAULT)
    );
    assert_eq!(guest.tell(fd), Ok(0));
}

#[test]
fn positioned_transfers_leave_the_offset() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open(3, "f", CREAT, BOTH).unwrap();
    guest.write(fd, b"0123456789").unwrap();
    guest.put(DATA, b"xy");
    let [at, count] = guest.vectors(&[(DATA, 2)]);
    guest
        .call(Function::FdPwrite, &[fd.into(), at, count, 3, OUT])
        .unwrap();
    let [at, count] = guest.vectors(&[(DATA, 3), (DATA + 10, 3), (DATA + 20, 3)]);
    guest
        .call(Function::FdPread, &[fd.into(), at, count, 2, OUT])
        .unwrap();
    assert_eq!(guest.u32(OUT), 8);
    assert_eq!(
        [
            guest.bytes(DATA, 3),
            guest.bytes(DATA + 10, 3),
            guest.bytes(DATA + 20, 2)
        ]
        .concat(),
        b"2xy56789"
    );
    assert_eq!(guest.tell(fd), Ok(10));
    assert_eq!(
        guest.call(Function::FdPread, &[fd.into(), at, count, u64::MAX, OUT]),
        Err(Errno::INVAL)
    );
    assert_eq!(
        guest.call(Function::FdPread, &[1, at, count, 0, OUT]),
        Err(Errno::SPIPE)
    );
}

#[test]
fn append_and_flags() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open_with(3, "f", 0, BOTH, 1, 0).unwrap();
    assert_eq!(guest.fdstat(fd).unwrap().1, 1);
    guest.write(fd, b"d").unwrap();
    guest
        .call(Function::FdFdstatSetFlags, &[fd.into(), 4])
        .unwrap();
    guest.seek(fd, 0, 0).unwrap();
    guest.write(fd, b"A").unwrap();
    guest
        .call(Function::FdFdstatSetFlags, &[fd.into(), 1])
        .unwrap();
    guest.seek(fd, 0, 0).unwrap();
    guest.write(fd, b"e").unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"Abcde");
    assert_eq!(
        guest.call(Function::FdFdstatSetFlags, &[fd.into(), 16]),
        Err(Errno::NOTSUP)
    );
    assert_eq!(
        guest.call(Function::FdFdstatSetFlags, &[fd.into(), 32]),
        Err(Errno::INVAL)
    );
    let synchronous = guest.open_with(3, "f", 0, BOTH, 16 | 2, 0).unwrap();
    assert_eq!(guest.fdstat(synchronous).unwrap().1, 18);
}

#[test]
fn rights_are_given_dropped_and_never_regained() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let mut guest = with_dir(dir.path());
    let reader = guest.open(3, "f", 0, READ).unwrap();
    assert_eq!(guest.write(reader, b"x"), Err(Errno::BADF));
    let writer = guest.open(3, "f", 0, WRITE).unwrap();
    assert_eq!(guest.read(writer, 1), Err(Errno::BADF));
    // Only what applies to a file.
    let (kind, _, rights, inheriting) = guest.fdstat(reader).unwrap();
    assert_eq!((kind, inheriting), (4, Rights::NONE));
    assert!(
        rights.contains(Rights::FD_READ.and(Rights::FD_SEEK))
            && !rights.intersects(Rights::PATH_OPEN)
    );
    // A directory that passes on no writing.
    let sub = guest.open(3, "sub", DIRECTORY, BOTH).unwrap();
    let (_, _, base, all) = guest.fdstat(sub).unwrap();
    let less = all.without(Rights::FD_WRITE);
    let drop = [sub.into(), base.bits(), less.bits()];
    guest.call(Function::FdFdstatSetRights, &drop).unwrap();
    assert_eq!(guest.open(sub, "x", CREAT, BOTH), Err(Errno::NOTCAPABLE));
    assert_eq!(
        guest.call(
            Function::FdFdstatSetRights,
            &[sub.into(), base.bits(), all.bits()]
        ),
        Err(Errno::NOTCAPABLE)
    );
    guest
        .call(
            Function::FdFdstatSetRights,
            &[reader.into(), Rights::FD_READ.bits(), 0],
        )
        .unwrap();
    assert_eq!(guest.read(reader, 1).unwrap(), b"a");
    assert_eq!(guest.seek(reader, 0, 0), Err(Errno::NOTCAPABLE));
    assert_eq!(
        guest.call(Function::FdFilestatGet, &[reader.into(), OUT]),
        Err(Errno::NOTCAPABLE)
    );
}

#[test]
fn metadata() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abcdef").unwrap();
    let mut guest = with_dir(dir.path());
    let fd = guest.open(3, "f", 0, BOTH).unwrap();
    guest
        .call(Function::FdFilestatSetSize, &[fd.into(), 4])
        .unwrap();
    let second = 1_000_000_000;
    guest
        .call(
            Function::FdFilestatSetTimes,
            &[fd.into(), 5 * second + 7, 9 * second, 1 | 4],
        )
        .unwrap();
    guest
        .call(Function::FdFilestatGet, &[fd.into(), OUT])
        .unwrap();
    assert_eq!(guest.memory[OUT as usize + 16], 4);
    let fields: Vec<_> = (3..7).map(|i| guest.u64(OUT + i * 8)).collect();
    assert_eq!(fields, [1, 4, 5 * second + 7, 9 * second]);
    guest
        .call(Function::FdFilestatGetUnstable, &[fd.into(), OUT])
        .unwrap();
    assert_eq!(
        (
            guest.u32(OUT + 20),
            guest.u64(OUT + 24),
            guest.u64(OUT + 40)
        ),
        (1, 4, 9 * second)
    );
    assert_eq!(
        guest.call(Function::FdFilestatSetTimes, &[fd.into(), 0, 0, 3]),
        Err(Errno::INVAL)
    );
    guest
        .call(Function::FdFilestatSetTimes, &[3, 0, 2 * second, 4])
        .unwrap();
    guest.call(Function::FdFilestatGet, &[3, OUT]).unwrap();
    assert_eq!(
        (guest.memory[OUT as usize + 16], guest.u64(OUT + 48)),
        (3, 2 * second)
    );
    guest
        .call(Function::FdAllocate, &[fd.into(), 0, 100])
        .unwrap();
    assert_eq!(guest.stat(3, "f", true), Ok((4, 100)));
    assert_eq!(
        guest.call(Function::FdAllocate, &[fd.into(), 0, 0]),
        Err(Errno::INVAL)
    );
    guest
        .call(Function::FdAdvise, &[fd.into(), 0, 0, 3])
        .unwrap();
    assert_eq!(
        guest.call(Function::FdAdvise, &[fd.into(), 0, 0, 6]),
        Err(Errno::INVAL)
    );
    assert_eq!(
        guest.call(Function::FdAdvise, &[3, 0, 0, 0]),
        Err(Errno::BADF)
    );
    for function in [Function::FdSync, Function::FdDatasync] {
        for fd in [1, 3, fd.into()] {
            guest.call(function, &[fd]).unwrap();
        }
    }
}

#[test]
fn listings_go_on_from_their_cookies() {
    let dir = tempdir().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(format!("file{i:02}")), "").unwrap();
    }
    let mut guest = with_dir(dir.path());
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let some = guest.readdir(3, cookie, 100).unwrap();
        let Some((_, next)) = some.last() else { break };
        cookie = *next;
        names.extend(some.into_iter().map(|(name, _)| name));
        // What happens to the directory meanwhile does not confuse a reading that has begun.
        fs::write(dir.path().join(format!("aaa{cookie}")), "").unwrap();
    }
    let expected: Vec<_> = [".", ".."]
        .into_iter()
        .map(str::to_owned)
        .chain((0..50).map(|i| format!("file{i:02}")))
        .collect();
    assert_eq!(names, expected);
    assert!(
        guest.readdir(3, 0, 10_000).unwrap().len() > 52,
        "cookie 0 begins anew"
    );
    assert_eq!(guest.readdir(3, u64::MAX, 100).unwrap(), []);
    assert_eq!(guest.readdir(1, 0, 100), Err(Errno::NOTDIR));
    assert_eq!(guest.readdir(3, 0, 0).unwrap(), []);
}

#[test]
fn given_directories_have_names() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    guest.call(Function::FdPrestatGet, &[3, OUT]).unwrap();
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (0, 5));
    guest
        .call(Function::FdPrestatDirName, &[3, DATA, 5])
        .unwrap();
    assert_eq!(guest.bytes(DATA, 5), b"/data");
    assert_eq!(
        guest.call(Function::FdPrestatDirName, &[3, DATA, 4]),
        Err(Errno::NAMETOOLONG)
    );
    let sub = guest.open(3, ".", DIRECTORY, BOTH).unwrap();
    for fd in [0, 4, 5, u64::from(sub)] {
        assert_eq!(
            guest.call(Function::FdPrestatGet, &[fd, OUT]),
            Err(Errno::BADF)
        );
    }
    assert_eq!(guest.read(3, 1), Err(Errno::BADF));
    assert_eq!(guest.seek(3, 0, 0), Err(Errno::BADF));
}

#[test]
fn renumbering() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let one = guest.open(3, "one", CREAT, BOTH).unwrap();
    let two = guest.open(3, "two", CREAT, BOTH).unwrap();
    guest
        .call(Function::FdRenumber, &[one.into(), two.into()])
        .unwrap();
    guest.write(two, b"1").unwrap();
    assert_eq!(fs::read(dir.path().join("one")).unwrap(), b"1");
    assert_eq!(guest.tell(one), Err(Errno::BADF));
    guest
        .call(Function::FdRenumber, &[two.into(), two.into()])
        .unwrap();
    assert_eq!(guest.tell(two), Ok(1));
    assert_eq!(
        guest.call(Function::FdRenumber, &[two.into(), 1000]),
        Err(Errno::BADF)
    );
    assert_eq!(
        guest.call(Function::FdRenumber, &[1000, two.into()]),
        Err(Errno::BADF)
    );
    assert_eq!(
        guest.open(3, "three", CREAT, BOTH),
        Ok(one),
        "the lowest free number"
    );
}

#[test]
fn limits() {
    let dir = tempdir().unwrap();
    let mut given = config(&Time::default());
    given
        .directories
        .push(Directory::open(dir.path(), "/data", false).unwrap());
    given.limits.descriptors = 5;
    given.limits.output_bytes = Some(10);
    let mut guest = Guest::new(given);
    let fd = guest.open(3, "f", CREAT, BOTH).unwrap();
    assert_eq!(guest.open(3, "g", CREAT | TRUNC, BOTH), Err(Errno::MFILE));
    assert!(!dir.path().join("g").exists());
    assert_eq!(guest.write(fd, b"1234567"), Ok(7));
    assert_eq!(guest.write(fd, b"1234567"), Ok(3), "what is left");
    assert_eq!(guest.write(fd, b"1"), Err(Errno::DQUOT));
    assert_eq!(guest.write(1, b"1"), Err(Errno::DQUOT));
    assert_eq!(guest.write(fd, b""), Ok(0));
    assert_eq!(
        guest.call(Function::FdAllocate, &[fd.into(), 0, 11]),
        Err(Errno::DQUOT)
    );
    assert_eq!(
        guest.call(Function::FdAllocate, &[fd.into(), 0, 10]),
        Ok(())
    );
    let [at, count] = guest.vectors(&[(DATA, 1)]);
    assert_eq!(
        guest.call(Function::FdPwrite, &[fd.into(), at, count, 0, OUT]),
        Err(Errno::DQUOT)
    );
    assert_eq!(guest.wasi.output_bytes(), 10);
}
