//! The native code of an installed program, of its main module and its continuations, by address.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::{CompiledContinuations, InstallError, Installed, Origin};
use crate::code::{Code, CodeMap};
use crate::pass::{self, Marks};

/// Where the marks of a compiled module are until somebody looks.
pub(crate) enum MarksAt {
    Memory(Marks),
    /// In this file of the shelf.
    Shelf(crate::cache::KeptMarks),
}

/// What is known of the code of an installed program.
#[derive(Default)]
pub(super) struct Addresses {
    main: OnceLock<Option<CodeMap>>,
    /// Modules of continuations, by where their code ends.
    others: RwLock<BTreeMap<usize, Arc<CompiledContinuations>>>,
}

fn addresses(module: &wasmtime::Module) -> Range<usize> {
    let text = module.text().as_ptr_range();
    text.start as usize..text.end as usize
}

impl Installed {
    /// Makes the tables that a look needs, so that no guest stands still meanwhile.
    ///
    /// # Errors
    /// They can neither be read nor made again.
    pub(crate) fn ready_to_look(&self) -> Result<(), InstallError> {
        self.points()?;
        self.main_code();
        let others = self.addresses.others.read();
        for other in others.unwrap_or_else(PoisonError::into_inner).values() {
            self.code_of(other);
        }
        Ok(())
    }

    pub(super) fn add_code(&self, compiled: &Arc<CompiledContinuations>) {
        let others = self.addresses.others.write();
        let mut others = others.unwrap_or_else(PoisonError::into_inner);
        others.insert(addresses(&compiled.module).end, compiled.clone());
    }

    /// What the instruction at an address stands for.
    pub(crate) fn code_at(&self, address: usize) -> Code {
        let main = addresses(&self.module);
        if main.contains(&address) {
            let code = self.main_code();
            return code.map_or(Code::Nowhere, |code| code.at(address - main.start));
        }
        let others = self.addresses.others.read();
        let others = others.unwrap_or_else(PoisonError::into_inner);
        let Some((_, other)) = others.range(address + 1..).next() else {
            return Code::Outside;
        };
        let range = addresses(&other.module);
        if !range.contains(&address) {
            return Code::Outside;
        }
        let code = self.code_of(other);
        code.map_or(Code::Nowhere, |code| code.at(address - range.start))
    }

    /// What byte `offset` of the module with the code at `text` stands for.
    pub(crate) fn code_from(&self, text: usize, offset: u32) -> Code {
        let main = addresses(&self.module);
        if main.start == text {
            let code = self.main_code();
            return code.map_or(Code::Nowhere, |code| code.from(offset));
        }
        let others = self.addresses.others.read();
        let others = others.unwrap_or_else(PoisonError::into_inner);
        match others.range(text + 1..).next() {
            Some((_, other)) if addresses(&other.module).start == text => {
                let code = self.code_of(other);
                code.map_or(Code::Nowhere, |code| code.from(offset))
            }
            _ => Code::Nowhere,
        }
    }

    fn main_code(&self) -> Option<&CodeMap> {
        let map = self.addresses.main.get_or_init(|| {
            let marks = match self.marks() {
                Ok(marks) => marks,
                Err(error) => {
                    tracing::warn!(%error, "it cannot be seen where the program's processes stand");
                    return None;
                }
            };
            Some(CodeMap::of(&self.module, marks))
        });
        map.as_ref()
    }

    /// Where the code of the main module's points lies.
    fn marks(&self) -> Result<Marks, InstallError> {
        let read = match &self.origin {
            Origin::Shelf(shelf) => shelf.marks(),
            Origin::Memory(_) => self
                .marks
                .get()
                .cloned()
                .ok_or_else(|| std::io::ErrorKind::NotFound.into()),
        };
        if let Ok(marks) = read {
            return Ok(marks);
        }
        let program = pass::Program::parse(self.bytes()?, self.options.clone())?;
        Ok(program.instrument()?.marks)
    }

    fn code_of<'c>(&self, compiled: &'c CompiledContinuations) -> Option<&'c CodeMap> {
        let map = compiled.code.get_or_init(|| {
            let marks = match &compiled.marks {
                MarksAt::Memory(marks) => marks.clone(),
                MarksAt::Shelf(kept) => match kept.read() {
                    Ok(marks) => marks,
                    Err(error) => {
                        tracing::warn!(%error, "it cannot be seen which continuations run");
                        return None;
                    }
                },
            };
            Some(CodeMap::of(&compiled.module, marks))
        });
        map.as_ref()
    }
}
