//! The map of a segment
//!
//! The heap is a band of cells, cut into rows like text, each as many bytes as any other. A cell has the colour of what has most of
//! its bytes, so up to 4096 small blocks are shown as they are, and more are joined. Cells side by side of one colour are one
//! rectangle.

use crate::facts::{Facts, Kind, Sum};
use crate::json::word_of_life;
use crate::text::{about_kind, count};
use shmem_bind::inspect::{BlockInfo, Life};
use shmem_bind::{HEADER_LEN, Header, Payload};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Cells of a row, and rows.
const COLUMNS: u64 = 128;
const ROWS: u64 = 32;
/// Size of a cell, in pixels.
const WIDTH: u64 = 8;
const HEIGHT: u64 = 14;
const MARGIN: u64 = 16;
const LINE: u64 = 20;
/// Blocks are multiples of this.
const GRANULE: u64 = 16;

/// What a part of the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Block(Kind),
    /// The value of a segment that is no arena.
    Value,
    /// In no block that is known: tables of the allocator, and what it has not cut yet.
    Outside,
}

/// A part of the payload.
struct Part {
    start: u64,
    end: u64,
    sort: Sort,
}

/// The map, as an SVG document.
pub fn map(facts: &Facts) -> String {
    let (len, parts) = parts(facts);
    // No less than a granule, and a multiple of it.
    let cell = len.div_ceil(COLUMNS * ROWS).next_multiple_of(GRANULE).max(GRANULE);
    let cells = cells(&parts, len, cell);
    let legend = legend(facts, &parts);
    let rows = (cells.len() as u64).div_ceil(COLUMNS);
    let top = MARGIN + 3 * LINE;
    let below = top + rows * HEIGHT + LINE;
    let (width, height) = (2 * MARGIN + COLUMNS * WIDTH, below + legend.len() as u64 * LINE + MARGIN);
    let mut svg = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    let title = format!(
        "{}: {} of payload, {} UTC",
        facts.name,
        count(facts.snapshot.header().map_or(0, Header::payload_len), "byte"),
        date(facts.time)
    );
    let scale = format!(
        "{}; a cell is {}, a row {} KiB, from offset {HEADER_LEN} of the file on",
        facts.snapshot.verdict(),
        count(cell, "byte"),
        (cell * COLUMNS) as f64 / 1024.0
    );
    _ = writeln!(svg, "<title>{}</title>", escaped(&title));
    _ = writeln!(svg, "<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>");
    text(&mut svg, MARGIN, MARGIN + LINE / 2, &title, " font-size=\"16\" font-weight=\"bold\"");
    text(&mut svg, MARGIN, MARGIN + LINE + LINE / 2, &scale, "");
    draw(&mut svg, &cells, cell, top);
    for (line, (sort, label)) in legend.iter().enumerate() {
        let y = below + line as u64 * LINE;
        rectangle(&mut svg, (MARGIN, y), (LINE - 4, HEIGHT), *sort, None);
        text(&mut svg, MARGIN + LINE + 4, y + HEIGHT - 2, label, "");
    }
    svg + "</svg>\n"
}

/// The payload in parts without gaps, as far as it is in use now; and how long that is.
fn parts(facts: &Facts) -> (u64, Vec<Part>) {
    let mut parts = Vec::new();
    let Some(arena) = facts.snapshot.arena() else {
        let header = facts.snapshot.header();
        let len = header.map_or(0, Header::payload_len);
        let size = match header.map(Header::payload) {
            Ok(Payload::Value { size, .. }) => size.min(len),
            _ => 0,
        };
        parts.push(Part { start: 0, end: size, sort: Sort::Value });
        parts.push(Part { start: size, end: len, sort: Sort::Outside });
        return (len, parts);
    };
    let mut end = 0;
    for block in arena.blocks() {
        // Of what a damaged segment has, what overlaps is drawn once.
        let (start, next) = (block.offset().max(end), end_of(block).min(arena.heap_len()));
        if start < next {
            parts.push(Part { start: end, end: start, sort: Sort::Outside });
            parts.push(Part { start, end: next, sort: Sort::Block(Kind::of(block)) });
            end = next;
        }
    }
    parts.push(Part { start: end, end: arena.heap_len(), sort: Sort::Outside });
    parts.retain(|part| part.start < part.end);
    (arena.heap_len(), parts)
}

fn end_of(block: &BlockInfo) -> u64 {
    block.offset().saturating_add(block.len())
}

/// What has most of each cell. A cell has the same 8 bytes of its first granule before it as blocks have.
fn cells(parts: &[Part], len: u64, cell: u64) -> Vec<Sort> {
    let mut parts = parts.iter().peekable();
    (0..len.div_ceil(cell))
        .map(|number| {
            let (start, end) = (number * cell, ((number + 1) * cell).min(len));
            let mut bytes: BTreeMap<Sort, u64> = BTreeMap::new();
            while let Some(part) = parts.peek() {
                let shared = part.end.min(end).saturating_sub(part.start.max(start));
                *bytes.entry(part.sort).or_default() += shared;
                if part.end > end {
                    break;
                }
                parts.next();
            }
            bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or(Sort::Outside, |(sort, _)| sort)
        })
        .collect()
}

/// Draws the cells, in rows.
fn draw(svg: &mut String, cells: &[Sort], cell: u64, top: u64) {
    let mut first = 0;
    for (row, sorts) in cells.chunks(COLUMNS as usize).enumerate() {
        let mut column = 0;
        for run in sorts.chunk_by(PartialEq::eq) {
            let len = run.len() as u64;
            let place = (MARGIN + column * WIDTH, top + row as u64 * HEIGHT);
            let tip = format!("{}, {} from offset {}", name(run[0]), count(len * cell, "byte"), first * cell);
            rectangle(svg, place, (len * WIDTH, HEIGHT - 1), run[0], Some(&tip));
            column += len;
            first += len;
        }
    }
}

/// Each sort that there is, what it is called, and how much there is of it.
fn legend(facts: &Facts, parts: &[Part]) -> Vec<(Sort, String)> {
    let mut sums: BTreeMap<Sort, Sum> = BTreeMap::new();
    for part in parts {
        let sum = sums.entry(part.sort).or_default();
        sum.blocks += 1;
        sum.bytes += part.end - part.start;
    }
    sums.into_iter()
        .map(|(sort, Sum { blocks, bytes })| {
            let whose = match sort {
                Sort::Block(Kind::Exclusive(slot)) => owner(facts, slot),
                _ => String::new(),
            };
            (sort, format!("{}{whose}: {} in {}", name(sort), count(bytes, "byte"), count(blocks, "piece")))
        })
        .collect()
}

fn owner(facts: &Facts, slot: u32) -> String {
    let Some(tenant) = facts.tenant(slot) else { return " (nobody's slot)".to_owned() };
    let pid = tenant.pid().map_or(String::new(), |pid| format!("process {pid}, "));
    let command = match (facts.command(slot), tenant.life()) {
        (Some(command), Life::Alive) => format!("{command}, "),
        _ => String::new(),
    };
    format!(" ({pid}{command}{})", word_of_life(tenant.life()))
}

fn name(sort: Sort) -> String {
    match sort {
        Sort::Block(kind) => about_kind(kind),
        Sort::Value => "the value".to_owned(),
        Sort::Outside => "in no block".to_owned(),
    }
}

fn colour(sort: Sort) -> String {
    match sort {
        Sort::Block(Kind::Exclusive(slot)) => {
            // Neighbours among the slots are far apart among the hues.
            let hue = f64::from(slot * 137 % 360) / 60.0;
            let wave = |shift: f64| {
                let distance = (hue + shift) % 6.0;
                (120.0 + 110.0 * (2.0 - (distance - 3.0).abs()).clamp(0.0, 1.0)) as u8
            };
            format!("#{:02x}{:02x}{:02x}", wave(3.0), wave(1.0), wave(5.0))
        }
        Sort::Block(Kind::Leaked) => "#b07aa1".to_owned(),
        Sort::Block(Kind::Shared) | Sort::Value => "#4e79a7".to_owned(),
        Sort::Block(Kind::Condemned) => "#9c755f".to_owned(),
        Sort::Block(Kind::Internal) => "#555555".to_owned(),
        Sort::Block(Kind::Free) => "#e8f0e4".to_owned(),
        Sort::Block(Kind::Damaged) => "#d00000".to_owned(),
        Sort::Outside => "#cccccc".to_owned(),
    }
}

fn rectangle(
    svg: &mut String,
    (x, y): (u64, u64),
    (width, height): (u64, u64),
    sort: Sort,
    tip: Option<&str>,
) {
    let tip = tip.map_or(String::new(), |tip| format!("<title>{}</title>", escaped(tip)));
    _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\">{tip}</rect>",
        colour(sort)
    );
}

fn text(svg: &mut String, x: u64, y: u64, words: &str, style: &str) {
    _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\"{style}>{}</text>", escaped(words));
}

/// Text as it may stand in XML, which has no word for most control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A time as a date of the Gregorian calendar.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years from 1 March of the year 0, years from March on: the leap day comes last.
    let since_era = days + 719_468;
    let (era, day) = (since_era / 146_097, since_era % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}
