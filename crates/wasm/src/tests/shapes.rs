//! Small modules, each for one thing that is easily got wrong, stopped at many points.

use wasmtime::Store;

use crate::rig::differential::{Compared, compare};
use crate::rig::{self, Guest, NoGuest, Random, Shared};

/// Runs all exports of `wat` plainly and stopped, from many seeds.
fn check(wat: &str) {
    let bytes = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"));
    let engine = rig::engine();
    let mut stops = 0;
    for seed in 1..=40 {
        let compared = compare(&engine, &bytes, seed, &mut stops);
        assert_eq!(compared, Compared::Same);
    }
    assert!(stops > 20, "{stops} stops");
}

/// Operators that change local `$x`, so many that a loop around them becomes a function of its own.
fn long() -> String {
    "(local.set $x (i32.add (i32.mul (local.get $x) (i32.const 17)) (i32.const 3)))".repeat(300)
}

#[test]
fn long_loops() {
    let long = long();
    check(&format!(
        "(module
          (import \"host\" \"f\" (func $host (param i32) (result i32)))
          (memory (export \"m\") 1)
          (func (export \"plain\") (result i32) (local $x i32) (local $n i32)
            (loop $l
              {long}
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $l (i32.lt_u (local.get $n) (i32.const 5))))
            (local.get $x))
          (func (export \"in a block\") (result i32) (local $x i32) (local $n i32)
            (i32.const 1000)
            (block $b (result i32)
              (i32.const 3)
              (loop $l
                {long}
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $b (call $host (local.get $x)) (i32.eq (local.get $n) (i32.const 9)))
                (drop)
                (br_if $l (i32.lt_u (local.get $n) (i32.const 8))))
              (i32.const 4) (i32.add) (call $host (local.get $x)) (i32.add))
            (i32.add))
          (func (export \"with parameters\") (param $p i64) (result i64) (local $x i32)
            (local.get $p)
            (if (result i64) (i64.eqz (local.get $p)) (then (i64.const 1)) (else
              (f32.const 1.5) (i32.const 7)
              (loop $l (param i32) (result i32)
                (local.set $x) {long}
                (drop (call $host (local.get $x)))
                (local.set $p (i64.and (i64.const 7) (i64.sub (local.get $p) (i64.const 1))))
                (br_if $l (local.get $x) (i64.ne (i64.const 0) (local.get $p))))
              (i64.extend_i32_u) (drop) (i64.trunc_sat_f32_s)))
            (i64.add))
          (func (export \"two\") (result i32) (local $x i32) (local $n i32)
            (local.set $n (i32.const 3))
            (loop $outer
              (loop $inner {long}
                (br_if $inner (i32.and (local.get $x) (i32.const 1))))
              (br_if $outer (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
            (loop $l {long} (br_if $l (i32.eqz (call $host (local.get $x)))))
            (local.get $x)))"
    ));
}

#[test]
fn images_of_several_memories() {
    check(
        "(module
          (memory (export \"a\") 1) (memory (export \"b\") 1) (memory (export \"c\") 2)
          (data (memory 1) (i32.const 10) \"of b\")
          (data (memory 2) (i32.const 500) \"first\") (data (memory 2) (i32.const 300) \"below\")
          (data (memory 2) (i32.const 600) \"above\") (data (memory 2) (i32.const 498) \"over\")
          (func (export \"f\") (result i32) (local i32)
            (loop $l
              (local.set 0 (i32.add (local.get 0) (i32.load8_u 1 (i32.const 10))))
              (br_if $l (i32.lt_u (local.get 0) (i32.const 2000))))
            (local.get 0)))",
    );
}

#[test]
fn bulk_operations_in_portions() {
    let mut body = String::new();
    let mut number = 0;
    for memory in ["$a", "$w"] {
        let ty = if memory == "$a" { "i32" } else { "i64" };
        for (to, from, bytes) in [
            (0, 7, 40),
            (7, 0, 40),
            (3, 3, 40),
            (100, 50, 50),
            (60, 100, 50),
            (65530, 0, 6),
            (65530, 0, 7),
            (0, 65530, 7),
            (65536, 65536, 0),
            (65537, 0, 0),
            (0, 65537, 0),
            (-1, 0, 2),
            (-1, 0, 20),
            (0, -1, 20),
        ] {
            number += 1;
            body += &format!(
                "(func (export \"copy {number}\") (memory.copy {memory} {memory}
                   ({ty}.const {to}) ({ty}.const {from}) ({ty}.const {bytes})))
                 (func (export \"fill {number}\") (param i32) (memory.fill {memory}
                   ({ty}.const {to}) (local.get 0) ({ty}.const {bytes})))
                 (func (export \"across {number}\")
                   (memory.copy $a $w (i32.const {to}) (i64.const {from}) (i32.const {bytes}))
                   (memory.copy $w $a (i64.const {to}) (i32.const {from}) (i32.const {bytes})))"
            );
        }
    }
    check(&format!(
        "(module (memory $a (export \"a\") 1) (memory $w (export \"w\") i64 1)
          (data (memory $a) (i32.const 0) \"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\")
          (data (memory $w) (i64.const 50) \"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ\")
          {body})"
    ));
}

#[test]
fn references() {
    check(
        "(module
          (import \"host\" \"f\" (func $host (param externref i32) (result externref)))
          (import \"host\" \"g\" (func $g (param i32) (result i32)))
          (table $t (export \"t\") 4 funcref) (table $e (export \"e\") 4 externref)
          (elem (i32.const 0) $id $twice) (elem $passive func $twice $g $id) (elem declare func $g)
          (global $f (export \"gf\") (mut funcref) (ref.null func))
          (type $ii (func (param i32) (result i32)))
          (func $id (param i32) (result i32) (loop $l (br_if $l (i32.const 0))) (local.get 0))
          (func $twice (param i32) (result i32)
            (i32.add (call_indirect $t (type $ii) (local.get 0) (i32.const 0))
                     (call_indirect $t (type $ii) (local.get 0) (i32.const 0))))
          (func (export \"keeps\") (param externref i32) (result externref externref)
            (local $f funcref) (local $g funcref)
            (local.set $f (ref.func $g))
            (ref.func $twice) (local.get 0)
            (call $host (local.get 0) (local.get 1))
            (table.set $t (i32.const 2) (local.get $f))
            (table.set $e (i32.const 1) (local.get 0))
            (call $host (local.get 0) (call_indirect $t (type $ii) (local.get 1) (i32.const 2)))
            (local.set 0) (drop) (local.set 0)
            (global.set $f)
            (drop (call_indirect $t (type $ii) (i32.const 8) (i32.const 1)))
            (table.get $e (i32.const 1)) (local.get 0))
          (func (export \"tables\") (param externref) (result i32 i32)
            (loop $l
              (table.init $t $passive (i32.const 1) (i32.const 0) (i32.const 3))
              (drop (call $id (i32.const 1)))
              (drop (table.grow $e (local.get 0) (i32.const 2)))
              (br_if $l (i32.lt_u (table.size $e) (i32.const 9))))
            (elem.drop $passive)
            (drop (call $id (i32.const 1)))
            (table.fill $e (i32.const 0) (local.get 0) (i32.const 2))
            (table.size $e) (call_indirect $t (type $ii) (i32.const 5) (i32.const 2)))
          (func (export \"dropped\") (drop (call $id (i32.const 1)))
            (table.init $t $passive (i32.const 1) (i32.const 0) (i32.const 3))))",
    );
}

#[test]
fn tail_calls() {
    check(
        "(module
          (import \"host\" \"g\" (func $g (param i32) (result i32)))
          (type $ii (func (param i32) (result i32)))
          (table funcref (elem $even $g $odd))
          (func $even (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
            (return_call $odd (i32.sub (local.get 0) (i32.const 1))))
          (func $odd (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return_call $g (i32.const 5))))
            (return_call_indirect (type $ii) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)))
          (func (export \"f\") (result i32) (call $even (i32.const 100)))
          (func (export \"h\") (result i32) (i32.add (call $even (i32.const 7)) (call $odd (i32.const 8))))
          (func (export \"i\") (param i32) (result i32)
            (return_call_indirect (type $ii) (i32.const 3) (i32.const 1))))",
    );
}

#[test]
fn operands_of_every_type() {
    check(
        "(module
          (import \"host\" \"g\" (func $g (param i32) (result i32 v128 f32 i64 f64)))
          (func $id (param i32) (result i32) (loop $l (result i32) (local.get 0)))
          (func (export \"f\") (param v128 f64 i32) (result v128 f32 i64 f64 i32)
            (local $f f32) (local $i i64) (local $n i32)
            (local.get 0) (local.get 1) (f32.const nan:0x200001) (i64.const -5)
            (if (param v128 f64 f32 i64) (result v128 f32 i64 f64)
              (call $id (i32.and (local.get 2) (i32.const 1)))
              (then
                (local.set $i) (local.set $f) (local.set 1)
                (local.get $f) (drop (call $id (i32.const 3)))
                (local.get $i) (local.get 1) (drop (call $id (i32.const 4))))
              (else
                (drop) (drop) (drop) (drop) (call $g (i32.const 1))
                (local.set 1) (local.set $i) (local.set $f) (local.set 0) (drop)
                (local.get 0) (local.get $f) (local.get $i) (local.get 1)))
            (call $id (local.get 2))
            (loop $l (param v128 f32 i64 f64 i32) (result v128 f32 i64 f64 i32)
              (local.set 2)
              (call $g (i32.const 2)) (local.set 1) (drop) (drop) (drop) (drop)
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (local.get 2)
              (br_if $l (i32.lt_u (call $id (local.get $n)) (i32.const 4))))
            (br 0)))",
    );
}

#[test]
fn recursion_as_deep_as_allowed() {
    // How deep it gets depends on the counted depth alone, however often it is stopped on the way.
    let wat = "(module (global $n (export \"n\") (mut i32) (i32.const 0))
        (func $f (export \"f\") (param i64) (result i64)
          (global.set $n (i32.add (global.get $n) (i32.const 1)))
          (loop $l (br_if $l (i64.lt_s (local.get 0) (i64.const 0))))
          (i64.add (local.get 0) (call $f (i64.add (local.get 0) (i64.const 1))))))";
    let bytes = wat::parse_str(wat).expect("text of a module");
    let engine = rig::engine();
    let deepest = |seed: Option<u64>| {
        let mut store = Store::new(engine.wasmtime(), Shared::new());
        let guest = Guest::stoppable(&engine, &mut store, &bytes, &mut |_, _, _| None);
        let mut guest = guest.unwrap_or_else(|error| match error {
            NoGuest::Instrument(error) => panic!("{error}"),
            NoGuest::Start(error) => panic!("{error:?}"),
        });
        let f = guest.instance().get_func(&mut store, "f").expect("f");
        let mut stops = 0;
        let mut random = seed.map(Random::new);
        let stopping = random.as_mut().map(|random| (random, &mut stops));
        let trap = guest.call(&mut store, f, &[wasmtime::Val::I64(0)], stopping);
        let trap = guest.trap(&mut store, &trap.expect_err("it never ends"));
        assert_eq!(trap, wasmtime::Trap::StackOverflow.to_string());
        assert!(seed.is_none() || stops > 10);
        rig::outside(&mut store, guest.instance(), &["n".into()])
    };
    assert_eq!(deepest(None), deepest(Some(1)));
    assert_eq!(deepest(None), deepest(Some(2)));
}

#[test]
fn many_references_at_once() {
    let (push, pop) = ("(ref.func $g)".repeat(100), "(drop)".repeat(100));
    check(&format!(
        "(module (import \"host\" \"g\" (func $g (param i32) (result i32)))
          (elem declare func $g)
          (func (export \"f\") (param externref i32) (result externref)
            {push} (local.get 0)
            (drop (call $g (local.get 1))) (drop (call $g (local.get 1)))
            (local.set 0) {pop} (local.get 0)))"
    ));
}
