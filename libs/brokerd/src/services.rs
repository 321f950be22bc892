//! The unary services: KV, Lease, and the few calls of Cluster and Maintenance that `etcdctl` needs.
//!
//! Stateless: each call is one piece of work for the writer.

use std::time::Duration;

use etcd_client::proto::{
    PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbClusterService, PbCompactionRequest, PbCompactionResponse,
    PbDefragmentRequest, PbDefragmentResponse, PbDeleteRequest, PbDeleteResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbKvService,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbMaintenanceService, PbMember, PbMemberAddRequest, PbMemberAddResponse,
    PbMemberListRequest, PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse, PbMoveLeaderRequest, PbMoveLeaderResponse,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse, PbTxnRequest, PbTxnResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::limits::{REQUEST_BYTES_MAX, put_request_bytes, txn_request_bytes};
use super::store::{KeyStore, RequestRefusal};
use super::writer::Requests;

/// Version that `etcdctl endpoint status` shows: the API that is spoken.
const API_VERSION: &str = "3.4.0";

/// Answers that may wait for a client that does not read its keep-alive stream.
const KEEP_ALIVES_MAX: usize = 16;

// etcd's numbers for actions on an alarm, and for the alarms.
const ALARM_LIST: i32 = 0;
const ALARM_RAISE: i32 = 1;
const ALARM_DISARM: i32 = 2;
const NO_SPACE: i32 = 1;
const CORRUPT: i32 = 2;

type GrpcResult<T> = Result<Response<T>, Status>;

/// What every service needs.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) requests: Requests,
    pub(super) address: String,
    pub(super) cancel: CancellationToken,
    pub(super) streams: TaskTracker,
}

pub(super) fn status_of(refusal: RequestRefusal) -> Status {
    match refusal {
        RequestRefusal::Compacted | RequestRefusal::FutureRevision | RequestRefusal::TtlTooLarge => {
            Status::out_of_range(refusal.text())
        }
        RequestRefusal::NoSpace
        | RequestRefusal::KeysTooLong
        | RequestRefusal::AnswerTooLarge
        | RequestRefusal::TooManyLeases => Status::resource_exhausted(refusal.text()),
        RequestRefusal::LeaseNotFound => Status::not_found(refusal.text()),
        RequestRefusal::LeaseExists => Status::failed_precondition(refusal.text()),
        _ => Status::invalid_argument(refusal.text()),
    }
}

fn check_size(bytes: usize) -> Result<(), Status> {
    if bytes > REQUEST_BYTES_MAX { Err(status_of(RequestRefusal::RequestTooLarge)) } else { Ok(()) }
}

fn not_offered<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("the embedded broker has no {what}")))
}

impl Services {
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut KeyStore, u64) -> Result<T, RequestRefusal> + Send + 'static,
    ) -> GrpcResult<T> {
        self.requests.run(work).await?.map(Response::new).map_err(status_of)
    }
}

#[async_trait]
impl PbKvService for Services {
    type RangeStreamStream = ReceiverStream<Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, request: Request<PbRangeRequest>) -> GrpcResult<PbRangeResponse> {
        let request = request.into_inner();
        self.ask(move |store, _| store.range(&request)).await
    }

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> GrpcResult<Self::RangeStreamStream> {
        not_offered("streamed ranges")
    }

    async fn put(&self, request: Request<PbPutRequest>) -> GrpcResult<PbPutResponse> {
        let request = request.into_inner();
        check_size(put_request_bytes(&request))?;
        self.ask(move |store, now| store.put(&request, now)).await
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> GrpcResult<PbDeleteResponse> {
        let request = request.into_inner();
        self.ask(move |store, now| store.delete_range(&request, now)).await
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> GrpcResult<PbTxnResponse> {
        let request = request.into_inner();
        check_size(txn_request_bytes(&request))?;
        self.ask(move |store, now| store.txn(&request, now)).await
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> GrpcResult<PbCompactionResponse> {
        let revision = request.into_inner().revision;
        self.ask(move |store, now| {
            store.compact(revision, now)?;
            Ok(PbCompactionResponse { header: Some(store.header()) })
        })
        .await
    }
}

#[async_trait]
impl PbLeaseService for Services {
    type LeaseKeepAliveStream = ReceiverStream<Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_grant(&self, request: Request<PbLeaseGrantRequest>) -> GrpcResult<PbLeaseGrantResponse> {
        let PbLeaseGrantRequest { ttl, id } = request.into_inner();
        self.ask(move |store, now| {
            let draw = || std::iter::repeat_with(|| fastrand::i64(1..)).find(|id| !store.has_lease(*id));
            let lease = if id == 0 { draw().unwrap_or(1) } else { id };
            store.grant(lease, ttl, now)
        })
        .await
    }

    async fn lease_revoke(&self, request: Request<PbLeaseRevokeRequest>) -> GrpcResult<PbLeaseRevokeResponse> {
        let id = request.into_inner().id;
        self.ask(move |store, now| {
            store.revoke(id, now)?;
            Ok(PbLeaseRevokeResponse { header: Some(store.header()) })
        })
        .await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> GrpcResult<Self::LeaseKeepAliveStream> {
        let (sender, receiver) = mpsc::channel(KEEP_ALIVES_MAX);
        let (requests, cancel) = (self.requests.clone(), self.cancel.clone());
        let incoming = request.into_inner();
        self.streams.spawn(async move { cancel.run_until_cancelled(keep_alive(requests, incoming, sender)).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> GrpcResult<PbLeaseTimeToLiveResponse> {
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        self.ask(move |store, now| store.time_to_live(id, keys, now)).await
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> GrpcResult<PbLeaseLeasesResponse> {
        self.ask(|store, _| Ok(PbLeaseLeasesResponse { header: Some(store.header()), leases: store.lease_statuses() }))
            .await
    }
}

/// Answers the keep-alives of one client until it hangs up.
async fn keep_alive(
    requests: Requests,
    mut incoming: Streaming<PbLeaseKeepAliveRequest>,
    answers: mpsc::Sender<Result<PbLeaseKeepAliveResponse, Status>>,
) {
    while let Ok(Some(PbLeaseKeepAliveRequest { id })) = incoming.message().await {
        let answer = requests
            .run(move |store, now| {
                // As in etcd, a time to live of 0 means an unknown lease.
                let ttl = store.keep_alive(id, now).unwrap_or(0);
                PbLeaseKeepAliveResponse { header: Some(store.header()), id, ttl }
            })
            .await;
        let ended = answer.is_err();
        if answers.send(answer).await.is_err() || ended {
            return;
        }
    }
}

#[async_trait]
impl PbClusterService for Services {
    async fn member_list(&self, _: Request<PbMemberListRequest>) -> GrpcResult<PbMemberListResponse> {
        let urls = vec![format!("http://{}", self.address)];
        self.ask(move |store, _| {
            let header = store.header();
            let member = PbMember {
                id: header.member_id,
                name: "embedded".to_owned(),
                peer_ur_ls: Vec::new(),
                client_ur_ls: urls,
                is_learner: false,
            };
            Ok(PbMemberListResponse { header: Some(header), members: vec![member] })
        })
        .await
    }

    async fn member_add(&self, _: Request<PbMemberAddRequest>) -> GrpcResult<PbMemberAddResponse> {
        not_offered("other members")
    }

    async fn member_remove(&self, _: Request<PbMemberRemoveRequest>) -> GrpcResult<PbMemberRemoveResponse> {
        not_offered("other members")
    }

    async fn member_update(&self, _: Request<PbMemberUpdateRequest>) -> GrpcResult<PbMemberUpdateResponse> {
        not_offered("other members")
    }

    async fn member_promote(&self, _: Request<PbMemberPromoteRequest>) -> GrpcResult<PbMemberPromoteResponse> {
        not_offered("other members")
    }
}

#[async_trait]
impl PbMaintenanceService for Services {
    type SnapshotStream = ReceiverStream<Result<PbSnapshotResponse, Status>>;

    async fn status(&self, _: Request<PbStatusRequest>) -> GrpcResult<PbStatusResponse> {
        self.ask(|store, _| {
            let header = store.header();
            let bytes = i64::try_from(store.used_bytes()).unwrap_or(i64::MAX);
            let alarm = store.is_full().then(|| format!("memberID:{} alarm:NOSPACE", header.member_id));
            Ok(PbStatusResponse {
                version: API_VERSION.to_owned(),
                db_size: bytes,
                db_size_in_use: bytes,
                leader: header.member_id,
                raft_term: header.raft_term,
                raft_index: u64::try_from(header.revision).unwrap_or(0),
                raft_applied_index: u64::try_from(header.revision).unwrap_or(0),
                header: Some(header),
                errors: alarm.into_iter().chain(store.crowd()).collect(),
                ..PbStatusResponse::default()
            })
        })
        .await
    }

    async fn alarm(&self, request: Request<PbAlarmRequest>) -> GrpcResult<PbAlarmResponse> {
        let PbAlarmRequest { action, member_id, alarm } = request.into_inner();
        self.ask(move |store, _| {
            let header = store.header();
            let shown = match action {
                ALARM_RAISE if alarm == NO_SPACE => {
                    store.set_full(true);
                    true
                }
                // As in etcd: the alarm is named by its member.
                ALARM_DISARM if alarm == NO_SPACE && member_id == header.member_id => store.set_full(false),
                ALARM_LIST if alarm != CORRUPT => store.is_full(),
                _ => false,
            };
            let member = PbAlarmMember { member_id: header.member_id, alarm: NO_SPACE };
            Ok(PbAlarmResponse { alarms: shown.then_some(member).into_iter().collect(), header: Some(header) })
        })
        .await
    }

    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> GrpcResult<PbDefragmentResponse> {
        not_offered("defragmentation: its log is rewritten by itself")
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> GrpcResult<PbHashResponse> {
        not_offered("hash")
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> GrpcResult<PbHashKvResponse> {
        not_offered("hash")
    }

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> GrpcResult<Self::SnapshotStream> {
        not_offered("snapshots: copy its directory while it is stopped")
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> GrpcResult<PbMoveLeaderResponse> {
        not_offered("other members")
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> GrpcResult<PbDowngradeResponse> {
        not_offered("downgrades")
    }
}

/// How long open streams may take to end at a stop.
pub(super) const STREAMS_END: Duration = Duration::from_secs(2);
