//! Whether pinned maps are what this agent expects, by the version of what they hold and by their layout. Maps of another version
//! are replaced: their content means something else.

use super::error::OpenError;
use super::pins::{self, Pins};
use aya::maps::{MapInfo, MapType};
use cutover_common::abi::{EVENTS_BYTES, EVIDENCE_MAX, Evidence, Settings, VERSION, WATCHES_MAX, Watch};
use cutover_common::{Counters, names};

/// What makes two maps interchangeable.
#[derive(PartialEq, Debug)]
struct Layout {
    kind: MapType,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
}

const fn layout(kind: MapType, key_bytes: usize, value_bytes: usize, entries_max: u32) -> Layout {
    Layout { kind, key_bytes: key_bytes as u32, value_bytes: value_bytes as u32, entries_max }
}

/// The maps of the object, as `ebpf/src/maps.rs` declares them.
pub(super) const MAPS: [&str; 5] =
    [names::MAP_WATCHES, names::MAP_EVIDENCE, names::MAP_SETTINGS, names::MAP_COUNTERS, names::MAP_EVENTS];

fn expected(name: &str) -> Option<Layout> {
    Some(match name {
        names::MAP_WATCHES => layout(MapType::Hash, 4, size_of::<Watch>(), WATCHES_MAX),
        names::MAP_EVIDENCE => layout(MapType::Hash, 8, size_of::<Evidence>(), EVIDENCE_MAX),
        names::MAP_SETTINGS => layout(MapType::Array, 4, size_of::<Settings>(), 1),
        names::MAP_COUNTERS => layout(MapType::PerCpuArray, 4, size_of::<Counters>(), 1),
        names::MAP_EVENTS => layout(MapType::RingBuf, 0, 0, EVENTS_BYTES),
        _ => return None,
    })
}

/// Removes the pins of maps that cannot be used, so that loading the object makes new ones. What still uses
/// the old ones keeps them until its program is replaced.
pub(super) fn remove_outdated_maps(pins: &Pins) -> Result<(), OpenError> {
    let found = pins.abi().map_err(|error| OpenError::Pins {
        step: "cannot list",
        path: pins.root().to_owned(),
        error,
    })?;
    let is_ours = found.iter().eq([&VERSION]);
    for name in MAPS {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let observed = MapInfo::from_pin(&path).ok().and_then(|info| {
            Some(Layout {
                kind: info.map_type().ok()?,
                key_bytes: info.key_size(),
                value_bytes: info.value_size(),
                entries_max: info.max_entries(),
            })
        });
        if !is_ours || observed != expected(name) {
            tracing::warn!(map = name, version = ?found, ?observed, "a pinned map is of another version and is replaced");
            pins::remove(&path).map_err(|error| OpenError::Pins { step: "cannot remove", path, error })?;
        }
    }
    // ORDER: last, or maps of another version would pass for ours after a crash.
    mark(pins)
}

/// Notes that the pinned maps hold what this agent writes.
pub(super) fn mark(pins: &Pins) -> Result<(), OpenError> {
    pins.mark_abi(VERSION).map_err(|error| OpenError::Pins {
        step: "cannot mark",
        path: pins.root().to_owned(),
        error,
    })
}
