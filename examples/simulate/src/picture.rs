//! Draws the load over time: a row of panels for each scenario, with one panel for each policy, all of a row to one scale.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::types::{RangedCoordf64, RangedCoordu32};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Simulated;
use crate::world::{Report, Scenario};

const SIZE: (u32, u32) = (960, 800);
const HEAD: u32 = 40;
const TITLE: u32 = 30;

/// The colours are distinguishable in greyscale too: the successes are the darker area.
const INK: RGBColor = RGBColor(40, 40, 48);
const FAINT: RGBColor = RGBColor(120, 120, 130);
const SENT: RGBColor = RGBColor(238, 174, 120);
const DONE: RGBColor = RGBColor(38, 98, 156);
const TROUBLE: RGBColor = RGBColor(232, 232, 236);

/// The peak of a panel is cut off where it is this many times as high as what is possible: otherwise the first second of
/// plain backoff hides all others.
const HIGHEST: f64 = 6.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordu32, RangedCoordf64>>;
type Failure = Box<dyn Error>;

/// Draws the results into an SVG file.
pub(crate) fn draw(path: &str, simulated: &[Simulated]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing_error)?;
    let (head, body) = root.split_vertically(HEAD);
    legend(&head)?;
    for (row, simulated) in body.split_evenly((simulated.len(), 1)).iter().zip(simulated) {
        let (title, panels) = row.split_vertically(TITLE);
        let style = ("sans-serif", 17, FontStyle::Bold, &INK).into_text_style(&title);
        title.draw(&Text::new(simulated.title.clone(), (16, 10), style)).map_err(drawing_error)?;
        let Simulated { scenario, reports, .. } = simulated;
        let most = reports.iter().flat_map(|(_, report)| &report.sent).copied().max().unwrap_or(1);
        let most = f64::from(most).min(HIGHEST * scenario.capacity()) * 1.05;
        for (area, (name, report)) in panels.split_evenly((1, reports.len())).iter().zip(reports) {
            panel(area, scenario, name, report, most)?;
        }
    }
    root.present().map_err(drawing_error)
}

fn panel(
    area: &Area<'_>,
    scenario: &Scenario,
    name: &str,
    report: &Report,
    most: f64,
) -> Result<(), Failure> {
    let end = scenario.length.as_secs() as u32;
    let mut chart = ChartBuilder::on(area)
        .margin_left(8)
        .margin_right(16)
        .caption(caption(name, report), ("sans-serif", 13, &INK))
        .x_label_area_size(24)
        .y_label_area_size(40)
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
        .x_labels(6)
        .y_labels(5)
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .x_label_formatter(&|second| format!("{second} s"))
        .label_style(("sans-serif", 13, &INK))
        .draw()
        .map_err(drawing_error)?;
    steps(&mut chart, &report.sent, end, most, SENT)?;
    steps(&mut chart, &report.done, end, most, DONE)?;
    let capacity = [(0, scenario.capacity()), (end, scenario.capacity())];
    chart.draw_series(DashedLineSeries::new(capacity, 7, 4, INK.stroke_width(1))).map_err(drawing_error)?;
    if let Some(trouble) = scenario.trouble {
        let middle = (trouble.from + trouble.to).as_secs() as u32 / 2;
        let style = ("sans-serif", 13, &FAINT).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Top));
        chart.draw_series([Text::new("outage", (middle, most * 0.97), style)]).map_err(drawing_error)?;
    }
    Ok(())
}

/// An area with steps, because the values are counts by second.
fn steps(
    chart: &mut Panel<'_, '_>,
    counts: &[u32],
    end: u32,
    most: f64,
    colour: RGBColor,
) -> Result<(), Failure> {
    let points = (0..end).zip(counts).flat_map(|(second, count)| {
        let rate = f64::from(*count).min(most);
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

fn legend(area: &Area<'_>) -> Result<(), Failure> {
    let text = ("sans-serif", 15, &INK).into_text_style(area);
    let labels = [(16, SENT, "all requests a second"), (200, DONE, "answered with success")];
    for (left, colour, label) in labels {
        area.draw(&Rectangle::new([(left, 17), (left + 16, 31)], colour.filled())).map_err(drawing_error)?;
        area.draw(&Text::new(label, (left + 24, 16), text.clone())).map_err(drawing_error)?;
    }
    for nth in 0..3 {
        let left = 388 + 11 * nth;
        area.draw(&PathElement::new(vec![(left, 24), (left + 7, 24)], INK.stroke_width(1)))
            .map_err(drawing_error)?;
    }
    area.draw(&Text::new("possible without trouble", (428, 16), text)).map_err(drawing_error)
}

/// Converts a drawing error, which borrows from the chart, to its text.
fn drawing_error(error: impl std::fmt::Display) -> Failure {
    error.to_string().into()
}
