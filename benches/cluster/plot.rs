//! The plot of README: rewards per second over requests in flight, one line per path.

use plotters::prelude::*;

use crate::load::Res;

/// One line: its name, and (requests in flight, rewards per second), ascending.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// Writes the lines as an SVG file.
pub(crate) fn rates(file: &str, lines: &[Line]) -> Res<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |axis: fn(&(f64, f64)) -> f64| {
        let (low, high) = (f64::INFINITY, 0.0);
        points()
            .map(axis)
            .fold((low, high), |(low, high), x| (x.min(low), x.max(high)))
    };
    let (x, y) = (bounds(|p| p.0), bounds(|p| p.1));
    let area = SVGBackend::new(file, (900, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (x.0..x.1 * 1.1).log_scale(),
            (y.0 * 0.7..y.1 * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("requests in flight")
        .y_desc("rewards per second")
        .light_line_style(WHITE)
        .draw()?;
    for (number, (name, points)) in lines.iter().enumerate() {
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
    area.present()?;
    Ok(())
}
