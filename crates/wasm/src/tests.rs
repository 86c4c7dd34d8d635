//! The machine stopped at every point of small programs.

mod hostile;
mod looks;
mod modules;
mod programs;
mod shapes;
mod smith;
mod spec;

use std::sync::Arc;

use wasmtime::{Extern, Instance, Store, Val};

use crate::control::Control;
use crate::machine::{Ended, Machine};
use crate::memory::with_images;
use crate::pass::Options;
use crate::rig::now;
use crate::{Engine, EngineOptions, Installed};

fn start(wat: &str) -> (Store<()>, Machine) {
    let engine = Engine::new(EngineOptions::default()).unwrap();
    let bytes: Arc<[u8]> = wat::parse_str(wat).unwrap().into();
    let installed = match Installed::build(&engine, bytes.clone(), Options::default()) {
        Ok(installed) => Arc::new(installed),
        Err(error) => {
            let program = crate::pass::Program::parse(bytes, Options::default()).unwrap();
            let wasm = program.instrument().unwrap().wasm;
            panic!("{error:?}\n{}", wasmprinter::print_bytes(wasm).unwrap());
        }
    };
    let mut store = Store::new(engine.wasmtime(), ());
    let control =
        Arc::new(Control::new(engine.wasmtime(), installed.metadata.control_pages).unwrap());
    let imports = [Extern::SharedMemory(control.memory().clone())];
    let (instance, _) = with_images(installed.images.clone(), || {
        now(Instance::new_async(&mut store, &installed.module, &imports))
    });
    (store, Machine::new(installed, instance.unwrap(), control))
}

/// The results of `run(args)` without a stop, and with a stop at every point that it passes.
fn check(wat: &str, args: &[Val]) {
    let (mut store, mut machine) = start(wat);
    let run = machine.instance.get_func(&mut store, "run").unwrap();
    let plain = match now(machine.call(&mut store, run, args, |_| false)).unwrap() {
        Ended::Returned(values) => format!("{values:?}"),
        Ended::Stopped => panic!("nobody asked it to stop"),
    };
    let (mut store, mut machine) = start(wat);
    let run = machine.instance.get_func(&mut store, "run").unwrap();
    machine.control.page().store(1);
    let mut stops = 0;
    let mut ended = now(machine.call(&mut store, run, args, |_| false)).unwrap();
    let stopped = loop {
        match ended {
            Ended::Returned(values) => break format!("{values:?}"),
            Ended::Stopped => {
                stops += 1;
                assert!(stops < 100_000, "it does not get on: {:?}", machine.frames);
                // Let it get past the point it stands at, or it would stop there again for ever.
                let at_header = machine.frames.front().is_some_and(|f| !f.after);
                if at_header {
                    machine.control.page().store(0);
                    ended = now(step(&mut store, &mut machine));
                } else {
                    ended = now(machine.go_on(&mut store, |_| false)).unwrap();
                }
            }
        }
    };
    assert_eq!(plain, stopped, "after {stops} stops");
    assert!(stops > 0);
}

/// Goes on and asks to stop again as soon as the first poll has been passed. Without a countdown in the
/// guest that cannot be arranged from here, so it simply runs to the end of the innermost call.
async fn step(store: &mut Store<()>, machine: &mut Machine) -> Ended {
    let rest: Vec<_> = machine.frames.drain(1..).collect();
    let ended = machine.go_on(store, |_| false).await.unwrap();
    machine.control.page().store(1);
    match ended {
        Ended::Returned(values) if !rest.is_empty() => {
            machine.frames.extend(rest);
            machine.frames[0].results = Some(values);
            Ended::Stopped
        }
        other => other,
    }
}

#[test]
fn recursion() {
    check(
        "(module (func $fib (export \"run\") (param i32) (result i32)
            local.get 0 i32.const 2 i32.lt_s
            if (result i32) local.get 0
            else
              local.get 0 i32.const 1 i32.sub call $fib
              local.get 0 i32.const 2 i32.sub call $fib
              i32.add
            end))",
        &[Val::I32(12)],
    );
}

#[test]
fn nested_loops_with_memory() {
    check(
        "(module (memory 1) (data (i32.const 8) \"\\05\")
          (func $inc (param i32) (loop $l local.get 0 i32.const 1 i32.sub local.tee 0 br_if $l)
             i32.const 0 i32.const 0 i32.load i32.const 1 i32.add i32.store)
          (func (export \"run\") (param i32) (result i32 i64) (local i32)
            (loop $outer
              (local.set 1 (i32.load8_u (i32.const 8)))
              (block $out
                (loop $inner
                  (call $inc (i32.const 3))
                  (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
                  (br_if $inner (local.get 1))
                  (br_if $out (i32.eqz (local.get 1)))))
              (br_if $outer (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.load (i32.const 0)) (i64.const 7)))",
        &[Val::I32(4)],
    );
}

#[test]
fn operands_across_calls_and_arms() {
    check(
        "(module
          (func $id (param i32) (result i32) (loop $l (result i32) local.get 0))
          (func $two (param i32) (result i32 i32)
             (call $id (local.get 0)) (call $id (i32.const 9)))
          (func (export \"run\") (param i32) (result i32)
             (i32.const 100)
             (if (param i32) (result i32) (call $id (local.get 0))
               (then (i32.add (call $id (i32.const 3))))
               (else (i32.mul (call $id (i32.const 4)))))
             (call $two (i32.const 5)) i32.sub i32.add
             (i32.const 2)
             (loop $l (param i32 i32) (result i32)
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (i32.add)
                (call $id (local.get 0))
                (br_if $l (i32.gt_s (local.get 0) (i32.const 0)))
                (i32.add))))",
        &[Val::I32(5)],
    );
}
