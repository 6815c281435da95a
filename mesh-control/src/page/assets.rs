//! The files of the page, as they are in the source: part of the program, so that there is nothing to install and nothing to fetch.

/// A file, its content type and its text.
pub(super) struct Asset {
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! asset {
    ($path:literal, $kind:expr, $file:literal) => {
        Asset {
            path: $path,
            kind: $kind,
            text: include_str!(concat!("assets/", $file)),
        }
    };
}

const ASSETS: [Asset; 14] = [
    asset!("/", HTML, "index.html"),
    asset!("/assets/style.css", CSS, "style.css"),
    asset!("/assets/icon.svg", SVG, "icon.svg"),
    asset!("/assets/main.js", JS, "main.js"),
    asset!("/assets/model.js", JS, "model.js"),
    asset!("/assets/history.js", JS, "history.js"),
    asset!("/assets/layout.js", JS, "layout.js"),
    asset!("/assets/graph.js", JS, "graph.js"),
    asset!("/assets/shapes.js", JS, "shapes.js"),
    asset!("/assets/charts.js", JS, "charts.js"),
    asset!("/assets/panel.js", JS, "panel.js"),
    asset!("/assets/tables.js", JS, "tables.js"),
    asset!("/assets/elements.js", JS, "elements.js"),
    asset!("/assets/format.js", JS, "format.js"),
];

pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each file that another names is served, and none leads away from here.
    #[test]
    fn what_the_page_asks_for_is_here_and_nowhere_else() {
        for asset in &ASSETS {
            let text = asset.text;
            for name in text.split(['"', '\'', '#']).filter(|part| part.starts_with("/assets/")) {
                assert!(find(name).is_some(), "{} names {name}", asset.path);
            }
            for part in text.split("from \"./").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(
                    find(&format!("/assets/{name}")).is_some(),
                    "{} names {name}",
                    asset.path
                );
            }
            let away = text.match_indices("//").filter(|(at, _)| {
                let before = &text[..*at];
                before.ends_with("http:") || before.ends_with("https:")
            });
            // The names of SVG's elements, which nothing is fetched from.
            let away: Vec<_> = away
                .filter(|(at, _)| !text[*at..].starts_with("//www.w3.org/2000/svg"))
                .collect();
            assert!(away.is_empty(), "{}: {away:?}", asset.path);
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=\"",
                "onclick=\"",
            ] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", asset.path);
            }
        }
    }
}
