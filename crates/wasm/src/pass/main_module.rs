//! Writes the instrumented module: the original with every function stoppable, large loops as
//! functions of their own, helpers, and everything exported that continuations and the host need.
//!
//! Original indices of functions, tables, globals and segments stay as they are, so an import or a
//! table entry means what it meant; the module's own memories move up by one, after the control
//! memory, which is the last import.

use std::collections::{BTreeMap, HashMap};

use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, ConstExpr, DataSection, ElementSection, EntityType,
    ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    MemorySection, MemoryType, RawSection, RefType, SectionId, TableSection, TableType,
};
use wasmparser::{ExternalKind, Parser, Payload, ValType};

use super::calls::CallGraph;
use super::cost::{self, Charges};
use super::emit::{self, Emitted, Entry, Target};
use super::look::Look;
use super::marks::{Mark, Marks};
use super::module::Module;
use super::plan::{Plan, outlined_loops};
use super::points::PointTableBuilder;
use super::routines::{self, Helper, Kept, Places};
use super::segments::{Segments, Strip};
use super::signatures::Types;
use super::{InstrumentError, Instrumented, Options, limits, names};

/// Instruments `module`.
pub(crate) fn build(module: &Module, options: &Options) -> Result<Instrumented, InstrumentError> {
    let calls = CallGraph::of(module)?;
    let segments = Segments::of(module, options.strip_data)?;
    let mut builder = Builder::new(module, &calls, options)?;
    let mut points = PointTableBuilder::default();
    for function in 0..module.function_count() {
        let wanted =
            function >= module.imported_functions || builder.wrappers.contains_key(&function);
        if !wanted {
            points.none();
            continue;
        }
        let plan = Plan::of(module, &calls, function)?;
        points.add(&plan);
        builder.function(&plan)?;
    }
    let control_pages = builder.charges.control_pages();
    builder.helpers();
    let wasm = builder.finish(&segments, control_pages)?;
    let marks = builder.bodies.values().map(|body| &body.marks[..]);
    let marks = Marks::place(&wasm, marks);
    Ok(Instrumented {
        wasm,
        points: points.finish(),
        marks,
        segments: segments.into_pieces(),
        depth: cost::BUDGET,
        control_pages,
    })
}

/// What each function added after the original ones is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Added {
    Wrapper(u32),
    Helper(Helper),
    Outlined(u32, usize),
}

struct Builder<'m> {
    module: &'m Module,
    charges: Charges,
    types: Types,
    /// Body, signature and hints of each function with a body, by new index.
    bodies: BTreeMap<u32, Body>,
    added: Vec<Added>,
    index_of: HashMap<Added, u32>,
    wrappers: HashMap<u32, u32>,
    hints: bool,
    look: Look,
}

struct Body {
    ty: u32,
    function: Function,
    unlikely: Vec<u32>,
    marks: Vec<Mark>,
}

impl<'m> Builder<'m> {
    fn new(
        module: &'m Module,
        calls: &CallGraph,
        options: &Options,
    ) -> Result<Builder<'m>, InstrumentError> {
        let mut builder = Builder {
            module,
            charges: Charges::of(module, calls, options.count_depth)?,
            types: Types::of(module),
            bodies: BTreeMap::new(),
            added: Vec::new(),
            index_of: HashMap::new(),
            wrappers: HashMap::new(),
            hints: options.branch_hints,
            look: Look::of(options),
        };
        // The start function is called by the host, and may be cancelled like any other.
        let called_by_reference = module.address_taken.iter().copied().chain(module.start);
        for function in called_by_reference.filter(|&f| f < module.imported_functions) {
            let index = builder.add(Added::Wrapper(function));
            builder.wrappers.insert(function, index);
        }
        Ok(builder)
    }

    fn add(&mut self, added: Added) -> u32 {
        let next = self.module.function_count() + self.added.len() as u32;
        *self.index_of.entry(added).or_insert_with(|| {
            self.added.push(added);
            next
        })
    }

    /// Writes `plan`'s function and the loops of it that become functions.
    fn function(&mut self, plan: &Plan<'_>) -> Result<(), InstrumentError> {
        let outlined: Vec<usize> = outlined_loops(plan);
        for &op in &outlined {
            self.add(Added::Outlined(plan.function, op));
        }
        let index = self
            .wrappers
            .get(&plan.function)
            .copied()
            .unwrap_or(plan.function);
        let emitted = emit::emit(plan, Entry::Start, self)?;
        let ty = self.module.functions[plan.function as usize];
        self.body(index, Some(ty), emitted);
        for op in outlined {
            let emitted = emit::emit(plan, Entry::At(op), self)?;
            let index = self.index_of[&Added::Outlined(plan.function, op)];
            self.body(index, None, emitted);
        }
        Ok(())
    }

    fn body(&mut self, index: u32, ty: Option<u32>, emitted: Emitted) {
        let ty = ty.unwrap_or_else(|| self.types.signature(&emitted.params, &emitted.results));
        let body = Body {
            ty,
            function: emitted.function,
            unlikely: emitted.unlikely,
            marks: emitted.marks,
        };
        self.bodies.insert(index, body);
    }

    fn helpers(&mut self) {
        let module = self.module;
        let memory = |index| new_memory(module, index);
        let kept_tables = self.kept_tables();
        let kept_table = |kept| kept_tables[&kept];
        let globals = Globals::of(module);
        let wrappers = self.wrappers.clone();
        let data_dropped = globals.data_dropped(module);
        let element_dropped = globals.element_dropped(module);
        let places = Places {
            module,
            control: module.imported_memories,
            look: self.look,
            memory: &memory,
            kept_table: &kept_table,
            kept_count: globals.kept_count,
            data_dropped: &|data| data_dropped[&data],
            element_dropped: &|element| element_dropped[&element],
            reference: &|function| wrappers.get(&function).copied().unwrap_or(function),
        };
        let added = (module.function_count()..).zip(&self.added);
        let helpers = added.filter_map(|(index, added)| match added {
            Added::Helper(helper) => Some((index, *helper)),
            _ => None,
        });
        for (index, helper) in helpers {
            let (params, results) = routines::signature(module, helper);
            let ty = self.types.signature(&params, &results);
            let function = routines::body(helper, &places);
            let all = Mark::of(0..function.byte_len(), None);
            self.bodies.insert(
                index,
                Body {
                    ty,
                    function,
                    unlikely: Vec::new(),
                    marks: vec![all],
                },
            );
        }
    }

    /// Indices of the tables of kept references, of those kinds that the program has.
    fn kept_tables(&self) -> BTreeMap<Kept, u32> {
        let used = [Kept::Functions, Kept::Externals]
            .into_iter()
            .filter(|&kept| {
                self.index_of
                    .contains_key(&Added::Helper(Helper::Keep(kept)))
            });
        used.zip(self.module.tables.len() as u32..).collect()
    }

    fn finish(
        &mut self,
        segments: &Segments,
        control_pages: u32,
    ) -> Result<Vec<u8>, InstrumentError> {
        let module = self.module;
        self.check_limits()?;
        let mut functions = FunctionSection::new();
        let mut code = CodeSection::new();
        let mut hints = BranchHints::new();
        for (&index, body) in &self.bodies {
            functions.function(body.ty);
            code.function(&body.function);
            if self.hints && !body.unlikely.is_empty() {
                let hint = |&at: &u32| BranchHint {
                    branch_func_offset: at,
                    branch_hint_value: 0,
                };
                hints.function_hints(index, body.unlikely.iter().map(hint).collect::<Vec<_>>());
            }
        }
        let imports = self.imports(control_pages)?;
        let globals = self.globals()?;
        let elements = self.elements()?;
        let mut out = wasm_encoder::Module::new();
        out.section(&self.types.section);
        out.section(&imports);
        out.section(&functions);
        out.section(&self.tables()?);
        out.section(&self.memories());
        out.section(&globals);
        out.section(&self.exports());
        if !elements.is_empty() {
            out.section(&elements);
        }
        let has_data = module.data_segments > 0 && (module.uses_data || !segments.all_stripped());
        if has_data {
            out.section(&wasm_encoder::DataCountSection {
                count: module.data_segments,
            });
        }
        if !hints.is_empty() {
            out.section(&hints);
        }
        out.section(&code);
        if has_data {
            out.section(&self.data(segments)?);
        }
        self.names(&mut out)?;
        Ok(out.finish())
    }

    /// What was added must not bring the module over a limit of the engines.
    fn check_limits(&self) -> Result<(), InstrumentError> {
        let module = self.module;
        let functions = module.functions.len() + self.added.len();
        let globals = Globals::count(module);
        let tables = module.tables.len() + self.kept_tables().len();
        let memories = module.memories.len() + 1;
        let exports = module.exports.len() + functions + tables + memories + globals + 1;
        limits::check("number of functions", functions, limits::FUNCTIONS)?;
        limits::check(
            "number of types",
            self.types.section.len() as usize,
            limits::TYPES,
        )?;
        limits::check(
            "number of imports",
            module.imports.len() + 1,
            limits::IMPORTS,
        )?;
        limits::check("number of globals", globals, limits::GLOBALS)?;
        limits::check("number of tables", tables, limits::TABLES)?;
        limits::check("number of memories", memories, limits::MEMORIES)?;
        limits::check("number of exports", exports, limits::EXPORTS)
    }

    fn imports(&mut self, control_pages: u32) -> Result<ImportSection, InstrumentError> {
        let mut imports = ImportSection::new();
        for import in self.module.imports.clone() {
            let ty = self.entity_type(import.ty).map_err(InstrumentError::from)?;
            imports.import(&import.module, &import.name, ty);
        }
        let pages = u64::from(control_pages);
        let control = MemoryType {
            minimum: pages,
            maximum: Some(pages),
            memory64: false,
            shared: true,
            page_size_log2: None,
        };
        imports.import(
            names::IMPORT_MODULE,
            names::CONTROL,
            EntityType::Memory(control),
        );
        Ok(imports)
    }

    fn tables(&mut self) -> Result<TableSection, InstrumentError> {
        let mut tables = TableSection::new();
        for payload in Parser::new(0).parse_all(&self.module.bytes.clone()) {
            if let Payload::TableSection(section) = payload? {
                reencode::utils::parse_table_section(self, &mut tables, section)?;
            }
        }
        for kept in self.kept_tables().into_keys() {
            let element_type = match kept {
                Kept::Functions => RefType::FUNCREF,
                Kept::Externals => RefType::EXTERNREF,
            };
            tables.table(TableType {
                element_type,
                table64: false,
                minimum: 0,
                maximum: None,
                shared: false,
            });
        }
        Ok(tables)
    }

    fn memories(&self) -> MemorySection {
        let mut memories = MemorySection::new();
        for ty in &self.module.memories[self.module.imported_memories as usize..] {
            memories.memory(MemoryType {
                minimum: ty.initial,
                maximum: ty.maximum,
                memory64: ty.memory64,
                shared: ty.shared,
                page_size_log2: ty.page_size_log2,
            });
        }
        memories
    }

    fn globals(&mut self) -> Result<GlobalSection, InstrumentError> {
        let mut globals = GlobalSection::new();
        for payload in Parser::new(0).parse_all(&self.module.bytes.clone()) {
            if let Payload::GlobalSection(section) = payload? {
                reencode::utils::parse_global_section(self, &mut globals, section)?;
            }
        }
        let counter = GlobalType {
            val_type: wasm_encoder::ValType::I32,
            mutable: true,
            shared: false,
        };
        globals.global(counter, &ConstExpr::i32_const(cost::BUDGET));
        let others = 1 + self.module.dropped_data.len() + self.module.dropped_elements.len();
        for _ in 0..others {
            globals.global(counter, &ConstExpr::i32_const(0));
        }
        Ok(globals)
    }

    fn exports(&self) -> ExportSection {
        let module = self.module;
        let mut exports = ExportSection::new();
        for export in &module.exports {
            let (kind, index) = match export.kind {
                ExternalKind::Memory => (ExportKind::Memory, new_memory(module, export.index)),
                ExternalKind::Table => (ExportKind::Table, export.index),
                ExternalKind::Global => (ExportKind::Global, export.index),
                ExternalKind::Tag => (ExportKind::Tag, export.index),
                ExternalKind::Func | ExternalKind::FuncExact => (ExportKind::Func, export.index),
            };
            exports.export(&export.name, kind, index);
        }
        for function in 0..module.function_count() {
            exports.export(&names::function(function), ExportKind::Func, function);
        }
        for (index, &added) in (module.function_count()..).zip(&self.added) {
            let name = match added {
                Added::Wrapper(function) => names::wrapper(function),
                Added::Helper(helper) => names::helper(helper),
                Added::Outlined(function, op) => names::continuation(function, Entry::At(op)),
            };
            exports.export(&name, ExportKind::Func, index);
        }
        for index in 0..module.memories.len() as u32 {
            exports.export(
                &names::memory(index),
                ExportKind::Memory,
                new_memory(module, index),
            );
        }
        for index in 0..module.tables.len() as u32 {
            exports.export(&names::table(index), ExportKind::Table, index);
        }
        for (kept, index) in self.kept_tables() {
            exports.export(names::kept(kept), ExportKind::Table, index);
        }
        for index in 0..module.globals.len() as u32 {
            exports.export(&names::global(index), ExportKind::Global, index);
        }
        let globals = Globals::of(module);
        exports.export(names::DEPTH, ExportKind::Global, globals.depth);
        exports.export(names::KEPT_COUNT, ExportKind::Global, globals.kept_count);
        let (data, elements) = (
            globals.data_dropped(module),
            globals.element_dropped(module),
        );
        for segment in &module.dropped_data {
            let name = names::data_dropped(*segment);
            exports.export(&name, ExportKind::Global, data[segment]);
        }
        for segment in &module.dropped_elements {
            let name = names::element_dropped(*segment);
            exports.export(&name, ExportKind::Global, elements[segment]);
        }
        if let Some(start) = module.start {
            let start = self.wrappers.get(&start).copied().unwrap_or(start);
            exports.export(names::START, ExportKind::Func, start);
        }
        exports
    }

    fn elements(&mut self) -> Result<ElementSection, InstrumentError> {
        let mut elements = ElementSection::new();
        let wrappers = self.wrappers.clone();
        let mut references = References {
            wrappers: &wrappers,
            builder: self,
        };
        for payload in Parser::new(0).parse_all(&references.builder.module.bytes.clone()) {
            if let Payload::ElementSection(section) = payload? {
                reencode::utils::parse_element_section(&mut references, &mut elements, section)?;
            }
        }
        // A wrapper may be named by `ref.func` in a helper alone.
        let declared: Vec<u32> = self
            .module
            .address_taken
            .iter()
            .map(|function| wrappers.get(function).copied().unwrap_or(*function))
            .collect();
        if !declared.is_empty() {
            elements.declared(wasm_encoder::Elements::Functions(declared.into()));
        }
        Ok(elements)
    }

    fn data(&mut self, segments: &Segments) -> Result<DataSection, InstrumentError> {
        let mut section = DataSection::new();
        for payload in Parser::new(0).parse_all(&self.module.bytes.clone()) {
            let Payload::DataSection(original) = payload? else {
                continue;
            };
            for (index, data) in original.into_iter().enumerate() {
                match segments.strip(index) {
                    Strip::Stripped => {
                        section.passive([]);
                    }
                    Strip::Left => reencode::utils::parse_data(self, &mut section, data?)?,
                }
            }
        }
        Ok(section)
    }

    /// Function names, for back-traces; their indices are unchanged.
    fn names(&self, out: &mut wasm_encoder::Module) -> Result<(), InstrumentError> {
        for payload in Parser::new(0).parse_all(&self.module.bytes) {
            if let Payload::CustomSection(custom) = payload?
                && custom.name() == "name"
            {
                out.section(&RawSection {
                    id: SectionId::Custom as u8,
                    data: &self.module.bytes[custom.range()],
                });
            }
        }
        Ok(())
    }
}

/// Writes element segments: references to imports become references to their wrappers.
struct References<'b, 'm> {
    wrappers: &'b HashMap<u32, u32>,
    builder: &'b mut Builder<'m>,
}

impl Reencode for References<'_, '_> {
    type Error = InstrumentError;

    fn function_index(&mut self, func: u32) -> Result<u32, reencode::Error<InstrumentError>> {
        Ok(self.wrappers.get(&func).copied().unwrap_or(func))
    }

    fn memory_index(&mut self, memory: u32) -> Result<u32, reencode::Error<InstrumentError>> {
        self.builder.memory_index(memory)
    }
}

impl Reencode for Builder<'_> {
    type Error = InstrumentError;

    fn memory_index(&mut self, memory: u32) -> Result<u32, reencode::Error<InstrumentError>> {
        Ok(new_memory(self.module, memory))
    }
}

impl Target for Builder<'_> {
    fn control(&mut self) -> u32 {
        self.module.imported_memories
    }

    fn depth(&mut self) -> u32 {
        Globals::of(self.module).depth
    }

    fn helper(&mut self, helper: Helper) -> u32 {
        self.add(Added::Helper(helper))
    }

    fn header(&mut self, function: u32, op: usize) -> u32 {
        self.index_of[&Added::Outlined(function, op)]
    }

    fn outlined(&self, function: u32, op: usize) -> bool {
        self.index_of.contains_key(&Added::Outlined(function, op))
    }

    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        self.types.signature(params, results)
    }

    fn charge(&self, function: u32) -> Option<u32> {
        self.charges.of_function(function)
    }

    fn look(&self) -> Look {
        self.look
    }
}

/// Indices of the globals that the pass adds.
struct Globals {
    depth: u32,
    kept_count: u32,
}

impl Globals {
    fn of(module: &Module) -> Globals {
        let depth = module.globals.len() as u32;
        Globals {
            depth,
            kept_count: depth + 1,
        }
    }

    /// How many there are, those of the module included.
    fn count(module: &Module) -> usize {
        let dropped = module.dropped_data.len() + module.dropped_elements.len();
        module.globals.len() + 2 + dropped
    }

    /// Those that say whether a data segment has been dropped, by its index.
    fn data_dropped(&self, module: &Module) -> HashMap<u32, u32> {
        let segments = module.dropped_data.iter().copied();
        segments.zip(self.kept_count + 1..).collect()
    }

    /// Those that say whether an element segment has been dropped, by its index.
    fn element_dropped(&self, module: &Module) -> HashMap<u32, u32> {
        let segments = module.dropped_elements.iter().copied();
        let first = self.kept_count + 1 + module.dropped_data.len() as u32;
        segments.zip(first..).collect()
    }
}

/// The new index of original memory `index`.
fn new_memory(module: &Module, index: u32) -> u32 {
    index + u32::from(index >= module.imported_memories)
}
