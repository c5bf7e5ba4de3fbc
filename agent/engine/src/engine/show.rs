//! What `cutover status` shows of an endpoint.

use super::locals::Local;
use super::{Engine, wants};
use crate::model::EndpointKey;
use crate::time::BootTime;
use crate::view::{EndpointView, RouteView};
use crate::wanted::Status;
use ipnet::IpNet;

impl Engine {
    pub(super) fn view_of(&self, key: &EndpointKey, local: &Local, now: BootTime) -> EndpointView {
        let link = self.link(&local.endpoint.interface);
        let wanted = self.wanted.statuses.get(key);
        let status = match wanted.map(|wanted| wanted.status) {
            Some(Status::Up) => "up",
            Some(Status::Down) => "down",
            Some(Status::AsReported) | None => "as reported",
        };
        let mut view = EndpointView {
            name: key.to_string(),
            key: key.clone(),
            interface: local.endpoint.interface.clone(),
            ifindex: link.map(|link| link.ifindex),
            mac: local.endpoint.mac,
            bridge: link.and_then(|link| self.bridge_of(link)).map(|bridge| bridge.name.clone()),
            running: link.is_some_and(|link| link.running),
            role: String::new(),
            state: local.machine.state,
            migration_uid: String::new(),
            status: status.to_owned(),
            status_due: wanted.is_some_and(|wanted| wanted.due_since.is_some()),
            held: local.held_since.is_some(),
            not_here: false,
            waits_for: None,
            routes: Vec::new(),
            watch: local.armed,
            announcement: None,
            announced_to_routed_ns: None,
            elevated_for_seconds: local.machine.elevated_until.map(|until| until.since(now).as_secs_f64()),
            felix: self.felix_view(key, local, now),
            migration: None,
            from_memory: false,
        };
        view.describe(&local.machine);
        if let (Some(elevated), Some(link)) = (local.machine.elevated(), link) {
            // On a bridge it may be the route of somebody else who comes first.
            let placed = self.placed.get(key);
            let is_denied = |prefix: &IpNet| placed.is_some_and(|placed| placed.is_denied(prefix));
            view.routes = wants::routes(&self.policy, &local.endpoint, self.outlet(link).ifindex, elevated)
                .filter(|route| self.wanted.routes.contains(route) && !is_denied(&route.destination))
                .map(|route| RouteView { destination: route.destination.to_string(), metric: route.metric })
                .collect();
        }
        view
    }
}
