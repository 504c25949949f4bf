//! Draws the load over time as an SVG chart, with one panel for each policy and a common scale.

use std::error::Error;

use plotters::coord::types::{RangedCoordf64, RangedCoordu32};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::world::{Report, Scenario};

const SIZE: (u32, u32) = (960, 760);
const HEAD: u32 = 64;

/// The colours are distinguishable in greyscale too: the successes are the darker area.
const INK: RGBColor = RGBColor(40, 40, 48);
const FAINT: RGBColor = RGBColor(120, 120, 130);
const SENT: RGBColor = RGBColor(238, 174, 120);
const DONE: RGBColor = RGBColor(38, 98, 156);
const TROUBLE: RGBColor = RGBColor(232, 232, 236);

type Panel<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordu32, RangedCoordf64>>;
type Failure = Box<dyn Error>;

/// Draws the results into an SVG file.
pub(crate) fn draw(path: &str, scenario: &Scenario, results: &[(&str, Report)]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing_error)?;
    let (head, body) = root.split_vertically(HEAD);
    legend(&head, scenario)?;
    let most = results.iter().flat_map(|(_, report)| &report.sent).copied().max().unwrap_or(1);
    for (area, (name, report)) in body.split_evenly((results.len(), 1)).iter().zip(results) {
        panel(area, scenario, name, report, f64::from(most) * 1.05)?;
    }
    root.present().map_err(drawing_error)
}

fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    scenario: &Scenario,
    name: &str,
    report: &Report,
    most: f64,
) -> Result<(), Failure> {
    let end = scenario.length.as_secs() as u32;
    let mut chart = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(16)
        .caption(caption(name, report), ("sans-serif", 17, FontStyle::Bold, &INK))
        .x_label_area_size(28)
        .y_label_area_size(52)
        .build_cartesian_2d(0..end, 0.0..most)
        .map_err(drawing_error)?;
    if let Some(trouble) = scenario.trouble {
        let (from, to) = (trouble.from.as_secs() as u32, trouble.to.as_secs() as u32);
        let band = Rectangle::new([(from, 0.0), (to.min(end), most)], TROUBLE.filled());
        chart.draw_series([band]).map_err(drawing_error)?;
    }
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(FAINT.mix(0.25))
        .axis_style(FAINT)
        .x_labels(11)
        .y_labels(5)
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .x_label_formatter(&|second| format!("{second} s"))
        .label_style(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawing_error)?;
    steps(&mut chart, &report.sent, end, SENT)?;
    steps(&mut chart, &report.done, end, DONE)?;
    let quota = [(0, scenario.quota), (end, scenario.quota)];
    chart.draw_series(DashedLineSeries::new(quota, 7, 4, INK.stroke_width(1))).map_err(drawing_error)?;
    if let Some(trouble) = scenario.trouble {
        let middle = (trouble.from + trouble.to).as_secs() as u32 / 2;
        let style = ("sans-serif", 13, &FAINT).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Top));
        chart.draw_series([Text::new("outage", (middle, most * 0.97), style)]).map_err(drawing_error)?;
    }
    Ok(())
}

/// An area with steps, because the values are counts by second.
fn steps<B: DrawingBackend>(
    chart: &mut Panel<'_, B>,
    counts: &[u32],
    end: u32,
    colour: RGBColor,
) -> Result<(), Failure> {
    let points = (0..end).zip(counts).flat_map(|(second, count)| {
        let rate = f64::from(*count);
        [(second, rate), (second + 1, rate)]
    });
    chart.draw_series(AreaSeries::new(points, 0.0, colour)).map_err(drawing_error)?;
    Ok(())
}

fn caption(name: &str, report: &Report) -> String {
    let (done, requests) = (report.successes() as f64, report.requests() as f64);
    let lost = 100.0 * report.lost as f64 / (done + report.lost as f64);
    let wasted = 100.0 * (1.0 - done / requests);
    format!("{name}: {done} calls done, {lost:.1} % lost; {wasted:.0} % of requests wasted")
}

fn legend<B: DrawingBackend>(
    area: &DrawingArea<B, plotters::coord::Shift>,
    scenario: &Scenario,
) -> Result<(), Failure> {
    let text = ("sans-serif", 15, &INK).into_text_style(area);
    let title = format!(
        "Requests a second at a service that allows {}, from {} clients with {} threads each",
        scenario.quota, scenario.clients, scenario.threads
    );
    area.draw(&Text::new(title, (16, 12), ("sans-serif", 17, FontStyle::Bold, &INK).into_text_style(area)))
        .map_err(drawing_error)?;
    for (left, colour, label) in [(16, SENT, "all requests"), (150, DONE, "answered with success")] {
        area.draw(&Rectangle::new([(left, 39), (left + 16, 53)], colour.filled())).map_err(drawing_error)?;
        area.draw(&Text::new(label, (left + 24, 38), text.clone())).map_err(drawing_error)?;
    }
    for nth in 0..3 {
        let left = 348 + 11 * nth;
        area.draw(&PathElement::new(vec![(left, 46), (left + 7, 46)], INK.stroke_width(1)))
            .map_err(drawing_error)?;
    }
    area.draw(&Text::new("quota", (388, 38), text)).map_err(drawing_error)
}

/// Converts a drawing error, which borrows from the chart, to its text.
fn drawing_error(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}
