//! A picture of requests and phases over time, as SVG.
//!
//! A [`Picture`] has a legend and panels. Each panel has an axis of time, shaded phases, and dots at (time, latency) on a log scale or
//! stepped lines of a count.
//! The picture has a background of its own, so a light and a dark page show the same. Where it is shown narrower than 700 px a
//! style sheet inside it selects larger and fewer words.
//!
//! This file uses only the standard library and nothing of the program around it, so that several programs can compile it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
};

/// The width of every picture, in px.
const WIDTH: f64 = 1200.0;

/// The space left and right of a panel. On the left are the numbers of the vertical axis.
const LEFT: f64 = 122.0;
const RIGHT: f64 = 28.0;

/// The space below a panel, for the numbers and the name of the horizontal axis.
const BELOW: f64 = 70.0;

/// How many dots a picture has at most, beside those that are kept: with about 9 bytes for each, its file stays small.
const DOTS: usize = 12_000;

/// From this many on the kept dots of a cloud are round, because a cross takes three times the bytes.
const CROSSES: usize = 2_000;

/// Dots nearer to each other than this look like one, in px.
const CELL: f64 = 1.0;

/// How wide a character of the font is on average, as a share of the size of the font. Rather too wide.
const CHARACTER: f64 = 0.57;

/// Colours that stay apart for most colour-blind readers. None of them looks like the red of a failure.
const SERIES: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#7b4ea3", "#4bb4e6", "#8c6d31", "#5f6b73"];

const FAILED: &str = "#d4001a";

/// The shade of a phase that is not among them.
const OTHER: &str = "#e6dccb";

/// The phases of an upgrade, as the control socket names them, and the shade of each.
const PHASES: [(&str, &str); 11] = [
    ("checking", "#fff3b8"),
    ("upgrading", "#e3e5e8"),
    ("probing", "#fbe3b4"),
    ("handing-over", "#f0a040"),
    ("standby", "#d3e3fb"),
    ("draining", "#d9efd6"),
    ("recalling", "#f3b3ab"),
    ("yielding", "#e9c3d9"),
    ("reverting", "#f7c9c4"),
    ("rescuing", "#eab8dc"),
    ("ended", "#c9ced3"),
];

/// What is drawn, and in which words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    /// At most 50 characters, so that a narrow page has room for it too.
    pub(crate) title: String,
    /// A sentence for a wide page.
    pub(crate) subtitle: String,
    /// The picture in words, for whoever cannot see it.
    pub(crate) description: String,
    pub(crate) legend: Vec<Key>,
    pub(crate) panels: Vec<Panel>,
    /// Sentences below the panels.
    pub(crate) notes: Vec<String>,
}

/// An entry of the legend. Phases get theirs without being asked for.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) ink: Ink,
    pub(crate) text: String,
    /// The same for a narrow page.
    pub(crate) short: String,
}

/// The colour of dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// One of a few colours that come again and again.
    Series(usize),
    Failed,
}

/// One diagram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panel {
    pub(crate) heading: String,
    /// The ends of the axis of time, in seconds. What is outside is not drawn.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// The height of the diagram itself, in px.
    pub(crate) height: f64,
    /// What the axis of time counts from, as in "since the start".
    pub(crate) since: String,
    /// What the vertical axis shows.
    pub(crate) value: String,
    pub(crate) scale: Scale,
    /// What a dot stands for, in the plural.
    pub(crate) things: String,
    pub(crate) phases: Vec<Phase>,
    /// Moments with a name.
    pub(crate) moments: Vec<Moment>,
    pub(crate) clouds: Vec<Cloud>,
    pub(crate) lines: Vec<Line>,
}

/// The vertical axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Milliseconds, by powers of ten.
    #[default]
    Milliseconds,
    /// A count, from 0 on.
    Count,
}

/// A count over time. It stays as it is until the next point.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) ink: Ink,
    /// In the order of time.
    pub(crate) points: Vec<Dot>,
    /// The end of the line, in seconds.
    pub(crate) to: f64,
}

/// A time that is shaded.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// As the control socket names it.
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// The words above it. Without them only the legend tells what it is.
    pub(crate) label: Option<String>,
}

/// A moment that has a name above the diagram.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) at: f64,
    pub(crate) label: String,
    pub(crate) failed: bool,
}

/// Dots of one colour.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub(crate) ink: Ink,
    pub(crate) faint: bool,
    /// Of dots that lie on top of each other one is drawn.
    pub(crate) thinned: Vec<Dot>,
    /// Each of these is drawn.
    pub(crate) kept: Vec<Dot>,
}

/// Something that happened, in seconds and in what the vertical axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dot {
    pub(crate) at: f64,
    pub(crate) value: f64,
}

/// For which width of the page words are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Wide,
    Narrow,
}

impl Page {
    const BOTH: [Self; 2] = [Self::Wide, Self::Narrow];

    fn class(self) -> &'static str {
        match self {
            Self::Wide => "w",
            Self::Narrow => "n",
        }
    }

    /// The size of usual words, in px of the picture.
    fn size(self) -> f64 {
        match self {
            Self::Wide => 15.0,
            Self::Narrow => 26.0,
        }
    }

    fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * CHARACTER * self.size()
    }
}

impl Picture {
    /// The file.
    pub(crate) fn svg(&self) -> String {
        let mut out = String::new();
        let mut body = String::new();
        let mut y = self.head(&mut body);
        let cell = self.cell();
        for panel in &self.panels {
            y = panel.draw(y, cell, &mut body);
        }
        y = self.foot(y, &mut body);
        let height = y.ceil();
        put(
            &mut out,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
                 height=\"{height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
                 <title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n<style>\n\
                 svg {{ max-width: 100%; height: auto; }}\n\
                 text {{ font-family: system-ui, -apple-system, \"Segoe UI\", Roboto, \"DejaVu Sans\", sans-serif; fill: #24292f; }}\n\
                 .w text {{ font-size: {}px; }} .n text {{ font-size: {}px; }} .n {{ display: none; }}\n\
                 .w .title {{ font-size: 26px; font-weight: 600; }} .n .title {{ font-size: 42px; font-weight: 600; }}\n\
                 .w .heading {{ font-size: 17px; font-weight: 600; }} .n .heading {{ font-size: 30px; font-weight: 600; }}\n\
                 .quiet text, text.quiet {{ fill: #57606a; }} text.failed {{ fill: {FAILED}; font-weight: 600; }}\n\
                 .dots path {{ fill: none; stroke-linecap: round; }}\n\
                 @media (max-width: 700px) {{ .w {{ display: none; }} .n {{ display: inline; }} }}\n\
                 </style>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
                escaped(&self.title),
                escaped(&self.description),
                Page::Wide.size(),
                Page::Narrow.size(),
            ),
        );
        out.push_str(&body);
        out.push_str("</svg>\n");
        out
    }

    /// The title and the legend. Returns where they end.
    fn head(&self, out: &mut String) -> f64 {
        let mut bottom: f64 = 0.0;
        for page in Page::BOTH {
            let wide = page == Page::Wide;
            put(out, format_args!("<g class=\"{}\">\n", page.class()));
            let (baseline, mut y) = if wide { (42.0, 98.0) } else { (52.0, 100.0) };
            text(out, (28.0, baseline), "start", "title", &self.title);
            if wide {
                text(
                    out,
                    (28.0, 68.0),
                    "start",
                    "quiet",
                    &fitting(&self.subtitle, page, WIDTH - 28.0 - RIGHT),
                );
            }
            y = self.legend_on(page, y, out);
            out.push_str("</g>\n");
            bottom = bottom.max(y);
        }
        bottom
    }

    fn legend_on(&self, page: Page, mut y: f64, out: &mut String) -> f64 {
        let (size, row) = (page.size(), page.size() * 1.5);
        let mut x = 28.0;
        let mut entry = |text_of: &str, ink: &str, square: bool, out: &mut String| {
            let width = size * 1.1 + page.width(text_of) + size * 1.1;
            if x > 28.0 && x + width > WIDTH {
                (x, y) = (28.0, y + row);
            }
            let middle = y - size * 0.35;
            if square {
                let side = size * 0.8;
                let (left, top) = (number(x), number(middle - side / 2.0));
                put(
                    out,
                    format_args!(
                        "<rect x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\" fill=\"{ink}\"/>"
                    ),
                );
            } else {
                let (cx, r) = (number(x + size * 0.4), number(size * 0.32));
                put(
                    out,
                    format_args!("<circle cx=\"{cx}\" cy=\"{}\" r=\"{r}\" fill=\"{ink}\"/>", number(middle)),
                );
            }
            text(out, (x + size * 1.1, y), "start", "", text_of);
            x += width;
        };
        for key in &self.legend {
            let words = if page == Page::Wide { &key.text } else { &key.short };
            entry(words, key.ink.colour(), false, out);
        }
        let mut phases: Vec<&str> = PHASES.iter().map(|(name, _)| *name).collect();
        let drawn: Vec<&str> =
            self.panels.iter().flat_map(|panel| &panel.phases).map(|phase| &*phase.name).collect();
        let has_another = drawn.iter().any(|name| !phases.contains(name));
        phases.retain(|name| drawn.contains(name));
        phases.extend(has_another.then_some("another phase"));
        for name in phases {
            entry(name, shade(name), true, out);
        }
        y + row
    }

    /// The sentences at the end. Returns where they end.
    fn foot(&self, mut y: f64, out: &mut String) -> f64 {
        out.push_str("<g class=\"w quiet\">\n");
        for note in &self.notes {
            text(out, (28.0, y), "start", "", note);
            y += 22.0;
        }
        out.push_str("</g>\n");
        y
    }

    /// The smallest distance of dots with which the picture has no more of them than it may have.
    fn cell(&self) -> f64 {
        let mut cell = CELL;
        while self
            .panels
            .iter()
            .map(|panel| panel.thinned(cell).iter().map(Vec::len).sum::<usize>())
            .sum::<usize>()
            > DOTS
        {
            cell *= 1.2;
        }
        cell
    }
}

impl Ink {
    fn colour(self) -> &'static str {
        match self {
            Self::Series(index) => SERIES[index % SERIES.len()],
            Self::Failed => FAILED,
        }
    }
}

impl Panel {
    /// Draws the panel from `y` on, and returns where it ends.
    fn draw(&self, y: f64, cell: f64, out: &mut String) -> f64 {
        let mut labels = [String::new(), String::new()];
        let rooms = [0, 1].map(|page| self.labels(Page::BOTH[page], &mut labels[page]));
        let top = y + 58.0 + rooms[0].max(rooms[1]);
        let bottom = top + self.height;

        for phase in &self.phases {
            let (from, to) = (self.x(phase.from.max(self.from)), self.x(phase.to.min(self.to)));
            if to < from {
                continue;
            }
            let shade = shade(&phase.name);
            // A phase of less than a pixel is to be seen as well.
            let width = number((to - from).max(1.0));
            let (left, top, height) = (number(from), number(top), number(self.height));
            put(
                out,
                format_args!(
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"{shade}\"/>\n"
                ),
            );
        }
        self.axes(top, out);
        self.steps(top, out);
        self.dots(top, cell, out);

        for ((page, labels), room) in Page::BOTH.into_iter().zip(labels).zip(rooms) {
            // Right above the words, so that what one page does not need is left between the panels.
            let baseline = top - room - page.size();
            put(out, format_args!("<g class=\"{}\">\n", page.class()));
            text(out, (28.0, baseline), "start", "heading", &self.heading);
            if page == Page::Wide && !self.clouds.is_empty() {
                let drawn: usize = self.thinned(cell).iter().map(Vec::len).sum::<usize>()
                    + self.clouds.iter().map(|cloud| self.inside(&cloud.kept).count()).sum::<usize>();
                let all: usize = self
                    .clouds
                    .iter()
                    .map(|cloud| self.inside(&cloud.thinned).count() + self.inside(&cloud.kept).count())
                    .sum();
                let count = format!("{} dots for {} {}", grouped(drawn), grouped(all), self.things);
                text(out, (WIDTH - RIGHT, baseline), "end", "quiet", &count);
            }
            put(out, format_args!("<g transform=\"translate(0 {})\">\n{labels}</g>\n</g>\n", number(top)));
        }
        bottom + BELOW
    }

    /// The words above the diagram, with their place relative to its top. Returns how much room they need.
    ///
    /// Each word is where its phase or moment begins, in the lowest row with room for it. Of moments that have no room in the first
    /// row the word is left out. A phase gets as many rows as it needs.
    fn labels(&self, page: Page, out: &mut String) -> f64 {
        let (size, row) = (page.size(), page.size() * 1.35);
        let moments = self.moments.iter().map(|moment| (moment.at, &moment.label, moment.failed, 1));
        let phases = self
            .phases
            .iter()
            .filter_map(|phase| Some((phase.from, phase.label.as_ref()?, false, usize::MAX)));
        let mut words: Vec<_> =
            moments.chain(phases).filter(|(at, ..)| (self.from..=self.to).contains(at)).collect();
        // From the right to the left: so no line from a word down to its phase crosses the word of another.
        words.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
        let mut taken: Vec<f64> = Vec::new();
        for (at, label, failed, most) in words {
            let (line, width) = (self.x(at), page.width(label));
            let x = line.min(WIDTH - RIGHT - width);
            let free = (0..taken.len()).find(|index| x + width + size < taken[*index]).unwrap_or(taken.len());
            if free >= most {
                continue;
            }
            if free == taken.len() {
                taken.push(x);
            }
            // The line goes down past the rows below.
            for below in &mut taken[..=free] {
                *below = x.min(*below);
            }
            let y = -8.0 - free as f64 * row;
            let from = number(y + 3.0);
            put(
                out,
                format_args!(
                    "<path d=\"M{} {from}V0\" stroke=\"#8c959f\" stroke-width=\"1\"/>",
                    number(line)
                ),
            );
            text(out, (x, y), "start", if failed { "failed" } else { "" }, label);
        }
        taken.len() as f64 * row
    }

    fn axes(&self, top: f64, out: &mut String) {
        let bottom = top + self.height;
        let (left, right) = (LEFT, WIDTH - RIGHT);
        let values = self.marks();
        let range = self.range();
        let height = |value: f64| top + self.y(value, range);
        let (step, unit, factor) = step(self.to - self.from);
        let first = (self.from / step).ceil() as i64;
        let times: Vec<_> =
            (first..).map(|n| n as f64 * step).take_while(|at| *at <= self.to + step * 1e-6).collect();

        put(out, format_args!("<g stroke=\"#8c959f\" stroke-opacity=\".35\">"));
        for value in &values {
            let y = number(height(*value));
            put(out, format_args!("<path d=\"M{left} {y}H{right}\"/>"));
        }
        for at in &times {
            put(
                out,
                format_args!(
                    "<path d=\"M{} {}v5\" stroke-opacity=\"1\"/>",
                    number(self.x(*at)),
                    number(bottom)
                ),
            );
        }
        put(
            out,
            format_args!(
                "</g>\n<path d=\"M{left} {}V{}H{right}\" fill=\"none\" stroke=\"#57606a\"/>\n",
                number(top),
                number(bottom)
            ),
        );

        for page in Page::BOTH {
            let size = page.size();
            put(out, format_args!("<g class=\"{} quiet\">\n", page.class()));
            for value in &values {
                let place = (LEFT - 8.0, height(*value) + size * 0.35);
                let label = match self.scale {
                    Scale::Milliseconds => milliseconds(*value),
                    Scale::Count => grouped(*value as usize),
                };
                text(out, place, "end", "", &label);
            }
            let mut end = 0.0;
            for at in &times {
                let label = plain(at * factor);
                let (x, width) = (self.x(*at), page.width(&label));
                if x - width / 2.0 > end && x + width / 2.0 < WIDTH {
                    text(out, (x, bottom + 8.0 + size), "middle", "", &label);
                    end = x + width / 2.0 + size;
                }
            }
            let place = ((left + right) / 2.0, bottom + 8.0 + size * 2.0 + 2.0);
            text(out, place, "middle", "", &format!("{unit} {}", self.since));
            if page == Page::Wide {
                let (x, y) = (number(34.0), number((top + bottom) / 2.0));
                put(
                    out,
                    format_args!(
                        "<text transform=\"translate({x} {y}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
                        escaped(&self.value)
                    ),
                );
            }
            out.push_str("</g>\n");
        }
    }

    /// The lines. In one pixel of the axis of time a line goes through the first and the last of its points, the highest and the lowest.
    fn steps(&self, top: f64, out: &mut String) {
        let range = self.range();
        for line in &self.lines {
            let mut path = String::new();
            let mut pixel = Vec::new();
            let mut points = line.points.iter().peekable();
            while let Some(point) = points.next() {
                let until = points.peek().map_or(line.to, |next| next.at);
                if until < self.from || point.at > self.to {
                    continue;
                }
                let x = |at: f64| self.x(at.clamp(self.from, self.to));
                pixel.push(point.value);
                let (column, next) = (x(point.at).floor(), x(until).floor());
                if column == next && points.peek().is_some() {
                    continue;
                }
                let start =
                    if path.is_empty() { format!("M{} ", number(x(point.at))) } else { "V".to_owned() };
                let low = pixel.iter().copied().fold(point.value, f64::min);
                let high = pixel.iter().copied().fold(point.value, f64::max);
                let mut values = vec![pixel[0], high, low, point.value];
                values.dedup();
                for (index, value) in values.iter().enumerate() {
                    let y = number(top + self.y(*value, range));
                    put(&mut path, format_args!("{}{y}", if index == 0 { &start } else { "V" }));
                }
                put(&mut path, format_args!("H{}", number(x(until))));
                pixel.clear();
            }
            if !path.is_empty() {
                let colour = line.ink.colour();
                put(
                    out,
                    format_args!(
                        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"3\" stroke-linejoin=\"round\"/>\n"
                    ),
                );
            }
        }
    }

    fn dots(&self, top: f64, cell: f64, out: &mut String) {
        // A tenth of a pixel is a unit in here: whole numbers take less room.
        put(out, format_args!("<g class=\"dots\" transform=\"scale(.1)\">\n"));
        let range = self.range();
        let tenths = |px: f64| (px * 10.0).round() as i64;
        let places = |dots: &[Dot]| {
            let mut places: Vec<_> = dots
                .iter()
                .map(|dot| (tenths(self.x(dot.at)), tenths(top + self.y(dot.value, range))))
                .collect();
            places.sort_unstable();
            places
        };
        let thinned = self.thinned(cell);
        for (cloud, dots) in self.clouds.iter().zip(&thinned) {
            let opacity = if cloud.faint { ".4" } else { ".75" };
            path(out, &places(dots), "h0", cloud.ink, 28, opacity);
        }
        for cloud in &self.clouds {
            let kept: Vec<_> = self.inside(&cloud.kept).copied().collect();
            let (mark, width) = match cloud.ink {
                Ink::Failed if kept.len() < CROSSES => ("m-35-35l70 70m0-70l-70 70m35-35", 20),
                Ink::Failed => ("h0", 40),
                Ink::Series(_) => ("h0", 34),
            };
            path(out, &places(&kept), mark, cloud.ink, width, if cloud.faint { ".4" } else { "1" });
        }
        out.push_str("</g>\n");
    }

    /// The dots of each cloud that are drawn if those in a square with this side are drawn as one.
    fn thinned(&self, cell: f64) -> Vec<Vec<Dot>> {
        let range = self.range();
        let square = |px: f64| (px / cell).floor() as i64;
        let thin = |cloud: &Cloud| {
            let mut taken = HashSet::new();
            let place = |dot: &Dot| (square(self.x(dot.at)), square(self.y(dot.value, range)));
            self.inside(&cloud.thinned).filter(|dot| taken.insert(place(dot))).copied().collect()
        };
        self.clouds.iter().map(thin).collect()
    }

    fn inside<'dots>(&self, dots: &'dots [Dot]) -> impl Iterator<Item = &'dots Dot> {
        let range = self.from..=self.to;
        dots.iter().filter(move |dot| range.contains(&dot.at))
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (at - self.from) / (self.to - self.from) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64, (low, high): (f64, f64)) -> f64 {
        let value = match self.scale {
            Scale::Milliseconds => value.max(1e-9).log10(),
            Scale::Count => value,
        };
        self.height * (1.0 - (value - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The ends of the vertical axis. Those of milliseconds are powers of ten: half decades around all dots inside.
    fn range(&self) -> (f64, f64) {
        if self.scale == Scale::Count {
            let values = self.lines.iter().flat_map(|line| &line.points).map(|point| point.value);
            // Some room above the highest line.
            return (0.0, values.fold(1.0, f64::max) * 1.1);
        }
        let all =
            self.clouds.iter().flat_map(|cloud| self.inside(&cloud.thinned).chain(self.inside(&cloud.kept)));
        let mut ends: Option<(f64, f64)> = None;
        for dot in all {
            let value = dot.value.max(1e-3).log10();
            let (low, high) = ends.unwrap_or((value, value));
            ends = Some((low.min(value), high.max(value)));
        }
        let (low, high) = ends.unwrap_or((0.0, 1.0));
        let low = (low * 2.0).floor() / 2.0;
        (low, ((high * 2.0 + 0.1).ceil() / 2.0).max(low + 1.0))
    }

    /// The values that have a mark on the vertical axis.
    fn marks(&self) -> Vec<f64> {
        let (low, high) = self.range();
        match self.scale {
            Scale::Milliseconds => {
                (low.ceil() as i32..=high.floor() as i32).map(|power| 10_f64.powi(power)).collect()
            }
            Scale::Count => {
                let step = round_step(high / 5.0).max(1.0);
                (0..).map(|index| f64::from(index) * step).take_while(|value| *value <= high).collect()
            }
        }
    }
}

/// The colour of a phase.
fn shade(name: &str) -> &'static str {
    PHASES.iter().find(|(known, _)| *known == name).map_or(OTHER, |(_, shade)| shade)
}

/// As much of a text as there is room for.
fn fitting(words: &str, page: Page, room: f64) -> String {
    if page.width(words) <= room {
        return words.to_owned();
    }
    let characters = (room / (CHARACTER * page.size())) as usize;
    let cut: String = words.chars().take(characters.saturating_sub(1)).collect();
    format!("{}…", cut.trim_end())
}

/// Dots as one path: a move from one to the next, and a mark that ends where it begins.
fn path(out: &mut String, places: &[(i64, i64)], mark: &str, ink: Ink, width: u32, opacity: &str) {
    if places.is_empty() {
        return;
    }
    let colour = ink.colour();
    put(
        out,
        format_args!(
            "<path stroke=\"{colour}\" stroke-width=\"{width}\" stroke-opacity=\"{opacity}\" d=\"M0 0"
        ),
    );
    let mut last = (0, 0);
    for (index, place) in places.iter().enumerate() {
        // An editor and a diff can cope with lines of this length.
        if index % 16 == 0 {
            out.push('\n');
        }
        let (dx, dy) = (place.0 - last.0, place.1 - last.1);
        let space = if dy < 0 { "" } else { " " };
        put(out, format_args!("m{dx}{space}{dy}{mark}"));
        last = *place;
    }
    out.push_str("\"/>\n");
}

/// The distance of the marks on an axis of time with this many seconds; the unit of their numbers; how many of these a second has.
fn step(span: f64) -> (f64, &'static str, f64) {
    let step = round_step((span / 10.0).max(1e-6));
    let (unit, factor) = if span < 3.0 { ("milliseconds", 1e3) } else { ("seconds", 1.0) };
    (step, unit, factor)
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|n| n * power).find(|step| *step >= rough * 0.999);
    step.unwrap_or(power * 10.0)
}

/// A number without needless digits.
fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

fn milliseconds(value: f64) -> String {
    if value >= 1e3 { format!("{} s", plain(value / 1e3)) } else { format!("{} ms", plain(value)) }
}

/// A coordinate.
fn number(value: f64) -> String {
    plain((value * 10.0).round() / 10.0)
}

/// A count with its thousands apart.
pub(crate) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, words: &str) {
    let attributes: BTreeMap<_, _> =
        [("class", class), ("text-anchor", if anchor == "start" { "" } else { anchor })].into();
    put(out, format_args!("<text x=\"{}\" y=\"{}\"", number(x), number(y)));
    for (name, value) in attributes.into_iter().filter(|(_, value)| !value.is_empty()) {
        put(out, format_args!(" {name}=\"{value}\""));
    }
    put(out, format_args!(">{}</text>\n", escaped(words)));
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    if out.write_fmt(what).is_err() {
        unreachable!("a String takes everything");
    }
}

#[cfg(test)]
mod tests;
