//! The operator's HTTP client: JSON in and out, errors with the server's own words.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::api::ErrorBody;
use serde::de::DeserializeOwned;

/// A client with one time limit for every request.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
}

impl Http {
    /// A client whose requests take at most `limit`.
    ///
    /// # Errors
    /// When the client cannot be built.
    pub fn new(limit: Duration) -> Result<Http> {
        node::use_ring();
        let client =
            reqwest::Client::builder().timeout(limit).no_proxy().build().context("cannot build an HTTP client")?;
        Ok(Http { client })
    }

    /// Fetches JSON from `http://address/path`.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error.
    pub async fn get<T: DeserializeOwned>(&self, address: &str, path: &str) -> Result<T> {
        let response = self.client.get(format!("http://{address}{path}")).send().await;
        let response = checked(address, path, response).await?;
        response.json().await.with_context(|| format!("http://{address}{path} answered with unexpected JSON"))
    }

    /// Checks that `http://address/path` answers with success.
    ///
    /// # Errors
    /// When it does not.
    pub async fn get_ok(&self, address: &str, path: &str) -> Result<()> {
        checked(address, path, self.client.get(format!("http://{address}{path}")).send().await).await.map(drop)
    }

    /// The process that answers at `address`; `None`: it does not say.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error.
    pub async fn process_at(&self, address: &str) -> Result<Option<u32>> {
        let sent = self.client.get(format!("http://{address}/livez")).send().await;
        let response = checked(address, "/livez", sent).await?;
        Ok(response.headers().get(node::PID_HEADER).and_then(|pid| pid.to_str().ok()?.parse().ok()))
    }

    /// Fetches raw bytes.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error.
    pub async fn get_bytes(&self, address: &str, path: &str) -> Result<bytes::Bytes> {
        let response = checked(address, path, self.client.get(format!("http://{address}{path}")).send().await).await?;
        response.bytes().await.with_context(|| format!("http://{address}{path} broke off"))
    }

    /// Posts a body; true when something was created, false when it was there already.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error.
    pub async fn post(&self, address: &str, path: &str, body: Vec<u8>, content_type: &str) -> Result<bool> {
        let request =
            self.client.post(format!("http://{address}{path}")).header("content-type", content_type).body(body);
        let response = checked(address, path, request.send().await).await?;
        Ok(response.status() == reqwest::StatusCode::CREATED)
    }

    /// Deletes what is at a path; false when nothing was there.
    ///
    /// # Errors
    /// When nobody answers, or the answer is another error than 404.
    pub async fn delete(&self, address: &str, path: &str) -> Result<bool> {
        let sent = self.client.delete(format!("http://{address}{path}")).send().await;
        if sent.as_ref().is_ok_and(|r| r.status() == reqwest::StatusCode::NOT_FOUND) {
            return Ok(false);
        }
        checked(address, path, sent).await.map(|_| true)
    }

    /// Posts a body and reads JSON.
    ///
    /// # Errors
    /// When nobody answers, or the answer is an error.
    pub async fn post_for<T: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        body: Vec<u8>,
        content_type: &str,
    ) -> Result<T> {
        let request =
            self.client.post(format!("http://{address}{path}")).header("content-type", content_type).body(body);
        let response = checked(address, path, request.send().await).await?;
        response.json().await.with_context(|| format!("http://{address}{path} answered with unexpected JSON"))
    }
}

async fn checked(address: &str, path: &str, sent: reqwest::Result<reqwest::Response>) -> Result<reqwest::Response> {
    let response = sent.with_context(|| format!("no answer from http://{address}{path}"))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    match serde_json::from_str::<ErrorBody>(&text) {
        Ok(body) => {
            let hint = body.hint.map(|h| format!(" ({h})")).unwrap_or_default();
            bail!("{address} answered {status}: {}{hint}", body.error)
        }
        Err(_) => bail!("{address}{path} answered {status}: {}", text.trim()),
    }
}
