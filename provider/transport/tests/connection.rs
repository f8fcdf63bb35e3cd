//! Connecting with a user's JWT and seed, to several servers, and again after a server was killed.

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fanout_transport::testing::{NatsServer, NatsSettings};
use fanout_transport::{Access, CallContext, Error, Lattice, Login, Options, Outcome, connect};
use nkeys::KeyPair;
use serde_json::{Value, json};
use support::bindings::test::echo::echo;
use support::{Echo, client, eventually, eventually_async, serve, stock_client, stock_nats};

async fn reachable(urls: &str) -> Lattice {
    let access = Access {
        urls: urls.to_owned(),
        ..Access::default()
    };
    let nats = connect(&access, "test").await.expect("a connection");
    Lattice::new(nats, Options::default()).await.expect("a lattice")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_after_the_server_was_killed_and_started_again() {
    let mut nats = NatsServer::start().await;
    let serving = reachable(&nats.url()).await;
    let server = serve(&serving, &Echo::default()).await;
    let calling = reachable(&nats.url()).await;
    let client = client(&calling);
    let call = async || {
        let cx = CallContext::within(Duration::from_secs(1));
        echo::length(&client, cx, "", &Bytes::from_static(b"12")).await
    };
    assert_eq!(call().await.expect("a result"), Ok(2));
    for _ in 0..2 {
        nats.kill();
        eventually_async("the loss is noticed", async || match call().await {
            Ok(_) => false,
            Err(error) => matches!(Error::find(&error), Some(Error::Disconnected)),
        })
        .await;
        assert_eq!(Error::Disconnected.outcome(), Outcome::NotStarted);
        nats.restart().await;
        eventually_async("calls succeed again", async || call().await.is_ok()).await;
        for _ in 0..50 {
            assert_eq!(call().await.expect("a result"), Ok(2));
        }
        // The queue group is there again as well, and once.
        let stock = stock_client(&stock_nats(&nats).await).await;
        let who = support::stock::test::echo::echo::who(&stock, None).await;
        assert!(who.is_ok(), "{who:?}");
    }
    eventually("what was cut off ends", || server.in_flight() == 0).await;
    assert_eq!(calling.load().exchanges, 0);
    // A subscription that outlived servers can still be left without a loss.
    assert_eq!(server.drain(support::PATIENCE).await.abandoned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_servers_is_enough() {
    let nats = NatsServer::start().await;
    let lattice = reachable(&format!("nats://127.0.0.1:1, {},", nats.url())).await;
    let _server = serve(&lattice, &Echo::default()).await;
    let length = echo::length(&client(&lattice), CallContext::default(), "", &Bytes::new()).await;
    assert_eq!(length.expect("a result"), Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_is_an_error() {
    let access = Access {
        urls: "127.0.0.1:1".into(),
        ..Access::default()
    };
    assert!(matches!(connect(&access, "test").await, Err(Error::Connect { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_for_good_ends_its_calls() {
    let nats = NatsServer::start().await;
    let serving = reachable(&nats.url()).await;
    let echo = Echo::default();
    let _server = serve(&serving, &echo).await;
    let calling = reachable(&nats.url()).await;
    let client = client(&calling);
    let call = tokio::spawn(async move { echo::length(&client, CallContext::default(), "gate", &Bytes::new()).await });
    echo.begun(1).await;
    calling.nats().drain().await.expect("drained");
    let error = call.await.expect("no panic").expect_err("closed");
    let error = Error::find(&error).expect("an error of the transport");
    assert!(matches!(error, Error::Closed), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
}

/// A NATS JWT: its issuer signs who the subject is.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": name, "nats": nats,
    });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = format!("{}.{}", encode(&header), encode(&claims));
    let signature = issuer.sign(body.as_bytes()).expect("a seed");
    format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_proves_itself_by_jwt_and_seed() {
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    // JetStream needs a system account; nobody uses it.
    let system = KeyPair::new_account();
    let unlimited = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1 });
    let operator_jwt = jwt(
        &operator,
        &operator,
        "operator",
        &json!({ "type": "operator", "version": 2 }),
    );
    let claims = json!({ "type": "account", "version": 2, "limits": unlimited });
    let account_jwt = jwt(&operator, &account, "account", &claims);
    let system_jwt = jwt(&operator, &system, "system", &claims);
    let user_jwt = jwt(
        &account,
        &user,
        "user",
        &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
    );
    let settings = NatsSettings {
        config: Some(format!(
            "operator: {operator_jwt}\nresolver: MEMORY\nsystem_account: {system}\n\
             resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}\n",
            account = account.public_key(),
            system = system.public_key(),
        )),
        ..NatsSettings::default()
    };
    let mut nats = NatsServer::start_with(settings).await;
    let nobody = Access {
        urls: nats.url(),
        ..Access::default()
    };
    assert!(
        connect(&nobody, "test").await.is_err(),
        "the server wants to know who it is"
    );
    let stranger = Access {
        user_jwt: user_jwt.clone(),
        user_seed: KeyPair::new_user().seed().expect("a seed"),
        ..nobody.clone()
    };
    assert!(
        connect(&stranger, "test").await.is_err(),
        "the seed is not that of the JWT"
    );

    let access = Access {
        user_jwt: format!(" {user_jwt}\n"),
        user_seed: format!("{}\n", user.seed().expect("a seed")),
        ..nobody
    };
    let connection = connect(&access, "test").await.expect("a connection");
    let lattice = Lattice::new(connection, Options::default()).await.expect("a lattice");
    let _server = serve(&lattice, &Echo::default()).await;
    let client = client(&lattice);
    let length = echo::length(&client, CallContext::default(), "", &Bytes::new()).await;
    assert_eq!(length.expect("a result"), Ok(0));
    // A file of credentials is the same, and what is written into it later counts.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("app.creds");
    let creds = |seed: &str| {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, text).expect("it is written");
    };
    let by_file = Access {
        urls: nats.url(),
        login: Login::Credentials(file.clone()),
        ..Access::default()
    };
    creds(&KeyPair::new_user().seed().expect("a seed"));
    assert!(
        matches!(connect(&by_file, "test").await, Err(Error::Connect { .. })),
        "the seed is not that of the JWT"
    );
    creds(&user.seed().expect("a seed"));
    let filed = connect(&by_file, "test").await.expect("a connection");
    filed.flush().await.expect("it is let in");
    // It signs a new nonce for each connection.
    nats.restart().await;
    eventually_async("the file is read for each connection", async || {
        filed.statistics().connects.load(std::sync::atomic::Ordering::Relaxed) > 1
    })
    .await;
    eventually_async("calls succeed again", async || {
        let cx = CallContext::within(Duration::from_secs(1));
        echo::length(&client, cx, "", &Bytes::new()).await.is_ok()
    })
    .await;
}
