//! What the bus reads from outside: the policy and links that operators write, the names that callers give, and the headers
//! that come back from the store.

use fanout_plan::authority::Callers;
use fanout_plan::document::Document;
use fanout_plan::pattern::{Pattern, View};
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::{
    Attributes, BusNames, Code, EventType, Filter, Policy, Position, Problem, RawEvent, Settings, SubjectTemplate,
    TenantId, Timestamp, TypePattern, envelope, http_binding, link, structured,
};

const NOW: Timestamp = Timestamp::from_nanoseconds(1_767_225_600_000_000_000);
const INTERFACES: [&str; 3] = ["handler", "batch-handler", "inbox"];

/// A policy as a TOML document, with callers and subscriptions. What is a policy can be planned for an empty store, and is
/// the same whichever order its settings are read in.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(problems) => return assert!(!problems.is_empty(), "refused for no reason"),
    };
    for setting in document.settings.keys() {
        let about = Problem {
            setting: Some(setting.clone()),
            ..Problem::new(Code::InvalidSetting, "")
        };
        let key = document.locate(about).span.and_then(|span| text.get(span));
        assert!(key.is_some_and(|key| !key.is_empty()), "{setting}: {key:?}");
    }
    let (callers, settings) = Callers::split(&document.settings);
    if let Err(problems) = Callers::from_settings("policy", &callers) {
        assert!(!problems.is_empty(), "refused for no reason");
    }
    match Policy::from_settings("policy", &settings) {
        Ok(policy) => {
            let plan = |policy: &Policy| planner::plan(policy, Asked::default(), &Observed::default(), NOW);
            let steps = |policy: &Policy| plan(policy).map(|plan| plan.steps.len());
            assert_eq!(steps(&policy), steps(&policy), "two plans of one policy differ");
        }
        Err(problems) => assert!(!problems.is_empty(), "refused for no reason"),
    }
}

/// The settings of a link, a line each: `need=durable`; the first byte chooses its interface. A subscription that a link
/// declares is one that could be asked for by a call.
pub fn link_settings(data: &[u8]) {
    let Some((which, text)) = data.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let settings: Settings = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let policy = [("bus", "b"), ("subject", "b.{tenant}.{event-type}")];
    let policy = policy.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let policy = Policy::from_settings("policy", &policy.into()).expect("it is one");
    let interface = INTERFACES[usize::from(*which) % INTERFACES.len()];
    let declared = link::declared_subscription("link", "component", &[interface.to_owned()], &settings, &policy);
    match declared {
        Ok(subscription) => {
            let asked = link::check(subscription.clone());
            assert_eq!(
                asked.as_ref(),
                Ok(&subscription),
                "a link may declare what a call may not"
            );
        }
        Err(problems) => assert!(!problems.is_empty(), "refused for no reason"),
    }
    if let Err(problems) = link::Grant::from_settings("link", &["publisher".to_owned()], &settings) {
        assert!(!problems.is_empty(), "refused for no reason");
    }
}

/// Names as callers give them, a line each: a tenant, an event type, a pattern, a subject template, a position, the subject
/// of a retry. Each is written as it was read, no tenant's subject can be read as another's, and a filter lets through what its pattern matches.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (tenant, event_type, pattern) = (next(), next(), next());
    let (template, position) = (next(), next());
    if let Ok(position) = position.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    let retry = next();
    let names = BusNames::new("payments".parse().expect("it is legal"));
    if let Some((incarnation, position)) = names.retry_of(retry) {
        let subscription = "invoicing".parse().expect("it is legal");
        let written = names.retry(&subscription, incarnation, position);
        assert_eq!(names.retry_of(&written), Some((incarnation, position)), "{retry:?}");
    }
    let tenant = tenant.parse::<TenantId>();
    let event_type = event_type.parse::<EventType>();
    let template = template.parse::<SubjectTemplate>();
    if let (Ok(tenant), Ok(event_type), Ok(template)) = (&tenant, &event_type, &template) {
        let subject = template.subject(tenant, event_type);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-%".contains(&byte);
        assert!(subject.bytes().all(legal), "{subject:?} is no subject of one event");
        assert!(
            subject.split('.').all(|token| !token.is_empty()),
            "{subject:?} has an empty token"
        );
        let read = template.parse_subject(&subject);
        assert_eq!(
            read,
            Some((tenant.clone(), event_type.clone())),
            "{subject:?} is read as another's"
        );
        assert_eq!(SubjectTemplate::from_all(&template.all()).as_ref(), Some(template));
        assert_eq!(template.tenant_of(&subject).as_ref(), Some(tenant));
        let part = tenant.name_part();
        assert!(
            part.len() <= 64 && part.bytes().all(legal) && !part.contains('.'),
            "{part}"
        );
    }
    // A subject that is read as one of an event is the subject of that event.
    if let Some(template) = template.as_ref().ok()
        && let Some((tenant, event_type)) = template.parse_subject(position)
    {
        assert_eq!(
            template.subject(&tenant, &event_type),
            position,
            "one event has two subjects"
        );
    }
    let Ok(pattern) = pattern.parse::<TypePattern>() else {
        return;
    };
    assert!(pattern.covers(&pattern) && TypePattern::any().covers(&pattern));
    if let (Ok(tenant), Ok(event_type)) = (tenant, event_type) {
        let filter = Filter::new(vec![tenant.clone()], vec![pattern.clone()]);
        assert_eq!(filter.allows(&tenant, &event_type), pattern.matches(&event_type));
    }
}

/// The headers of a stored event, a line each, behind a line with its tenant and one with its type. What is an event is
/// written as headers that are the same event.
pub fn envelope(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let (tenant, event_type) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
    let Ok(read) = envelope::from_headers(tenant, Some(event_type), headers.iter().copied()) else {
        return;
    };
    is_one_event(&read);
}

/// An event as another client writes it in structured mode, behind a line with its tenant and one with its type.
pub fn structured(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut next = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let (tenant, event_type, document) = (next(), next(), next());
    if let Ok((read, _)) = structured::read(tenant, event_type, document.as_bytes()) {
        assert_eq!(
            (read.tenant().as_str(), read.event_type().as_str()),
            (tenant, event_type)
        );
        is_one_event(&read);
    }
}

/// An event pattern on its own line, and a payload behind it. What is a pattern is the same when it is written again, an event
/// that matches passes the filter that the store is asked with, and one that does not has a reason.
pub fn pattern(data: &[u8]) {
    let (pattern, payload) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let pattern = match String::from_utf8_lossy(pattern).parse::<Pattern>() {
        Ok(pattern) => pattern,
        Err(problem) => return assert!(!problem.message.is_empty(), "refused for no reason"),
    };
    assert_eq!(pattern.as_str().parse::<Pattern>().as_ref(), Ok(&pattern));
    let event = RawEvent {
        tenant: "acme".into(),
        event_type: "invoice.paid".into(),
        id: "evt_1".into(),
        source: "/webhooks/stripe".into(),
        ..RawEvent::default()
    };
    let view = View {
        event: &event,
        data: payload,
    };
    let is = pattern.matches(view);
    let reasons = pattern.explain(view);
    assert_eq!(reasons.is_none(), is);
    assert!(
        reasons.is_none_or(|reasons| !reasons.is_empty()),
        "it does not match for no reason"
    );
    let narrowed = pattern.narrowed();
    let (tenant, event_type) = (event.tenant.parse(), event.event_type.parse());
    if let (true, Ok(tenant), Ok(event_type)) = (is, tenant, event_type) {
        assert!(
            narrowed.allows(&tenant, &event_type),
            "the store would not be asked for it"
        );
    }
}

/// A request with events: a line with the tenant of its path, which may be empty; its headers, a line each; an empty line;
/// its body. Each event that is legal is the same after it was stored, and written as a document that is read as it again.
pub fn http(data: &[u8]) {
    let (first, rest) = split(data, b"\n");
    let (head, body) = split(rest, b"\n\n");
    let Ok(tenant) = std::str::from_utf8(first) else { return };
    let headers = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = split(line, b": ");
        Some((std::str::from_utf8(name).ok()?, value))
    });
    let tenant = Some(tenant).filter(|tenant| !tenant.is_empty());
    let Ok(request) = http_binding::Request::new(tenant, headers, body) else {
        return;
    };
    let events = match request.events() {
        Ok(http_binding::Events::One(event)) => vec![Ok(*event)],
        Ok(http_binding::Events::Batch(events)) => events,
        Err(_) => return,
    };
    assert!(events.len() <= http_binding::MAX_EVENTS);
    for event in events.into_iter().flatten() {
        assert!(
            tenant.is_none_or(|tenant| event.event.tenant == tenant),
            "another tenant's"
        );
        let content_type = event.event.data_content_type.clone();
        if let Ok(attributes) = Attributes::try_from(event.event) {
            is_one_event(&attributes);
        }
        let written = match structured::data(content_type.as_deref(), &event.data) {
            structured::Data::Json(json) => format!(r#""data":{}"#, json.get()),
            structured::Data::Text(text) => format!(r#""data":{}"#, serde_json::json!(text)),
            structured::Data::Base64(base64) => format!(r#""data_base64":"{base64}""#),
        };
        let content_type = content_type.map_or_else(String::new, |t| {
            format!(r#""datacontenttype":{},"#, serde_json::json!(t))
        });
        let document = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{content_type}{written}}}"#);
        if let Ok((_, read)) = structured::read("acme", "t", document.as_bytes()) {
            assert_eq!(read, event.data.as_ref(), "{document}");
        }
    }
}

/// What stands before a separator, and behind it.
fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> (&'a [u8], &'a [u8]) {
    let found = bytes.windows(separator.len()).position(|window| window == separator);
    match found {
        Some(at) => (&bytes[..at], &bytes[at + separator.len()..]),
        None => (bytes, &[]),
    }
}

/// What was read is the same after it was stored, and has one id.
fn is_one_event(read: &Attributes) {
    let read = read.clone();
    let again = written_and_read(&read);
    assert_eq!(again.raw(), read.raw(), "an event is another after it was stored");
    let id = envelope::message_id(&read);
    assert_eq!(id.len(), 43, "{id:?} is longer than an id");
    assert_eq!(id, envelope::message_id(&again));
    // What a caller gives is held to the same rules as what the store gives.
    assert!(Attributes::try_from(RawEvent::clone(read.raw())).is_ok());
}

fn written_and_read(attributes: &Attributes) -> Attributes {
    let headers = envelope::to_headers(attributes);
    for (name, value) in &headers {
        let printable = |byte: u8| (b' '..=b'~').contains(&byte);
        assert!(
            value.bytes().all(printable),
            "{name}: {value:?} is no value of a header"
        );
    }
    let raw = attributes.raw();
    let headers = headers.iter().map(|(name, value)| (&**name, value.as_str()));
    envelope::from_headers(&raw.tenant, Some(&raw.event_type), headers).expect("what is written can be read")
}
