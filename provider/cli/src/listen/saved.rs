//! Events as files. A file holds what `subscribe --json` prints of a delivery, so that either can be posted again.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use fanout_client::{Delivery, Event};
use fanout_plan::Timestamp;
use serde_json::Value;

use super::forward::attributes;
use crate::subscribe::as_json;
use crate::terminal::json_lines;
use crate::webhook::read;

/// The most characters of a name's part; names of files have 255 bytes at most.
const MAX_PART: usize = 64;

/// Where events are kept.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder, if it is not there: payloads are for its user alone.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("--save {}: the folder can't be made", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// Keeps a delivery's event. Another attempt at it is the same file.
    pub(super) fn keep(&self, delivery: &Delivery) -> Result<()> {
        let (event, position) = (delivery.event(), delivery.position());
        let path = self.0.join(file_name(position.partition, position.offset, event));
        let written = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file: File| writeln!(file, "{}", json_lines(&as_json(delivery))));
        written.with_context(|| {
            format!(
                "event {} of tenant {} can't be kept as {}",
                event.id,
                event.tenant,
                path.display()
            )
        })
    }
}

/// In the order of the log, and told apart by a person.
fn file_name(partition: u32, offset: u64, event: &Event) -> String {
    let part = |text: &str| -> String {
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        };
        text.chars().take(MAX_PART).map(safe).collect()
    };
    let [tenant, event_type, id] = [&event.tenant, &event.event_type, &event.id].map(|text| part(text));
    format!("{partition}-{offset:010}-{tenant}-{event_type}-{id}.json")
}

/// The event in a file.
///
/// # Errors
/// When it can't be read, or is not a whole and legal event.
pub(super) fn event(path: &Path) -> Result<Event> {
    let bytes = read(path)?;
    let what = || {
        format!(
            "{} holds no event: give a file of --save, or one line of `fanout --json subscribe`",
            path.display()
        )
    };
    let value = serde_json::from_slice(&bytes).with_context(what)?;
    let event = from_json(&value).with_context(what)?;
    attributes(&event).with_context(what)?;
    Ok(event)
}

/// The opposite of [`as_json`], as far as it is of the event.
fn from_json(value: &Value) -> Result<Event> {
    let optional = |name: &str| match &value[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(anyhow!("`{name}` is not a text")),
    };
    let required = |name: &str| optional(name)?.with_context(|| format!("`{name}` is missing"));
    let mut event = Event::new(required("tenant")?, required("type")?, required("id")?)
        .source(required("source")?)
        .data(data(&value["data"])?);
    event.subject = optional("subject")?;
    event.data_content_type = optional("data_content_type")?;
    event.data_schema = optional("data_schema")?;
    event.ordering_key = optional("ordering_key")?;
    event.traceparent = optional("traceparent")?;
    if let Some(time) = optional("time")? {
        let time = time
            .parse::<Timestamp>()
            .with_context(|| format!("`time` is {time:?}, which is no time"))?;
        event.time = Some(time.nanoseconds());
    }
    match &value["extensions"] {
        Value::Null => {}
        Value::Object(extensions) => {
            for (name, value) in extensions {
                let value = value
                    .as_str()
                    .with_context(|| format!("extension `{name}` is not a text"))?;
                event.extensions.push((name.clone(), value.to_owned()));
            }
        }
        _ => return Err(anyhow!("`extensions` is not an object")),
    }
    Ok(event)
}

/// A text, or bytes that are none.
fn data(value: &Value) -> Result<Vec<u8>> {
    if let Value::String(text) = value {
        return Ok(text.clone().into_bytes());
    }
    let bytes = value["bytes"]
        .as_array()
        .context("`data` is neither a text nor `bytes`")?;
    let byte = |b: &Value| b.as_u64().and_then(|b| u8::try_from(b).ok());
    bytes
        .iter()
        .map(byte)
        .collect::<Option<_>>()
        .context("`data.bytes` are not numbers from 0 to 255")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_kept_is_read_as_it_was() {
        let kept = json!({
            "position": "0/7", "attempt": 2, "replayed": false, "published_at": "2026-11-22T10:00:00Z", "token": 3,
            "tenant": "acme", "type": "invoice.paid", "id": "evt 1", "source": "/till", "subject": "inv_1",
            "time": "2026-11-22T10:00:00.5Z", "data_content_type": "application/json", "data_schema": null,
            "ordering_key": "k", "extensions": { "region": "eu" }, "traceparent": null, "data": { "bytes": [0, 255] },
        });
        let mut event = Event::new("acme", "invoice.paid", "evt 1")
            .source("/till")
            .ordering_key("k")
            .typed_data("application/json", vec![0, 255]);
        event.subject = Some("inv_1".to_owned());
        event.time = "2026-11-22T10:00:00.5Z".parse().ok().map(Timestamp::nanoseconds);
        event.extensions = vec![("region".to_owned(), "eu".to_owned())];
        assert_eq!(from_json(&kept).unwrap(), event);
        assert_eq!(file_name(0, 7, &event), "0-0000000007-acme-invoice.paid-evt_1.json");
        let outside = Event::new("../..", "a/b", "\0é");
        assert_eq!(file_name(1, 2, &outside), "1-0000000002-.._..-a_b-__.json");
    }

    #[test]
    fn what_is_no_event_says_what_is_wrong_with_it() {
        for (change, expected) in [
            (json!({ "tenant": null }), "`tenant` is missing"),
            (json!({ "id": 3 }), "`id` is not a text"),
            (json!({ "time": "noon" }), "`time` is \"noon\", which is no time"),
            (json!({ "data": 3 }), "`data` is neither a text nor `bytes`"),
            (json!({ "data": { "bytes": [256] } }), "not numbers from 0 to 255"),
            (json!({ "extensions": [] }), "`extensions` is not an object"),
        ] {
            let mut kept = json!({ "tenant": "acme", "type": "t", "id": "1", "source": "/s", "data": "" });
            for (name, value) in change.as_object().unwrap() {
                kept[name] = value.clone();
            }
            let said = from_json(&kept).unwrap_err().to_string();
            assert!(said.contains(expected), "{kept}: {said}");
        }
    }
}
