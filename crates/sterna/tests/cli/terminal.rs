//! What is different on a terminal. `script` of util-linux makes one.

use std::process::Command;

use crate::world::{Actor, NO_PYTHON, World, guest, python, skip};

/// Runs a command on a terminal of its own; what is said to it is typed there.
fn on_terminal(world: &World, arguments: &[&str]) -> Option<Actor> {
    on_terminal_with(world, arguments, |command| command)
}

/// The same with a line of the shell made of the command.
pub(crate) fn on_terminal_with(
    world: &World,
    arguments: &[&str],
    line: impl FnOnce(String) -> String,
) -> Option<Actor> {
    Command::new("script").arg("--version").output().ok()?;
    let inner = world.command(arguments);
    let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let words: Vec<String> = [inner.get_program()]
        .into_iter()
        .chain(inner.get_args())
        .map(quote)
        .collect();
    let mut command = Command::new("script");
    command
        .args(["-qefc", &line(words.join(" ")), "/dev/null"])
        .current_dir(world.directory.path());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    Some(Actor::start(command))
}

macro_rules! on_terminal {
    ($world:expr, $arguments:expr) => {
        match on_terminal($world, &$arguments) {
            Some(actor) => actor,
            None => skip!("there is no `script` (util-linux) to make a terminal"),
        }
    };
}

#[test]
fn a_program_reads_what_is_typed_and_ctrl_c_ends_it() {
    let world = World::new();
    let mut run = on_terminal!(&world, ["run", &guest("echo")]);
    run.say("typed\n");
    run.out.wait_for("1: typed");
    run.say("\x03");
    run.ended(130);
    assert_eq!(world.entries(), [""; 0]);
}

#[test]
fn a_conversation_is_carried_from_one_terminal_to_another() {
    let world = World::new();
    let mut here = on_terminal!(&world, ["run", &guest("echo")]);
    here.say("one\n");
    here.out.wait_for("1: one");
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    here.ended(75);
    let mut there = on_terminal!(&world, ["thaw", "echo.sterna"]);
    there.say("two\n");
    there.out.wait_for("2: two");
    there.say("\x04");
    there.ended(0);
}

#[test]
fn a_python_prompt_is_carried_in_the_middle_of_a_statement() {
    let Some(python) = python() else {
        skip!("{NO_PYTHON}");
    };
    let world = World::new();
    let mut here = on_terminal!(&world, ["run", "--name", "prompt", &python, "-i"]);
    here.out.wait_for(">>> ");
    here.say("terns = ['arctic', 'sooty']\n");
    here.say("for tern in terns:\n");
    here.out.wait_for("... ");
    world.ask(["freeze", "prompt", "-o", "prompt.sterna"]).ok();
    here.ended(75);
    let mut there = on_terminal!(&world, ["thaw", "prompt.sterna"]);
    there.say("    print(tern.title(), len(tern))\n\n");
    there.out.wait_for("Arctic 6");
    there.out.wait_for("Sooty 5");
    there.out.wait_for(">>> ");
    there.say("exit(7)\n");
    there.ended(7);
}

#[test]
fn there_are_colours_on_terminals_only() {
    let world = World::new();
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    let mut ps = on_terminal!(&world, ["ps"]);
    assert!(ps.ended(0).contains("\x1b[1m"));
    assert!(!world.ask(["ps"]).ok().contains('\x1b'));
}

#[test]
fn a_foreign_image_is_asked_about() {
    let world = World::new();
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    run.ended(75);
    let elsewhere = World::new();
    let image = world.path("echo.sterna");
    let image = image.to_str().unwrap();
    for (answer, said, code) in [("n\n", "not thawed", 125), ("y\n", "2: two", 0)] {
        let mut thaw = on_terminal!(&elsewhere, ["thaw", image]);
        thaw.out.wait_for("Thaw it? [y/N]");
        assert!(thaw.out.text().contains("standard input"));
        thaw.say(answer);
        if code == 0 {
            thaw.say("two\n");
        }
        thaw.out.wait_for(said);
        thaw.say("\x04");
        thaw.ended(code);
    }
}
