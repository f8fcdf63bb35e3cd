//! With `--stay`: what a person can try while everything runs.

use anyhow::Result;

use crate::console::Console;
use crate::endpoints::Endpoints;
use crate::rundir::RunDir;
use crate::signature::Secret;
use crate::stack::Stack;

/// Prints commands that work as they are, in any shell.
pub(super) fn print(
    console: &Console,
    stack: &Stack,
    endpoints: &Endpoints,
    secret: &Secret,
    run: &RunDir,
) -> Result<()> {
    let (nats, status) = (stack.bus_nats()?.address(), stack.bus_status());
    let lines = [
        String::new(),
        "It goes on running. To try, in another terminal:".to_owned(),
        String::new(),
        "# A webhook of your own. Post it again, and the answer says that it is a duplicate.".to_owned(),
        format!("secret={}", secret.expose()),
        r#"body='{"id":"evt_mine_1","object":"event","type":"invoice.paid","created":'$(date +%s)',"data":{"object":{"id":"in_1","object":"invoice","amount_paid":4900,"currency":"eur","customer":"cus_1","created":'$(date +%s)',"metadata":{"tenant":"acme"}}}}'"#.to_owned(),
        r#"t=$(date +%s); v1=$(printf '%s.%s' "$t" "$body" | openssl dgst -sha256 -hmac "$secret" | sed 's/^.* //')"#.to_owned(),
        format!(
            r#"curl -i "{}" -H 'content-type: application/json' -H "stripe-signature: t=$t,v1=$v1" -d "$body""#,
            endpoints.ingress.url("/webhooks/stripe")
        ),
        String::new(),
        "# What the consumers made of it.".to_owned(),
        format!("curl {}", endpoints.invoicing.url("/invoices/acme")),
        format!("curl {}", endpoints.entitlements.url("/entitlements/acme/cus_acme0001")),
        format!("curl {}", endpoints.analytics.url("/reports/late")),
        String::new(),
        "# Another backfill, of one tenant's invoices.".to_owned(),
        format!(
            r#"curl -i {} -d '{{"name":"invoices-of-acme","from":"first","tenants":["acme"],"event_types":["invoice.*"]}}'"#,
            endpoints.analytics.url("/backfills")
        ),
        format!("curl {}", endpoints.analytics.url("/reports/invoices-of-acme")),
        String::new(),
        "# How the bus is doing, and what it holds (needs the nats command line tool).".to_owned(),
        format!("nats --server {nats} request {status} ''"),
        format!("nats --server {nats} stream view fanout_payments_dead"),
        String::new(),
        format!("The logs are in {}. Ctrl-C ends it and leaves nothing behind.", run.logs().display()),
    ];
    for line in lines {
        console.line(line);
    }
    Ok(())
}
