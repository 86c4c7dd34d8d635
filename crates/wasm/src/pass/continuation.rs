//! Writes a module of continuations: functions that enter functions of the main module at given
//! points. It has no state of its own; everything is imported from the main instance, but for loop
//! headers whose continuations another module has already, in the order of [`Continuations::imports`].

use std::collections::{BTreeSet, HashMap, hash_map};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, EntityType, ExportKind, ExportSection, FunctionSection,
    GlobalType, ImportSection, MemoryType, RefType, TableType, TypeSection,
};
use wasmparser::ValType;

use super::calls::CallGraph;
use super::cost::Charges;
use super::emit::{self, Emitted, Entry, Target};
use super::encoding::encoded;
use super::look::Look;
use super::marks::Marks;
use super::module::Module;
use super::plan::{Plan, PointKind, outlined_loops};
use super::record::Field;
use super::routines::{self, Helper};
use super::signatures::encode_all;
use super::{InstrumentError, Options, names};

/// What a continuation takes, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Param {
    /// A local, by original index.
    Local(u32),
    /// An operand, by the number of operands below it.
    Stack(u32),
    /// A result of the call that it continues after, by position.
    Result(u32),
}

/// What a module of continuations imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Import {
    /// What the main instance exports under this name.
    Main(String),
    /// The continuation of this function for this entry, of another module.
    Continuation(u32, Entry),
}

/// A module of continuations.
#[derive(Debug, Clone)]
pub struct Continuations {
    /// The module, in the binary format.
    pub wasm: Vec<u8>,
    /// What it imports, in order.
    pub imports: Vec<Import>,
    /// What it exports: a name and the parameters for each entry asked for.
    pub entries: Vec<(u32, Entry, String, Vec<Param>)>,
    /// Where the code of its points lies.
    pub marks: Marks,
}

/// Builds continuations for one program.
#[derive(Debug)]
pub struct ContinuationBuilder {
    module: Arc<Module>,
    calls: CallGraph,
    charges: Charges,
    hints: bool,
    look: Look,
    control_pages: u32,
}

impl ContinuationBuilder {
    pub(crate) fn new(
        module: Arc<Module>,
        options: &Options,
    ) -> Result<ContinuationBuilder, InstrumentError> {
        let calls = CallGraph::of(&module)?;
        let charges = Charges::of(&module, &calls, options.count_depth)?;
        let control_pages = charges.control_pages();
        Ok(ContinuationBuilder {
            module,
            calls,
            charges,
            hints: options.branch_hints,
            look: Look::of(options),
            control_pages,
        })
    }

    /// Builds one module with the continuations of `wanted`, pairs of a function and an entry. They
    /// import the loop headers that `is_ready` elsewhere, and bring the others along.
    ///
    /// # Errors
    /// [`InstrumentError`] if an entry is not a point of its function.
    pub fn build(
        &self,
        wanted: &[(u32, Entry)],
        is_ready: &dyn Fn((u32, Entry)) -> bool,
    ) -> Result<Continuations, InstrumentError> {
        let mut plans = HashMap::new();
        for &(function, _) in wanted {
            if let hash_map::Entry::Vacant(slot) = plans.entry(function) {
                slot.insert(Plan::of(&self.module, &self.calls, function)?);
            }
        }
        let mut headers = HashMap::new();
        for plan in plans.values() {
            find_headers(plan, is_ready, &mut headers);
        }
        // How many functions are imported is known only after writing the bodies, and the indices in
        // them depend on it: write them twice.
        let mut draft = Writer::new(self, &headers, 0);
        draft.write(wanted, &plans)?;
        let imported = draft.functions.len() as u32;
        let mut writer = Writer::new(self, &headers, imported);
        writer.write(wanted, &plans)?;
        debug_assert_eq!(writer.functions.len() as u32, imported);
        Ok(writer.finish(wanted, &plans))
    }

    /// How many functions the module has, imported ones first.
    #[must_use]
    pub fn function_count(&self) -> u32 {
        self.module.function_count()
    }

    /// The operators of all loop headers of `function`, outermost loops in the main module excepted.
    ///
    /// # Errors
    /// As [`ContinuationBuilder::build`].
    pub fn loop_headers(&self, function: u32) -> Result<Vec<Entry>, InstrumentError> {
        let plan = Plan::of(&self.module, &self.calls, function)?;
        let outlined: BTreeSet<usize> = outlined_loops(&plan).into_iter().collect();
        let headers = plan.loops().filter(|op| !outlined.contains(op));
        Ok(headers.map(Entry::At).collect())
    }

    /// The entry at which a frame that stopped at byte `offset` goes on.
    ///
    /// # Errors
    /// [`InstrumentError::NoPoint`] if there is no point there.
    pub fn entry_at(
        &self,
        function: u32,
        offset: u32,
        after: bool,
    ) -> Result<Entry, InstrumentError> {
        let no_point = InstrumentError::NoPoint { function, offset };
        let defined = self.module.imported_functions..self.module.function_count();
        if !defined.contains(&function) {
            return Err(no_point);
        }
        let plan = Plan::of(&self.module, &self.calls, function)?;
        let point = plan.point_at_offset(offset).ok_or(no_point)?;
        let possible = match point.kind {
            PointKind::Call => after,
            PointKind::Import => true,
            _ => !after,
        };
        if !possible {
            return Err(InstrumentError::NoPoint { function, offset });
        }
        Ok(if after {
            Entry::After(point.op)
        } else {
            Entry::At(point.op)
        })
    }

    /// How many parameters and results of which types the original function has.
    #[must_use]
    pub fn function_type(
        &self,
        function: u32,
    ) -> (Vec<super::points::ValueType>, Vec<super::points::ValueType>) {
        let ty = self.module.function_type(function);
        let of = |types: &[ValType]| {
            types
                .iter()
                .copied()
                .map(super::points::ValueType::of)
                .collect()
        };
        (of(ty.params()), of(ty.results()))
    }
}

impl Import {
    fn name(&self) -> String {
        match self {
            Import::Main(name) => name.clone(),
            Import::Continuation(function, entry) => names::continuation(*function, *entry),
        }
    }
}

/// What a continuation module imports, besides functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Other {
    Control,
    Depth,
    Memory(u32),
    Table(u32),
    Global(u32),
}

/// A loop header whose continuation is not in this module.
struct Header {
    import: Import,
    params: Vec<ValType>,
    results: Vec<ValType>,
}

/// By function and operator.
type Headers = HashMap<(u32, usize), Header>;

/// Finds those headers of a function's loops whose continuations are elsewhere.
fn find_headers(plan: &Plan<'_>, is_ready: &dyn Fn((u32, Entry)) -> bool, headers: &mut Headers) {
    let outlined: BTreeSet<usize> = outlined_loops(plan).into_iter().collect();
    for op in plan.loops() {
        let (function, entry) = (plan.function, Entry::At(op));
        let import = if outlined.contains(&op) {
            Import::Main(names::continuation(function, entry))
        } else if is_ready((function, entry)) {
            Import::Continuation(function, entry)
        } else {
            continue;
        };
        let params = emit::parameters(plan, entry);
        let header = Header {
            import,
            params: params.into_iter().map(|(_, ty)| ty).collect(),
            results: plan.results.to_vec(),
        };
        headers.insert((function, op), header);
    }
}

struct Writer<'b> {
    builder: &'b ContinuationBuilder,
    headers: &'b Headers,
    /// Imported functions, as the draft counted them.
    imported: u32,
    functions: Vec<(Import, u32)>,
    function_index: HashMap<String, u32>,
    others: Vec<Other>,
    other_index: HashMap<Other, u32>,
    counts: [u32; 3],
    types: TypeSection,
    type_index: HashMap<(Vec<ValType>, Vec<ValType>), u32>,
    /// Continuations in this module, in the order of their indices.
    local: Vec<(u32, Entry)>,
    local_index: HashMap<(u32, Entry), u32>,
    bodies: Vec<(u32, Emitted)>,
}

impl<'b> Writer<'b> {
    fn new(builder: &'b ContinuationBuilder, headers: &'b Headers, imported: u32) -> Writer<'b> {
        Writer {
            builder,
            headers,
            imported,
            functions: Vec::new(),
            function_index: HashMap::new(),
            others: Vec::new(),
            other_index: HashMap::new(),
            counts: [0; 3],
            types: TypeSection::new(),
            type_index: HashMap::new(),
            local: Vec::new(),
            local_index: HashMap::new(),
            bodies: Vec::new(),
        }
    }

    fn write(
        &mut self,
        wanted: &[(u32, Entry)],
        plans: &HashMap<u32, Plan<'b>>,
    ) -> Result<(), InstrumentError> {
        for &(function, entry) in wanted {
            self.want(function, entry);
        }
        let mut next = 0;
        while let Some(&(function, entry)) = self.local.get(next) {
            next += 1;
            let plan = &plans[&function];
            let emitted = emit::emit(plan, entry, self)?;
            let ty = self.signature(&emitted.params, &emitted.results);
            self.bodies.push((ty, emitted));
        }
        Ok(())
    }

    fn want(&mut self, function: u32, entry: Entry) -> u32 {
        let next = self.imported + self.local.len() as u32;
        *self
            .local_index
            .entry((function, entry))
            .or_insert_with(|| {
                self.local.push((function, entry));
                next
            })
    }

    fn import_function(&mut self, import: Import, ty: u32) -> u32 {
        let next = self.functions.len() as u32;
        *self.function_index.entry(import.name()).or_insert_with(|| {
            self.functions.push((import, ty));
            next
        })
    }

    /// `space`: 0 for memories, 1 for tables, 2 for globals.
    fn other(&mut self, other: Other, space: usize) -> u32 {
        let next = self.counts[space];
        let index = *self.other_index.entry(other).or_insert_with(|| {
            self.others.push(other);
            next
        });
        if index == next {
            self.counts[space] += 1;
        }
        index
    }

    fn finish(mut self, wanted: &[(u32, Entry)], plans: &HashMap<u32, Plan<'_>>) -> Continuations {
        let mut imports = ImportSection::new();
        let mut names = Vec::new();
        for (import, ty) in std::mem::take(&mut self.functions) {
            imports.import("", &import.name(), EntityType::Function(ty));
            names.push(import);
        }
        for other in std::mem::take(&mut self.others) {
            let (name, ty) = self.other_import(other);
            imports.import("", &name, ty);
            names.push(Import::Main(name));
        }
        let (mut functions, mut code, mut hints) = (
            FunctionSection::new(),
            CodeSection::new(),
            BranchHints::new(),
        );
        for (index, (ty, emitted)) in (self.imported..).zip(&self.bodies) {
            functions.function(*ty);
            code.function(&emitted.function);
            let unlikely = &emitted.unlikely;
            if self.builder.hints && !unlikely.is_empty() {
                let hint = |&at: &u32| BranchHint {
                    branch_func_offset: at,
                    branch_hint_value: 0,
                };
                hints.function_hints(index, unlikely.iter().map(hint).collect::<Vec<_>>());
            }
        }
        let mut exports = ExportSection::new();
        let entries = wanted
            .iter()
            .map(|&(function, entry)| {
                let name = names::continuation(function, entry);
                exports.export(
                    &name,
                    ExportKind::Func,
                    self.local_index[&(function, entry)],
                );
                let params = emit::parameters(&plans[&function], entry);
                let params = params.into_iter().map(|(field, _)| match field {
                    Field::Local(index) => Param::Local(index),
                    Field::Stack(height) => Param::Stack(height),
                    Field::Result(index) => Param::Result(index),
                });
                (function, entry, name, params.collect())
            })
            .collect();
        let mut out = wasm_encoder::Module::new();
        out.section(&self.types);
        out.section(&imports);
        out.section(&functions);
        out.section(&exports);
        if !hints.is_empty() {
            out.section(&hints);
        }
        out.section(&code);
        let wasm = out.finish();
        let marks = self.bodies.iter().map(|(_, emitted)| &emitted.marks[..]);
        Continuations {
            marks: Marks::place(&wasm, marks),
            wasm,
            imports: names,
            entries,
        }
    }

    fn other_import(&mut self, other: Other) -> (String, EntityType) {
        let module = &self.builder.module;
        match other {
            Other::Control => {
                let pages = u64::from(self.builder.control_pages);
                let ty = MemoryType {
                    minimum: pages,
                    maximum: Some(pages),
                    memory64: false,
                    shared: true,
                    page_size_log2: None,
                };
                (names::CONTROL.into(), EntityType::Memory(ty))
            }
            Other::Depth => {
                let val_type = wasm_encoder::ValType::I32;
                (
                    names::DEPTH.into(),
                    EntityType::Global(GlobalType {
                        val_type,
                        mutable: true,
                        shared: false,
                    }),
                )
            }
            Other::Memory(index) => {
                let ty = &module.memories[index as usize];
                let ty = MemoryType {
                    minimum: ty.initial,
                    maximum: ty.maximum,
                    memory64: ty.memory64,
                    shared: ty.shared,
                    page_size_log2: ty.page_size_log2,
                };
                (names::memory(index), EntityType::Memory(ty))
            }
            Other::Table(index) => {
                let ty = &module.tables[index as usize];
                let functions = ty.element_type.is_func_ref();
                let ty = TableType {
                    element_type: if functions {
                        RefType::FUNCREF
                    } else {
                        RefType::EXTERNREF
                    },
                    table64: ty.table64,
                    minimum: ty.initial,
                    maximum: ty.maximum,
                    shared: false,
                };
                (names::table(index), EntityType::Table(ty))
            }
            Other::Global(index) => {
                let ty = &module.globals[index as usize];
                let val_type = encoded(ty.content_type);
                let ty = GlobalType {
                    val_type,
                    mutable: ty.mutable,
                    shared: false,
                };
                (names::global(index), EntityType::Global(ty))
            }
        }
    }
}

type Index = Result<u32, reencode::Error<InstrumentError>>;

impl Reencode for Writer<'_> {
    type Error = InstrumentError;

    fn function_index(&mut self, func: u32) -> Index {
        let ty = self.builder.module.functions[func as usize];
        let ty = self.type_index(ty)?;
        Ok(self.import_function(Import::Main(names::function(func)), ty))
    }

    fn type_index(&mut self, ty: u32) -> Index {
        let ty = self.builder.module.types[ty as usize].clone();
        Ok(self.signature(ty.params(), ty.results()))
    }

    fn memory_index(&mut self, memory: u32) -> Index {
        Ok(self.other(Other::Memory(memory), 0))
    }

    fn table_index(&mut self, table: u32) -> Index {
        Ok(self.other(Other::Table(table), 1))
    }

    fn global_index(&mut self, global: u32) -> Index {
        Ok(self.other(Other::Global(global), 2))
    }
}

impl Target for Writer<'_> {
    fn control(&mut self) -> u32 {
        self.other(Other::Control, 0)
    }

    fn depth(&mut self) -> u32 {
        self.other(Other::Depth, 2)
    }

    fn helper(&mut self, helper: Helper) -> u32 {
        let (params, results) = routines::signature(&self.builder.module, helper);
        let ty = self.signature(&params, &results);
        self.import_function(Import::Main(names::helper(helper)), ty)
    }

    fn header(&mut self, function: u32, op: usize) -> u32 {
        let headers = self.headers;
        let Some(header) = headers.get(&(function, op)) else {
            return self.want(function, Entry::At(op));
        };
        let ty = self.signature(&header.params, &header.results);
        self.import_function(header.import.clone(), ty)
    }

    fn outlined(&self, function: u32, op: usize) -> bool {
        let header = self.headers.get(&(function, op));
        header.is_some_and(|header| matches!(header.import, Import::Main(_)))
    }

    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        let next = self.types.len();
        *self
            .type_index
            .entry((params.to_vec(), results.to_vec()))
            .or_insert_with(|| {
                self.types
                    .ty()
                    .function(encode_all(params), encode_all(results));
                next
            })
    }

    fn charge(&self, function: u32) -> Option<u32> {
        self.builder.charges.of_function(function)
    }

    fn look(&self) -> Look {
        self.builder.look
    }
}
