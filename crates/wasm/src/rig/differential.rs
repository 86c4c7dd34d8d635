//! Both ways to run a module compared: results, traps, memories, globals, tables and what the host is
//! called with must be the same, bit for bit.

use wasmparser::ExternalKind;
use wasmtime::{
    Extern, ExternRef, ExternType, Func, Global, Memory, Ref, Store, Table, Trap, Val, ValType,
};

use super::{Guest, NoGuest, Random, Shared, now};
use crate::Engine;
use crate::pass::{InstrumentError, Options, Program};

/// Something of the type that an import wants, the same on every side.
pub(crate) fn made_up(store: &mut Store<Shared>, at: usize, ty: &ExternType) -> Option<Extern> {
    Some(match ty {
        ExternType::Func(ty) => Extern::Func(host_function(store, at, ty)),
        ExternType::Global(ty) => {
            let value = value(&mut *store, at as u64, ty.content());
            Extern::Global(Global::new(store, ty.clone(), value).ok()?)
        }
        ExternType::Memory(ty) => Extern::Memory(Memory::new(store, ty.clone()).ok()?),
        ExternType::Table(ty) => {
            let empty = if ty.element().heap_type().is_extern() {
                Ref::Extern(None)
            } else {
                Ref::Func(None)
            };
            Extern::Table(now(Table::new_async(store, ty.clone(), empty)).ok()?)
        }
        ExternType::Tag(_) => return None,
    })
}

fn host_function(store: &mut Store<Shared>, at: usize, ty: &wasmtime::FuncType) -> Func {
    let types: Vec<ValType> = ty.results().collect();
    Func::new(&mut *store, ty.clone(), move |mut caller, args, results| {
        let cancelled = caller.data_mut().cancels();
        let text = super::show(&caller, args).join(", ");
        let shared = caller.data_mut();
        if cancelled {
            // Dummies, which nobody may look at.
            for (result, ty) in results.iter_mut().zip(&types) {
                *result = Val::default_for_ty(ty).expect("a type with a default");
            }
            return Ok(());
        }
        shared.host_calls += 1;
        shared.log += &format!("{at}: {text}\n");
        let seed = shared.host_calls * 31 + at as u64;
        for (number, (result, ty)) in results.iter_mut().zip(&types).enumerate() {
            *result = value(&mut caller, seed + number as u64, ty);
        }
        Ok(())
    })
}

/// A value of type `ty` that `seed` chooses, numbers small or NaN now and then.
fn value(mut store: impl wasmtime::AsContextMut, seed: u64, ty: &ValType) -> Val {
    let mut random = Random::new(seed);
    let bits = match random.below(4) {
        0 => random.next(),
        1 => 0x7ff4_0000_7fa0_0000 | random.below(256),
        _ => random.below(8),
    };
    match ty {
        ValType::I32 => Val::I32(bits as i32),
        ValType::I64 => Val::I64(bits as i64),
        ValType::F32 => Val::F32(bits as u32),
        ValType::F64 => Val::F64(bits),
        ValType::V128 => Val::V128((u128::from(bits) << 64 | u128::from(!bits)).into()),
        ValType::Ref(ty) if ty.heap_type().is_extern() && bits % 2 == 0 => {
            let external = ExternRef::new(&mut store, bits as u32);
            Val::ExternRef(Some(external.expect("room for a reference")))
        }
        ValType::Ref(ty) if ty.heap_type().is_extern() => Val::ExternRef(None),
        ValType::Ref(_) => Val::FuncRef(None),
    }
}

/// What became of a module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Same,
    /// It does not start, on either side.
    DoesNotStart,
    /// The call depth, which is limited differently, ran out.
    TooDeep,
}

/// Runs all exports both ways. Panics with what is different.
pub(crate) fn compare(engine: &Engine, bytes: &[u8], seed: u64, stops: &mut u64) -> Compared {
    let mut pair = match Pair::start(engine, bytes, seed, stops) {
        Ok(pair) => pair,
        Err(compared) => return compared,
    };
    let program = Program::parse(bytes.into(), Options::default()).expect("it was parsed before");
    let module = program.module();
    let names: Vec<String> = module
        .exports
        .iter()
        .map(|export| export.name.clone())
        .collect();
    for export in module
        .exports
        .iter()
        .filter(|e| e.kind == ExternalKind::Func)
    {
        // A host function that is exported again has no caller that would issue a cancelled call again.
        let stoppable = export.index >= module.imported_functions;
        if !pair.call(&export.name, stoppable, stops) {
            return Compared::TooDeep;
        }
        pair.compare(&export.name, &names);
    }
    Compared::Same
}

/// The same module, instantiated both ways.
struct Pair {
    seed: u64,
    random: Random,
    plain_store: Store<Shared>,
    plain: Guest,
    store: Store<Shared>,
    stoppable: Guest,
}

impl Pair {
    fn start(engine: &Engine, bytes: &[u8], seed: u64, stops: &mut u64) -> Result<Pair, Compared> {
        let mut random = Random::new(seed);
        let mut plain_store = Store::new(engine.wasmtime(), Shared::new());
        let mut store = Store::new(engine.wasmtime(), Shared::new());
        let find = |store: &mut Store<Shared>, at: usize, import: &wasmtime::ImportType<'_>| {
            made_up(store, at, &import.ty())
        };
        let plain = Guest::plain(&mut plain_store, bytes, &mut { find });
        let stoppable = Guest::stoppable(engine, &mut store, bytes, &mut { find });
        let (plain, mut stoppable) = match (plain, stoppable) {
            (_, Err(NoGuest::Instrument(InstrumentError::TooLarge { .. }))) => {
                return Err(Compared::DoesNotStart);
            }
            (_, Err(NoGuest::Instrument(error))) => panic!("seed {seed}: {error}"),
            (Ok(plain), Ok(stoppable)) => (Some(plain), stoppable),
            // Its start function may trap, which comes later on the other side.
            (Err(NoGuest::Start(error)), Ok(stoppable)) if error.is::<Trap>() => (None, stoppable),
            (Err(_), Err(_)) => return Err(Compared::DoesNotStart),
            (plain, stoppable) => panic!(
                "seed {seed}: it starts plainly: {}, stoppable: {}",
                plain.is_ok(),
                stoppable.is_ok()
            ),
        };
        if let Guest::Stoppable(machine) = &stoppable {
            let canceller = (machine.control.clone(), Random::new(seed.wrapping_add(1)));
            store.data_mut().canceller = Some(canceller);
        }
        if let Some(start) = stoppable.start(&mut store) {
            let started = stoppable.call(&mut store, start, &[], Some((&mut random, stops)));
            if started.is_err() {
                assert!(plain.is_none(), "seed {seed}: its start traps");
                return Err(Compared::DoesNotStart);
            }
        }
        let Some(plain) = plain else {
            panic!("seed {seed}: its start traps, but not if it is stopped")
        };
        Ok(Pair {
            seed,
            random,
            plain_store,
            plain,
            store,
            stoppable,
        })
    }

    /// Calls an export both ways; false if the call depth ran out.
    fn call(&mut self, name: &str, stoppable: bool, stops: &mut u64) -> bool {
        let seed = self.random.next() >> 8;
        let stop = stoppable.then_some((&mut self.random, stops));
        let plainly = call_one(&mut self.plain, &mut self.plain_store, name, seed, None);
        self.stoppable.reset_depth(&mut self.store);
        let stopped = call_one(&mut self.stoppable, &mut self.store, name, seed, stop);
        let exhausted = Err(Trap::StackOverflow.to_string());
        if plainly == exhausted || stopped == exhausted {
            return false;
        }
        assert_eq!(plainly, stopped, "seed {}, export {name:?}", self.seed);
        true
    }

    /// Compares what can be seen from outside, after a call of `name`.
    fn compare(&mut self, name: &str, names: &[String]) {
        let seed = self.seed;
        assert_eq!(
            super::outside(&mut self.plain_store, self.plain.instance(), names),
            super::outside(&mut self.store, self.stoppable.instance(), names),
            "seed {seed}, after export {name:?}"
        );
        assert_eq!(
            self.plain_store.data().log,
            self.store.data().log,
            "seed {seed}, export {name:?}: what the host was called with"
        );
    }
}

fn call_one(
    guest: &mut Guest,
    store: &mut Store<Shared>,
    name: &str,
    seed: u64,
    stop: Option<(&mut Random, &mut u64)>,
) -> Result<Vec<String>, String> {
    let function = guest.instance().get_func(&mut *store, name);
    let function = function.expect("all exports are kept");
    let types: Vec<ValType> = function.ty(&*store).params().collect();
    let arg = |(at, ty): (u64, &ValType)| value(&mut *store, seed + at, ty);
    let args: Vec<Val> = (0..).zip(&types).map(arg).collect();
    match guest.call(store, function, &args, stop) {
        Ok(values) => Ok(super::show(&*store, &values)),
        Err(error) => Err(guest.trap(store, &error)),
    }
}
