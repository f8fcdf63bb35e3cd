//! Plots of a page, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Lines over a common axis.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// What a page calls it: `{{plot:NAME}}`; its file is `EXPERIMENT-NAME.svg`.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    /// Whether the x axis is logarithmic.
    pub(crate) log_x: bool,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (800, 420);

impl Plot {
    /// Draws it.
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| anyhow!("can't draw {}: {e}", path.display());
        let points = || self.lines.iter().flat_map(|(_, points)| points.iter().copied());
        let (mut low, mut high, mut top) = (f64::INFINITY, f64::NEG_INFINITY, 0.0_f64);
        for (x, y) in points() {
            (low, high, top) = (low.min(x), high.max(x), top.max(y));
        }
        if !low.is_finite() {
            return Err(anyhow!("plot {} has no points", self.name));
        }
        let top = if top > 0.0 { top * 1.1 } else { 1.0 };
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let mut builder = ChartBuilder::on(&root);
        builder
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(64);
        // The two axes are of different types, so the drawing is written once, for both.
        macro_rules! draw {
            ($x:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, 0.0..top).map_err(|e| failed(&e))?;
                chart
                    .configure_mesh()
                    .x_desc(self.x)
                    .y_desc(self.y)
                    .light_line_style(WHITE)
                    .draw()
                    .map_err(|e| failed(&e))?;
                for (i, (name, points)) in self.lines.iter().enumerate() {
                    let colour = Palette99::pick(i).to_rgba();
                    chart
                        .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))
                        .map_err(|e| failed(&e))?
                        .label(name)
                        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
                }
                chart
                    .configure_series_labels()
                    .background_style(WHITE.mix(0.8))
                    .border_style(BLACK.mix(0.3))
                    .draw()
                    .map_err(|e| failed(&e))?;
            }};
        }
        if self.log_x {
            draw!((low.max(f64::MIN_POSITIVE)..high.max(low * 1.01)).log_scale());
        } else {
            draw!(low..high.max(low + 1.0));
        }
        root.present().map_err(|e| failed(&e))
    }
}
