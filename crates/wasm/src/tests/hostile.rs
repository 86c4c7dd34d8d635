//! Modules that mean no good: the pass takes them in bounded time or says what is wrong with them.

use std::time::{Duration, Instant};

use wasm_encoder::{
    BlockType, CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, TypeSection, ValType,
};
use wasmparser::{Validator, WasmFeatures};

use crate::pass::{Entry, InstrumentError, Instrumented, Options, Program, Stop};

fn instrument(wat: &str) -> Result<Instrumented, InstrumentError> {
    let bytes = wat::parse_str(wat).expect("text of a module");
    Program::parse(bytes.into(), Options::default())?.instrument()
}

fn refusal(wat: &str) -> String {
    match instrument(wat) {
        Ok(_) => panic!("it was taken: {wat}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_of_our_own_are_refused() {
    let refused = refusal("(module (func (export \"sterna:f0\")))");
    assert!(refused.contains("sterna:f0"), "{refused}");
    let refused = refusal("(module (import \"sterna\" \"control\" (memory 1)))");
    assert!(refused.contains("sterna"), "{refused}");
}

#[test]
fn exact_imports_are_refused() {
    // An import of function type 0 with the kind byte of exact functions.
    let bytes = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x07\x01\x01a\x01b\x20\0";
    let parsed = Program::parse(bytes.as_slice().into(), Options::default());
    assert!(parsed.is_err());
}

/// A module with the function that `write` writes, of type `[] -> []` with `locals` locals of type i32.
/// Others that it may call: an import `[] -> []` (function 0), and `[] -> [i32; 1000]` with a loop
/// (function 1). Type 2 takes and gives a thousand numbers.
fn body(locals: u32, write: impl FnOnce(&mut Function)) -> Vec<u8> {
    const MANY: [ValType; 1000] = [ValType::I32; 1000];
    let mut types = TypeSection::new();
    types.ty().function([], []);
    types.ty().function([], MANY);
    types.ty().function(MANY, MANY);
    let mut imports = ImportSection::new();
    imports.import("host", "f", EntityType::Function(0));
    let mut functions = FunctionSection::new();
    functions.function(1).function(0);
    let mut exports = ExportSection::new();
    exports.export("f", ExportKind::Func, 2);
    let mut many = Function::new([]);
    many.instructions().loop_(BlockType::Empty).end();
    (0..1000).for_each(|_| {
        many.instructions().i32_const(1);
    });
    many.instructions().end();
    let mut function = Function::new([(locals, ValType::I32)]);
    write(&mut function);
    function.instructions().end();
    let mut code = CodeSection::new();
    code.function(&many).function(&function);
    let mut module = wasm_encoder::Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&exports)
        .section(&code);
    module.finish()
}

/// Instruments `bytes` and makes continuations for a few of its points; in bounded time either all of it
/// works or a limit is named. Returns whether it worked.
fn bounded(name: &str, bytes: Vec<u8>) -> bool {
    let start = Instant::now();
    let size = bytes.len();
    let done = Program::parse(bytes.into(), Options::default()).and_then(|program| {
        let instrumented = program.instrument()?;
        Ok((program, instrumented))
    });
    let outcome = match &done {
        Ok((program, instrumented)) => {
            let mut validator = Validator::new_with_features(WasmFeatures::all());
            let valid = validator.validate_all(&instrumented.wasm);
            valid.unwrap_or_else(|error| panic!("{name}: {error}"));
            let continued = continue_some(name, program, instrumented);
            format!(
                "{} bytes, {continued} in continuations",
                instrumented.wasm.len()
            )
        }
        Err(error @ InstrumentError::TooLarge { .. }) => error.to_string(),
        Err(error) => panic!("{name}: {error}"),
    };
    let took = start.elapsed();
    println!("{name}: {size} bytes: {outcome} ({} ms)", took.as_millis());
    // Far more than it takes; what is quadratic takes hours.
    assert!(took < Duration::from_secs(120), "{name}: {took:?}");
    done.is_ok()
}

fn continue_some(name: &str, program: &Program, instrumented: &Instrumented) -> usize {
    let builder = program.continuations().expect("it was instrumented");
    let mut size = 0;
    for function in 0..program.module().function_count() {
        let points: Vec<_> = instrumented.points.of_function(function).collect();
        let some = [points.first(), points.get(points.len() / 2), points.last()];
        for point in some.into_iter().flatten() {
            let entry = match point.stop {
                Stop::Before => Entry::At(point.op as usize),
                _ => Entry::After(point.op as usize),
            };
            let built = builder.build(&[(function, entry)], &|_| false);
            let built = built.unwrap_or_else(|error| panic!("{name}, {entry:?}: {error}"));
            let mut validator = Validator::new_with_features(WasmFeatures::all());
            let valid = validator.validate_all(&built.wasm);
            valid.unwrap_or_else(|error| panic!("{name}, {entry:?}: {error}"));
            size += built.wasm.len();
        }
        if size > 100 << 20 || function > 100 {
            break;
        }
    }
    size
}

fn repeat(times: u32, mut write: impl FnMut(u32)) {
    (0..times).for_each(&mut write);
}

#[test]
fn deep_nesting() {
    let calls_in_blocks = body(0, |f| {
        repeat(100_000, |_| {
            f.instructions().block(BlockType::Empty).call(0);
        });
        repeat(100_000, |_| {
            f.instructions().end();
        });
    });
    assert!(bounded("calls in nested blocks", calls_in_blocks));
    let branches = body(1, |f| {
        repeat(200_000, |_| {
            f.instructions().block(BlockType::Empty);
        });
        f.instructions().call(0);
        repeat(200_000, |n| {
            f.instructions().local_get(0).br_if(200_000 - 1 - n % 7);
        });
        repeat(200_000, |_| {
            f.instructions().end();
        });
    });
    bounded("far branches", branches);
    let dead = body(0, |f| {
        f.instructions().call(0).unreachable();
        repeat(300_000, |_| {
            f.instructions().block(BlockType::Empty);
        });
        repeat(300_000, |_| {
            f.instructions().nop().end();
        });
    });
    assert!(bounded("dead blocks", dead));
    for (name, times) in [
        ("100 loops", 100),
        ("300 loops", 300),
        ("100,000 loops", 100_000),
    ] {
        let loops = body(1, |f| {
            repeat(times, |_| {
                f.instructions().loop_(BlockType::Empty);
            });
            f.instructions().call(0);
            repeat(times, |n| {
                f.instructions()
                    .local_get(0)
                    .br_if(n % 3 % (times - n))
                    .end();
            });
        });
        bounded(name, loops);
    }
    let ifs = body(1, |f| {
        repeat(200_000, |_| {
            f.instructions().local_get(0).if_(BlockType::Empty).call(0);
        });
        repeat(200_000, |_| {
            f.instructions().else_().call(0).end();
        });
    });
    bounded("nested ifs", ifs);
}

#[test]
// long because: one module after another
fn many_values() {
    let locals = |live: bool| {
        body(49_990, |f| {
            repeat(1_000, |n| {
                f.instructions().i32_const(1).local_set(n * 7);
            });
            repeat(200, |_| {
                f.instructions().call(0);
            });
            repeat(if live { 49_990 } else { 500 }, |n| {
                f.instructions().local_get(n).drop();
            });
        })
    };
    assert!(bounded("50,000 locals, few live", locals(false)));
    assert!(!bounded("50,000 locals, all live", locals(true)));
    let blocks = body(40_000, |f| {
        repeat(100_000, |n| {
            f.instructions().local_get(n % 40_000).br_if(0);
            f.instructions().block(BlockType::Empty).call(0).end();
        });
    });
    bounded("locals and blocks", blocks);
    let slow = body(8_000, |f| {
        // Liveness goes from each loop to the one before it, one in each round.
        repeat(2_000, |_| {
            f.instructions()
                .block(BlockType::Empty)
                .loop_(BlockType::Empty);
        });
        f.instructions().call(0);
        repeat(2_000, |n| {
            f.instructions()
                .local_get(n)
                .br_if(0)
                .i32_const(0)
                .local_set(n + 1);
            f.instructions().end().end();
        });
    });
    bounded("slow liveness", slow);
    let operands = body(0, |f| {
        repeat(30_000, |n| {
            f.instructions().i32_const(n as i32).call(0);
        });
        repeat(30_000, |_| {
            f.instructions().drop();
        });
    });
    assert!(!bounded("30,000 operands", operands));
    let results = body(0, |f| {
        repeat(3_000, |_| {
            f.instructions().block(BlockType::Empty);
            repeat(60, |_| {
                f.instructions().call(1);
            });
            f.instructions().br(0).end();
        });
    });
    assert!(!bounded("thousands of results", results));
    let params = body(0, |f| {
        f.instructions().call(1);
        repeat(30_000, |_| {
            f.instructions().block(BlockType::FunctionType(2));
        });
        repeat(30_000, |_| {
            f.instructions().end();
        });
        repeat(1_000, |_| {
            f.instructions().drop();
        });
    });
    assert!(!bounded("thousands of block parameters", params));
}

#[test]
fn many_points() {
    let calls = body(0, |f| {
        repeat(300_000, |_| {
            f.instructions().call(0);
        })
    });
    bounded("300,000 calls", calls);
    let loops = body(1, |f| {
        repeat(200_000, |_| {
            f.instructions()
                .loop_(BlockType::Empty)
                .local_get(0)
                .br_if(0)
                .end();
        });
    });
    bounded("200,000 loops", loops);
    let outlined = body(1, |f| {
        repeat(500, |_| {
            f.instructions()
                .local_get(0)
                .if_(BlockType::Empty)
                .loop_(BlockType::Empty);
            repeat(1_600, |_| {
                f.instructions().nop();
            });
            f.instructions().local_get(0).br_if(0).end().end();
            repeat(1_600, |_| {
                f.instructions().nop();
            });
        });
    });
    assert!(bounded("500 long loops", outlined));
    let table: Vec<u32> = (0..1_000_000).map(|n| n % 1_000).collect();
    let giant = body(1, |f| {
        repeat(1_000, |_| {
            f.instructions().block(BlockType::Empty);
        });
        f.instructions().call(0).local_get(0).br_table(table, 999);
        repeat(1_000, |_| {
            f.instructions().end().call(0);
        });
    });
    assert!(bounded("a table of a million branches", giant));
}

#[test]
fn many_functions() {
    let module = |count: u32, calls: bool| {
        let mut text = String::from("(module (import \"host\" \"f\" (func))");
        for n in 1..=count {
            let next = if calls && n < count { n + 1 } else { 0 };
            text += &format!("(func (call {next}))");
        }
        wat::parse_str(text + ")").expect("text of a module")
    };
    assert!(bounded(
        "a chain of 100,000 functions",
        module(100_000, true)
    ));
    assert!(bounded("100,000 functions", module(100_000, false)));
    let segments: String = (0..50_000).map(|_| "(data \"x\")").collect();
    let drops: String = (0..50_000).map(|n| format!("(data.drop {n})")).collect();
    let dropped = format!("(module (memory 1) {segments} (func {drops}))");
    assert!(bounded(
        "50,000 dropped segments",
        wat::parse_str(dropped).expect("text")
    ));
}

#[test]
fn memories_at_the_limit_are_refused() {
    let refused = refusal(&format!("(module {})", "(memory 1)".repeat(100)));
    assert!(refused.contains("memories"), "{refused}");
}

#[test]
fn the_same_module_is_written_the_same_way() {
    let wat = "(module (import \"h\" \"f\" (func $f (param externref)))
        (memory 1) (data \"a\") (data \"b\") (func $g) (elem declare func $g)
        (func (param funcref externref)
          (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 0))
          (data.drop 1) (data.drop 0) (call $f (local.get 1))
          (drop (ref.func $g)) (drop (local.get 0))
          (memory.fill (i32.const 0) (i32.const 0) (i32.const 9))
          (memory.copy (i32.const 0) (i32.const 0) (i32.const 9))))";
    let first = instrument(wat).expect("a module").wasm;
    for _ in 0..10 {
        assert!(first == instrument(wat).expect("a module").wasm);
    }
}
