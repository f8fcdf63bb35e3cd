//! `status` over HTTP: how the caller's own links are doing.

use axum::Json;
use fanout_wit::STATUS;
use fanout_wit::types::{LinkState, LinkStatus};
use schemars::JsonSchema;
use serde::Serialize;

use super::call::Call;
use super::problem::Refused;
use super::subscriptions::CodeAndMessage;

/// The caller's links.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Links {
    /// By name, then by subscription. A caller of the policy has none.
    links: Vec<Link>,
}

/// A link between the caller and the bus.
#[derive(Debug, Serialize, JsonSchema)]
struct Link {
    /// Its name in the manifest.
    name: String,
    /// The subscription that it declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    /// `applied` where it is in force, `refused` where it is not.
    state: &'static str,
    /// Every reason why it is not in force.
    problems: Vec<CodeAndMessage>,
}

impl From<LinkStatus> for Link {
    fn from(link: LinkStatus) -> Self {
        let (state, problems) = match link.state {
            LinkState::Applied => ("applied", Vec::new()),
            LinkState::Refused(problems) => ("refused", problems.into_iter().map(CodeAndMessage::from).collect()),
        };
        Self {
            name: link.name,
            subscription: link.subscription,
            state,
            problems,
        }
    }
}

/// `GET /v1/status`
pub(super) async fn links(call: Call) -> Result<Json<Links>, Refused> {
    call.parameters(&[])?;
    let links: Vec<LinkStatus> = call.invoke(STATUS, "links", ()).await?;
    Ok(Json(Links {
        links: links.into_iter().map(Link::from).collect(),
    }))
}
