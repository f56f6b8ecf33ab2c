//! Pictures: bars, and curves on logarithmic axes

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

/// Beyond this spread the short bars could not be told apart, so lengths are logarithms.
const SPREAD: f64 = 30.0;

/// All lengths are in pixels.
const WIDTH: u32 = 1000;
const MARGIN: i32 = 20;
const TITLE_HEIGHT: i32 = 30;
const BAR_HEIGHT: i32 = 20;
const GROUP_GAP: i32 = 16;
/// Where bars begin: names end a little before.
const BARS_LEFT: i32 = 330;
/// What the longest bar may take; the text stands behind.
const BARS_WIDTH: i32 = 380;

const OURS: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const PEERS: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
const TEXT: RGBColor = RGBColor(0x22, 0x22, 0x22);
/// Of this crate's curves, which are thicker too.
const OUR_CURVES: [RGBColor; 3] = [OURS, RGBColor(0xa6, 0x36, 0x03), RGBColor(0xfd, 0x8d, 0x3c)];
/// Of the others': told apart also by those who see no red or green.
const PEER_CURVES: [RGBColor; 7] = [
    RGBColor(0x75, 0x70, 0xb3),
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0xe7, 0x29, 0x8a),
    RGBColor(0x66, 0xa6, 0x1e),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x66, 0x66, 0x66),
    RGBColor(0x1f, 0x78, 0xb4),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bars that are compared with each other.
#[derive(Clone, Debug)]
pub struct Group {
    pub title: String,
    pub bars: Vec<Bar>,
}

#[derive(Clone, Debug)]
pub struct Bar {
    pub name: String,
    pub value: f64,
    /// What stands beside it.
    pub text: String,
    /// Whether it is this crate's.
    pub is_ours: bool,
}

/// A curve through points.
#[derive(Clone, Debug)]
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Whether it is this crate's.
    pub is_ours: bool,
}

/// Draws groups of bars; gives where.
///
/// # Errors
/// Those of files, and when there is nothing to draw.
pub fn bars(name: &str, groups: &[Group]) -> Result<PathBuf> {
    let path = place(name)?;
    let heights = groups.iter().map(Group::height);
    let height = 2 * MARGIN + TITLE_HEIGHT + heights.sum::<i32>();
    let area = SVGBackend::new(&path, (WIDTH, height.unsigned_abs())).into_drawing_area();
    area.fill(&WHITE)?;
    text(&area, name, (MARGIN, MARGIN + TITLE_HEIGHT / 2), 22.0, HPos::Left)?;
    let mut top = MARGIN + TITLE_HEIGHT;
    for group in groups {
        group.draw(&area, top)?;
        top += group.height();
    }
    area.present()?;
    drop(area);
    Ok(path)
}

impl Group {
    fn height(&self) -> i32 {
        GROUP_GAP + TITLE_HEIGHT + BAR_HEIGHT * i32::try_from(self.bars.len()).unwrap_or(0)
    }

    fn draw(&self, area: &Area<'_>, top: i32) -> Result<()> {
        let values = || self.bars.iter().map(|bar| bar.value).filter(|value| *value > 0.0);
        let longest = values().fold(f64::MIN_POSITIVE, f64::max);
        let shortest = values().fold(longest, f64::min);
        let is_logarithmic = longest / shortest > SPREAD;
        // The shortest bar is to be seen too.
        let floor = shortest / 2.0;
        let share = |value: f64| match is_logarithmic {
            true if value > floor => (value / floor).ln() / (longest / floor).ln(),
            true => 0.0,
            false => value / longest,
        };

        let note = if is_logarithmic { " (lengths are logarithms)" } else { "" };
        let middle = top + GROUP_GAP + TITLE_HEIGHT / 2;
        text(area, &format!("{}{note}", self.title), (MARGIN, middle), 16.0, HPos::Left)?;
        let mut top = top + GROUP_GAP + TITLE_HEIGHT;
        for bar in &self.bars {
            let middle = top + BAR_HEIGHT / 2;
            text(area, &bar.name, (BARS_LEFT - 8, middle), 13.0, HPos::Right)?;
            let right = BARS_LEFT + 1 + (share(bar.value) * f64::from(BARS_WIDTH)) as i32;
            let colour = if bar.is_ours { OURS } else { PEERS };
            let corners = [(BARS_LEFT, top + 2), (right, top + BAR_HEIGHT - 2)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
            text(area, &bar.text, (right + 8, middle), 13.0, HPos::Left)?;
            top += BAR_HEIGHT;
        }
        Ok(())
    }
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: f64, side: HPos) -> Result<()> {
    let style = ("sans-serif", size).into_font().color(&TEXT).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// Draws curves; both axes are logarithmic. Gives where.
///
/// # Errors
/// Those of files, and when there is nothing to draw.
pub fn curves(name: &str, title: &str, x: &str, y: &str, curves: &[Curve]) -> Result<PathBuf> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let (left, right) = bounds(points().map(|point| point.0)).ok_or("there are no points")?;
    let (bottom, top) = bounds(points().map(|point| point.1)).ok_or("there are no points")?;
    let path = place(name)?;
    let area = SVGBackend::new(&path, (WIDTH, 620)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(MARGIN)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right * 1.2).log_scale(), (bottom / 1.3..top * 1.3).log_scale())?;
    let mut mesh = chart.configure_mesh();
    let (short_x, short_y) = (|value: &f64| short(*value), |value: &f64| short(*value));
    mesh.x_desc(x).y_desc(y).x_label_formatter(&short_x).y_label_formatter(&short_y).draw()?;
    let (mut ours, mut peers) = (OUR_CURVES.iter().cycle(), PEER_CURVES.iter().cycle());
    for curve in curves {
        let (colours, width) = if curve.is_ours { (&mut ours, 4) } else { (&mut peers, 2) };
        let style = colours.next().expect("it goes round").stroke_width(width);
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style).point_size(3))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.85)).border_style(PEERS);
    legend.label_font(("sans-serif", 13)).draw()?;
    area.present()?;
    drop(legend);
    drop(chart);
    drop(area);
    Ok(path)
}

/// The smallest and the largest one of those that have a logarithm.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.filter(|value| value.is_finite() && *value > 0.0);
    values.fold(None, |bounds, value| match bounds {
        Some((least, most)) => Some((f64::min(least, value), f64::max(most, value))),
        None => Some((value, value)),
    })
}

/// A number in a few letters: 1.5, 20, 3k, 10M.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        1e9.. => (value / 1e9, "G"),
        1e6.. => (value / 1e6, "M"),
        1e3.. => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if scaled < 10.0 && scaled.fract() > 0.05 {
        format!("{scaled:.1}{unit}")
    } else {
        format!("{scaled:.0}{unit}")
    }
}

/// Where the picture called `name` goes: in the build directory of the benchmarks.
fn place(name: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join("plots");
    fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{name}.svg")))
}

/// Says where a picture is, or why there is none.
pub fn announce(plot: std::result::Result<PathBuf, impl Display>) {
    match plot {
        Ok(path) => println!("\nplot: {}", path.display()),
        Err(error) => println!("\nno plot: {error}"),
    }
}
