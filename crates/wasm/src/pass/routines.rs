//! Functions that the pass adds to the main module for others to call.

use wasm_encoder::{BlockType, Function, Instruction};
use wasmparser::ValType;

use super::encoding::{constant, encoded};
use super::look::Look;
use super::module::Module;

/// A function of the main module that others call for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Helper {
    /// Fills a memory in portions: `(at, value, bytes) -> bytes done`.
    Fill {
        memory: u32,
    },
    /// Copies in portions: `(to, from, bytes) -> bytes done`.
    Copy {
        to: u32,
        from: u32,
    },
    /// Keeps a reference outside the record: `(reference) -> index`.
    Keep(Kept),
    MemoryInit {
        data: u32,
        memory: u32,
    },
    DataDrop {
        data: u32,
    },
    TableInit {
        element: u32,
        table: u32,
    },
    ElementDrop {
        element: u32,
    },
    /// A reference to a function of the main module, as the main module makes it.
    Reference {
        function: u32,
    },
}

/// Which references are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kept {
    Functions,
    Externals,
}

/// Indices in the main module that helpers need.
pub(crate) struct Places<'m> {
    pub(crate) module: &'m Module,
    pub(crate) control: u32,
    pub(crate) look: Look,
    /// New index of the module's own memory 0; imported memories keep theirs.
    pub(crate) memory: &'m dyn Fn(u32) -> u32,
    pub(crate) kept_table: &'m dyn Fn(Kept) -> u32,
    pub(crate) kept_count: u32,
    pub(crate) data_dropped: &'m dyn Fn(u32) -> u32,
    pub(crate) element_dropped: &'m dyn Fn(u32) -> u32,
    /// The function that a reference to an original function points to.
    pub(crate) reference: &'m dyn Fn(u32) -> u32,
}

/// Parameters and results of `helper`.
pub(crate) fn signature(module: &Module, helper: Helper) -> (Vec<ValType>, Vec<ValType>) {
    let address = |memory: u32| address(module, memory);
    let table_address = |table: u32| {
        if module.tables[table as usize].table64 {
            ValType::I64
        } else {
            ValType::I32
        }
    };
    match helper {
        Helper::Fill { memory } => (
            vec![address(memory), ValType::I32, address(memory)],
            vec![address(memory)],
        ),
        Helper::Copy { to, from } => {
            let length = shorter(address(to), address(from));
            (vec![address(to), address(from), length], vec![length])
        }
        Helper::Keep(Kept::Functions) => (vec![ValType::FUNCREF], vec![ValType::I32]),
        Helper::Keep(Kept::Externals) => (vec![ValType::EXTERNREF], vec![ValType::I32]),
        Helper::MemoryInit { memory, .. } => {
            (vec![address(memory), ValType::I32, ValType::I32], vec![])
        }
        Helper::TableInit { table, .. } => (
            vec![table_address(table), ValType::I32, ValType::I32],
            vec![],
        ),
        Helper::DataDrop { .. } | Helper::ElementDrop { .. } => (vec![], vec![]),
        Helper::Reference { .. } => (vec![], vec![ValType::FUNCREF]),
    }
}

fn address(module: &Module, memory: u32) -> ValType {
    if module.memories[memory as usize].memory64 {
        ValType::I64
    } else {
        ValType::I32
    }
}

pub(super) fn shorter(a: ValType, b: ValType) -> ValType {
    if a == ValType::I64 && b == ValType::I64 {
        ValType::I64
    } else {
        ValType::I32
    }
}

/// The body of `helper`.
pub(crate) fn body(helper: Helper, places: &Places<'_>) -> Function {
    let module = places.module;
    match helper {
        Helper::Fill { memory } => {
            let ty = address(module, memory);
            let operation = Instruction::MemoryFill((places.memory)(memory));
            Portions {
                operation,
                moved: vec![ty],
                length: ty,
                portion: places.look.portion(),
                look: Some((places.look, places.control)),
            }
            .body()
        }
        Helper::Copy { to, from } => {
            let (dst_mem, src_mem) = ((places.memory)(to), (places.memory)(from));
            let moved = vec![address(module, to), address(module, from)];
            let length = shorter(moved[0], moved[1]);
            let operation = Instruction::MemoryCopy { src_mem, dst_mem };
            Portions {
                operation,
                moved,
                length,
                portion: places.look.portion(),
                look: Some((places.look, places.control)),
            }
            .body()
        }
        Helper::Keep(kept) => keep((places.kept_table)(kept), places.kept_count),
        Helper::MemoryInit { data, memory } => {
            let mem = (places.memory)(memory);
            forward(
                3,
                &[Instruction::MemoryInit {
                    mem,
                    data_index: data,
                }],
            )
        }
        Helper::TableInit { element, table } => forward(
            3,
            &[Instruction::TableInit {
                elem_index: element,
                table,
            }],
        ),
        Helper::DataDrop { data } => forward(
            0,
            &[
                Instruction::DataDrop(data),
                Instruction::I32Const(1),
                Instruction::GlobalSet((places.data_dropped)(data)),
            ],
        ),
        Helper::ElementDrop { element } => forward(
            0,
            &[
                Instruction::ElemDrop(element),
                Instruction::I32Const(1),
                Instruction::GlobalSet((places.element_dropped)(element)),
            ],
        ),
        Helper::Reference { function } => {
            forward(0, &[Instruction::RefFunc((places.reference)(function))])
        }
    }
}

fn forward(params: u32, instructions: &[Instruction<'_>]) -> Function {
    let mut function = Function::new([]);
    for param in 0..params {
        function.instruction(&Instruction::LocalGet(param));
    }
    put(&mut function, instructions);
    function.instruction(&Instruction::End);
    function
}

fn put(function: &mut Function, code: &[Instruction<'_>]) {
    for instruction in code {
        function.instruction(instruction);
    }
}

/// Appends the reference to a table, which grows as needed; gives its index.
fn keep(table: u32, count: u32) -> Function {
    let mut function = Function::new([]);
    let mut code = function.instructions();
    code.global_get(count).table_size(table).i32_ge_u();
    code.if_(BlockType::Empty)
        .local_get(0)
        .i32_const(64)
        .table_grow(table)
        .drop()
        .end();
    code.global_get(count).local_get(0).table_set(table);
    code.global_get(count)
        .global_get(count)
        .i32_const(1)
        .i32_add()
        .global_set(count)
        .end();
    function
}

/// A bulk operation done in portions until it is done or the word is set. Parameters are its
/// operands; local 3 is how much is done, local 4 the portion at hand, local 5 where it lies.
pub(super) struct Portions {
    pub(super) operation: Instruction<'static>,
    /// Types of the operands that are addresses: of a fill the first, of a copy the first two.
    pub(super) moved: Vec<ValType>,
    pub(super) length: ValType,
    /// How many bytes at once.
    pub(super) portion: u32,
    /// How to look at the word after each, and the memory it is in; without, all is done.
    pub(super) look: Option<(Look, u32)>,
}

const LENGTH: u32 = 2;
const DONE: u32 = 3;
const PORTION_LOCAL: u32 = 4;
const OFFSET: u32 = 5;

impl Portions {
    pub(super) fn body(&self) -> Function {
        let mut function = Function::new([(3, encoded(self.length))]);
        self.check_bounds(&mut function);
        function.instruction(&Instruction::Loop(BlockType::Empty));
        self.measure(&mut function);
        self.operate(&mut function, OFFSET, PORTION_LOCAL);
        let give_back = |function: &mut Function| {
            function.instruction(&Instruction::If(BlockType::Empty));
            function
                .instruction(&Instruction::LocalGet(DONE))
                .instruction(&Instruction::Return);
            function.instruction(&Instruction::End);
        };
        let add = self.arithmetic(Instruction::I32Add, Instruction::I64Add);
        let eq = self.arithmetic(Instruction::I32Eq, Instruction::I64Eq);
        function.instruction(&Instruction::LocalGet(DONE));
        function
            .instruction(&Instruction::LocalGet(PORTION_LOCAL))
            .instruction(&add);
        function.instruction(&Instruction::LocalTee(DONE));
        function
            .instruction(&Instruction::LocalGet(LENGTH))
            .instruction(&eq);
        give_back(&mut function);
        if let Some((look, control)) = self.look {
            let mut code = Vec::new();
            look.encode(control, &mut code);
            function.raw(code);
            give_back(&mut function);
        }
        function
            .instruction(&Instruction::Br(0))
            .instruction(&Instruction::End);
        function
            .instruction(&Instruction::Unreachable)
            .instruction(&Instruction::End);
        function
    }

    fn arithmetic(
        &self,
        narrow: Instruction<'static>,
        wide: Instruction<'static>,
    ) -> Instruction<'static> {
        if self.length == ValType::I64 {
            wide
        } else {
            narrow
        }
    }

    /// The whole operation traps before it writes anything if any of it is out of bounds: so does
    /// one of length zero at its end, unless that end is past the largest address.
    fn check_bounds(&self, function: &mut Function) {
        for (operand, &ty) in (0u32..).zip(&self.moved) {
            self.address_plus(function, operand, LENGTH);
            function.instruction(&Instruction::LocalGet(operand));
            let wide = ty == ValType::I64;
            function.instruction(&if wide {
                Instruction::I64LtU
            } else {
                Instruction::I32LtU
            });
            function.instruction(&Instruction::If(BlockType::Empty));
            put(function, &[0, 1, 2].map(Instruction::LocalGet));
            function
                .instruction(&self.operation)
                .instruction(&Instruction::End);
        }
        // The locals are still zero: nothing of it is done.
        self.operate(function, LENGTH, DONE);
    }

    /// Puts `operand + offset` on the stack, in the operand's type.
    fn address_plus(&self, function: &mut Function, operand: u32, offset: u32) {
        let wide = self.moved[operand as usize] == ValType::I64;
        function.instruction(&Instruction::LocalGet(operand));
        function.instruction(&Instruction::LocalGet(offset));
        if wide && self.length != ValType::I64 {
            function.instruction(&Instruction::I64ExtendI32U);
        }
        function.instruction(&if wide {
            Instruction::I64Add
        } else {
            Instruction::I32Add
        });
    }

    /// Does `length` bytes of the operation at `offset`, both locals.
    fn operate(&self, function: &mut Function, offset: u32, length: u32) {
        self.address_plus(function, 0, offset);
        if self.moved.len() == 2 {
            self.address_plus(function, 1, offset);
        } else {
            function.instruction(&Instruction::LocalGet(1));
        }
        function
            .instruction(&Instruction::LocalGet(length))
            .instruction(&self.operation);
    }

    /// Chooses the next portion: its size, and where it lies. A copy upwards begins at the back.
    fn measure(&self, function: &mut Function) {
        let sub = self.arithmetic(Instruction::I32Sub, Instruction::I64Sub);
        let less = self.arithmetic(Instruction::I32LtU, Instruction::I64LtU);
        let left = [
            Instruction::LocalGet(LENGTH),
            Instruction::LocalGet(DONE),
            sub.clone(),
        ];
        let portion = constant(self.length, u64::from(self.portion));
        put(function, &left);
        put(function, &[portion.clone()]);
        put(function, &left);
        put(
            function,
            &[
                portion,
                less,
                Instruction::Select,
                Instruction::LocalSet(PORTION_LOCAL),
            ],
        );
        put(
            function,
            &[Instruction::LocalGet(DONE), Instruction::LocalSet(OFFSET)],
        );
        if self.moved.len() == 2 {
            for (operand, &ty) in (0u32..).zip(&self.moved) {
                put(function, &[Instruction::LocalGet(operand)]);
                if ty != ValType::I64 {
                    put(function, &[Instruction::I64ExtendI32U]);
                }
            }
            put(
                function,
                &[Instruction::I64GtU, Instruction::If(BlockType::Empty)],
            );
            put(function, &left);
            put(
                function,
                &[
                    Instruction::LocalGet(PORTION_LOCAL),
                    sub,
                    Instruction::LocalSet(OFFSET),
                ],
            );
            put(function, &[Instruction::End]);
        }
    }
}
