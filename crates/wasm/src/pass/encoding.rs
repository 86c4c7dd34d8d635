//! Small pieces of the binary format that several writers share.

use wasm_encoder::{Instruction, MemArg};
use wasmparser::ValType;

/// `value` as a constant of type `ty`; a null for references.
pub(crate) fn constant(ty: ValType, value: u64) -> Instruction<'static> {
    match ty {
        ValType::I32 => Instruction::I32Const(value as i32),
        ValType::I64 => Instruction::I64Const(value as i64),
        ValType::F32 => Instruction::F32Const(wasm_encoder::Ieee32::new(value as u32)),
        ValType::F64 => Instruction::F64Const(wasm_encoder::Ieee64::new(value)),
        ValType::V128 => Instruction::V128Const(i128::from(value)),
        ValType::Ref(ty) => Instruction::RefNull(if ty.is_func_ref() {
            wasm_encoder::HeapType::FUNC
        } else {
            wasm_encoder::HeapType::EXTERN
        }),
    }
}

/// An unaligned access of control memory at a constant offset.
pub(crate) fn at(offset: u64, memory: u32) -> MemArg {
    MemArg {
        offset,
        align: 0,
        memory_index: memory,
    }
}

/// The encoder's form of a type; mobile modules have numbers, vectors, funcref and externref only.
pub(crate) fn encoded(ty: ValType) -> wasm_encoder::ValType {
    match ty {
        ValType::I32 => wasm_encoder::ValType::I32,
        ValType::I64 => wasm_encoder::ValType::I64,
        ValType::F32 => wasm_encoder::ValType::F32,
        ValType::F64 => wasm_encoder::ValType::F64,
        ValType::V128 => wasm_encoder::ValType::V128,
        ValType::Ref(ty) if ty.is_func_ref() => wasm_encoder::ValType::FUNCREF,
        ValType::Ref(_) => wasm_encoder::ValType::EXTERNREF,
    }
}
