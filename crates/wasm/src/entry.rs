//! What of a program is called, with which arguments, and what becomes of the results: the same
//! whether it can move or not.

use sterna_process::{Environment, SpawnError};
use wasmtime::{ExternType, Module, Val, ValType};

use crate::frames::Value;
use crate::pass::names;
use crate::portable::Stage;

/// The calls that make up a run of the program.
pub(crate) fn stages(
    module: &Module,
    has_start: bool,
    environment: &Environment,
) -> Result<Vec<Stage>, SpawnError> {
    let mut stages = Vec::new();
    if has_start {
        stages.push(Stage::Start);
    }
    let function = |name: &str| match module.get_export(name) {
        Some(ExternType::Func(ty)) => Some(ty),
        _ => None,
    };
    let call = |name: &str| Stage::Call {
        export: name.to_owned(),
        args: Vec::new(),
        print: false,
    };
    let Some(entry) = environment.entry.as_deref() else {
        let command = function("_start").ok_or_else(|| SpawnError::Environment {
            reason: "the program has no `_start`: it is a library; name the function to call"
                .into(),
        })?;
        return if command.params().len() == 0 {
            stages.push(call("_start"));
            Ok(stages)
        } else {
            Err(SpawnError::Environment {
                reason: "the program's `_start` takes arguments".into(),
            })
        };
    };
    if function("_initialize").is_some() && entry != "_initialize" {
        stages.push(call("_initialize"));
    }
    let unknown = || SpawnError::Environment {
        reason: format!(
            "the program has no function `{}` to call",
            sterna_process::Plain(entry)
        ),
    };
    let ty = function(entry)
        .filter(|_| !entry.starts_with(names::EXPORT_PREFIX))
        .ok_or_else(unknown)?;
    let given = environment.arguments.get(1..).unwrap_or_default();
    if ty.params().len() != given.len() {
        let reason = format!(
            "`{entry}` takes {} arguments, {} were given",
            ty.params().len(),
            given.len()
        );
        return Err(SpawnError::Environment { reason });
    }
    let args = ty
        .params()
        .zip(given)
        .map(|(ty, text)| argument(&ty, &text.to_string_lossy()));
    let args = args.collect::<Result<Vec<_>, _>>()?;
    stages.push(Stage::Call {
        export: entry.to_owned(),
        args,
        print: true,
    });
    Ok(stages)
}

fn argument(ty: &ValType, text: &str) -> Result<Value, SpawnError> {
    let value = match ty {
        ValType::I32 => text
            .parse()
            .ok()
            .or_else(|| text.parse::<u32>().ok().map(|v| v as i32))
            .map(Value::I32),
        ValType::I64 => text
            .parse()
            .ok()
            .or_else(|| text.parse::<u64>().ok().map(|v| v as i64))
            .map(Value::I64),
        ValType::F32 => text.parse().ok().map(|v: f32| Value::F32(v.to_bits())),
        ValType::F64 => text.parse().ok().map(|v: f64| Value::F64(v.to_bits())),
        _ => None,
    };
    value.ok_or_else(|| SpawnError::Environment {
        reason: format!(
            "`{}` is not an argument of type {ty}",
            sterna_process::Plain(text)
        ),
    })
}

/// Results of a function called by name, one a line.
pub(crate) fn lines(results: &[Val]) -> String {
    results
        .iter()
        .map(|value| match value {
            Val::I32(value) => format!("{value}\n"),
            Val::I64(value) => format!("{value}\n"),
            Val::F32(bits) => format!("{}\n", f32::from_bits(*bits)),
            Val::F64(bits) => format!("{}\n", f64::from_bits(*bits)),
            Val::V128(value) => format!("{}\n", value.as_u128()),
            Val::FuncRef(None) | Val::ExternRef(None) => "null\n".into(),
            _ => "<reference>\n".into(),
        })
        .collect()
}

/// An argument; none that [`stages`] makes is a reference.
pub(crate) fn plain(value: &Value) -> Option<Val> {
    Some(match *value {
        Value::I32(value) => Val::I32(value),
        Value::I64(value) => Val::I64(value),
        Value::F32(bits) => Val::F32(bits),
        Value::F64(bits) => Val::F64(bits),
        Value::V128(value) => Val::V128(value.into()),
        Value::Function(_) | Value::NullExternal => return None,
    })
}
