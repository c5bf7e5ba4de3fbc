//! The screen of `cutover watch`: a heading, the endpoints that fit, and the keys.
//!
//! Draws only the rows that can be seen, so that the number of endpoints does not matter.

use super::progress;
use crate::cli::status::heading;
use cutover_daemon::clock;
use cutover_daemon::control::Status;
use cutover_engine::BootTime;
use cutover_engine::machine::State;
use cutover_engine::view::EndpointView;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};
use std::collections::BTreeSet;

/// The endpoint comes last: its name is as long as it likes.
const COLUMNS: [(&str, u16); 7] = [
    ("STATE", 8),
    ("ROLE", 7),
    ("STATUS", 11),
    ("INTERFACE", 15),
    ("METRIC", 9),
    ("PROGRESS", 50),
    ("ENDPOINT", 0),
];

/// A way to move through the endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scroll {
    LineUp,
    LineDown,
    PageUp,
    PageDown,
    Top,
    Bottom,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Screen {
    status: Status,
    /// When that was.
    asked_at: BootTime,
    /// Why it is not newer.
    pub(super) trouble: Option<String>,
    /// Index of the first endpoint that is shown.
    top: usize,
    /// How many fitted the last time.
    page: usize,
}

impl Screen {
    pub(super) fn new(status: Status) -> Self {
        let mut screen = Self { status, asked_at: clock::now(), trouble: None, top: 0, page: 1 };
        screen.sort();
        screen
    }

    /// Shows a newer answer.
    pub(super) fn take(&mut self, status: Status) {
        self.status = status;
        self.asked_at = clock::now();
        self.trouble = None;
        self.sort();
    }

    fn sort(&mut self) {
        let order = |endpoint: &EndpointView| (progress::rank(endpoint), endpoint.name.clone());
        self.status.endpoints.sort_by_cached_key(order);
    }

    pub(super) fn scroll(&mut self, scroll: Scroll) {
        self.top = match scroll {
            Scroll::LineUp => self.top.saturating_sub(1),
            Scroll::LineDown => self.top + 1,
            Scroll::PageUp => self.top.saturating_sub(self.page),
            Scroll::PageDown => self.top + self.page,
            Scroll::Top => 0,
            Scroll::Bottom => usize::MAX,
        };
        self.top = self.top.min(self.status.endpoints.len().saturating_sub(self.page));
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [title, summary, table, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Fill(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        // The heading of the table takes a line.
        self.page = usize::from(table.height.saturating_sub(1)).max(1);
        self.top = self.top.min(self.status.endpoints.len().saturating_sub(self.page));
        frame.render_widget(Line::from(heading(&self.status)).bold(), title);
        let summary_line = match &self.trouble {
            Some(trouble) => Line::from(trouble.as_str()).fg(Color::Red),
            None => Line::from(self.summary()),
        };
        frame.render_widget(summary_line, summary);
        frame.render_widget(self.table(), table);
        frame.render_widget(Line::from(self.keys()).add_modifier(Modifier::DIM), keys);
    }

    fn summary(&self) -> String {
        let endpoints = &self.status.endpoints;
        let states = [State::Target, State::Live, State::TimeWait].map(|state| {
            let count = endpoints.iter().filter(|endpoint| endpoint.state == state).count();
            format!("{state} {count}")
        });
        format!("{} endpoints   {}", endpoints.len(), states.join("   "))
    }

    fn keys(&self) -> String {
        let count = self.status.endpoints.len();
        let shown = match self.top + self.page {
            _ if count == 0 => "none".to_owned(),
            end => format!("{}-{} of {count}", self.top + 1, end.min(count)),
        };
        format!("{shown}   q quit   arrows, Page Up and Down, Home, End scroll")
    }

    fn table(&self) -> Table<'_> {
        let visible = self.status.endpoints.iter().skip(self.top).take(self.page);
        let widths = COLUMNS.map(|(_, width)| match width {
            0 => Constraint::Fill(1),
            width => Constraint::Max(width),
        });
        let header = COLUMNS.map(|(name, _)| name);
        Table::new(visible.map(|endpoint| self.row(endpoint)), widths)
            .header(Row::new(header).style(Style::new().add_modifier(Modifier::UNDERLINED)))
    }

    fn row<'a>(&self, endpoint: &'a EndpointView) -> Row<'a> {
        let metrics: BTreeSet<_> = endpoint.routes.iter().map(|route| route.metric).collect();
        let metrics: Vec<_> = metrics.iter().map(ToString::to_string).collect();
        Row::new([
            Cell::from(endpoint.state.to_string()).style(style(endpoint.state)),
            Cell::from(if progress::rank(endpoint) == 0 { endpoint.role.as_str() } else { "-" }),
            Cell::from(endpoint.status.as_str()),
            Cell::from(endpoint.interface.as_str()),
            Cell::from(if metrics.is_empty() { "-".to_owned() } else { metrics.join(" ") }),
            Cell::from(progress::text(endpoint, self.asked_at)),
            Cell::from(endpoint.name.as_str()),
        ])
    }
}

const fn style(state: State) -> Style {
    match state {
        State::Base => Style::new(),
        State::Target => Style::new().fg(Color::Yellow),
        State::Live => Style::new().fg(Color::Green),
        State::TimeWait => Style::new().fg(Color::Magenta),
    }
}

#[cfg(test)]
mod tests;
