//! Plots of a report, as SVG files.

use crate::contender::Result;
use crate::entry::Role;
use crate::report::{Report, Row};
use plotters::prelude::*;
use std::path::{Path, PathBuf};

/// The points of one contender.
type Line = (String, Role, Vec<(f64, f64)>);

/// Writes the plots of each store into a folder: the distribution of a lone pair's times, hand-overs against the number
/// of tasks, and pairs against the number of tasks.
///
/// # Errors
/// When a file can't be written.
pub fn write(report: &Report, folder: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let mut written = Vec::new();
    for store in report.stores() {
        let of = |which: &dyn Fn(&Row) -> bool| -> Vec<&Row> {
            report.rows.iter().filter(|row| row.store == store && which(row)).collect()
        };
        let plain = |row: &Row| !row.workload.contains("inside") && !row.workload.contains("× 16 tasks");
        let lone = of(&|row| row.workload == "lone pair");
        let latencies = lone.iter().map(|row| (row.contender.clone(), row.role, distribution(row))).collect();
        let plots: [(&str, String, &str, &str, Vec<Line>); 3] = [
            ("latency", format!("{store}: a lone pair"), "1 in so many is slower", "microseconds", latencies),
            (
                "hand-overs",
                format!("{store}: tasks that want one key"),
                "tasks",
                "hand-overs/s",
                by_tasks(&of(&|row| row.contended && plain(row))),
            ),
            (
                "pairs",
                format!("{store}: tasks with a key each"),
                "tasks",
                "pairs/s",
                by_tasks(&of(&|row| !row.contended)),
            ),
        ];
        for (name, title, x, y, lines) in plots {
            if lines.iter().any(|(_, _, points)| points.len() > 1) {
                let path = folder.join(format!("{store}-{name}.svg"));
                draw(&path, &title, (x, y), &lines)?;
                written.push(path);
            }
        }
    }
    Ok(written)
}

#[allow(clippy::cast_precision_loss, reason = "a plot")]
fn distribution(row: &Row) -> Vec<(f64, f64)> {
    row.times
        .iter()
        .filter(|(part, _)| *part < 1.0)
        .map(|(part, nanos)| (1.0 / (1.0 - part), *nanos as f64 / 1e3))
        .collect()
}

fn by_tasks(rows: &[&Row]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let point = (f64::from(row.tasks), row.rate.max(0.1));
        match lines.iter_mut().find(|(name, ..)| *name == row.contender) {
            Some((_, _, points)) => points.push(point),
            None => lines.push((row.contender.clone(), row.role, vec![point])),
        }
    }
    lines
}

/// Lines over two logarithmic axes.
fn draw(path: &Path, title: &str, (x, y): (&str, &str), lines: &[Line]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let ends = points().map(of).fold((f64::MAX, f64::MIN), |ends, at| (ends.0.min(at), ends.1.max(at)));
        (ends.0 / 1.2)..(ends.1 * 1.2)
    };
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(range(|point| point.0).log_scale(), range(|point| point.1).log_scale())
        .map_err(|error| failed(&error))?;
    chart.configure_mesh().x_desc(x).y_desc(y).draw().map_err(|error| failed(&error))?;
    for (number, (name, role, points)) in lines.iter().enumerate() {
        let (color, width) = match role {
            Role::Dlock => (RED.to_rgba(), 3),
            Role::Peer => (Palette99::pick(number + 2).to_rgba(), 1),
            _ => (BLACK.to_rgba(), 2),
        };
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(width)).point_size(3);
        let series = chart.draw_series(line).map_err(|error| failed(&error))?;
        series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(width)));
    }
    let mut labels = chart.configure_series_labels();
    labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3));
    labels.draw().map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))?;
    Ok(())
}
