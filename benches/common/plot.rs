//! Line charts as SVG.

use std::fmt::Write;
use std::path::Path;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Distinguishable by people with a colour vision deficiency (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A chart with a few named positions on its horizontal axis.
pub struct Chart {
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    /// The names of the positions, left to right, at equal distances.
    pub positions: Vec<String>,
    pub has_log_scale: bool,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    /// A value for each position. NaN: there is none.
    pub values: Vec<f64>,
}

impl Chart {
    /// Writes the chart into a file, and creates its folder.
    pub fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, self.svg()).expect("a file");
        println!("wrote {}", path.display());
    }

    fn svg(&self) -> String {
        let (low, high) = self.bounds();
        let y_of = |value: f64| {
            let share = match self.has_log_scale {
                true => (value.ln() - low.ln()) / (high.ln() - low.ln()),
                false => (value - low) / (high - low),
            };
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        let steps = self.positions.len().saturating_sub(1).max(1) as f64;
        let x_of = |index: usize| LEFT + index as f64 / steps * (WIDTH - LEFT - RIGHT);
        let mut svg = String::new();
        let mut add =
            |text: std::fmt::Arguments<'_>| svg.write_fmt(format_args!("{text}\n")).expect("memory");
        add(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
        ));
        add(format_args!(r#"<rect width="100%" height="100%" fill="white"/>"#));
        add(format_args!(r#"<text x="{LEFT}" y="22" font-size="15">{}</text>"#, escaped(&self.title)));
        for value in self.ticks(low, high) {
            let (y, right) = (y_of(value), WIDTH - RIGHT);
            add(format_args!(
                r##"<line x1="{LEFT}" x2="{right}" y1="{y:.1}" y2="{y:.1}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
                LEFT - 8.0,
                y + 4.0,
                tick_text(value)
            ));
        }
        for (index, position) in self.positions.iter().enumerate() {
            add(format_args!(
                r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                x_of(index),
                HEIGHT - BOTTOM + 18.0,
                escaped(position)
            ));
        }
        let (middle, base) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0);
        add(format_args!(r#"<text x="{middle}" y="{base}" text-anchor="middle">{}</text>"#, self.x_label));
        add(format_args!(
            r#"<text transform="translate(18 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            HEIGHT / 2.0,
            self.y_label
        ));
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points = line.values.iter().enumerate().filter(|(_, value)| value.is_finite());
            let points: Vec<(f64, f64)> = points.map(|(index, value)| (x_of(index), y_of(*value))).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            add(format_args!(
                r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                path.join(" ")
            ));
            for (x, y) in &points {
                add(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#));
            }
            let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + number as f64 * 20.0);
            add(format_args!(
                r#"<line x1="{x}" x2="{}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/><text x="{}" y="{}">{}</text>"#,
                x + 18.0,
                x + 24.0,
                y + 4.0,
                escaped(&line.name)
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Returns the ends of the vertical axis.
    fn bounds(&self) -> (f64, f64) {
        let values =
            self.lines.iter().flat_map(|line| &line.values).copied().filter(|value| value.is_finite());
        let (low, high) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        match self.has_log_scale {
            true => (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil())),
            false => (0.0, high * 1.05),
        }
    }

    fn ticks(&self, low: f64, high: f64) -> Vec<f64> {
        if self.has_log_scale {
            let decades = (low.log10().round() as i32)..=(high.log10().round() as i32);
            return decades.map(|power| 10_f64.powi(power)).collect();
        }
        let rough = high / 6.0;
        let unit = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * unit).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..).map(|number| f64::from(number) * step).take_while(|value| *value <= high).collect()
    }
}

fn tick_text(value: f64) -> String {
    if value >= 1000.0 { format!("{:.0}k", value / 1000.0) } else { format!("{value}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
