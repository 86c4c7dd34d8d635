//! What test runners say about a run, added up.

use anyhow::{Context, Result, bail};

/// With this a test says that it cannot run here, and why.
const SKIPPED: &str = "SKIPPED: ";

/// Counts of a run.
#[derive(Default)]
pub(crate) struct Report {
    /// Tests that the runner started.
    run: usize,
    pub(crate) failed: usize,
    /// Tests that could not do their work here: name and reason.
    pub(crate) skipped: Vec<(String, String)>,
    /// The test whose output is being read.
    current: String,
}

impl Report {
    pub(crate) fn passed(&self) -> usize {
        self.run.saturating_sub(
            self.failed
                + self
                    .skipped
                    .iter()
                    .filter(|(_, reason)| reason != IGNORED)
                    .count(),
        )
    }

    pub(crate) fn add(&mut self, other: Report) {
        self.run += other.run;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// Counts something that is no runner's test.
    pub(crate) fn of(&mut self, name: &str, result: Result<()>) {
        self.run += 1;
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            self.failed += 1;
        }
    }

    /// Counts something that cannot be done here.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.run += 1;
        self.skipped.push((name.to_owned(), reason.to_owned()));
    }

    /// Prints the summary. An error, if anything failed.
    pub(crate) fn close(&self) -> Result<()> {
        for (test, reason) in &self.skipped {
            println!("skipped {test}: {reason}");
        }
        // The last line, in the form that build servers read.
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed,
            self.skipped.len()
        );
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        Ok(())
    }

    /// Reads a report in JUnit's form as nextest writes it, one element or line of output per line.
    pub(crate) fn of_junit(xml: &str) -> Result<Report> {
        let suites = xml
            .lines()
            .find(|line| line.trim_start().starts_with("<testsuites "))
            .context("the JUnit report holds no <testsuites>")?;
        let count = |name| {
            attribute(suites, name)
                .and_then(|value| value.parse::<usize>().ok())
                .with_context(|| format!("the JUnit report states no {name}"))
        };
        let mut report = Report {
            run: count("tests")?.saturating_sub(count("skipped")?),
            failed: count("failures")? + count("errors")?,
            ..Report::default()
        };
        for line in xml.lines() {
            if line.trim_start().starts_with("<testcase ") {
                let part = |name| attribute(line, name).unwrap_or_default();
                report.current = unescape(&format!("{} {}", part("classname"), part("name")));
            }
            let line = ["<system-out>", "<system-err>"]
                .iter()
                .find_map(|tag| line.split_once(tag))
                .map_or(line, |(_, text)| text);
            let line = line.split("</system-").next().unwrap_or(line);
            report.read_skip(&unescape(line));
        }
        Ok(report)
    }

    /// Reads a line of output of the runner built into cargo.
    pub(crate) fn read_line(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.split(' ').next())
        {
            self.current = name.to_owned();
        }
        self.read_skip(line);
        let Some(results) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| {
            let words = results
                .split([' ', ';', '.'])
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>();
            let at = words.iter().position(|word| *word == what);
            at.and_then(|at| words.get(at.checked_sub(1)?))
                .and_then(|number| number.parse::<usize>().ok())
                .unwrap_or(0)
        };
        self.run += count("passed") + count("failed");
        self.failed += count("failed");
        self.skipped.extend(
            (0..count("ignored")).map(|_| ("a documentation test".to_owned(), IGNORED.to_owned())),
        );
    }

    fn read_skip(&mut self, line: &str) {
        if let Some(reason) = line.trim_start().strip_prefix(SKIPPED) {
            let skip = (self.current.clone(), reason.trim().to_owned());
            // A test may say it more than once; it counts once.
            if self.skipped.last().is_none_or(|(test, _)| *test != skip.0) {
                self.skipped.push(skip);
            }
        }
    }
}

/// Reason of a test that its author told the runner not to start: it is not among those run.
const IGNORED: &str = "marked as ignored";

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element
        .split_once(&format!(" {name}=\""))?
        .1
        .split('"')
        .next()
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit() {
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="5" skipped="1" failures="1" errors="0" uuid="x" time="0.0">
    <testsuite name="sterna-wasm" tests="4" disabled="0" errors="0" failures="1">
        <testcase name="arm::there_and_back" classname="sterna-wasm" time="0.0">
            <system-out>
running 1 test
SKIPPED: no &quot;qemu&quot; here
SKIPPED: no &quot;qemu&quot; here
</system-out>
            <system-err>SKIPPED: said again</system-err>
        </testcase>
        <testcase name="plain" classname="sterna-wasm" time="0.0">
            <system-out>not SKIPPED: at all</system-out>
        </testcase>
    </testsuite>
</testsuites>"#;
        let report = Report::of_junit(xml).unwrap();
        assert_eq!((report.passed(), report.failed), (2, 1));
        assert_eq!(
            report.skipped,
            [(
                "sterna-wasm arm::there_and_back".to_owned(),
                "no \"qemu\" here".to_owned()
            )]
        );
    }

    #[test]
    fn cargos_own_runner() {
        let mut report = Report::default();
        for line in [
            "---- a::b stdout ----",
            "SKIPPED: no net",
            "test result: ok. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.1s",
        ] {
            report.read_line(line);
        }
        assert_eq!(
            (report.passed(), report.failed, report.skipped.len()),
            (4, 1, 3)
        );
        assert_eq!(report.skipped[0], ("a::b".to_owned(), "no net".to_owned()));
    }
}
