//! `serve`: the bus as a plain server.

use anyhow::Result;
use fanout_plan::listen::{Listening, TlsFiles};
use fanout_provider::{ServeError, Server, TailLimits};

use crate::terminal::{json_line, say};
use crate::{args, bus};

pub(crate) async fn serve(args: &args::Serve, json: bool) -> Result<()> {
    fanout_provider::log_as_json(args.log == args::LogFormat::Json);
    fanout_provider::log_to_standard_error();
    let connection = args.nats.connection()?;
    let shown = connection.access.shown();
    let tls = args.tls_certificate.clone().zip(args.tls_key.clone());
    let server = Server {
        policy: args.policy.clone(),
        place: args.place.clone(),
        nats: connection.access,
        jetstream: connection.jetstream,
        listening: Listening {
            endpoints: args.listen.clone(),
            tls: tls.map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                client_ca: args.tls_client_ca.clone(),
                client_crl: args.tls_client_crl.clone(),
            }),
            allow_unauthenticated_network_peers: args.allow_unauthenticated_network_peers,
            by_flags: !args.listen.is_empty() || args.tls_certificate.is_some(),
            ..Listening::default()
        },
        tails: TailLimits::default(),
    };
    fanout_provider::serve(server, |bus, endpoints| {
        let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        let said = if json {
            say!(
                "{}",
                json_line(&serde_json::json!({ "serving": bus, "listen": endpoints }))
            )
        } else {
            say!("serving bus {bus} on {}", endpoints.join(" "))
        };
        // A server whose output nobody reads serves all the same.
        drop(said);
    })
    .await
    .map_err(|e| {
        let what = match &e {
            ServeError::Store(source) => bus::why(source, &shown),
            _ => return e.into(),
        };
        anyhow::Error::new(e).context(what)
    })
}
