//! A program's module, parsed and validated once: the sections that the pass needs by index, and
//! the bodies by range. Everything refers to the *original* module; nothing here is rewritten.

use std::ops::Range;
use std::sync::Arc;

use wasmparser::{
    ExternalKind, FuncToValidate, FuncType, FuncValidator, FuncValidatorAllocations, GlobalType,
    MemoryType, Operator, Parser, Payload, TableType, TypeRef, ValidPayload, Validator,
    ValidatorResources, WasmFeatures, WasmModuleResources,
};

use super::{InstrumentError, names};

/// What a module that can be moved may use.
const MOBILE: WasmFeatures = WasmFeatures::empty()
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::GC_TYPES);

/// What the engine itself runs by default; a module that is valid only with these is refused for
/// mobility, not as malformed.
pub(crate) const RUNNABLE: WasmFeatures = MOBILE
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::GC);

/// What people call the features that are not [`MOBILE`], and what is only there with another is behind it.
const FEATURES: [(WasmFeatures, &str); 4] = [
    (WasmFeatures::THREADS, "shared-memory threads"),
    (WasmFeatures::EXCEPTIONS, "exceptions"),
    (WasmFeatures::GC, "garbage-collected types"),
    (
        WasmFeatures::FUNCTION_REFERENCES,
        "typed function references",
    ),
];

/// The first feature without which a [`RUNNABLE`] module is not valid.
fn feature(module: &[u8]) -> Option<&'static str> {
    let needed = FEATURES.iter().find(|(feature, _)| {
        let others = RUNNABLE.difference(*feature);
        Validator::new_with_features(others)
            .validate_all(module)
            .is_err()
    });
    needed.map(|(_, name)| *name)
}

/// An import of the module.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) module: String,
    pub(crate) name: String,
    pub(crate) ty: TypeRef,
}

/// An export of the module.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub(crate) name: String,
    pub(crate) kind: ExternalKind,
    pub(crate) index: u32,
}

/// A module that passed validation, with its parts by index.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) types: Vec<FuncType>,
    pub(crate) imports: Vec<Import>,
    /// Type index of every function, imported ones first.
    pub(crate) functions: Vec<u32>,
    pub(crate) imported_functions: u32,
    pub(crate) tables: Vec<TableType>,
    pub(crate) imported_tables: u32,
    pub(crate) memories: Vec<MemoryType>,
    pub(crate) imported_memories: u32,
    pub(crate) globals: Vec<GlobalType>,
    pub(crate) imported_globals: u32,
    pub(crate) exports: Vec<Export>,
    pub(crate) start: Option<u32>,
    /// How many data segments there are.
    pub(crate) data_segments: u32,
    /// Whether code reads or drops any of them: else they are done with once memories are made.
    pub(crate) uses_data: bool,
    /// Data segments that code drops.
    pub(crate) dropped_data: std::collections::BTreeSet<u32>,
    /// Element segments that code drops.
    pub(crate) dropped_elements: std::collections::BTreeSet<u32>,
    /// Tables that the program itself can change.
    pub(crate) mutable_tables: std::collections::BTreeSet<u32>,
    /// Functions named by an element segment, a global initialiser or `ref.func`.
    pub(crate) address_taken: Vec<u32>,
    /// Where the body of each defined function lies in `bytes`.
    pub(crate) bodies: Vec<Range<usize>>,
    /// The largest number of operands that each of them ever has on its stack.
    pub(crate) operands_max: Vec<u32>,
    validation: Validation,
}

/// What is needed to type-check one function again.
struct Validation {
    resources: Option<ValidatorResources>,
    features: WasmFeatures,
}

impl std::fmt::Debug for Validation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validation").finish_non_exhaustive()
    }
}

impl Module {
    /// Parses and validates `bytes`.
    ///
    /// # Errors
    /// [`InstrumentError::Refused`] names a feature that runs but cannot be moved, and where;
    /// [`InstrumentError::Invalid`] is a module that no engine takes.
    pub(crate) fn parse(bytes: Arc<[u8]>) -> Result<Module, InstrumentError> {
        super::check_core(&bytes)?;
        match Self::parse_with(bytes.clone(), MOBILE) {
            Err(InstrumentError::Invalid { offset, reason }) => {
                match Validator::new_with_features(RUNNABLE).validate_all(&bytes) {
                    Ok(_) => Err(InstrumentError::Refused {
                        feature: feature(&bytes).map_or(reason, |name| format!("it uses {name}")),
                        offset,
                    }),
                    Err(_) => Err(InstrumentError::Invalid { offset, reason }),
                }
            }
            other => other,
        }
    }

    fn parse_with(bytes: Arc<[u8]>, features: WasmFeatures) -> Result<Module, InstrumentError> {
        let mut module = Module {
            bytes: bytes.clone(),
            types: Vec::new(),
            imports: Vec::new(),
            functions: Vec::new(),
            imported_functions: 0,
            tables: Vec::new(),
            imported_tables: 0,
            memories: Vec::new(),
            imported_memories: 0,
            globals: Vec::new(),
            imported_globals: 0,
            exports: Vec::new(),
            start: None,
            data_segments: 0,
            uses_data: false,
            dropped_data: std::collections::BTreeSet::new(),
            dropped_elements: std::collections::BTreeSet::new(),
            mutable_tables: std::collections::BTreeSet::new(),
            address_taken: Vec::new(),
            bodies: Vec::new(),
            operands_max: Vec::new(),
            validation: Validation {
                resources: None,
                features,
            },
        };
        let mut validator = Validator::new_with_features(features);
        let mut allocations = FuncValidatorAllocations::default();
        for payload in Parser::new(0).parse_all(&bytes) {
            let payload = payload?;
            if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
                let resources = function.resources.clone();
                let mut function = function.into_validator(allocations);
                let operands_max = module.validate(&mut function, &body)?;
                module.operands_max.push(operands_max);
                allocations = function.into_allocations();
                module.validation.resources = Some(resources);
                module.bodies.push(body.range());
            }
            module.section(payload)?;
        }
        module.address_taken.sort_unstable();
        module.address_taken.dedup();
        Ok(module)
    }

    /// Validates a body; returns the largest height of its operand stack.
    fn validate(
        &mut self,
        types: &mut FuncValidator<ValidatorResources>,
        body: &wasmparser::FunctionBody<'_>,
    ) -> Result<u32, InstrumentError> {
        let mut reader = body.get_binary_reader();
        types.read_locals(&mut reader)?;
        let mut operators = wasmparser::OperatorsReader::new(reader);
        let mut operands_max = 0;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            types.op(offset, &operator)?;
            operands_max = operands_max.max(types.operand_stack_height());
            match operator {
                Operator::RefFunc { function_index } => self.address_taken.push(function_index),
                Operator::MemoryInit { .. } => self.uses_data = true,
                Operator::DataDrop { data_index } => {
                    self.uses_data = true;
                    self.dropped_data.insert(data_index);
                }
                Operator::ElemDrop { elem_index } => {
                    self.dropped_elements.insert(elem_index);
                }
                Operator::TableSet { table }
                | Operator::TableGrow { table }
                | Operator::TableFill { table }
                | Operator::TableInit { table, .. }
                | Operator::TableCopy {
                    dst_table: table, ..
                } => {
                    self.mutable_tables.insert(table);
                }
                _ => {}
            }
        }
        operators.finish()?;
        Ok(operands_max)
    }

    fn section(&mut self, payload: Payload<'_>) -> Result<(), InstrumentError> {
        match payload {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    self.types.push(ty?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports_with_offsets() {
                    let (offset, import) = import?;
                    self.import(import, offset)?;
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.functions.push(ty?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    self.tables.push(table?.ty);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories.push(memory?);
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    let global = global?;
                    self.globals.push(global.ty);
                    self.address_taken_in(global.init_expr.get_operators_reader())?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section.into_iter_with_offsets() {
                    let (offset, export) = export?;
                    if export.name.starts_with(names::EXPORT_PREFIX) {
                        return Err(reserved(export.name, offset));
                    }
                    self.exports.push(Export {
                        name: export.name.to_owned(),
                        kind: export.kind,
                        index: export.index,
                    });
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(section) => {
                for element in section {
                    self.element(&element?)?;
                }
            }
            Payload::DataSection(section) => {
                self.data_segments = section.count();
            }
            _ => {}
        }
        Ok(())
    }

    fn import(
        &mut self,
        import: wasmparser::Import<'_>,
        offset: usize,
    ) -> Result<(), InstrumentError> {
        if import.module == names::IMPORT_MODULE {
            return Err(reserved(import.module, offset));
        }
        match import.ty {
            TypeRef::FuncExact(_) => {
                return Err(InstrumentError::Refused {
                    feature: "an import of an exact function type".into(),
                    offset: offset as u64,
                });
            }
            TypeRef::Func(ty) => {
                self.functions.push(ty);
                self.imported_functions += 1;
            }
            TypeRef::Table(ty) => {
                self.tables.push(ty);
                self.imported_tables += 1;
            }
            TypeRef::Memory(ty) => {
                self.memories.push(ty);
                self.imported_memories += 1;
            }
            TypeRef::Global(ty) => {
                self.globals.push(ty);
                self.imported_globals += 1;
            }
            TypeRef::Tag(_) => {}
        }
        self.imports.push(Import {
            module: import.module.to_owned(),
            name: import.name.to_owned(),
            ty: import.ty,
        });
        Ok(())
    }

    fn element(&mut self, element: &wasmparser::Element<'_>) -> Result<(), InstrumentError> {
        match &element.items {
            wasmparser::ElementItems::Functions(functions) => {
                for function in functions.clone() {
                    self.address_taken.push(function?);
                }
            }
            wasmparser::ElementItems::Expressions(_, expressions) => {
                for expression in expressions.clone() {
                    self.address_taken_in(expression?.get_operators_reader())?;
                }
            }
        }
        Ok(())
    }

    fn address_taken_in(
        &mut self,
        mut operators: wasmparser::OperatorsReader<'_>,
    ) -> Result<(), InstrumentError> {
        while !operators.eof() {
            if let Operator::RefFunc { function_index } = operators.read()? {
                self.address_taken.push(function_index);
            }
        }
        Ok(())
    }

    /// The type of function `index` (imported ones come first).
    pub(crate) fn function_type(&self, index: u32) -> &FuncType {
        &self.types[self.functions[index as usize] as usize]
    }

    /// The body of function `index`, or `None` for an imported one.
    pub(crate) fn body(&self, index: u32) -> Option<wasmparser::FunctionBody<'_>> {
        let defined = index.checked_sub(self.imported_functions)?;
        let range = self.bodies.get(defined as usize)?.clone();
        let reader = wasmparser::BinaryReader::new(&self.bytes[range.clone()], range.start);
        Some(wasmparser::FunctionBody::new(reader))
    }

    /// A fresh type checker for function `index`, which gives the operand stack's types.
    pub(crate) fn type_checker(&self, index: u32) -> FuncValidator<ValidatorResources> {
        let resources = self
            .validation
            .resources
            .clone()
            .expect("a module with a body has been validated");
        FuncToValidate {
            resources,
            index,
            ty: self.functions[index as usize],
            features: self.validation.features,
        }
        .into_validator(FuncValidatorAllocations::default())
    }

    /// How many functions there are, imported ones included.
    pub(crate) fn function_count(&self) -> u32 {
        u32::try_from(self.functions.len()).expect("validated: at most a million functions")
    }

    /// The function types behind the type index of a block or call.
    pub(crate) fn block_type(
        &self,
        ty: wasmparser::BlockType,
    ) -> (Box<[wasmparser::ValType]>, Box<[wasmparser::ValType]>) {
        match ty {
            wasmparser::BlockType::Empty => (Box::default(), Box::default()),
            wasmparser::BlockType::Type(ty) => (Box::default(), Box::new([ty])),
            wasmparser::BlockType::FuncType(index) => {
                let ty = &self.types[index as usize];
                (ty.params().into(), ty.results().into())
            }
        }
    }
}

/// Names that the pass adds must not be there already.
fn reserved(name: &str, offset: usize) -> InstrumentError {
    InstrumentError::Refused {
        feature: format!("the name {name:?} is Sterna's own"),
        offset: offset as u64,
    }
}

/// Asserts at compile time that the validator's resources can be shared between threads.
const _: fn() = || {
    fn shared<T: Send + Sync + WasmModuleResources>() {}
    shared::<ValidatorResources>();
};
