//! Values by family, and the page that they make.

use super::families::{self, Family, Kind};
use super::histogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

/// How a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// OpenMetrics 1.0, which Prometheus asks for.
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4.
    Text,
}

impl Format {
    /// What whoever sends this header `Accept` reads.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The header `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => prometheus_text::CONTENT_TYPE,
        }
    }
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram(Box<Histogram>),
}

type Labels = Vec<(&'static str, String)>;

/// What a page shows.
#[derive(Debug, Default)]
pub(super) struct Sheet(BTreeMap<&'static str, Vec<(Labels, Value)>>);

impl Sheet {
    /// Adds a value, with the values of the family's labels in their order.
    pub(super) fn put<const N: usize>(&mut self, family: &Family, labels: [&str; N], value: f64) {
        self.add(family, labels, Value::Number(value));
    }

    pub(super) fn put_histogram<const N: usize>(
        &mut self,
        family: &Family,
        labels: [&str; N],
        histogram: &Histogram,
    ) {
        self.add(family, labels, Value::Histogram(Box::new(*histogram)));
    }

    fn add<const N: usize>(&mut self, family: &Family, labels: [&str; N], value: Value) {
        debug_assert_eq!(family.labels.len(), N, "{}", family.name);
        let labels = family.labels.iter().copied().zip(labels.map(str::to_owned)).collect();
        self.0.entry(family.name).or_default().push((labels, value));
    }

    /// Families that it has nothing of.
    #[cfg(test)]
    pub(super) fn missing(&self) -> Vec<&'static str> {
        families::all().map(|family| family.name).filter(|name| !self.0.contains_key(name)).collect()
    }

    /// The page.
    pub(super) fn write(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        let written = match format {
            Format::OpenMetrics => text::encode(&mut page, &registry),
            Format::Text => prometheus_text::encode(&mut page, &registry),
        };
        // Nothing is refused but what a `String` cannot hold.
        debug_assert!(written.is_ok(), "{written:?}");
        page
    }
}

impl Collector for Sheet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in families::all() {
            let Some(values) = self.0.get(family.name) else { continue };
            // The encoder adds the end of a counter's name itself.
            let name = family.name.strip_suffix("_total").unwrap_or(family.name);
            let metric_type = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metrics = encoder.encode_descriptor(name, family.help, None, metric_type)?;
            for (labels, value) in values {
                encode_value(family.kind, value, metrics.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_value(kind: Kind, value: &Value, mut encoder: MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Histogram(histogram) => encoder.encode_histogram::<NoLabelSet>(
            histogram.sum(),
            histogram.count(),
            &histogram.buckets(),
            None,
        ),
        Value::Number(number) if kind == Kind::Counter => ConstCounter::new(*number).encode(encoder),
        Value::Number(number) => ConstGauge::new(*number).encode(encoder),
    }
}
