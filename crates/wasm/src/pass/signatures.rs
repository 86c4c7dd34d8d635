//! The type section of a module that is written.

use std::collections::HashMap;

use wasm_encoder::TypeSection;
use wasmparser::ValType;

use super::encoding::encoded;
use super::module::Module;

/// The type section: the original types, then those that the pass needs.
pub(crate) struct Types {
    known: HashMap<(Vec<ValType>, Vec<ValType>), u32>,
    pub(crate) section: TypeSection,
}

impl Types {
    pub(crate) fn of(module: &Module) -> Types {
        let mut types = Types {
            known: HashMap::new(),
            section: TypeSection::new(),
        };
        for (index, ty) in (0u32..).zip(&module.types) {
            types
                .section
                .ty()
                .function(encode_all(ty.params()), encode_all(ty.results()));
            types
                .known
                .entry((ty.params().to_vec(), ty.results().to_vec()))
                .or_insert(index);
        }
        types
    }

    pub(crate) fn signature(&mut self, params: &[ValType], results: &[ValType]) -> u32 {
        let next = self.section.len();
        *self
            .known
            .entry((params.to_vec(), results.to_vec()))
            .or_insert_with(|| {
                self.section
                    .ty()
                    .function(encode_all(params), encode_all(results));
                next
            })
    }
}

pub(crate) fn encode_all(types: &[ValType]) -> Vec<wasm_encoder::ValType> {
    types.iter().copied().map(encoded).collect()
}
