//! `sterna node start --systemd`: a unit that starts a node in the same way, as systemd.service(5) has it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::geteuid;

use super::Start;
use crate::{node, private, show};

/// What systemd grants a node beyond its time to drain: moves that cannot be given up any more come to their end.
const STOP_AFTER_DRAIN: Duration = Duration::from_secs(60);

impl Start {
    /// A unit with these options.
    fn unit(&self) -> Result<String> {
        let program = std::env::current_exe().context("could not find this program")?;
        let data = self.data.clone().map_or_else(node::default, Ok)?;
        let data = std::path::absolute(data).context("could not find the data directory")?;
        let mut words = vec![quoted(&program)?, "node".into(), "start".into()];
        words.extend(["--data".to_owned(), quoted(&data)?]);
        words.extend(self.bind.map(|bind| format!("--bind {bind}")));
        let advertise = self.advertise.iter();
        words.extend(advertise.map(|address| format!("--advertise {address}")));
        for (name, path) in &self.export {
            let path = std::path::absolute(path).context("could not find an exported directory")?;
            let mut word = OsString::from(format!("{name}="));
            word.push(path);
            words.extend(["--export".to_owned(), quoted(Path::new(&word))?]);
        }
        words.extend(self.copies.map(|bytes| format!("--copies {bytes}")));
        words.extend(self.prepare.then(|| "--prepare".to_owned()));
        for store in &self.store {
            let word = store.to_string();
            words.extend(["--store".to_owned(), quoted(Path::new(&word))?]);
        }
        if let Some(registry) = &self.registry {
            words.extend([
                "--registry".to_owned(),
                quoted(Path::new(&registry.to_string()))?,
            ]);
        }
        if let Some(name) = &self.name {
            words.extend(["--name".to_owned(), quoted(Path::new(name))?]);
        }
        let mut stop = String::new();
        if let Some(within) = self.on_signal {
            words.push(format!("--on-signal drain={}s", within.as_secs_f64()));
            let patience = within + STOP_AFTER_DRAIN;
            stop = format!("TimeoutStopSec={}\n", patience.as_secs());
        }
        let target = match geteuid().is_root() {
            true => "multi-user.target",
            false => "default.target",
        };
        Ok(format!(
            "[Unit]\nDescription=Sterna node\nAfter=network-online.target\nWants=network-online.target\n\n\
             [Service]\n{}ExecStart={}\nRestart=on-failure\nKillMode=process\n{stop}\n[Install]\nWantedBy={target}\n",
            environment()?,
            words.join(" ")
        ))
    }

    /// Writes it, and says how it is started.
    pub(super) fn write_unit(&self, to: Option<&Path>) -> Result<u8> {
        let unit = self.unit()?;
        if to == Some(Path::new("-")) {
            show::print(unit);
            return Ok(0);
        }
        let path = to.map_or_else(unit_path, |path| Ok(path.to_owned()))?;
        let shown = show::path(&path);
        let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
        parent
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, unit))
            .with_context(|| format!("could not write {shown}"))?;
        let user = if geteuid().is_root() { "" } else { " --user" };
        show::note(format_args!(
            "written: {shown}\nstart it, now and at each boot: systemctl{user} daemon-reload && \
             systemctl{user} enable --now sterna-node"
        ));
        Ok(0)
    }
}

/// Where systemd looks for units of this user.
fn unit_path() -> Result<PathBuf> {
    const FILE: &str = "sterna-node.service";
    if geteuid().is_root() {
        return Ok(Path::new("/etc/systemd/system").join(FILE));
    }
    let named = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config")));
    let config = config.context("no home directory is known: say where to with --systemd=FILE")?;
    Ok(config.join("systemd/user").join(FILE))
}

/// Directories as they are now: what systemd starts may have no `HOME`, and has no variables of this shell.
fn environment() -> Result<String> {
    let mut lines = String::new();
    let mut line = |variable: &str, path: PathBuf| {
        let mut word = OsString::from(format!("{variable}="));
        word.push(path);
        // No variables are replaced in there.
        let word = escaped(Path::new(&word), &['%'])?;
        lines.push_str(&format!("Environment={word}\n"));
        anyhow::Ok(())
    };
    line("STERNA_CACHE_DIR", private::cache_directory()?)?;
    if std::env::var_os("STERNA_RUN_DIR").is_some_and(|named| !named.is_empty()) {
        line("STERNA_RUN_DIR", private::run_directory())?;
    }
    Ok(lines)
}

/// A word of a command for systemd: in quotes, with what it would replace escaped.
fn quoted(path: &Path) -> Result<String> {
    escaped(path, &['%', '$'])
}

/// A text in quotes for systemd; what it would replace is doubled.
fn escaped(path: &Path, doubled: &[char]) -> Result<String> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    let text = text.with_context(|| {
        format!(
            "{} cannot be written into a unit: it is not plain text",
            path.display()
        )
    })?;
    let mut word = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => word.extend(['\\', letter]),
            letter if doubled.contains(&letter) => word.extend([letter, letter]),
            _ => word.push(letter),
        }
    }
    word.push('"');
    Ok(word)
}
