//! Plots: one file of HTML with the drawings in it (SVG), that needs nothing else and is legible in light and dark.
//!
//! A [`Page`] has parts with a [`Chart`] each. `axis` chooses scales and ticks, `svg` draws, `style.css` has the looks.

mod axis;
mod svg;

use std::fmt::Write as _;

pub use axis::{Scale, Unit};

/// Colours that are told apart; series beyond share them.
pub(crate) const COLOURS: usize = 6;

const STYLE: &str = include_str!("plot/style.css");

/// A page of charts.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// What was measured.
    pub title: String,
    /// Where and how.
    pub about: String,
    /// The charts.
    pub parts: Vec<Part>,
}

/// A chart and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What it shows.
    pub heading: String,
    /// How to read it.
    pub text: String,
    /// The chart.
    pub chart: Chart,
}

/// Kinds of charts.
#[derive(Debug, Clone, PartialEq)]
pub enum Chart {
    /// A bar for each label and series.
    Bars(Bars),
    /// Lines over numbers.
    Lines(Lines),
    /// What happened when, in lanes one below the other.
    Lanes(Lanes),
    /// Shares from 0 to 1 as shades, in rows and columns.
    Shades(Shades),
}

/// Horizontal bars.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// What the lengths are.
    pub unit: Unit,
    /// How lengths are scaled; a logarithmic one begins at a power of ten.
    pub scale: Scale,
    /// Names of the series, by colour.
    pub series: Vec<String>,
    /// Groups of bars.
    pub groups: Vec<Group>,
}

/// Bars with one label.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The label.
    pub label: String,
    /// A value for each series; `None` leaves it out.
    pub values: Vec<Option<f64>>,
}

/// Lines.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// What is on the horizontal axis.
    pub x: Axis,
    /// What is on the vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Line>,
    /// Places on the horizontal axis with a name, such as sizes of caches.
    pub marks: Vec<(f64, String)>,
    /// Stretches of the horizontal axis with a name, such as phases.
    pub bands: Vec<Band>,
}

/// A stretch of the horizontal axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// What it is.
    pub name: String,
    /// Which colour.
    pub colour: usize,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// Its unit.
    pub unit: Unit,
    /// Its scale.
    pub scale: Scale,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Without gaps.
    Solid,
    /// In dashes.
    Dashed,
    /// In dots.
    Dotted,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Which colour; lines that belong together share it.
    pub colour: usize,
    /// How it is drawn; lines of one colour differ in it.
    pub stroke: Stroke,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Lanes over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Lanes {
    /// The end of the time, in seconds; it begins at 0.
    pub seconds: f64,
    /// Names of kinds of spans, by colour.
    pub kinds: Vec<String>,
    /// The lanes.
    pub lanes: Vec<Lane>,
}

/// A lane.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Its label.
    pub label: String,
    /// Spans: from, to, in seconds, and their kind.
    pub spans: Vec<(f64, f64, usize)>,
}

/// Shades in rows and columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Shades {
    /// What the rows are.
    pub rows_label: String,
    /// What the columns are.
    pub columns_label: String,
    /// Labels of the columns.
    pub columns: Vec<String>,
    /// Labels of the rows, and their shares.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl Page {
    /// The file.
    pub fn html(&self) -> String {
        let mut html = String::new();
        let title = escaped(&self.title);
        let _ = write!(
            html,
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{STYLE}</style>\n<main>\n<h1>{title}</h1>\n<p>{}</p>\n",
            escaped(&self.about)
        );
        for part in &self.parts {
            let _ = write!(
                html,
                "<section>\n<h2>{}</h2>\n<p>{}</p>\n{}</section>\n",
                escaped(&part.heading),
                escaped(&part.text),
                svg::draw(&part.chart, &part.heading)
            );
        }
        html.push_str("</main>\n</html>\n");
        html
    }
}

/// A text as HTML and SVG have it.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis {
            label: "an <axis>".to_owned(),
            unit: Unit::Nanoseconds,
            scale,
        }
    }

    fn charts() -> Vec<Chart> {
        let line = Line {
            name: "one & two".to_owned(),
            colour: 7,
            stroke: Stroke::Dotted,
            points: vec![(1.0, 0.0), (1000.0, 5e6)],
        };
        vec![
            Chart::Bars(Bars {
                unit: Unit::Bytes,
                scale: Scale::Logarithmic,
                series: vec!["s".to_owned()],
                groups: vec![
                    Group {
                        label: "<b>".to_owned(),
                        values: vec![Some(4400.0), None, Some(0.0)],
                    },
                    Group {
                        label: String::new(),
                        values: Vec::new(),
                    },
                ],
            }),
            Chart::Lines(Lines {
                x: axis(Scale::Logarithmic),
                y: axis(Scale::Linear),
                series: vec![line],
                marks: vec![(48.0, "L1".to_owned())],
                bands: vec![Band {
                    from: 2.0,
                    to: 9.0,
                    name: "a <band>".to_owned(),
                    colour: 8,
                }],
            }),
            Chart::Lines(Lines {
                x: axis(Scale::Linear),
                y: axis(Scale::Logarithmic),
                series: Vec::new(),
                marks: Vec::new(),
                bands: Vec::new(),
            }),
            Chart::Lanes(Lanes {
                seconds: 1.0,
                kinds: vec!["waits".to_owned()],
                lanes: vec![Lane {
                    label: "lane".to_owned(),
                    spans: vec![(0.1, 0.4, 0)],
                }],
            }),
            Chart::Shades(Shades {
                rows_label: "r".to_owned(),
                columns_label: "c".to_owned(),
                columns: vec!["1".to_owned()],
                rows: vec![("a".to_owned(), vec![0.5]), ("b".to_owned(), vec![7.0])],
            }),
        ]
    }

    /// Tags that are open at the end, and whether each was closed by its own.
    fn balanced(html: &str) -> bool {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap_or_default();
            let name = tag.trim_matches('/').split_whitespace().next();
            let name = name.unwrap_or_default();
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
                open.push(name);
            }
        }
        open.is_empty()
    }

    #[test]
    fn every_chart_is_well_formed_and_stands_alone() {
        let parts = charts().into_iter().map(|chart| Part {
            heading: "h".to_owned(),
            text: "\"t\" <script>".to_owned(),
            chart,
        });
        let page = Page {
            title: "T".to_owned(),
            about: "A".to_owned(),
            parts: parts.collect(),
        };
        let html = page.html();
        assert!(balanced(&html), "{html}");
        assert_eq!(html.matches("<svg").count(), 5);
        assert!(html.contains("prefers-color-scheme: dark"));
        for forbidden in ["NaN", "inf", "<script", "http:", "https:", "<b>", "src="] {
            assert!(!html.contains(forbidden), "{forbidden}: {html}");
        }
    }

    #[test]
    fn texts_stay_texts() {
        assert_eq!(escaped("a<b>&\"\u{1b}"), "a&lt;b&gt;&amp;&quot;\u{fffd}");
    }
}
