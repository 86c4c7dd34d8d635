//! What the specification's tests import, and the values that they pass and expect.

use std::collections::HashMap;

use wasmtime::{
    Extern, ExternRef, Func, FuncType, Global, GlobalType, Memory, MemoryType, Mutability, Ref,
    RefType, Store, Table, TableType, Val, ValType,
};
use wast::WastArg;
use wast::core::{HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};

use crate::rig::{self, Shared, now};

/// What the module "spectest" exports.
pub(super) fn spectest(store: &mut Store<Shared>) -> HashMap<&'static str, Extern> {
    let mut all = HashMap::new();
    let i32s = |count| vec![ValType::I32; count];
    let prints: [(&str, Vec<ValType>); 7] = [
        ("print", vec![]),
        ("print_i32", i32s(1)),
        ("print_i64", vec![ValType::I64]),
        ("print_f32", vec![ValType::F32]),
        ("print_f64", vec![ValType::F64]),
        ("print_i32_f32", vec![ValType::I32, ValType::F32]),
        ("print_f64_f64", vec![ValType::F64, ValType::F64]),
    ];
    for (name, params) in prints {
        let ty = FuncType::new(store.engine(), params, []);
        let print = Func::new(&mut *store, ty, |mut caller, _, _| {
            caller.data_mut().host_calls += 1;
            Ok(())
        });
        all.insert(name, Extern::Func(print));
    }
    let globals = [
        ("global_i32", ValType::I32, Val::I32(666)),
        ("global_i64", ValType::I64, Val::I64(666)),
        ("global_f32", ValType::F32, Val::F32(666.6f32.to_bits())),
        ("global_f64", ValType::F64, Val::F64(666.6f64.to_bits())),
    ];
    for (name, ty, value) in globals {
        let ty = GlobalType::new(ty, Mutability::Const);
        let global = Global::new(&mut *store, ty, value).expect("a constant");
        all.insert(name, Extern::Global(global));
    }
    let tables = [
        ("table", TableType::new(RefType::FUNCREF, 10, Some(20))),
        ("table64", TableType::new64(RefType::FUNCREF, 10, Some(20))),
    ];
    for (name, ty) in tables {
        let table = now(Table::new_async(&mut *store, ty, Ref::Func(None)));
        all.insert(name, Extern::Table(table.expect("a table")));
    }
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)));
    all.insert("memory", Extern::Memory(memory.expect("a memory")));
    all
}

pub(super) fn argument(store: &mut Store<Shared>, argument: &WastArg<'_>) -> Val {
    let WastArg::Core(argument) = argument else {
        panic!("argument of a component")
    };
    match argument {
        WastArgCore::I32(value) => Val::I32(*value),
        WastArgCore::I64(value) => Val::I64(*value),
        WastArgCore::F32(value) => Val::F32(value.bits),
        WastArgCore::F64(value) => Val::F64(value.bits),
        WastArgCore::V128(value) => Val::V128(u128::from_le_bytes(value.to_le_bytes()).into()),
        WastArgCore::RefNull(HeapType::Abstract { ty, .. }) => match ty {
            wast::core::AbstractHeapType::Func => Val::FuncRef(None),
            wast::core::AbstractHeapType::Extern => Val::ExternRef(None),
            other => panic!("null of type {other:?}"),
        },
        WastArgCore::RefExtern(number) => {
            let external = ExternRef::new(store, *number).expect("room for a reference");
            Val::ExternRef(Some(external))
        }
        other => panic!("argument {other:?}"),
    }
}

/// Whether a result is as the test says.
pub(super) fn fits(store: &Store<Shared>, value: &Val, expected: &WastRetCore<'_>) -> bool {
    match (value, expected) {
        (_, WastRetCore::Either(any)) => any.iter().any(|one| fits(store, value, one)),
        (Val::I32(a), WastRetCore::I32(b)) => a == b,
        (Val::I64(a), WastRetCore::I64(b)) => a == b,
        (Val::F32(a), WastRetCore::F32(b)) => fits_f32(*a, b),
        (Val::F64(a), WastRetCore::F64(b)) => fits_f64(*a, b),
        (Val::V128(a), WastRetCore::V128(b)) => fits_vector(a.as_u128().to_le_bytes(), b),
        (Val::FuncRef(a), WastRetCore::RefNull(_)) => a.is_none(),
        (Val::ExternRef(a), WastRetCore::RefNull(_)) => a.is_none(),
        (Val::FuncRef(a), WastRetCore::RefFunc(_)) => a.is_some(),
        (Val::ExternRef(Some(a)), WastRetCore::RefExtern(b)) => {
            b.is_none_or(|b| rig::external_number(store, a) == Some(b))
        }
        _ => false,
    }
}

fn fits_f32(bits: u32, expected: &NanPattern<wast::token::F32>) -> bool {
    match expected {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn fits_f64(bits: u64, expected: &NanPattern<wast::token::F64>) -> bool {
    match expected {
        NanPattern::CanonicalNan => bits & (u64::MAX >> 1) == 0x7ff8 << 48,
        NanPattern::ArithmeticNan => bits & (0x7ff8 << 48) == 0x7ff8 << 48,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn fits_vector(bytes: [u8; 16], expected: &V128Pattern) -> bool {
    let words: [u32; 4] = std::array::from_fn(|at| {
        u32::from_le_bytes(std::array::from_fn(|byte| bytes[at * 4 + byte]))
    });
    let wide: [u64; 2] = std::array::from_fn(|at| {
        u64::from_le_bytes(std::array::from_fn(|byte| bytes[at * 8 + byte]))
    });
    match expected {
        V128Pattern::I8x16(lanes) => lanes.map(|lane| lane as u8) == bytes,
        V128Pattern::I16x8(lanes) => lanes
            .iter()
            .zip(bytes.chunks(2))
            .all(|(lane, is)| lane.to_le_bytes() == is),
        V128Pattern::I32x4(lanes) => lanes.map(|lane| lane as u32) == words,
        V128Pattern::I64x2(lanes) => lanes.map(|lane| lane as u64) == wide,
        V128Pattern::F32x4(lanes) => lanes.iter().zip(words).all(|(lane, is)| fits_f32(is, lane)),
        V128Pattern::F64x2(lanes) => lanes.iter().zip(wide).all(|(lane, is)| fits_f64(is, lane)),
    }
}
