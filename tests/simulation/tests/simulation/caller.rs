//! A program that calls by the transport alone, with limits that it reaches, and gives calls up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::{CallContext, ConnectOptions, Endpoint, Error, Options, Outcome, Remote};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bus::CALLS;
use crate::history::now;
use crate::publisher::in_time;
use crate::world::{Part, Phase};

/// Calls at a time; one more waits.
const CALLS_AT_A_TIME: usize = 3;
const BODY_BYTES: usize = 150 << 10;
/// Three results fit, and no fourth.
const BUFFERED_BYTES: usize = 512 << 10;
/// Once there are no faults, all permits are there within this time.
const COMES_BACK: Duration = Duration::from_secs(20);
const CONNECT_DEADLINE: Duration = Duration::from_millis(1_200);

/// A call: its number, how many bytes its parameters and its result have, and how long its handler takes.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u64,
    parameters: usize,
    result: u32,
    takes: Duration,
    within: Duration,
}

/// The software of its host.
pub async fn run(mut part: Part) -> turmoil::Result {
    let options = ConnectOptions {
        limits: Options {
            calls: CALLS_AT_A_TIME,
            max_body_bytes: 256 << 10,
            buffered_bytes: BUFFERED_BYTES,
            ..Options::default()
        },
        connect_deadline: CONNECT_DEADLINE,
        ..ConnectOptions::default()
    };
    let endpoint: Endpoint = part.url.parse()?;
    let remote = loop {
        let since = now();
        let connected = Remote::connect(&endpoint, options.clone()).await;
        in_time(&part, "connecting", since, CONNECT_DEADLINE);
        match connected {
            Ok(remote) => break remote,
            Err(error) => {
                part.world.history.note(format_args!("{}: {error}", part.name));
                let wait = part.dice.milliseconds(10, 200);
                sleep(wait).await;
            }
        }
    };
    let mut dice = part.world.dice("calls", part.incarnation);
    let part = Arc::new(part);
    let outcomes: Arc<Mutex<BTreeMap<u64, Option<Outcome>>>> = Arc::default();
    let mut calls = JoinSet::new();
    let mut number = part.incarnation << 32;
    while part.world.phase() == Phase::Faults {
        number += 1;
        let call = Call {
            number,
            parameters: match dice.roll(6) {
                0 => dice.roll(BODY_BYTES as u64) as usize,
                _ => dice.roll(600) as usize,
            },
            result: match dice.roll(6) {
                0 => dice.roll(BODY_BYTES as u64) as u32,
                _ => dice.roll(600) as u32,
            },
            takes: dice.milliseconds(0, 700),
            within: dice.milliseconds(100, 2_500),
        };
        let given_up = dice.chance(15).then(|| dice.milliseconds(1, 500));
        let (remote, part, outcomes) = (remote.clone(), Arc::clone(&part), Arc::clone(&outcomes));
        calls.spawn(async move {
            let calling = called(&part, &remote, call);
            let called = match given_up {
                None => calling.await,
                Some(after) => match timeout(after, calling).await {
                    Ok(called) => called,
                    Err(_) => return,
                },
            };
            outcomes.lock().unwrap().insert(call.number, called);
        });
        while calls.len() > 6 {
            calls.join_next().await;
        }
        sleep(dice.milliseconds(1, 250)).await;
    }
    while calls.join_next().await.is_some() {}
    // Late frames have come by then.
    sleep(Duration::from_secs(3)).await;
    let ran = part.world.store().kept().ran.clone();
    for (number, outcome) in std::mem::take(&mut *outcomes.lock().unwrap()) {
        let times = ran.get(&number).copied().unwrap_or(0);
        let holds = match outcome {
            None | Some(Outcome::Failed) => times == 1,
            Some(Outcome::NotStarted) => times == 0,
            Some(Outcome::Unknown) => times <= 1,
        };
        part.world.history.holds(holds, || {
            format!("an outcome is what is known of the handler: call {number} ended with {outcome:?}, and ran {times} times")
        });
    }
    all_is_back(&part, &remote, number).await;
    part.world.done(&part.name);
    Ok(())
}

/// Makes a call, and judges its answer; what is known of its handler, unless it has answered.
async fn called(part: &Part, remote: &Remote, call: Call) -> Option<Outcome> {
    let history = &part.world.history;
    let since = now();
    let answer = made(remote, call).await;
    in_time(part, "a call", since, call.within);
    match answer {
        Ok((number, bytes)) => {
            let is_its_own = number == call.number
                && bytes.len() == call.result as usize
                && bytes.iter().all(|byte| *byte == call.number as u8);
            history.holds(is_its_own, || {
                format!(
                    "an answer is that of its call: {call:?} has {number}, {} bytes",
                    bytes.len()
                )
            });
            None
        }
        Err(error) => {
            history.note(format_args!(
                "{}: call {}: {error}: {:?}",
                part.name,
                call.number,
                error.outcome()
            ));
            Some(error.outcome())
        }
    }
}

async fn made(remote: &Remote, call: Call) -> Result<(u64, Bytes), Error> {
    let takes = u32::try_from(call.takes.as_millis()).unwrap_or(0);
    let parameters = (call.number, Bytes::from(vec![7; call.parameters]), call.result, takes);
    remote
        .call_values(CallContext::within(call.within), CALLS.0, CALLS.1, parameters)
        .await
}

/// As many calls as there may be, with results that fill all the bytes that may be held, are answered at a time: no permit of
/// a call or of a byte was lost.
async fn all_is_back(part: &Part, remote: &Remote, mut number: u64) {
    let deadline = now() + COMES_BACK;
    loop {
        let calls = (0..CALLS_AT_A_TIME).map(|_| {
            number += 1;
            let call = Call {
                number,
                parameters: 10,
                result: BODY_BYTES as u32,
                takes: Duration::from_millis(300),
                within: Duration::from_secs(3),
            };
            made(remote, call)
        });
        let since = now();
        let answers = futures::future::join_all(calls).await;
        // One after the other takes longer.
        let at_a_time = now() - since < Duration::from_millis(600);
        if at_a_time && answers.iter().all(Result::is_ok) {
            return;
        }
        if now() > deadline {
            part.world.history.broken(format_args!(
                "{}: permits come back: within {COMES_BACK:?} no {CALLS_AT_A_TIME} calls are answered at a time: {answers:?}",
                part.name
            ));
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
