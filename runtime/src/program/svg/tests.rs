//! Pictures of known dots, read back as text.

use super::*;

fn panel(clouds: Vec<Cloud>) -> Panel {
    Panel {
        heading: "A panel".to_owned(),
        to: 10.0,
        height: 200.0,
        since: "since the start".to_owned(),
        value: "latency".to_owned(),
        things: "requests".to_owned(),
        clouds,
        ..Panel::default()
    }
}

fn cloud(ink: Ink, thinned: Vec<Dot>, kept: Vec<Dot>) -> Cloud {
    Cloud { ink, faint: false, thinned, kept }
}

fn draw(panels: Vec<Panel>) -> String {
    Picture { title: "A title".to_owned(), panels, ..Picture::default() }.svg()
}

/// So many dots all over the panel.
fn many(count: usize) -> Vec<Dot> {
    let dot = |index: usize| Dot {
        at: index as f64 / count as f64 * 10.0,
        value: 0.1 * (1 + (index * 7_919) % 997) as f64,
    };
    (0..count).map(dot).collect()
}

/// How many round marks of this colour there are.
fn marks(svg: &str, colour: &str, mark: &str) -> usize {
    let paths = svg.split("<path ").filter(|path| path.starts_with(&format!("stroke=\"{colour}\"")));
    paths.map(|path| path.split("/>").next().unwrap_or_default().matches(mark).count()).sum()
}

#[test]
fn a_minute_of_load_is_a_small_file() {
    let svg = draw(vec![panel(vec![cloud(Ink::Series(0), many(120_000), Vec::new())]), panel(Vec::new())]);
    assert!(svg.len() < 150_000, "{}", svg.len());
    let drawn = marks(&svg, SERIES[0], "h0");
    assert!((5_000..=DOTS).contains(&drawn), "{drawn}");
    assert!(svg.contains(&format!(">{} dots for 120,000 requests</text>", grouped(drawn))));
}

#[test]
fn of_dots_on_top_of_each_other_one_is_drawn_and_a_kept_one_always() {
    let same = vec![Dot { at: 5.0, value: 1.0 }; 100];
    let clouds = vec![
        cloud(Ink::Series(0), same.clone(), Vec::new()),
        cloud(Ink::Series(1), Vec::new(), same.clone()),
        cloud(Ink::Failed, Vec::new(), same),
    ];
    let svg = draw(vec![panel(clouds)]);
    assert_eq!(marks(&svg, SERIES[0], "h0"), 1);
    assert_eq!(marks(&svg, SERIES[1], "h0"), 100);
    assert_eq!(marks(&svg, FAILED, "l70 70"), 100);
    assert!(svg.contains(">201 dots for 300 requests</text>"));
}

#[test]
fn many_lost_requests_are_all_drawn() {
    let svg = draw(vec![panel(vec![cloud(Ink::Failed, Vec::new(), many(30_000))])]);
    assert_eq!(marks(&svg, FAILED, "h0"), 30_000);
    assert!(svg.len() < 400_000, "{}", svg.len());
}

#[test]
fn a_dot_is_at_its_time_and_value() {
    // The scale goes from 1 to 100 ms.
    let dots = vec![Dot { at: 0.0, value: 1.0 }, Dot { at: 5.0, value: 10.0 }, Dot { at: 10.0, value: 70.0 }];
    let panel = panel(vec![cloud(Ink::Series(0), dots, Vec::new())]);
    assert_eq!(
        [0.0, 5.0, 10.0].map(|at| panel.x(at)),
        [LEFT, f64::midpoint(LEFT, WIDTH - RIGHT), WIDTH - RIGHT]
    );
    let range = panel.range();
    assert_eq!(range, (0.0, 2.0));
    assert_eq!([1.0, 10.0, 100.0, 1e9].map(|value| panel.y(value, range)), [200.0, 100.0, 0.0, 0.0]);
    assert_eq!(panel.marks(), [1.0, 10.0, 100.0]);
    let svg = draw(vec![panel]);
    for label in [">1 ms<", ">10 ms<", ">100 ms<", ">seconds since the start<", ">latency<"] {
        assert!(svg.contains(label), "{label}");
    }
}

#[test]
fn what_is_outside_is_neither_drawn_nor_counted() {
    let dots = vec![Dot { at: -1.0, value: 1.0 }, Dot { at: 1.0, value: 1.0 }, Dot { at: 11.0, value: 1.0 }];
    let mut panel = panel(vec![cloud(Ink::Series(0), dots, Vec::new())]);
    let phase = |from, to| Phase { name: "standby".to_owned(), from, to, label: Some("standby".to_owned()) };
    panel.phases = vec![phase(20.0, 30.0), phase(8.0, 12.0)];
    let svg = draw(vec![panel]);
    assert!(svg.contains(">1 dots for 1 requests</text>"));
    // One in the panel, and one for each page in the legend.
    assert_eq!(svg.matches("fill=\"#d3e3fb\"").count(), 3);
}

#[test]
fn the_words_above_a_panel_do_not_overlap() {
    let phases =
        [("upgrading", 1.0), ("handing-over", 1.05), ("standby", 1.06), ("draining", 3.0), ("ended", 9.9)];
    let phase = |(name, from): (&str, f64)| Phase {
        name: name.to_owned(),
        from,
        to: from + 0.01,
        label: Some(format!("{name} 100.0 ms")),
    };
    let mut panel = panel(Vec::new());
    panel.phases = phases.map(phase).into();
    for page in Page::BOTH {
        let mut out = String::new();
        panel.labels(page, &mut out);
        let words: Vec<(f64, f64, f64)> = out
            .split("<text ")
            .skip(1)
            .map(|text| {
                let attribute = |name: &str| -> f64 {
                    let value = text.split_once(&format!("{name}=\"")).expect("it has one").1;
                    value.split_once('"').expect("it ends").0.parse().expect("a number")
                };
                let content = text.split_once('>').expect("it begins").1.split_once('<').expect("it ends").0;
                (attribute("y"), attribute("x"), attribute("x") + page.width(content))
            })
            .collect();
        assert_eq!(words.len(), phases.len(), "each phase has its words");
        for (index, (y, from, to)) in words.iter().enumerate() {
            assert!(*to <= WIDTH, "{words:?}");
            for (other_y, other_from, other_to) in &words[..index] {
                assert!(y != other_y || to < other_from || other_to < from, "{page:?}: {words:?}");
            }
        }
    }
}

#[test]
fn of_moments_without_room_the_words_are_left_out() {
    let mut panel = panel(Vec::new());
    let moment =
        |index: u32| Moment { at: f64::from(index) * 0.1, label: format!("upgrade {index}"), failed: false };
    panel.moments = (0..100).map(moment).collect();
    let mut out = String::new();
    assert!(panel.labels(Page::Wide, &mut out) < 30.0, "one row");
    let words = out.matches("<text ").count();
    assert!((5..20).contains(&words), "{words}");
}

#[test]
fn the_words_of_the_picture_are_text_and_not_markup() {
    let words = "a < b & \"c\"".to_owned();
    let picture = Picture {
        title: words.clone(),
        description: words.clone(),
        legend: vec![Key { ink: Ink::Failed, text: words.clone(), short: words }],
        ..Picture::default()
    };
    let svg = picture.svg();
    assert!(svg.contains("<title id=\"title\">a &lt; b &amp; &quot;c&quot;</title>"));
    assert!(svg.contains("<desc id=\"desc\">a &lt; b"));
    assert!(!svg.contains("a < b"));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn an_axis_of_time_has_round_numbers() {
    let marks = |span| {
        let (step, unit, factor) = step(span);
        (plain(step * factor), unit)
    };
    assert_eq!(marks(12.3), ("2".to_owned(), "seconds"));
    assert_eq!(marks(60.0), ("10".to_owned(), "seconds"));
    assert_eq!(marks(0.35), ("50".to_owned(), "milliseconds"));
    assert_eq!(marks(0.001), ("0.1".to_owned(), "milliseconds"));
}

#[test]
fn numbers_have_no_needless_digits() {
    assert_eq!([1.0, 0.25, -0.0001, 1_000.5].map(plain), ["1", "0.25", "0", "1000.5"]);
    assert_eq!([0.1, 10.0, 2_000.0].map(milliseconds), ["0.1 ms", "10 ms", "2 s"]);
    assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
}

#[test]
fn a_phase_of_a_later_release_is_shaded_and_in_the_legend() {
    let mut panel = panel(Vec::new());
    panel.phases = vec![Phase { name: "resting".to_owned(), from: 1.0, to: 2.0, label: None }];
    let svg = draw(vec![panel]);
    // In the panel, and in the legend for each page.
    assert_eq!(svg.matches(OTHER).count(), 3);
    assert_eq!(svg.matches(">another phase<").count(), 2);
}

#[test]
fn a_subtitle_without_room_is_cut() {
    let words = "a word ".repeat(100);
    let cut = fitting(&words, Page::Wide, 300.0);
    assert!(Page::Wide.width(&cut) <= 300.0 && cut.len() > 20 && cut.ends_with('…'), "{cut}");
    assert_eq!(fitting("a word", Page::Wide, 300.0), "a word");
}

fn counted(points: &[(f64, f64)], to: f64) -> Panel {
    let points = points.iter().map(|(at, value)| Dot { at: *at, value: *value }).collect();
    let lines = vec![Line { ink: Ink::Series(0), points, to }];
    Panel { scale: Scale::Count, lines, ..panel(Vec::new()) }
}

/// The path of the line in the first colour, from its `d`.
fn stepped(panel: Panel) -> String {
    let svg = draw(vec![panel]);
    let (path, _) = svg.split_once(&format!("\" fill=\"none\" stroke=\"{}\"", SERIES[0])).expect("a line");
    path.rsplit('"').next().expect("it begins").to_owned()
}

#[test]
fn a_count_is_a_stepped_line_on_an_axis_from_0() {
    let panel = counted(&[(0.0, 10.0), (5.0, 0.0)], 10.0);
    assert_eq!(panel.range(), (0.0, 11.0));
    assert_eq!(panel.marks(), [0.0, 5.0, 10.0]);
    let (middle, right) = (number(f64::midpoint(LEFT, WIDTH - RIGHT)), number(WIDTH - RIGHT));
    let path = stepped(panel);
    assert!(path.starts_with(&format!("M{} ", number(LEFT))), "{path}");
    let [high, rest] = path.split_once('H').map(<[&str; 2]>::from).expect("a step");
    let low: f64 = rest.split(['V', 'H']).nth(1).expect("a step down").parse().expect("a number");
    let high: f64 = high.rsplit(' ').next().expect("it begins").parse().expect("a number");
    assert!((low - high - 200.0 * 10.0 / 11.0).abs() < 0.2, "{path}");
    assert!(rest.starts_with(&format!("{middle}V")) && rest.ends_with(&format!("H{right}")), "{path}");
}

#[test]
fn a_line_without_end_is_a_short_path_that_has_every_peak() {
    let mut points: Vec<_> =
        (0..100_000).map(|index| (f64::from(index) / 1e4, f64::from(index % 2))).collect();
    points[70_007].1 = 1_000.0;
    let panel = counted(&points, 10.0);
    let peak = format!("V{}", number(panel.y(1_000.0, panel.range())));
    let mut alone = String::new();
    panel.steps(0.0, &mut alone);
    assert!(alone.len() < 40_000, "{}", alone.len());
    assert!(alone.contains(&peak), "the peak is at {peak}");
}

#[test]
fn a_panel_without_dots_counts_none() {
    let svg = draw(vec![counted(&[(0.0, 3.0)], 10.0)]);
    assert!(!svg.contains(" dots for "));
}
