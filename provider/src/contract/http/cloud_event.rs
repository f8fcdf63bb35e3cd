//! An event as JSON ("JSON Event Format" of CloudEvents 1.0.2).

use std::borrow::Cow;

use fanout_plan::structured::{Data, data};
use fanout_wit::types::Event;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::contract::convert;

/// An event that is written as JSON: its attributes, extensions beside them, its payload as `data` or `data_base64`.
#[derive(Clone, Debug)]
pub(super) struct CloudEvent(pub(super) Event);

impl Serialize for CloudEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = &self.0;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in [
            ("specversion", "1.0"),
            ("id", &event.id),
            ("source", &event.source),
            ("type", &event.event_type),
            ("tenant", &event.tenant),
        ] {
            map.serialize_entry(name, value)?;
        }
        let time = event.time.map(convert::rfc3339);
        for (name, value) in [
            ("subject", &event.subject),
            ("time", &time),
            ("datacontenttype", &event.data_content_type),
            ("dataschema", &event.data_schema),
            ("partitionkey", &event.ordering_key),
        ] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        for extension in &event.extensions {
            map.serialize_entry(&extension.name, &extension.value)?;
        }
        if !event.data.is_empty() {
            match data(event.data_content_type.as_deref(), &event.data) {
                Data::Json(json) => map.serialize_entry("data", json)?,
                Data::Text(text) => map.serialize_entry("data", text)?,
                Data::Base64(base64) => map.serialize_entry("data_base64", &base64)?,
            }
        }
        map.end()
    }
}

impl JsonSchema for CloudEvent {
    fn schema_name() -> Cow<'static, str> {
        "CloudEvent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = |most: u32| serde_json::json!({ "type": "string", "minLength": 1, "maxLength": most });
        json_schema!({
            "type": "object",
            "description": "An event in CloudEvents' JSON format. Whatever else it has is an extension attribute.",
            "required": ["specversion", "id", "type"],
            "properties": {
                "specversion": { "const": "1.0" },
                "id": text(256),
                "source": text(1024),
                "type": text(255),
                "tenant": text(128),
                "subject": text(1024),
                "time": { "type": "string", "format": "date-time" },
                "datacontenttype": text(256),
                "dataschema": text(1024),
                "partitionkey": text(256),
                "data": { "description": "JSON, or a text where `datacontenttype` says text" },
                "data_base64": { "type": "string", "contentEncoding": "base64" },
            },
            "additionalProperties": { "type": ["string", "integer", "boolean"] },
        })
    }
}

#[cfg(test)]
mod tests {
    use fanout_plan::http_binding::{Events, Request};
    use fanout_wit::types::Attribute;

    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let event = Event {
            tenant: "acme".into(),
            event_type: "invoice.paid".into(),
            id: "evt_1".into(),
            source: "/s".into(),
            subject: Some("€".into()),
            time: Some(1_795_860_000_000_000_000),
            data_content_type: None,
            data_schema: None,
            extensions: vec![Attribute {
                name: "region".into(),
                value: "eu".into(),
            }],
            ordering_key: Some("k".into()),
            data: br#"{"amount": 1.10}"#.to_vec().into(),
        };
        let written = serde_json::to_string(&CloudEvent(event.clone())).unwrap();
        expect_test::expect![[
            r#"{"specversion":"1.0","id":"evt_1","source":"/s","type":"invoice.paid","tenant":"acme","subject":"€","time":"2026-11-28T10:00:00Z","partitionkey":"k","region":"eu","data":{"amount": 1.10}}"#
        ]]
        .assert_eq(&written);
        let headers = [("content-type", &b"application/cloudevents+json"[..])];
        let request = Request::new(None, headers.into_iter(), written.as_bytes()).unwrap();
        let Ok(Events::One(read)) = request.events() else {
            panic!("no event")
        };
        assert_eq!((&read.event.id, &read.event.subject), (&event.id, &event.subject));
        assert_eq!(read.data.as_ref(), &event.data[..]);
    }
}
