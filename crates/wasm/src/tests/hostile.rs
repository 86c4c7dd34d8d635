//! Modules that mean no good: the pass takes them in bounded time or says what is wrong with them.

use crate::pass::{InstrumentError, Instrumented, Options, Program};

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
