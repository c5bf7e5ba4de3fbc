//! The table of a host's endpoints.

use super::document::table;
use super::html::Html;
use super::waiting::{is_moving, waits_for};
use crate::control::Status;
use cutover_engine::BootTime;
use cutover_engine::view::EndpointView;

/// LIMIT: rows. More than a host has, and what a browser shows at once.
const ROWS_MAX: usize = 1000;
/// LIMIT: of one endpoint. A VM has a handful.
const ROUTES_MAX: usize = 16;

const COLUMNS: [&str; 7] = ["Endpoint", "State", "Role", "Waits for", "Status", "Interface", "Routes"];

/// Those with something going on first, then those that wait, then by name.
pub(super) fn write(html: &mut Html, status: &Status, now: BootTime) {
    let endpoints = &status.endpoints;
    if endpoints.is_empty() {
        html.words("p", &[], "This host has no endpoints.");
        return;
    }
    let mut rows: Vec<_> = endpoints.iter().map(|it| (it, waits_for(it, status, now))).collect();
    rows.sort_by_cached_key(|(it, waits)| (!is_moving(it), waits.is_empty(), it.name.clone()));
    let waiting = rows.iter().filter(|(_, waits)| !waits.is_empty()).count();
    let mut caption = match waiting {
        0 => format!("None of {} waits for anything.", endpoints.len()),
        _ => format!("{waiting} of {} wait for something. These come first.", endpoints.len()),
    };
    if let Some(more) = endpoints.len().checked_sub(ROWS_MAX).filter(|more| *more > 0) {
        caption.push_str(&format!(" {more} are left out; cutover status shows all."));
    }
    table(html, "endpoints-table", &caption, &COLUMNS, |html| {
        for (endpoint, waits) in rows.into_iter().take(ROWS_MAX) {
            row(html, endpoint, &waits);
        }
    });
}

fn row(html: &mut Html, endpoint: &EndpointView, waits: &[String]) {
    html.element("tr", &[], |html| {
        html.element("th", &[("scope", "row")], |html| {
            html.text(&endpoint.key.endpoint);
            let workload = &endpoint.key.workload;
            let workload = workload.split_once('/').map_or(&**workload, |(_, workload)| workload);
            html.words("small", &[], &format!(" of {workload}"));
        });
        html.words("td", &[], &endpoint.state.to_string());
        let role = match endpoint.role.as_str() {
            "NO_ROLE" => "–".to_owned(),
            role => role.to_lowercase(),
        };
        html.words("td", &[], &role);
        html.element("td", &[("class", "long")], |html| {
            if waits.is_empty() {
                html.text("–");
            }
            waits.iter().for_each(|what| html.words("div", &[], what));
        });
        html.words("td", &[], &endpoint.status);
        html.words("td", &[("class", "number")], &endpoint.interface);
        html.element("td", &[("class", "number")], |html| routes(html, endpoint));
    });
    html.new_line();
}

fn routes(html: &mut Html, endpoint: &EndpointView) {
    if endpoint.routes.is_empty() {
        html.text("none");
    }
    for route in endpoint.routes.iter().take(ROUTES_MAX) {
        html.words("div", &[], &format!("{} metric {}", route.destination, route.metric));
    }
    if let Some(more) = endpoint.routes.len().checked_sub(ROUTES_MAX).filter(|more| *more > 0) {
        html.words("div", &[], &format!("and {more} more"));
    }
}
