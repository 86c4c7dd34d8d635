//! A guest's state in terms of WebAssembly alone: what of it goes into an image besides its pages.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sterna_process::Tag;
use wasmtime::{AsContextMut, Func, HeapType, Instance, Ref, Store, Table, Val};

use crate::frames::{Frame, Value};
use crate::installed::Metadata;
use crate::pass::names;

pub(crate) const FRAMES: Tag = Tag::new("frames");
pub(crate) const STATE: Tag = Tag::new("state");
pub(crate) const WASI: Tag = Tag::new("wasi");
/// Version of all sections of this kind.
pub(crate) const VERSION: u16 = 1;

/// Why a guest's state cannot be put into portable terms, or back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortableError {
    #[error("it holds an external reference, which means something in this store only")]
    External,
    #[error("it holds a reference to a function that is not of its program")]
    ForeignFunction,
    #[error("its program has no {what} {index}")]
    Missing { what: &'static str, index: u32 },
    #[error("a value of {what} {index} has another type")]
    Type { what: &'static str, index: u32 },
    #[error("the engine refused")]
    Engine(#[source] wasmtime::Error),
}

/// Everything of a guest that is not frames, pages or WASI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// What is still to be called, the call under way first.
    pub(crate) stages: Vec<Stage>,
    /// Whether the first of them has begun: then `frames` says how far it is.
    pub(crate) begun: bool,
    /// What is left of the call depth.
    pub(crate) depth: i32,
    /// Mutable globals by original index.
    pub(crate) globals: Vec<(u32, Value)>,
    /// Tables that the program can change, by original index.
    pub(crate) tables: Vec<(u32, Vec<Value>)>,
    pub(crate) dropped_data: Vec<u32>,
    pub(crate) dropped_elements: Vec<u32>,
    /// Length of each memory, in WebAssembly pages.
    pub(crate) memories: Vec<u64>,
    /// When the process was first started, in nanoseconds since 1970.
    pub(crate) started_ns: u64,
    /// CPU time that it has used.
    pub(crate) cpu_ns: u64,
}

/// One of the calls that make up a program's run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The module's start function.
    Start,
    /// An exported function with these arguments; its results are printed if so asked.
    Call {
        export: String,
        args: Vec<Value>,
        print: bool,
    },
}

/// Translates references of one instance.
pub(crate) struct References {
    instance: Instance,
    index_of: HashMap<usize, u32>,
}

impl References {
    pub(crate) fn of(instance: Instance) -> References {
        References {
            instance,
            index_of: HashMap::new(),
        }
    }

    fn learn<T: 'static>(&mut self, store: &mut Store<T>, metadata: &Metadata) {
        for function in 0..metadata.functions {
            if let Some(found) = self.function(store, function) {
                let at = found.to_raw(&mut *store) as usize;
                self.index_of.insert(at, function);
            }
        }
    }

    /// The function that a reference to original function `index` points to.
    fn function<T: 'static>(&self, store: &mut Store<T>, index: u32) -> Option<Func> {
        let wrapper = self.instance.get_func(&mut *store, &names::wrapper(index));
        wrapper.or_else(|| self.instance.get_func(&mut *store, &names::function(index)))
    }

    pub(crate) fn portable<T: 'static>(
        &mut self,
        store: &mut Store<T>,
        metadata: &Metadata,
        value: &Val,
    ) -> Result<Value, PortableError> {
        Ok(match value {
            Val::I32(value) => Value::I32(*value),
            Val::I64(value) => Value::I64(*value),
            Val::F32(bits) => Value::F32(*bits),
            Val::F64(bits) => Value::F64(*bits),
            Val::V128(value) => Value::V128(value.as_u128()),
            Val::FuncRef(None) => Value::Function(None),
            Val::FuncRef(Some(function)) => {
                if self.index_of.is_empty() {
                    self.learn(store, metadata);
                }
                let at = function.to_raw(&mut *store) as usize;
                Value::Function(Some(
                    *self
                        .index_of
                        .get(&at)
                        .ok_or(PortableError::ForeignFunction)?,
                ))
            }
            Val::ExternRef(None) => Value::NullExternal,
            _ => return Err(PortableError::External),
        })
    }

    pub(crate) fn local<T: 'static>(
        &self,
        store: &mut Store<T>,
        value: &Value,
    ) -> Result<Val, PortableError> {
        Ok(match *value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(value) => Val::V128(value.into()),
            Value::Function(None) => Val::FuncRef(None),
            Value::Function(Some(index)) => {
                let missing = PortableError::Missing {
                    what: "function",
                    index,
                };
                Val::FuncRef(Some(self.function(store, index).ok_or(missing)?))
            }
            Value::NullExternal => Val::ExternRef(None),
        })
    }

    pub(crate) fn portable_frame<T: 'static>(
        &mut self,
        store: &mut Store<T>,
        metadata: &Metadata,
        frame: &Frame<Val>,
    ) -> Result<Frame<Value>, PortableError> {
        frame.try_map(|value| self.portable(store, metadata, value))
    }

    pub(crate) fn local_frame<T: 'static>(
        &self,
        store: &mut Store<T>,
        frame: &Frame<Value>,
    ) -> Result<Frame<Val>, PortableError> {
        frame.try_map(|value| self.local(store, value))
    }

    pub(crate) fn globals<T: 'static>(
        &mut self,
        store: &mut Store<T>,
        metadata: &Metadata,
    ) -> Result<Vec<(u32, Value)>, PortableError> {
        let mutable = (0u32..)
            .zip(&metadata.mutable_globals)
            .filter(|(_, mutable)| **mutable);
        mutable
            .map(|(index, _)| {
                let missing = PortableError::Missing {
                    what: "global",
                    index,
                };
                let global = self
                    .instance
                    .get_global(&mut *store, &names::global(index))
                    .ok_or(missing)?;
                let value = global.get(&mut *store);
                Ok((index, self.portable(store, metadata, &value)?))
            })
            .collect()
    }

    pub(crate) fn set_globals<T: 'static>(
        &self,
        store: &mut Store<T>,
        globals: &[(u32, Value)],
    ) -> Result<(), PortableError> {
        for (index, value) in globals {
            let missing = PortableError::Missing {
                what: "global",
                index: *index,
            };
            let global = self
                .instance
                .get_global(&mut *store, &names::global(*index))
                .ok_or(missing)?;
            let value = self.local(store, value)?;
            let wrong = PortableError::Type {
                what: "global",
                index: *index,
            };
            global.set(&mut *store, value).map_err(|_| wrong)?;
        }
        Ok(())
    }

    fn table<T: 'static>(&self, store: &mut Store<T>, index: u32) -> Result<Table, PortableError> {
        let table = self.instance.get_table(&mut *store, &names::table(index));
        table.ok_or(PortableError::Missing {
            what: "table",
            index,
        })
    }

    pub(crate) fn tables<T: 'static>(
        &mut self,
        store: &mut Store<T>,
        metadata: &Metadata,
    ) -> Result<Vec<(u32, Vec<Value>)>, PortableError> {
        let mut tables = Vec::new();
        for &index in &metadata.mutable_tables {
            let table = self.table(store, index)?;
            let size = table.size(&*store);
            let mut values = Vec::with_capacity(size as usize);
            for at in 0..size {
                let value: Val = match table.get(store.as_context_mut(), at) {
                    Some(value) => value.into(),
                    None => break,
                };
                values.push(self.portable(store, metadata, &value)?);
            }
            tables.push((index, values));
        }
        Ok(tables)
    }

    pub(crate) fn set_tables<T: 'static>(
        &self,
        store: &mut Store<T>,
        tables: &[(u32, Vec<Value>)],
    ) -> Result<(), PortableError> {
        for (index, values) in tables {
            let table = self.table(store, *index)?;
            let wrong = || PortableError::Type {
                what: "table",
                index: *index,
            };
            let null = Ref::null(match table.ty(&*store).element().heap_type() {
                HeapType::Extern | HeapType::NoExtern => &HeapType::Extern,
                _ => &HeapType::Func,
            });
            let size = table.size(&*store);
            let more = (values.len() as u64).checked_sub(size).ok_or_else(wrong)?;
            if more > 0 {
                table
                    .grow(&mut *store, more, null)
                    .map_err(PortableError::Engine)?;
            }
            for (at, value) in (0u64..).zip(values) {
                let value = self.local(store, value)?;
                let reference = value.ref_().ok_or_else(wrong)?;
                table.set(&mut *store, at, reference).map_err(|_| wrong())?;
            }
        }
        Ok(())
    }
}
