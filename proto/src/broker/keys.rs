//! Key layout. Every key ends in a leaf id and every watched prefix in a slash, so that no prefix matches a longer
//! name.

use crate::id::{NodeId, TenantTimelineId};

/// Builds and reads keys below one prefix (default `/walfabric`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    prefix: String,
}

/// Default key prefix.
pub const DEFAULT_PREFIX: &str = "/walfabric";

impl Keys {
    /// Keys below `prefix`; trailing slashes are dropped.
    pub fn new(prefix: &str) -> Keys {
        Keys { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    /// The prefix, without a trailing slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A safekeeper's node record.
    pub fn safekeeper(&self, id: NodeId) -> String {
        format!("{}/sk/{id}", self.prefix)
    }

    /// Prefix of all safekeepers' node records.
    pub fn safekeepers(&self) -> String {
        format!("{}/sk/", self.prefix)
    }

    /// A pageserver's node record.
    pub fn pageserver(&self, id: NodeId) -> String {
        format!("{}/ps/{id}", self.prefix)
    }

    /// Prefix of all pageservers' node records.
    pub fn pageservers(&self) -> String {
        format!("{}/ps/", self.prefix)
    }

    /// Prefix of all that is published about timelines.
    pub fn timelines(&self) -> String {
        format!("{}/tl/", self.prefix)
    }

    /// Prefix of what safekeepers publish about one timeline.
    pub fn timeline_safekeepers(&self, ttid: TenantTimelineId) -> String {
        format!("{}/tl/{ttid}/sk/", self.prefix)
    }

    /// What one safekeeper publishes about one timeline.
    pub fn timeline_safekeeper(&self, ttid: TenantTimelineId, id: NodeId) -> String {
        format!("{}/tl/{ttid}/sk/{id}", self.prefix)
    }

    /// Prefix of what pageservers publish about one timeline.
    pub fn timeline_pageservers(&self, ttid: TenantTimelineId) -> String {
        format!("{}/tl/{ttid}/ps/", self.prefix)
    }

    /// What one pageserver (shard 0) publishes about one timeline.
    pub fn timeline_pageserver(&self, ttid: TenantTimelineId, id: NodeId) -> String {
        format!("{}/tl/{ttid}/ps/{id}.0", self.prefix)
    }

    /// Prefix of the choices that fell on one safekeeper.
    pub fn choices_of(&self, safekeeper: NodeId) -> String {
        format!("{}/push/{safekeeper}/", self.prefix)
    }

    /// Prefix of all choices.
    pub fn choices(&self) -> String {
        format!("{}/push/", self.prefix)
    }

    /// The choice of `safekeeper` by `pageserver` (shard 0).
    pub fn choice(&self, safekeeper: NodeId, ttid: TenantTimelineId, pageserver: NodeId) -> String {
        format!("{}/push/{safekeeper}/{ttid}/{pageserver}.0", self.prefix)
    }

    /// Member set of a timeline.
    pub fn conf(&self, ttid: TenantTimelineId) -> String {
        format!("{}/conf/{ttid}", self.prefix)
    }

    /// Prefix of all member sets.
    pub fn confs(&self) -> String {
        format!("{}/conf/", self.prefix)
    }

    /// The shim at work on a timeline.
    pub fn primary(&self, ttid: TenantTimelineId) -> String {
        format!("{}/primary/{ttid}", self.prefix)
    }

    /// Tenant and timeline of a key of the shapes `.../tl/T/L/...`, `.../push/SK/T/L/...`, `.../conf/T/L`,
    /// `.../primary/T/L`.
    pub fn ttid_of(&self, key: &str) -> Option<TenantTimelineId> {
        let mut parts = key.strip_prefix(&self.prefix)?.strip_prefix('/')?.split('/');
        if parts.next()? == "push" {
            parts.next()?;
        }
        Some(TenantTimelineId::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// The node at the end of a key: `.../7` or `.../7.0`.
    pub fn leaf_node(key: &str) -> Option<NodeId> {
        let leaf = key.rsplit('/').next()?;
        leaf.split('.').next()?.parse().ok().map(NodeId)
    }
}
