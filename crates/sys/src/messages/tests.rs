//! Real sockets, and a shell as the process that dies.

use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

fn file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

fn text(descriptor: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(descriptor)
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn descriptors_come_in_order_with_their_bytes_and_close_on_exec() {
    let (one, other) = UnixStream::pair().unwrap();
    let files = ["a", "b", "c"].map(file);
    send(&one, b"first", &[files[0].as_fd()]).unwrap();
    send(&one, b"second", &[files[1].as_fd(), files[2].as_fd()]).unwrap();
    let mut descriptors = Vec::new();
    let mut buffer = [0; 64];
    // Those of one send at a time, however large the buffer.
    assert_eq!(receive(&other, &mut buffer, &mut descriptors).unwrap(), 5);
    assert_eq!((&buffer[..5], descriptors.len()), (&b"first"[..], 1));
    assert_eq!(receive(&other, &mut buffer, &mut descriptors).unwrap(), 6);
    for descriptor in &descriptors {
        let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    let texts: Vec<String> = descriptors.drain(..).map(text).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    drop(one);
    assert_eq!(receive(&other, &mut buffer, &mut descriptors).unwrap(), 0);
}

#[test]
fn more_bytes_than_the_socket_holds_arrive_with_their_descriptors_first() {
    let (one, other) = UnixStream::pair().unwrap();
    let bytes: Vec<u8> = (0..4 << 20).map(|number| number as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send(&one, &bytes, &[file("with it").as_fd()]).unwrap();
            drop(one);
        });
        let mut descriptors = Vec::new();
        let mut came = Vec::new();
        let mut buffer = vec![0; 100_000];
        loop {
            let count = receive(&other, &mut buffer, &mut descriptors).unwrap();
            if count == 0 {
                break;
            }
            came.extend_from_slice(&buffer[..count]);
            assert_eq!(descriptors.len(), 1);
        }
        assert!(came == bytes);
        assert_eq!(text(descriptors.pop().unwrap()), "with it");
    });
}

#[test]
fn numbers_of_descriptors_are_limited_on_both_sides() {
    let (one, other) = UnixStream::pair().unwrap();
    let file = file("");
    let many = |count| vec![file.as_fd(); count];
    assert!(matches!(
        send(&one, b"x", &many(DESCRIPTORS_MAX + 1)),
        Err(SendError::TooManyDescriptors(33))
    ));
    assert!(matches!(
        send(&one, b"", &many(1)),
        Err(SendError::DescriptorsAlone)
    ));
    send(&one, b"x", &many(DESCRIPTORS_MAX)).unwrap();
    send(&one, b"y", &many(1)).unwrap();
    let mut descriptors = Vec::new();
    let mut buffer = [0; 8];
    assert_eq!(receive(&other, &mut buffer, &mut descriptors).unwrap(), 1);
    assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
    assert!(matches!(
        receive(&other, &mut buffer, &mut descriptors),
        Err(ReceiveError::TooManyDescriptors)
    ));
    assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
}

/// Whether some descriptor of this process is the reading end of the pipe whose writing end this is: writing fails if not.
fn has_reader(mut pipe: &std::io::PipeWriter) -> bool {
    pipe.write_all(b"?").is_ok()
}

#[test]
fn a_foreign_sender_with_more_descriptors_is_refused_and_all_are_closed() {
    let (one, other) = UnixStream::pair().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let many = vec![reader.as_fd(); DESCRIPTORS_MAX + 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
    let bytes = [IoSlice::new(b"x")];
    rustix::net::sendmsg(&one, &bytes, &mut control, SendFlags::empty()).unwrap();
    drop(many);
    drop(reader);
    assert!(has_reader(&writer), "under way");
    let mut descriptors = Vec::new();
    assert!(matches!(
        receive(&other, &mut [0; 8], &mut descriptors),
        Err(ReceiveError::Truncated)
    ));
    assert!(descriptors.is_empty());
    assert!(!has_reader(&writer), "closed here");
}

#[test]
fn a_closed_end_and_a_full_socket_are_errors() {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    let error = send(&one, &vec![0; 8 << 20], &[]).unwrap_err();
    let SendError::Os { sent, source } = error else {
        panic!("{error}");
    };
    assert!(sent > 0 && source.kind() == io::ErrorKind::WouldBlock);
    drop(other);
    let error = send(&one, b"x", &[]).unwrap_err();
    let SendError::Os { sent: 0, source } = error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_process_that_is_nobodys_child_here_is_seen_to_end_and_can_be_killed() {
    // The shell's background child connects by itself and outlives the shell: only its socket leads to it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let program = std::env::current_exe().unwrap();
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg("\"$0\" --ignored --exact messages::tests::connects_and_stays </dev/null >/dev/null 2>&1 &")
        .arg(program)
        .env("STERNA_TEST_SOCKET", &path)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let (stream, _) = listener.accept().unwrap();
    let process = peer_process(&stream).unwrap();
    assert!(!process.wait(Some(Duration::ZERO)).unwrap());
    process.kill().unwrap();
    assert!(process.wait(Some(Duration::from_secs(60))).unwrap());
    process.kill().unwrap(); // of one that has ended
    // Its end of the socket went with it.
    assert_eq!(receive(&stream, &mut [0; 8], &mut Vec::new()).unwrap(), 0);
}

/// Not a test: what the one above starts.
#[test]
#[ignore = "started by another test"]
fn connects_and_stays() {
    let Some(path) = std::env::var_os("STERNA_TEST_SOCKET") else {
        return;
    };
    let stream = UnixStream::connect(path).unwrap();
    // Until it is killed, or the test that started it has gone.
    let _ = receive(&stream, &mut [0; 8], &mut Vec::new());
}

#[test]
fn who_listens_last_is_the_peer_of_who_connects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let connected = UnixStream::connect(&path).unwrap();
    let process = peer_process(&connected).unwrap();
    assert!(process.as_fd().as_raw_fd() > 2);
    // A process of our own that listens on the same socket: from then on it is the peer.
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program)
        .args(["--ignored", "--exact", "messages::tests::listens_on_input"])
        .env("STERNA_TEST_SOCKET", &path)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has accepted, hence listened, when its answer comes.
    let mut ready = [0; 1];
    assert_eq!(receive(&connected, &mut ready, &mut Vec::new()).unwrap(), 1);
    let second = UnixStream::connect(&path).unwrap();
    let peer = crate::identity::peer_credentials(&second).unwrap();
    assert_eq!(peer.pid, child.id());
    let process = peer_process(&second).unwrap();
    drop(connected);
    assert!(child.wait().unwrap().success());
    assert!(process.wait(Some(Duration::ZERO)).unwrap());
}

/// Not a test: what the one above starts.
#[test]
#[ignore = "started by another test"]
fn listens_on_input() {
    if std::env::var_os("STERNA_TEST_SOCKET").is_none() {
        return;
    }
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    rustix::net::listen(&listener, 8).unwrap();
    let (stream, _) = listener.accept().unwrap();
    send(&stream, b"r", &[]).unwrap();
    assert_eq!(receive(&stream, &mut [0; 1], &mut Vec::new()).unwrap(), 0);
}
