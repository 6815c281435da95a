//! `BENCHMARKS.md`: the results as tables. Nothing in it is known here and not there.

use std::fmt::Write as _;

use crate::results::{Counted, Curve, Demand, Figures, Results, SetupResults, Spread, short};
use crate::setups::Family;

/// Where the picture is, as the document names it.
pub(crate) const PICTURE: &str = "docs/cpu-per-call.svg";
/// Of a ratio: nearer to 1 than this is no finding.
const NOTHING: f64 = 1.005;

pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = write(&mut text, results);
    text
}

fn write(out: &mut String, results: &Results) -> std::fmt::Result {
    head(out, results)?;
    demands(out, &results.demands)?;
    loses(out, results)?;
    counted(out, results)?;
    for load in loads(results) {
        writeln!(out, "\n## {}\n", load_title(&load))?;
        for family in Family::ALL {
            timed(out, results, family, &load)?;
        }
    }
    memory(out, results)?;
    curves(out, &results.curves)?;
    method(out, results)
}

fn head(out: &mut String, results: &Results) -> std::fmt::Result {
    let about = &results.about;
    writeln!(out, "# Benchmarks\n")?;
    writeln!(
        out,
        "<!-- Written by the harness out of benches/results.json, and compared with it by a test: edit neither by hand. -->\n"
    )?;
    writeln!(
        out,
        "Written by `{}`, which took {} s, on {}.\n",
        about.command, about.took_s, about.when
    )?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| commit | {} |", about.commit)?;
    writeln!(
        out,
        "| machine | {} x {}, Linux {} |",
        about.cores, about.processor, about.kernel
    )?;
    let place = match about.one_core {
        true => "all processes on one core",
        false => "on whatever cores the system chooses",
    };
    writeln!(out, "| build | {}, {}, {place} |", about.build, about.rustc)?;
    let versions: Vec<String> = about
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    writeln!(out, "| versions | {} |", versions.join(", "))?;
    writeln!(
        out,
        "| turns | {} of {} ms for each setup and load, in turn |",
        about.turns, about.turn_ms
    )?;
    let all: Vec<&Figures> = results.setups.iter().flat_map(|setup| setup.loads.values()).collect();
    let mean =
        |each: &dyn Fn(&Figures) -> f64| short(all.iter().map(|one| each(one)).sum::<f64>() / all.len().max(1) as f64);
    writeln!(
        out,
        "| what else went on | {} % of the processors' time was another guest's (steal), {} % went to other processes |",
        mean(&|figures| figures.stolen_percent),
        mean(&|figures| figures.others_percent),
    )?;
    if !results.left_out.is_empty() {
        writeln!(out, "\n**Left out:**\n")?;
        for left in &results.left_out {
            writeln!(out, "- {}: {}", left.what, left.why)?;
        }
    }
    writeln!(out, "\n![Processor time of a call, by setup]({PICTURE})")
}

fn demands(out: &mut String, demands: &[Demand]) -> std::fmt::Result {
    writeln!(out, "\n## What is wanted, and what is reached\n")?;
    writeln!(out, "| what | wanted | reached | |\n|---|---|---|---|")?;
    for demand in demands {
        let side = if demand.at_least { "at least" } else { "at most" };
        let found = demand.found.map_or_else(|| "not measured".to_owned(), spread);
        let kept = match demand.is_kept() {
            Some(true) => "kept",
            Some(false) => "**not reached**",
            None => "",
        };
        writeln!(out, "| {} | {side} {} | {found} | {kept} |", demand.what, demand.wanted)?;
    }
    Ok(())
}

/// Every ratio of ours that is above 1.
fn loses(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n## Where it loses\n")?;
    writeln!(
        out,
        "Every figure of the mesh that is above that of the bare client and server of its family, which route, balance, retry"
    )?;
    writeln!(
        out,
        "and authorize nothing. In brackets the middle half of the turns; where that includes 1, the figure is no finding.\n"
    )?;
    writeln!(out, "| family | setup | what | beside bare | |\n|---|---|---|---|---|")?;
    let mut lines = 0;
    for setup in results.setups.iter().filter(|setup| setup.ours) {
        let (family, title) = (setup.family.title(), &setup.title);
        for (load, figures) in setup.loads.iter().filter(|(_, figures)| figures.failed > 0) {
            let (load, all) = (load_title(load).to_lowercase(), figures.calls + figures.failed);
            writeln!(
                out,
                "| {family} | {title} | failed calls, {load} | {} of {all} | |",
                figures.failed
            )?;
            lines += 1;
        }
        let Some(base) = results.named(setup.family.base()) else {
            continue;
        };
        for (what, ratio) in ratios(setup, base) {
            if ratio.median > NOTHING {
                let doubt = if ratio.low <= 1.0 { "within the noise" } else { "" };
                writeln!(
                    out,
                    "| {} | {} | {what} | {} | {doubt} |",
                    setup.family.title(),
                    setup.title,
                    spread(ratio)
                )?;
                lines += 1;
            }
        }
    }
    if lines == 0 {
        writeln!(out, "| | | nothing | | |")?;
    }
    Ok(())
}

/// All that a setup is compared with its base by, with the names.
fn ratios(setup: &SetupResults, base: &SetupResults) -> Vec<(String, Spread)> {
    let mut all = Vec::new();
    for (load, figures) in &setup.loads {
        let Some(beside) = figures.beside else { continue };
        let title = load_title(load).to_lowercase();
        let mut add = |what: &str, ratio| all.push((format!("{what}, {title}"), ratio));
        add("processor time of a call", beside.cpu);
        add("latency, p50", beside.p50);
        add("latency, p99", beside.p99);
        if load.starts_with("closed") {
            add("time for as many calls", beside.slower);
        }
    }
    for (concurrent, ours) in &setup.counted {
        let Some(theirs) = base.counted.get(concurrent) else {
            continue;
        };
        let mut add = |what: &str, ours: Option<f64>, theirs: Option<f64>| {
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                let what = format!("{what}, {concurrent} in flight");
                all.push((what, Spread::exactly(ours / theirs)));
            }
        };
        add("client's allocations", Some(ours.allocations), Some(theirs.allocations));
        add("client's allocated bytes", Some(ours.bytes), Some(theirs.bytes));
        add("client's writes", ours.writes, theirs.writes);
        add("client's system calls", ours.system_calls, theirs.system_calls);
        add("client's instructions", ours.instructions, theirs.instructions);
    }
    for (part, name) in ["client's memory", "server's memory"].into_iter().enumerate() {
        let ratio = setup.resident_mib[part] / base.resident_mib[part];
        all.push((name.to_owned(), Spread::exactly(ratio)));
    }
    all
}

fn counted(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n## What the client does for a call\n")?;
    writeln!(
        out,
        "Counted by `cost` in a run of its own, since what counts takes time; it does not move with the machine's load. Instructions are"
    )?;
    writeln!(
        out,
        "callgrind's, of user space. A sidecar's are not counted: the client's own stand for its whole call there.\n"
    )?;
    writeln!(
        out,
        "| family | setup | in flight | allocations | bytes | writes | system calls | instructions | beside bare |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    for setup in &results.setups {
        for (concurrent, one) in &setup.counted {
            let base = results
                .named(setup.family.base())
                .and_then(|base| base.counted.get(concurrent));
            let base = base.and_then(|base| base.instructions);
            let beside = one.instructions.zip(base).map(|(ours, base)| short(ours / base));
            let Counted {
                allocations,
                bytes,
                writes,
                instructions,
                system_calls,
            } = *one;
            writeln!(
                out,
                "| {} | {} | {concurrent} | {allocations} | {bytes} | {} | {} | {} | {} |",
                setup.family.title(),
                setup.title,
                maybe(writes),
                maybe(system_calls),
                maybe(instructions),
                maybe(beside),
            )?;
        }
    }
    Ok(())
}

fn timed(out: &mut String, results: &Results, family: Family, load: &str) -> std::fmt::Result {
    let setups = results.setups.iter().filter(|setup| setup.family == family);
    let lines: Vec<_> = setups
        .filter_map(|setup| Some((setup, setup.loads.get(load)?)))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{}. Latency in microseconds; processor time of a call in microseconds.\n",
        family.title()
    )?;
    writeln!(
        out,
        "| setup | calls/s | p50 | p90 | p99 | p99.9 | all CPU | client | server | sidecars | CPU beside bare | p99 beside bare | steal % | others % | failed of |"
    )?;
    writeln!(out, "|{}", "---|".repeat(15))?;
    for (setup, figures) in lines {
        let [p50, p90, p99, p999] = figures.latency_us;
        let [client, server, sidecars] = figures.cpu_us_of;
        let (cpu, tail) = match figures.beside {
            Some(beside) => (spread(beside.cpu), spread(beside.p99)),
            None => ("1".to_owned(), "1".to_owned()),
        };
        writeln!(
            out,
            "| {} | {} | {p50} | {p90} | {p99} | {p999} | {} | {client} | {server} | {sidecars} | {cpu} | {tail} | {} | {} | {} of {} |",
            setup.title,
            figures.per_second,
            figures.cpu_us.median,
            figures.stolen_percent,
            figures.others_percent,
            figures.failed,
            figures.calls + figures.failed,
        )?;
    }
    Ok(())
}

fn memory(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n## Memory\n")?;
    writeln!(out, "Resident, in MiB, after the last turn.\n")?;
    writeln!(
        out,
        "| family | setup | client | server | sidecars |\n|---|---|---|---|---|"
    )?;
    for setup in &results.setups {
        let [client, server, sidecars] = setup.resident_mib;
        writeln!(
            out,
            "| {} | {} | {client} | {server} | {sidecars} |",
            setup.family.title(),
            setup.title
        )?;
    }
    Ok(())
}

fn curves(out: &mut String, curves: &[Curve]) -> std::fmt::Result {
    if curves.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n## How it grows\n")?;
    writeln!(
        out,
        "By `scale --curves`, in one process, the best of many rounds. The slope is that of the logarithms: 0 is the same at any size, 1 in proportion.\n"
    )?;
    writeln!(
        out,
        "| what | by | unit | at 10 | 100 | 1,000 | 10,000 | 100,000 | slope | |\n|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for curve in curves {
        let at = |size: f64| {
            let point = curve.points.iter().find(|(of, _)| (of - size).abs() < 0.5);
            maybe(point.map(|(_, cost)| *cost))
        };
        let columns = [1e1, 1e2, 1e3, 1e4, 1e5].map(at).join(" | ");
        let name = match curve.slope {
            slope if slope < 0.1 => "flat",
            slope if slope < 0.8 => "less than in proportion",
            slope if slope <= 1.15 => "in proportion",
            _ => "**more than in proportion**",
        };
        writeln!(
            out,
            "| {} | {} | {} | {columns} | {} | {name} |",
            curve.what, curve.by, curve.unit, curve.slope
        )?;
    }
    Ok(())
}

fn method(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "\n## How it is measured\n")?;
    let lines = [
        "All on loopback, 1 KiB each way, TLS 1.3 with certificates of both ends from one throw-away CA; behind a sidecar the application's own hop is in the clear, as in Istio.",
        "Every client, server and sidecar is a process of its own with one thread (Envoy: one worker). Processor time is the system's count of each, kernel included.",
        "Setups take turns, in another order each round. A ratio is of one turn to the base's turn of the same round; told is the median of the rounds, in brackets their middle half.",
        "Closed: so many callers, each waiting for its answer. Open: a fixed rate; latency counts from the moment a call was due, also where the caller was late (coordinated omission). The thread that keeps the rate is not in the processor time.",
        "`lean`: route, 95/5 split, least request, timeout, retries armed, budget, outlier detection, breakers, standard metrics. `everything`: header rules, host rewrite, faults drawn and never hit, a mirror without a share, per-try timeouts, load reports; its server asks ten rules. `balance_list` and tonic-xds use tonic's own TLS.",
        "The sidecars: client with 95/5, retry, timeout, outlier detection and mTLS; server with mTLS required and ten RBAC policies. PyPI's Envoy has neither Istio's own filters nor its traffic redirection, so Istio's cost more.",
        "tonic-xds: the same routes from the mesh's own ADS server. Its version has no route timeout and records no metrics, so it does less for a call.",
    ];
    for line in lines {
        writeln!(out, "- {line}")?;
    }
    writeln!(
        out,
        "\nTo run it again: `cargo run --release --locked -p benches --bin compare` ({} s here; `--quick` for a first look).",
        results.about.took_s
    )
}

/// Closed ones first, by number.
fn loads(results: &Results) -> Vec<String> {
    let mut all: Vec<String> = results
        .setups
        .iter()
        .flat_map(|setup| setup.loads.keys().cloned())
        .collect();
    all.sort_by_key(|name| (name.starts_with("open"), number(name)));
    all.dedup();
    all
}

fn number(load: &str) -> u64 {
    load.rsplit('_')
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn load_title(load: &str) -> String {
    match load.starts_with("closed") {
        true => format!("Closed loop, {} in flight", number(load)),
        false => format!("Open loop, {} calls a second", number(load)),
    }
}

fn spread(Spread { low, median, high }: Spread) -> String {
    match low == high {
        true => format!("{median}"),
        false => format!("{median} ({low} - {high})"),
    }
}

fn maybe(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::picture;

    /// Nobody edits a figure: what is published is what the results say.
    #[test]
    fn what_is_published_comes_out_of_the_results() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let results: Results = serde_json::from_str(&read("benches/results.json")).unwrap();
        assert_eq!(
            read("BENCHMARKS.md"),
            markdown(&results),
            "edit neither by hand: run `compare`, or `compare --render`"
        );
        assert_eq!(read(PICTURE), picture::svg(&results));
    }
}
