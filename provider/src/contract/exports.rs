//! The contract's functions as a service, for every listener and both backends alike; and who calls them, under one name.

use fanout_plan::authority::{self, Identity, TokenHash};
use fanout_transport::{Caller, CertificateNames, Error, Service};
use fanout_wit::PUBLISHER;
use fanout_wit::bus::exports::fanout::bus::publisher::Handler as _;
use fanout_wit::types::Event;

use super::backend::{Backend, Rights};
use super::guard::OfContract;
use crate::inbox::Waiting;

/// The one handler behind every function of the contract.
#[derive(Clone)]
pub(super) struct Exports<B> {
    pub(super) backend: B,
    /// Fetches that wait.
    pub(super) waiting: Waiting,
}

/// `publisher`, `subscriber`, `inbox` and `status`. What is called for each event is decoded and answered without
/// frames.
pub(super) async fn service<B: Backend>(backend: B) -> Result<Service, Error> {
    let guard = OfContract::new(backend.clone());
    let (of_one, of_all) = B::WAITING;
    let exports = Exports {
        backend,
        waiting: Waiting::new(of_one, of_all),
    };
    let (one, many) = (exports.clone(), exports.clone());
    let service = Service::new()
        .guarded(guard)
        .bindings(move |port| {
            let exports = exports.clone();
            async move { fanout_wit::bus::serve(port.as_ref(), exports).await }
        })
        .await?
        .direct(PUBLISHER, "publish-tenant-event", move |caller, (event,): (Event,)| {
            let exports = one.clone();
            async move { exports.publish_tenant_event(caller, event).await }
        })
        .direct(
            PUBLISHER,
            "publish-tenant-events",
            move |caller, (events,): (Vec<Event>,)| {
                let exports = many.clone();
                async move { exports.publish_tenant_events(caller, events).await }
            },
        );
    Ok(service)
}

/// The caller under the one name by which its rights are known, before any function sees it: on the lattice the
/// component's id, elsewhere that of the policy's caller whose identity the connection proved.
pub(super) fn known(view: &impl Rights, caller: Caller) -> Caller {
    if caller.identity == fanout_transport::Identity::Lattice {
        // What a component calls itself must not be taken for a name that only we give.
        let component = Some(caller.component.clone()).filter(|id| !authority::is_given(id));
        return Caller {
            component: component.unwrap_or_default(),
            ..caller
        };
    }
    Caller {
        component: view.name_of(&proved(&caller.identity)),
        link: "default".to_owned(),
        ..caller
    }
}

/// All that a connection proves of its caller, each of its kind. Nothing of whoever is nobody.
pub(super) fn proved(identity: &fanout_transport::Identity) -> Vec<Identity> {
    match identity {
        fanout_transport::Identity::Certificate(names) => names_of(names).collect(),
        // A token of one caller beside a certificate of another is neither's: both are looked up.
        fanout_transport::Identity::Token(proof) => {
            let token = Identity::Token(TokenHash::new(proof.sha256));
            let certificate = proof.certificate.iter().flat_map(|names| names_of(names));
            std::iter::once(token).chain(certificate).collect()
        }
        fanout_transport::Identity::Unix { uid, .. } => vec![Identity::UnixUser(*uid)],
        fanout_transport::Identity::Loopback => vec![Identity::Loopback],
        _ => Vec::new(),
    }
}

/// Every name of a certificate, each of its kind.
fn names_of(names: &CertificateNames) -> impl Iterator<Item = Identity> + '_ {
    let uris = names.uris.iter().map(|uri| Identity::certificate_uri(uri));
    let dns = names.dns.iter().map(|name| Identity::certificate_dns(name));
    let common_names = names.common_names.iter().map(|name| Identity::certificate_cn(name));
    uris.chain(dns).chain(common_names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_nobody_proves_nothing() {
        for identity in [fanout_transport::Identity::Nobody, fanout_transport::Identity::Lattice] {
            assert_eq!(proved(&identity), []);
        }
        assert_eq!(proved(&fanout_transport::Identity::Loopback), [Identity::Loopback]);
    }
}
