//! The plots of README.

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;

use super::Res;

/// One line: its name, and its points, ascending.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// What a chart shows. Both axes are logarithmic.
pub(crate) struct Chart<'a> {
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) lines: Vec<Line>,
}

/// Writes the charts as an SVG file, one below the other.
pub(crate) fn write(file: &str, charts: &[Chart<'_>]) -> Res<()> {
    let height = 520 * u32::try_from(charts.len())?;
    let area = SVGBackend::new(file, (900, height)).into_drawing_area();
    area.fill(&WHITE)?;
    for (chart, area) in charts.iter().zip(area.split_evenly((charts.len(), 1))) {
        chart.draw(&area)?;
    }
    area.present()?;
    Ok(())
}

/// The room for the legend, right of the lines, as a share of theirs.
const LEGEND: f64 = 0.5;

/// The numbers at an axis: powers of ten, or all that there are if these would be none or one.
fn ticks(low: f64, high: f64, all: impl Iterator<Item = f64>) -> Vec<f64> {
    let powers = (-9..=9).map(|power| 10_f64.powi(power));
    let powers: Vec<f64> = powers.filter(|tick| (low..=high).contains(tick)).collect();
    if powers.len() > 1 {
        return powers;
    }
    let mut all: Vec<f64> = all.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.dedup();
    all
}

/// A number at an axis: as short as it can be told from its neighbours.
fn label(value: &f64) -> String {
    match *value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{v:.4}").trim_end_matches('0').to_owned(),
    }
}

impl Chart<'_> {
    fn draw(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Res<()> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let bounds = |axis: fn(&(f64, f64)) -> f64| {
            let (low, high) = (f64::INFINITY, 0.0);
            points()
                .map(axis)
                .fold((low, high), |(low, high), x| (x.min(low), x.max(high)))
        };
        let (x, y) = (bounds(|p| p.0), bounds(|p| p.1));
        let ticks = ticks(x.0, x.1, points().map(|p| p.0));
        let right = x.1 * (x.1 / x.0).powf(LEGEND);
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (x.0..right).log_scale().with_key_points(ticks),
                (y.0 * 0.7..y.1 * 1.5).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(WHITE)
            .draw()?;
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(())
    }
}
