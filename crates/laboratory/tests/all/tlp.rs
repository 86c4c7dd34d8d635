//! Thread-level parallelism of programs that are known.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sterna_laboratory::tlp::{
    Choice, Histogram, Method, Parallelism, TlpError, Until, of_command, of_process,
};

/// How often something is measured until nothing else on this machine disturbs it.
const TRIES: usize = 40;
/// How long the programs compute.
const SPIN_MS: &str = "200";

static NEVER: AtomicBool = AtomicBool::new(false);
const TO_ITS_END: Until<'static> = Until {
    duration: None,
    stopped: &NEVER,
};

fn subject() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sterna-laboratory-subject"))
}

fn spin(threads: usize, choice: Choice) -> Parallelism {
    let measured = of_command(
        subject().args(["spin", &threads.to_string(), SPIN_MS]),
        choice,
        TO_ITS_END,
    )
    .unwrap();
    assert_eq!(measured.exit_code, Some(0));
    for histogram in [&measured.running, &measured.wanted] {
        whole(histogram);
    }
    assert!(measured.running.shares.len() <= measured.processors + 1);
    measured
}

/// Shares add up, and the formula holds.
fn whole(histogram: &Histogram) {
    let shares = &histogram.shares;
    assert!(
        (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9,
        "{shares:?}"
    );
    let weighted: f64 = (0..)
        .zip(shares)
        .map(|(i, share)| f64::from(i) * share)
        .sum();
    if let Some(tlp) = histogram.tlp {
        assert!((tlp - weighted / (1.0 - shares[0])).abs() < 1e-6);
    }
}

fn events_or_skip(measured: &Parallelism) -> bool {
    if measured.method == Method::Samples {
        println!("SKIPPED: no scheduler events: {:?}", measured.fallback);
    }
    measured.method == Method::SchedulerEvents
}

#[test]
fn one_thread_has_a_parallelism_of_one_whatever_else_runs() {
    let measured = spin(1, Choice::Best);
    if !events_or_skip(&measured) {
        return;
    }
    let tlp = measured.running.tlp.unwrap();
    assert!((1.0..1.02).contains(&tlp), "{measured:?}");
    assert_eq!(measured.threads, 2);
    assert_eq!(measured.lost, 0);
}

#[test]
fn two_threads_want_two_processors_and_get_them_where_they_are_free() {
    let mut best = 0.0;
    for _ in 0..TRIES {
        let measured = spin(2, Choice::Best);
        if !events_or_skip(&measured) {
            return;
        }
        assert!(measured.running.tlp <= measured.wanted.tlp);
        // The first thread, which starts them and waits, runs a little as well.
        let wanted = measured.wanted.tlp.unwrap();
        assert!(wanted < 3.0, "{measured:?}");
        if (wanted - 2.0).abs() < f64::abs(best - 2.0) {
            best = wanted;
        }
        if (best - 2.0).abs() < 0.1 {
            return;
        }
    }
    panic!("two threads that compute wanted {best} processors in the best of {TRIES} tries");
}

#[test]
fn what_ran_adds_up_to_the_processor_time_that_the_kernel_counts() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = subject();
    command.args(["spin", "3", SPIN_MS]).stdout(writer);
    let measured = of_command(&mut command, Choice::Best, TO_ITS_END).unwrap();
    drop(command); // and with it the writer
    if !events_or_skip(&measured) {
        return;
    }
    let mut used = String::new();
    reader.read_to_string(&mut used).unwrap();
    let used: f64 = used.trim().parse().unwrap();
    let shares = (0..).zip(&measured.running.shares);
    let ran: f64 = shares.map(|(i, share)| f64::from(i) * share).sum::<f64>() * measured.seconds;
    assert!((ran / used - 1.0).abs() < 0.05, "{ran} s, of {used} s");
    let named: f64 = measured.busiest.iter().map(|named| named.run_seconds).sum();
    assert!(
        (ran / named - 1.0).abs() < 1e-6,
        "{ran} s, {named} s by name"
    );
}

#[test]
fn threads_without_a_processor_are_counted_as_wanting_one() {
    let processors = processors();
    let threads = processors + 2;
    let measured = spin(threads, Choice::Best);
    if !events_or_skip(&measured) {
        return;
    }
    let wanted = measured.wanted.tlp.unwrap();
    let most = threads as f64 + 1.0; // with the one that waits for them
    assert!(wanted > processors as f64 && wanted < most, "{measured:?}");
    assert_eq!(measured.threads, threads as u64 + 1);
}

#[test]
fn children_are_followed_and_named() {
    let measured = of_command(
        Command::new("/bin/sh").args([
            "-c",
            r#""$0" spin 1 100 & "$0" spin 1 100 & wait"#,
            env!("CARGO_BIN_EXE_sterna-laboratory-subject"),
        ]),
        Choice::Best,
        TO_ITS_END,
    )
    .unwrap();
    if !events_or_skip(&measured) {
        return;
    }
    assert_eq!(
        measured.threads, 5,
        "a shell, and twice two threads: {measured:?}"
    );
    assert_eq!(measured.busiest[0].name, "sterna-laborato"); // as the kernel cuts it
    assert_eq!(measured.busiest[0].threads, 4);
}

#[test]
fn samples_see_the_same_where_there_are_no_events() {
    let measured = spin(1, Choice::Samples);
    assert_eq!(measured.method, Method::Samples);
    let tlp = measured.running.tlp.unwrap();
    assert!((1.0..1.3).contains(&tlp), "{measured:?}");
    assert_eq!(measured.fallback.as_deref(), Some("samples were asked for"));
}

#[test]
fn a_running_process_is_measured_from_its_middle() {
    let mut child = subject()
        .args(["spin", "1", "2000"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Until {
        duration: Some(Duration::from_millis(100)),
        ..TO_ITS_END
    };
    let measured = of_process(child.id(), Choice::Best, until).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    whole(&measured.running);
    let tlp = measured.running.tlp.unwrap();
    assert!((1.0..1.3).contains(&tlp), "{measured:?}");
}

#[test]
fn a_command_that_is_stopped_is_gone() {
    let until = Until {
        duration: Some(Duration::from_millis(30)),
        ..TO_ITS_END
    };
    let mut command = Command::new("/bin/sleep");
    let measured = of_command(command.arg("1000"), Choice::Best, until).unwrap();
    assert_eq!(measured.exit_code, None);
    whole(&measured.running);
}

#[test]
fn what_is_not_there_is_said() {
    let missing = of_command(
        &mut Command::new("/no/such/program"),
        Choice::Best,
        TO_ITS_END,
    );
    assert!(matches!(missing, Err(TlpError::Start { .. })));
    let mut gone = Command::new("/bin/true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let missing = of_process(pid, Choice::Best, TO_ITS_END);
    assert!(matches!(missing, Err(TlpError::Process { .. })));
}

fn processors() -> usize {
    std::thread::available_parallelism().unwrap().get()
}
