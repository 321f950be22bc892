//! Statements in another member's name: whoever sends them, that member is asked itself, and they change nothing.

use libpq::NetError;
use proto::admission::{AdmissionAnswer, Statement};
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, Incarnation, NodeId, Term};
use proto::pg::sqlstate;
use safekeeper::core::FENCE_STEP;

use crate::common::{Log, Node, Proposer, body, ttid, until};

/// Three members that reach each other.
struct Three {
    nodes: Vec<Node>,
    log: Log,
}

impl Three {
    async fn start() -> Three {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(Node::start_with(|c| c.node.id = NodeId(id)).await);
        }
        let member = |n: &Node| Member { id: n.config.node.id, host: n.pg.ip().to_string(), pg_port: n.pg.port() };
        let members = nodes.iter().map(member).collect();
        let mconf = MemberConf::new(Generation::FIRST, members, vec![]).expect("a member set");
        let log = Log::new();
        let request = proto::api::CreateTimelineRequest { mconf, ..log.request(ttid(1)) };
        for node in &nodes {
            let (code, text) = node.post(body(&request, &log.prehistory)).await;
            assert_eq!(code, 201, "{text}");
        }
        let three = Three { nodes, log };
        for id in 1..=3 {
            until("it takes part", async || three.says(id).await.admitted.then_some(())).await;
        }
        three
    }

    /// What a member says of itself.
    async fn says(&self, id: usize) -> Statement {
        let text = self.ask(id, "MEMBER_STATEMENT").await.expect("a statement");
        serde_json::from_str(&text).expect("a statement")
    }

    async fn ask(&self, id: usize, command: &str) -> Result<String, NetError> {
        let mut connection = self.nodes[id - 1].dial(ttid(1), "stranger").await;
        let answer = connection.simple_query(command).await?.remove(0);
        Ok(answer.rows[0][0].clone().expect("no null"))
    }

    /// A stranger says this to member 1.
    async fn tell(&self, statement: &Statement) -> Result<AdmissionAnswer, NetError> {
        let json = serde_json::to_string(statement).expect("JSON");
        let text = self.ask(1, &format!("MEMBER_STATEMENT '{json}'")).await?;
        Ok(serde_json::from_str(&text).expect("an answer"))
    }
}

fn refused(answer: Result<AdmissionAnswer, NetError>) -> proto::pg::SqlError {
    answer.expect_err("refused").server_error().expect("the server's own").clone()
}

/// What somebody who never was a member may claim of member 2, though each number is one that could be.
fn plausible(two: &Statement, one: &Statement) -> Vec<Statement> {
    let far = one.flush_lsn.add(1 << 20);
    let leading = Statement {
        term: one.term,
        last_log_term: one.last_log_term,
        flush_lsn: far,
        committed: true,
        commit_lsn: Some(far),
        ..two.clone()
    };
    vec![
        Statement { starts: two.starts + 1_000, ..two.clone() },
        Statement { incarnation: Incarnation::new([0; 16]), ..leading.clone() },
        Statement { term: Term(one.term.0 + 1_000), ..leading.clone() },
        Statement { fence: Some(Term(one.term.0 + FENCE_STEP)), admitted: false, ..two.clone() },
        Statement { readmitted: Term(one.term.0 + 7), term: Term(one.term.0 + 9), ..two.clone() },
        leading,
    ]
}

#[tokio::test]
async fn a_strangers_statements_change_nothing() {
    let mut three = Three::start().await;
    // WAL that is durable at member 1 alone: nothing of it is committed.
    let start = three.log.start;
    three.log.grow(20_000);
    let mut proposer = Proposer::elected(&three.nodes[0], ttid(1), 7, &three.log).await;
    proposer.push(&three.log, start, None).await;
    let (one, two) = (three.says(1).await, three.says(2).await);
    assert_eq!((one.term, one.flush_lsn, one.commit_lsn), (Term(7), three.log.end(), Some(start)));

    for absurd in [
        Statement { term: Term(u64::MAX), ..two.clone() },
        Statement { fence: Some(Term(u64::MAX)), ..two.clone() },
        Statement { commit_lsn: Some(pgformat::Lsn::MAX), ..two.clone() },
    ] {
        let error = refused(three.tell(&absurd).await);
        assert_eq!((&*error.code, error.hint.is_some()), (sqlstate::INVALID_PARAMETER_VALUE, true), "{error}");
    }
    for claim in plausible(&two, &one) {
        let answer = three.tell(&claim).await.expect("an answer");
        assert_eq!(answer.fenced, None, "{claim:?}");
        let remembered = answer.remembered.expect("it is remembered");
        assert_eq!(remembered.objection(&two), None, "{claim:?} is remembered as {remembered:?}");
    }
    for stranger in [1, 9] {
        let error = refused(three.tell(&Statement { safekeeper_id: NodeId(stranger), ..two.clone() }).await);
        assert_eq!(error.code, sqlstate::INVALID_PARAMETER_VALUE, "{error}");
    }
    assert_eq!(three.says(1).await, one, "nothing moved at the member that heard it");
    assert_eq!(three.says(2).await, two, "nor at the one in whose name it was said");
    assert_eq!(three.tell(&two).await.expect("an answer").remembered.expect("known").objection(&two), None);

    // Nobody speaks for a member that is away.
    let at = three.nodes[1].pg;
    assert_eq!(three.nodes[1].stop().await, 0);
    let error = refused(three.tell(&Statement { starts: two.starts + 1, ..two.clone() }).await);
    assert_eq!(error.code, sqlstate::CANNOT_CONNECT_NOW, "{error}");
    let text = format!("cannot reach safekeeper 2 at {at}, as the member set has it, to hear its statement: ");
    assert!(error.message.starts_with(&text), "{error}");
    assert_eq!(three.says(1).await, one);
}
