//! Draws charts as SVG. Lengths are in units of the drawing, which is [`WIDTH`] wide and as high as it must be.

use std::fmt::Write as _;

use super::axis::{Layout, shown};
use super::{Bars, COLOURS, Chart, Lanes, Lines, Shades, Stroke, Unit, escaped};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 90.0;
const INNER: f64 = WIDTH - LEFT - RIGHT;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
const BAR: f64 = 15.0;
const LANE: f64 = 14.0;
const PLOT_HEIGHT: f64 = 320.0;
const LEGEND_STEP: f64 = 16.0;
/// Lines with more points than this have no dots.
const DOTS_MAX: usize = 100;
/// A band is never narrower.
const BAND_MIN: f64 = 1.0;
/// Width of a letter, about.
const LETTER: f64 = 7.0;

pub(super) fn draw(chart: &Chart, name: &str) -> String {
    let drawing = match chart {
        Chart::Bars(bars) => draw_bars(bars),
        Chart::Lines(lines) => draw_lines(lines),
        Chart::Lanes(lanes) => draw_lanes(lanes),
        Chart::Shades(shades) => draw_shades(shades),
    };
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
        drawing.height,
        escaped(name),
        drawing.body
    )
}

struct Drawing {
    body: String,
    height: f64,
}

impl Drawing {
    fn new(height: f64) -> Self {
        Self {
            body: String::new(),
            height,
        }
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
            escaped(text)
        );
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" class=\"{class}\">\
             <title>{}</title></rect>",
            escaped(title)
        );
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
    }

    /// Names beside their colours, in a row at the top.
    fn legend(&mut self, names: &[String]) {
        let mut x = LEFT;
        for (number, name) in names.iter().enumerate() {
            self.rect((x, 8.0), (10.0, 10.0), &fill(number), name);
            self.text((x + 14.0, 17.0), "start", "", name);
            x += 34.0 + name.chars().count() as f64 * LETTER;
        }
    }

    /// Bands behind lines, and their names from a height on.
    fn bands(&mut self, lines: &Lines, kinds: &[(&str, usize)], x: &Layout, below: f64) {
        for band in &lines.bands {
            let (from, to) = (x.at(band.from) * INNER, x.at(band.to) * INNER);
            let size = ((to - from).max(BAND_MIN), PLOT_HEIGHT);
            let length = shown(band.to - band.from, lines.x.unit);
            let title = format!("{}: {length}", band.name);
            let class = format!("band {}", fill(band.colour));
            self.rect((LEFT + from, TOP), size, &class, &title);
        }
        for (number, (name, colour)) in kinds.iter().enumerate() {
            let below = below + number as f64 * LEGEND_STEP;
            let class = format!("band {}", fill(*colour));
            self.rect((LEFT, below - 6.0), (24.0, 12.0), &class, name);
            self.text((LEFT + 32.0, below + 4.0), "start", "", name);
        }
    }

    /// Vertical rules with their values below.
    fn scale_below(&mut self, layout: &Layout, unit: Unit, to: f64) {
        for tick in &layout.ticks {
            let x = LEFT + layout.at(*tick) * INNER;
            self.line((x, TOP), (x, to), "rule");
            self.text((x, to + 16.0), "middle", "faint", &shown(*tick, unit));
        }
    }
}

fn fill(number: usize) -> String {
    format!("f{}", number % COLOURS)
}

fn draw_bars(bars: &Bars) -> Drawing {
    let all = bars.groups.iter().flat_map(|group| &group.values).flatten();
    let layout = Layout::of(bars.scale, bars.unit, all.copied());
    let rows = bars
        .groups
        .iter()
        .map(|group| group.values.iter().flatten().count().max(1));
    let end = TOP
        + rows
            .clone()
            .map(|rows| rows as f64 * BAR + 8.0)
            .sum::<f64>();
    let mut drawing = Drawing::new(end + BOTTOM);
    drawing.legend(&bars.series);
    drawing.scale_below(&layout, bars.unit, end);
    let mut y = TOP + 4.0;
    for (group, rows) in bars.groups.iter().zip(rows) {
        let middle = y + rows as f64 * BAR / 2.0 + 4.0;
        drawing.text((LEFT - 8.0, middle), "end", "", &group.label);
        for (number, value) in group.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let width = (layout.at(*value) * INNER).max(1.0);
            let text = shown(*value, bars.unit);
            let series = bars.series.get(number).map_or("", String::as_str);
            let title = format!("{}, {series}: {text}", group.label);
            drawing.rect((LEFT, y), (width, BAR - 3.0), &fill(number), &title);
            drawing.text((LEFT + width + 5.0, y + 10.0), "start", "faint", &text);
            y += BAR;
        }
        y += 8.0
            + if group.values.iter().flatten().count() == 0 {
                BAR
            } else {
                0.0
            };
    }
    drawing
}

fn draw_lines(lines: &Lines) -> Drawing {
    let points = || lines.series.iter().flat_map(|line| &line.points);
    let x = Layout::of(lines.x.scale, lines.x.unit, points().map(|point| point.0));
    let y = Layout::of(lines.y.scale, lines.y.unit, points().map(|point| point.1));
    let bands = kinds_of_bands(lines);
    let legend = (lines.series.len() + bands.len()) as f64 * LEGEND_STEP;
    let end = TOP + PLOT_HEIGHT;
    let mut drawing = Drawing::new(end + BOTTOM + legend + 8.0);
    let below = end + BOTTOM + lines.series.len() as f64 * LEGEND_STEP;
    drawing.bands(lines, &bands, &x, below);
    drawing.scale_below(&x, lines.x.unit, end);
    for tick in &y.ticks {
        let at = end - y.at(*tick) * PLOT_HEIGHT;
        drawing.line((LEFT, at), (LEFT + INNER, at), "rule");
        drawing.text(
            (LEFT - 8.0, at + 4.0),
            "end",
            "faint",
            &shown(*tick, lines.y.unit),
        );
    }
    for (value, name) in &lines.marks {
        let at = LEFT + x.at(*value) * INNER;
        drawing.line((at, TOP - 6.0), (at, end), "mark");
        drawing.text((at, TOP - 10.0), "middle", "faint", name);
    }
    drawing.text((LEFT - 8.0, TOP - 14.0), "end", "", &lines.y.label);
    drawing.text(
        (LEFT + INNER / 2.0, end + 34.0),
        "middle",
        "",
        &lines.x.label,
    );
    for (number, line) in lines.series.iter().enumerate() {
        let colour = line.colour % COLOURS;
        let stroke = match line.stroke {
            Stroke::Solid => "",
            Stroke::Dashed => " dashed",
            Stroke::Dotted => " dotted",
        };
        let class = format!("line s{colour}{stroke}");
        let mut path = String::new();
        for (across, up) in &line.points {
            let (px, py) = (LEFT + x.at(*across) * INNER, end - y.at(*up) * PLOT_HEIGHT);
            let _ = write!(path, "{px:.1},{py:.1} ");
        }
        let _ = writeln!(
            drawing.body,
            "<polyline points=\"{path}\" class=\"{class}\"/>"
        );
        let dots = line.points.iter().filter(|_| line.points.len() <= DOTS_MAX);
        for (across, up) in dots {
            let (px, py) = (LEFT + x.at(*across) * INNER, end - y.at(*up) * PLOT_HEIGHT);
            let title = format!(
                "{}: {} at {}",
                line.name,
                shown(*up, lines.y.unit),
                shown(*across, lines.x.unit)
            );
            let dot = (px - 2.5, py - 2.5);
            drawing.rect(dot, (5.0, 5.0), &format!("f{colour}"), &title);
        }
        let below = end + BOTTOM + number as f64 * LEGEND_STEP;
        drawing.line((LEFT, below), (LEFT + 24.0, below), &class);
        drawing.text((LEFT + 32.0, below + 4.0), "start", "", &line.name);
    }
    drawing
}

/// Names of bands, each once, and their colours.
fn kinds_of_bands(lines: &Lines) -> Vec<(&str, usize)> {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for band in &lines.bands {
        if kinds.iter().all(|(name, _)| *name != band.name) {
            kinds.push((&band.name, band.colour));
        }
    }
    kinds
}

fn draw_lanes(lanes: &Lanes) -> Drawing {
    let layout = Layout::of(
        super::Scale::Linear,
        Unit::Seconds,
        std::iter::once(lanes.seconds),
    );
    let end = TOP + lanes.lanes.len() as f64 * LANE;
    let mut drawing = Drawing::new(end + BOTTOM);
    drawing.legend(&lanes.kinds);
    drawing.scale_below(&layout, Unit::Seconds, end);
    for (number, lane) in lanes.lanes.iter().enumerate() {
        let y = TOP + number as f64 * LANE;
        drawing.text((LEFT - 8.0, y + 11.0), "end", "", &lane.label);
        for (from, to, kind) in &lane.spans {
            let (x, width) = (layout.at(*from), layout.at(*to) - layout.at(*from));
            let title = format!("{}: {}", lane.label, shown(to - from, Unit::Seconds));
            let size = ((width * INNER).max(0.6), LANE - 3.0);
            drawing.rect((LEFT + x * INNER, y + 1.0), size, &fill(*kind), &title);
        }
    }
    drawing
}

fn draw_shades(shades: &Shades) -> Drawing {
    let columns = shades.columns.len().max(1) as f64;
    let cell = (INNER / columns).min(48.0);
    let end = TOP + shades.rows.len() as f64 * LANE * 1.5;
    let mut drawing = Drawing::new(end + BOTTOM);
    drawing.text((LEFT - 8.0, TOP - 8.0), "end", "", &shades.rows_label);
    for (number, (label, values)) in shades.rows.iter().enumerate() {
        let y = TOP + number as f64 * LANE * 1.5;
        drawing.text((LEFT - 8.0, y + 14.0), "end", "", label);
        for (column, value) in values.iter().enumerate() {
            let at = (LEFT + column as f64 * cell, y);
            let size = (cell - 2.0, LANE * 1.5 - 2.0);
            let share = value.clamp(0.0, 1.0);
            let _ = writeln!(drawing.body, "<g opacity=\"{share:.2}\">");
            drawing.rect(at, size, "shade", &shown(share, Unit::Share));
            drawing.body.push_str("</g>\n");
            drawing.rect(at, size, "cell", &shown(share, Unit::Share));
        }
    }
    for (column, label) in shades.columns.iter().enumerate() {
        let x = LEFT + (column as f64 + 0.5) * cell - 1.0;
        drawing.text((x, end + 14.0), "middle", "faint", label);
    }
    drawing.text((LEFT, end + 34.0), "start", "", &shades.columns_label);
    drawing
}
