//! A line of the values of the last minutes.

use maud::{Markup, html};

/// The height of the drawing.
const HEIGHT: f64 = 24.0;

/// Draws values, oldest first. `label` describes them to screen readers.
pub fn sparkline(values: &[f64], label: &str) -> Markup {
    let max = values.iter().copied().fold(0.0, f64::max);
    let width = values.len().saturating_sub(1).max(1);
    let y = |value: f64| if max > 0.0 { HEIGHT - 1.0 - value / max * (HEIGHT - 2.0) } else { HEIGHT - 1.0 };
    let points: Vec<String> =
        values.iter().enumerate().map(|(x, value)| format!("{x},{:.1}", y(*value))).collect();
    let points = points.join(" ");
    html! {
        svg.spark viewBox=(format!("0 0 {width} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(label) {
            polygon points=(format!("0,{HEIGHT} {points} {width},{HEIGHT}")) {}
            polyline points=(points) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_within_its_box() {
        let text = sparkline(&[0.0, 5.0, 10.0], "rate").into_string();
        assert!(
            text.contains("viewBox=\"0 0 2 24\"") && text.contains("points=\"0,23.0 1,12.0 2,1.0\""),
            "{text}"
        );
        assert!(sparkline(&[], "none").into_string().contains("points=\"\""));
    }
}
