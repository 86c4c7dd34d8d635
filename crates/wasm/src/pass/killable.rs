//! The lesser pass, for programs that do not move: replaces only what an engine cannot stop by its own
//! means, so that such a program can be killed at any moment. Everything else stays as it is.
//!
//! - Filling and copying of memories is done in portions, in a loop.
//! - There is one thread, so shared memories become plain ones, and waiting for another thread is
//!   sleeping: the host does that ([`SLEEP`]).
//! - The start function becomes an export, to be called when its process runs.

use std::collections::BTreeMap;
use std::convert::Infallible;

use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction,
    MemArg, SectionId, TypeSection,
};
use wasmparser::{
    FunctionBody, MemoryType, Operator, Parser, Payload, TypeRef, ValType, Validator, WasmFeatures,
};

use super::encoding::encoded;
use super::routines::{Portions, shorter};
use super::{InstrumentError, names};
use crate::pass::module::RUNNABLE;

/// Import by which a program sleeps: `(nanoseconds: i64) -> i32`, for ever if negative; gives 2.
pub(crate) const SLEEP: (&str, &str) = ("sterna", "sleep");

/// What a program that does not move may use.
pub(crate) const KILLABLE: WasmFeatures = RUNNABLE.union(WasmFeatures::WIDE_ARITHMETIC);

/// Bytes that a bulk operation touches at once.
const PORTION: u32 = 4 << 20;

/// A program that can be killed.
#[derive(Debug)]
pub(crate) struct Killable {
    pub(crate) wasm: Vec<u8>,
    pub(crate) has_start: bool,
    /// Bytes that its memories begin with.
    pub(crate) memory_bytes: u64,
}

/// Validates `bytes` and makes them killable.
pub(crate) fn killable(bytes: &[u8]) -> Result<Killable, InstrumentError> {
    super::check_core(bytes)?;
    Validator::new_with_features(KILLABLE).validate_all(bytes)?;
    let mut rewriter = Rewriter::of(bytes)?;
    let mut module = wasm_encoder::Module::new();
    rewriter
        .parse_core_module(&mut module, Parser::new(0), bytes)
        .map_err(|error| InstrumentError::Rewrite(error.to_string()))?;
    let bytes_of = |memory: &MemoryType| {
        let page = memory.page_size_log2.unwrap_or(16);
        memory.initial.checked_mul(1 << page).unwrap_or(u64::MAX)
    };
    Ok(Killable {
        wasm: module.finish(),
        has_start: rewriter.start.is_some(),
        memory_bytes: rewriter
            .memories
            .iter()
            .map(bytes_of)
            .fold(0, u64::saturating_add),
    })
}

/// What is replaced by a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Replaced {
    Fill {
        memory: u32,
    },
    Copy {
        to: u32,
        from: u32,
    },
    Wait {
        wide: bool,
        memory: u32,
        offset: u64,
    },
    /// The start function: by nothing.
    Start,
}

#[derive(Default)]
struct Rewriter {
    types: u32,
    imported_functions: u32,
    functions: u32,
    memories: Vec<MemoryType>,
    start: Option<u32>,
    /// With its number among the functions that are added.
    replaced: BTreeMap<Replaced, u32>,
    sleeps: bool,
    imports_done: bool,
}

impl Rewriter {
    fn of(bytes: &[u8]) -> Result<Rewriter, InstrumentError> {
        let mut rewriter = Rewriter::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::TypeSection(types) => {
                    for group in types {
                        rewriter.types += group?.types().len() as u32;
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => {
                                rewriter.imported_functions += 1;
                            }
                            TypeRef::Memory(memory) => rewriter.memories.push(memory),
                            _ => {}
                        }
                    }
                    rewriter.functions = rewriter.imported_functions;
                }
                Payload::FunctionSection(functions) => rewriter.functions += functions.count(),
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        rewriter.memories.push(memory?);
                    }
                }
                // Of an imported one, its import is refused later.
                Payload::StartSection { func, .. } if func >= rewriter.imported_functions => {
                    rewriter.start = Some(func);
                    rewriter.replaced.insert(Replaced::Start, 0);
                }
                Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader()?;
                    while !operators.eof() {
                        if let Some(replaced) = rewriter.replaced_by_call(&operators.read()?) {
                            rewriter.replaced.insert(replaced, 0);
                        }
                    }
                }
                _ => {}
            }
        }
        let waits = |replaced: &Replaced| matches!(replaced, Replaced::Wait { .. });
        rewriter.sleeps = rewriter.replaced.keys().any(waits);
        (0..)
            .zip(rewriter.replaced.values_mut())
            .for_each(|(number, at)| *at = number);
        Ok(rewriter)
    }

    fn replaced_by_call(&self, operator: &Operator<'_>) -> Option<Replaced> {
        let wait = |wide, memarg: &wasmparser::MemArg| {
            // On another memory it traps.
            let shared = self.memories.get(memarg.memory as usize)?.shared;
            let (memory, offset) = (memarg.memory, memarg.offset);
            shared.then_some(Replaced::Wait {
                wide,
                memory,
                offset,
            })
        };
        match *operator {
            Operator::MemoryFill { mem } => Some(Replaced::Fill { memory: mem }),
            Operator::MemoryCopy { dst_mem, src_mem } => Some(Replaced::Copy {
                to: dst_mem,
                from: src_mem,
            }),
            Operator::MemoryAtomicWait32 { ref memarg } => wait(false, memarg),
            Operator::MemoryAtomicWait64 { ref memarg } => wait(true, memarg),
            _ => None,
        }
    }

    fn address(&self, memory: u32) -> ValType {
        let wide = self
            .memories
            .get(memory as usize)
            .is_some_and(|memory| memory.memory64);
        if wide { ValType::I64 } else { ValType::I32 }
    }

    /// Index of the added function with this number.
    fn added(&self, number: u32) -> u32 {
        self.functions + u32::from(self.sleeps) + number
    }

    fn signature(&self, replaced: Replaced) -> (Vec<ValType>, Vec<ValType>) {
        match replaced {
            Replaced::Fill { memory } => {
                let ty = self.address(memory);
                (vec![ty, ValType::I32, ty], vec![ty])
            }
            Replaced::Copy { to, from } => {
                let (to, from) = (self.address(to), self.address(from));
                let length = shorter(to, from);
                (vec![to, from, length], vec![length])
            }
            Replaced::Wait { wide, memory, .. } => {
                let expected = if wide { ValType::I64 } else { ValType::I32 };
                let params = vec![self.address(memory), expected, ValType::I64];
                (params, vec![ValType::I32])
            }
            Replaced::Start => (vec![], vec![]),
        }
    }

    fn body(&self, replaced: Replaced) -> Function {
        let portions = |operation, moved: Vec<ValType>, length| {
            Portions {
                operation,
                moved,
                length,
                portion: PORTION,
                look: None,
            }
            .body()
        };
        match replaced {
            Replaced::Fill { memory } => {
                let ty = self.address(memory);
                portions(Instruction::MemoryFill(memory), vec![ty], ty)
            }
            Replaced::Copy { to, from } => {
                let operation = Instruction::MemoryCopy {
                    src_mem: from,
                    dst_mem: to,
                };
                let moved = vec![self.address(to), self.address(from)];
                let length = shorter(moved[0], moved[1]);
                portions(operation, moved, length)
            }
            Replaced::Wait {
                wide,
                memory,
                offset,
            } => self.wait(wide, memory, offset),
            Replaced::Start => {
                let mut function = Function::new([]);
                function.instruction(&Instruction::End);
                function
            }
        }
    }

    /// Gives 1 at once if the word is not as expected; else sleeps, since nobody can notify.
    fn wait(&self, wide: bool, memory: u32, offset: u64) -> Function {
        let memarg = |align| MemArg {
            offset,
            align,
            memory_index: memory,
        };
        let mut function = Function::new([]);
        let mut code = function.instructions();
        code.local_get(0);
        if wide {
            code.i64_atomic_load(memarg(3)).local_get(1).i64_ne();
        } else {
            code.i32_atomic_load(memarg(2)).local_get(1).i32_ne();
        }
        code.if_(wasm_encoder::BlockType::Empty)
            .i32_const(1)
            .return_()
            .end();
        code.local_get(2).call(self.imported_functions).end();
        function
    }

    fn import_sleep(&self, imports: &mut ImportSection) {
        let ty = self.types + self.replaced.len() as u32;
        imports.import(SLEEP.0, SLEEP.1, wasm_encoder::EntityType::Function(ty));
    }
}

type Done = Result<(), reencode::Error<Infallible>>;

impl Reencode for Rewriter {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, reencode::Error> {
        let moved = self.sleeps && function >= self.imported_functions;
        Ok(function + u32::from(moved))
    }

    fn memory_type(
        &mut self,
        memory: MemoryType,
    ) -> Result<wasm_encoder::MemoryType, reencode::Error> {
        let plain = MemoryType {
            shared: false,
            ..memory
        };
        Ok(reencode::utils::memory_type(self, plain))
    }

    fn start_section(&mut self, start: u32) -> Result<u32, reencode::Error> {
        match self.replaced.get(&Replaced::Start) {
            Some(&nothing) => Ok(self.added(nothing)),
            None => self.function_index(start),
        }
    }

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Done {
        reencode::utils::parse_type_section(self, types, section)?;
        for &replaced in self.replaced.keys() {
            let (params, results) = self.signature(replaced);
            types.ty().function(
                params.into_iter().map(encoded),
                results.into_iter().map(encoded),
            );
        }
        if self.sleeps {
            types
                .ty()
                .function([wasm_encoder::ValType::I64], [wasm_encoder::ValType::I32]);
        }
        Ok(())
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Done {
        reencode::utils::parse_import_section(self, imports, section)?;
        if self.sleeps {
            self.import_sleep(imports);
        }
        self.imports_done = true;
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut wasm_encoder::Module,
        _: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Done {
        if before == Some(SectionId::Function) && self.sleeps && !self.imports_done {
            let mut imports = ImportSection::new();
            self.import_sleep(&mut imports);
            module.section(&imports);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Done {
        reencode::utils::parse_function_section(self, functions, section)?;
        for number in self.replaced.values() {
            functions.function(self.types + number);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Done {
        reencode::utils::parse_export_section(self, exports, section)?;
        if let Some(start) = self.start {
            let start = self.function_index(start)?;
            exports.export(names::START, ExportKind::Func, start);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Done {
        reencode::utils::parse_code_section(self, code, section)?;
        for &replaced in self.replaced.keys() {
            code.function(&self.body(replaced));
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Done {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            let Some(replaced) = self.replaced_by_call(&operator) else {
                function.instruction(&self.instruction(operator)?);
                continue;
            };
            let at = self.added(self.replaced[&replaced]);
            function.instruction(&Instruction::Call(at));
            if !matches!(replaced, Replaced::Wait { .. }) {
                function.instruction(&Instruction::Drop);
            }
        }
        code.function(&function);
        Ok(())
    }

    /// Keeps names only: what else refers to code would be wrong.
    fn parse_custom_section(
        &mut self,
        module: &mut wasm_encoder::Module,
        section: wasmparser::CustomSectionReader<'_>,
    ) -> Done {
        // Damaged names are no names.
        if let wasmparser::KnownCustom::Name(names) = section.as_known()
            && let Ok(names) = self.custom_name_section(names)
        {
            module.section(&names);
        }
        Ok(())
    }
}
