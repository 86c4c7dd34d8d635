//! The figures as one page of HTML with drawings in SVG: no script, nothing from elsewhere, light and dark.
//!
//! For each load a row of drawings: answers per second, latencies from the half to 999 of 1000 on a logarithmic scale,
//! CPU time per answer, memory. Models have the same place in all of them.

use std::fmt::Write as _;

use super::{Row, Scenario};
#[cfg(test)]
use crate::files::Model;
use crate::load::Latency;

/// In pixels.
const LABELS: f64 = 150.0;
const WIDTH: f64 = 195.0;
const GAP: f64 = 60.0;
const LINE: f64 = 24.0;
const BAR: f64 = 12.0;
const TOP: f64 = 34.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--surface:#fcfcfb;--text:#0b0b0b;--quiet:#52514e;--line:#dddcd6;--mark:#2a78d6;\
--tail:#9ec3ee;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--surface:#1a1a19;--text:#f4f3ee;--quiet:#b5b4ac;--line:#3a3a37;\
--mark:#3987e5;--tail:#2b5486;--bad:#ff8a80}}\
body{background:var(--surface);color:var(--text);font:15px/1.45 system-ui,sans-serif;margin:2rem auto;\
max-width:1220px;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:2.2rem 0 0}p{color:var(--quiet);margin:.2rem 0 .6rem}\
.scroll{overflow-x:auto}svg{display:block;font:12px system-ui,sans-serif;max-width:100%;\
min-width:900px;height:auto}text{fill:var(--text)}\
.quiet{fill:var(--quiet)}.grid{stroke:var(--line)}.bar,.dot{fill:var(--mark)}.tail{stroke:var(--tail);stroke-width:5;\
stroke-linecap:round}.late{fill:var(--surface);stroke:var(--mark);stroke-width:2}.bad{fill:var(--bad)}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6rem 0;font-size:13px}\
td,th{padding:.15rem .9rem .15rem 0;text-align:right;border-bottom:1px solid var(--line);font-weight:400}\
th{color:var(--quiet)}td:first-child,th:first-child{text-align:left}summary{cursor:pointer;color:var(--quiet)}";

/// One page. `machine`: a line about where it was measured.
pub fn page(rows: &[Row], machine: &str) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Models of a file server</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body>\
         <h1>Six models of one file server</h1>\n<p>{}. Latency: the line goes from the half of all answers (filled) \
         over 99 of 100 (ring) to 999 of 1000 (its end), on a logarithmic scale.</p>\n",
        escape(machine)
    );
    for scenario in Scenario::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.scenario == scenario).collect();
        if rows.is_empty() {
            continue;
        }
        let description = escape(scenario.description());
        // Writing to a string does not fail.
        let _ = write!(
            page,
            "<h2>{}</h2>\n<p>{description}</p>\n<div class=\"scroll\">",
            scenario.name()
        );
        drawings(&mut page, scenario, &rows);
        page.push_str("</div>\n");
        table(&mut page, &rows);
    }
    page.push_str("</body></html>\n");
    page
}

fn drawings(page: &mut String, scenario: Scenario, rows: &[&Row]) {
    let (width, height) = (
        LABELS + 4.0 * (WIDTH + GAP),
        TOP + LINE * rows.len() as f64 + 26.0,
    );
    let _ = write!(
        page,
        "<svg role=\"img\" aria-label=\"{}: figures of each model; the table below has the same\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">",
        scenario.name()
    );
    for (index, row) in rows.iter().enumerate() {
        let y = middle(index) + 4.0;
        let _ = write!(page, "<text x=\"0\" y=\"{y}\">{}</text>", row.model.name());
    }
    let left = |place: usize| LABELS + place as f64 * (WIDTH + GAP);
    bars(page, left(0), "answers per second", rows, |row| {
        Some(row.per_second)
    });
    latencies(page, left(1), rows);
    bars(page, left(2), "µs of CPU time per answer", rows, |row| {
        row.cpu_us_per_request
    });
    bars(page, left(3), "MiB of memory", rows, |row| {
        Some(row.memory_kib as f64 / 1024.0)
    });
    page.push_str("</svg>");
}

fn middle(index: usize) -> f64 {
    TOP + LINE * (index as f64 + 0.5)
}

fn title(page: &mut String, left: f64, text: &str) {
    let _ = write!(
        page,
        "<text class=\"quiet\" x=\"{left}\" y=\"16\">{text}</text>"
    );
}

fn bars(
    page: &mut String,
    left: f64,
    name: &str,
    rows: &[&Row],
    value: impl Fn(&Row) -> Option<f64>,
) {
    title(page, left, name);
    let most = rows.iter().filter_map(|row| value(row)).fold(0.0, f64::max);
    let bottom = TOP + LINE * rows.len() as f64;
    let _ = write!(
        page,
        "<line class=\"grid\" x1=\"{left}\" x2=\"{left}\" y1=\"{TOP}\" y2=\"{bottom}\"/>"
    );
    for (index, row) in rows.iter().enumerate() {
        let y = middle(index);
        let Some(value) = value(row) else {
            none(page, left, y);
            continue;
        };
        let length = if most > 0.0 {
            (WIDTH - 10.0) * value / most
        } else {
            0.0
        };
        let shown = short(value);
        let _ = write!(
            page,
            "<path class=\"bar\" d=\"{}\"><title>{}: {shown} {name}</title></path>\
             <text x=\"{}\" y=\"{}\">{shown}</text>",
            rounded(left, y - BAR / 2.0, length.max(1.0)),
            row.model.name(),
            left + length + 6.0,
            y + 4.0
        );
    }
}

/// There is no figure.
fn none(page: &mut String, left: f64, y: f64) {
    let (x, y) = (left + 6.0, y + 4.0);
    let _ = write!(page, "<text class=\"bad\" x=\"{x}\" y=\"{y}\">none</text>");
}

/// A bar that is round where it ends and straight where it begins.
fn rounded(left: f64, top: f64, length: f64) -> String {
    let radius = 3.0_f64.min(length);
    let right = left + length - radius;
    format!(
        "M{left} {top}H{right:.1}a{radius} {radius} 0 0 1 {radius} {radius}V{:.1}a{radius} {radius} 0 0 1 -{radius} \
         {radius}H{left}z",
        top + BAR - radius
    )
}

fn latencies(page: &mut String, left: f64, rows: &[&Row]) {
    title(page, left, "latency, ms");
    let all = rows
        .iter()
        .filter_map(|row| row.latency_us)
        .flat_map(|latency| [latency.p50, latency.p999]);
    let (mut least, mut most) = (f64::MAX, 0.0_f64);
    for value in all.filter(|value| *value > 0.0) {
        (least, most) = (least.min(value), most.max(value));
    }
    if most <= 0.0 {
        return;
    }
    let (first, last) = (
        least.log10().floor(),
        most.log10().ceil().max(least.log10().floor() + 1.0),
    );
    let at = |value: f64| left + WIDTH * (value.max(1e-3).log10() - first) / (last - first);
    let bottom = TOP + LINE * rows.len() as f64;
    for decade in first as i32..=last as i32 {
        let value = 10_f64.powi(decade);
        let x = at(value);
        let _ = write!(
            page,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"quiet\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>",
            bottom + 16.0,
            short(value / 1000.0)
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let y = middle(index);
        let Some(latency) = row.latency_us else {
            none(page, left, y);
            continue;
        };
        let _ = write!(
            page,
            "<g><title>{}: {} / {} / {} ms</title><line class=\"tail\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y}\" \
             y2=\"{y}\"/><circle class=\"late\" cx=\"{:.1}\" cy=\"{y}\" r=\"4\"/><circle class=\"dot\" cx=\"{:.1}\" \
             cy=\"{y}\" r=\"5\"/></g>",
            row.model.name(),
            short(latency.p50 / 1000.0),
            short(latency.p99 / 1000.0),
            short(latency.p999 / 1000.0),
            at(latency.p50),
            at(latency.p999),
            at(latency.p99),
            at(latency.p50)
        );
    }
}

fn table(page: &mut String, rows: &[&Row]) {
    page.push_str(
        "<details><summary>The same as a table</summary><div class=\"scroll\"><table><tr><th>model</th>\
         <th>answers/s</th><th>p50 ms</th><th>p99 ms</th><th>p99.9 ms</th><th>CPU µs/answer</th><th>CPU</th>\
         <th>MiB</th><th>errors</th></tr>\n",
    );
    for row in rows {
        let ms = |of: fn(Latency) -> f64| {
            let value = row.latency_us.map(|latency| of(latency) / 1000.0);
            value.map_or_else(|| "–".to_owned(), short)
        };
        let cpu = row.cpu_us_per_request.map_or_else(|| "–".to_owned(), short);
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{cpu}</td><td>{:.0}&nbsp;%</td>\
             <td>{}</td><td>{}</td></tr>",
            row.model.name(),
            short(row.per_second),
            ms(|latency| latency.p50),
            ms(|latency| latency.p99),
            ms(|latency| latency.p999),
            row.cpu_share * 100.0,
            short(row.memory_kib as f64 / 1024.0),
            row.errors
        );
    }
    page.push_str("</table></div></details>\n");
}

/// Three digits, and thousands apart.
fn short(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 || size == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    match text.len() {
        0..=3 => text,
        _ if text.contains('.') => text,
        length => {
            let (thousands, rest) = text.split_at(length - 3);
            format!("{thousands},{rest}")
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (0.0123, "0.012"),
            (1.0, "1"),
            (1.26, "1.26"),
            (12.34, "12.3"),
            (123.4, "123"),
            (12_345.6, "12,346"),
        ] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn a_page_has_every_model_and_load_and_nothing_from_elsewhere() {
        let rows: Vec<_> = Scenario::ALL
            .iter()
            .flat_map(|&scenario| Model::ALL.map(|model| (scenario, model)))
            .map(|(scenario, model)| Row {
                scenario,
                model,
                per_second: 1234.5,
                errors: 0,
                latency_us: (model != Model::Iterative).then_some(Latency {
                    p50: 10.0,
                    p99: 100.0,
                    p999: 2000.0,
                    most: 3000.0,
                }),
                cpu_share: 0.5,
                cpu_us_per_request: (model != Model::Hybrid).then_some(3.0),
                memory_kib: 2048,
            })
            .collect();
        let page = page(&rows, "a <machine>");
        assert!(page.contains("a &lt;machine>") && !page.contains("http"));
        assert_eq!(page.matches("<svg").count(), Scenario::ALL.len());
        for model in Model::ALL {
            assert!(page.contains(model.name()));
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
