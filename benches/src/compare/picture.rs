//! The picture: processor time of a call by setup, of client, server and sidecars, one call in flight.

use std::fmt::Write as _;

use crate::results::{Results, SetupResults};
use crate::setups::Family;

/// The load that is drawn.
const LOAD: &str = "closed_1";
const PARTS: [(&str, &str); 3] = [("client", "#3b6ea5"), ("server", "#e0a030"), ("sidecars", "#b04a4a")];
const WIDTH: f64 = 880.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 540.0;
const ROW: f64 = 24.0;

pub(crate) fn svg(results: &Results) -> String {
    let mut rows = String::new();
    // Writing to a text cannot fail.
    let height = draw(&mut rows, results).unwrap_or(ROW);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>Processor time of a call in microseconds, by setup, one call in flight</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{rows}</svg>\n"
    )
}

fn draw(out: &mut String, results: &Results) -> Result<f64, std::fmt::Error> {
    let cpu = |setup: &SetupResults| setup.loads.get(LOAD).map_or([0.0; 3], |figures| figures.cpu_us_of);
    let most = results
        .setups
        .iter()
        .map(|setup| cpu(setup).iter().sum::<f64>())
        .fold(1.0, f64::max);
    let mut y = 24.0;
    writeln!(
        out,
        "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">Processor time of a call, one in flight (microseconds)</text>"
    )?;
    let mut x = LABELS + 190.0;
    for (name, colour) in PARTS {
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
            y - 11.0
        )?;
        writeln!(out, "<text x=\"{}\" y=\"{y}\">{name}</text>", x + 18.0)?;
        x += 90.0;
    }
    for family in Family::ALL {
        let setups: Vec<_> = results.setups.iter().filter(|setup| setup.family == family).collect();
        if setups.is_empty() {
            continue;
        }
        y += 1.5 * ROW;
        writeln!(
            out,
            "<text x=\"8\" y=\"{y}\" fill=\"#555555\">{}</text>",
            family.title()
        )?;
        for setup in setups {
            y += ROW;
            let weight = if setup.ours { "bold" } else { "normal" };
            let title = setup.title.replace('`', "");
            writeln!(
                out,
                "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" font-weight=\"{weight}\">{title}</text>",
                LABELS - 8.0
            )?;
            let mut x = LABELS;
            for (part, (_, colour)) in cpu(setup).into_iter().zip(PARTS) {
                let width = BARS * part / most;
                writeln!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\" fill=\"{colour}\"/>",
                    y - 13.0
                )?;
                x += width;
            }
            let total = cpu(setup).iter().sum::<f64>();
            writeln!(out, "<text x=\"{:.1}\" y=\"{y}\">{total:.0}</text>", x + 6.0)?;
        }
    }
    Ok(y + ROW)
}
