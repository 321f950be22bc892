//! A pageserver as a source of pages: what is many over its pagestream, the rest over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use pgformat::Lsn;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::api::{ControlDifference, Files, Relations, Segments};
use proto::id::TenantTimelineId;

use super::client::PageClient;
use super::verify::PagesAtLsn;
use super::{ANSWER_LIMIT, PageserverPorts, timeline_path};
use crate::http::Http;

/// A timeline of a pageserver at one LSN.
pub struct Remote {
    http: Http,
    server: PageserverPorts,
    path: String,
    lsn: Lsn,
    wait: Duration,
    pages: PageClient,
}

impl Remote {
    /// Of `server`; the LSN is waited for as long as `wait` says.
    ///
    /// # Errors
    /// When it does not answer, or has no pages of the timeline.
    pub async fn open(server: PageserverPorts, ttid: TenantTimelineId, lsn: Lsn, wait: Duration) -> Result<Remote> {
        let http = Http::new(wait + ANSWER_LIMIT)?;
        let pages = PageClient::open(&server.pg, ttid, lsn).await?;
        Ok(Remote { http, server, path: timeline_path(ttid), lsn, wait, pages })
    }

    fn at(&self, what: &str) -> String {
        let mark = if what.contains('?') { '&' } else { '?' };
        format!("{}/{what}{mark}lsn={}&wait_ms={}", self.path, self.lsn, self.wait.as_millis())
    }
}

impl PagesAtLsn for Remote {
    async fn relations(&mut self) -> Result<(BTreeMap<RelFork, BlockNumber>, BTreeSet<u32>)> {
        let all: Relations = self.http.get(&self.server.http, &self.at("relations")).await?;
        let one = |r: proto::api::RelationSize| Ok((r.rel.parse()?, r.blocks.context("a relation without a size")?));
        let forks: Result<_> = all.relations.into_iter().map(one).collect();
        Ok((forks?, all.logged_databases.into_iter().collect()))
    }

    async fn pages(&mut self, tags: &[BlockTag]) -> Result<Vec<Result<Bytes, String>>> {
        self.pages.pages(tags).await
    }

    async fn segments(&mut self, slru: Slru) -> Result<Vec<u32>> {
        let path = self.at(&format!("slru?kind={}", slru.directory()));
        let all: Segments = self.http.get(&self.server.http, &path).await?;
        Ok(all.segments.into_iter().map(|s| s.segno).collect())
    }

    async fn segment(&mut self, slru: Slru, segno: u32) -> Result<Bytes> {
        let path = self.at(&format!("slru?kind={}&segno={segno}", slru.directory()));
        self.http.get_bytes(&self.server.http, &path).await
    }

    async fn files(&mut self) -> Result<Vec<String>> {
        let all: Files = self.http.get(&self.server.http, &self.at("files")).await?;
        Ok(all.files)
    }

    async fn file(&mut self, path: &str) -> Result<Bytes> {
        self.http.get_bytes(&self.server.http, &self.at(&format!("files?path={path}"))).await
    }

    async fn control(&mut self, file: &[u8]) -> Result<Vec<ControlDifference>> {
        let path = self.at("control/compare");
        self.http.post_for(&self.server.http, &path, file.to_vec(), "application/octet-stream").await
    }
}
