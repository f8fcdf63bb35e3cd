//! Where events travel: the operator's subject template.

use std::fmt;
use std::str::FromStr;

use crate::name::{is_token, shown};
use crate::{Code, EventType, Problem, TenantId, TypePattern};

/// `payments.{tenant}.webhook.{event-type}`: literal tokens, `{tenant}` once, and `{event-type}` last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTemplate {
    text: Box<str>,
    /// Before the tenant, with its trailing dot; may be empty.
    head: Box<str>,
    /// Between the tenant and the event type, with both dots.
    middle: Box<str>,
}

impl SubjectTemplate {
    /// The subject of an event.
    pub fn subject(&self, tenant: &TenantId, event_type: &EventType) -> String {
        self.render(&tenant.token(), &event_type.tokens())
    }

    /// Every subject of the bus.
    pub fn all(&self) -> String {
        self.render("*", ">")
    }

    /// A subject filter: of one tenant or all, for a pattern of event types.
    pub fn filter(&self, tenant: Option<&TenantId>, pattern: &TypePattern) -> String {
        self.render(
            &tenant.map_or("*".into(), TenantId::token),
            &pattern.to_subject_tokens(),
        )
    }

    /// The template whose subjects a stream that is bound to this holds; the opposite of [`Self::all`].
    pub fn from_all(all: &str) -> Option<Self> {
        let body = all.strip_suffix(".>")?.replacen('*', "{tenant}", 1);
        format!("{body}.{{event-type}}").parse().ok()
    }

    /// The tenant and event type of a subject of this bus. `None` for a subject that no event has: also one that holds
    /// a name in another way than it is written here.
    pub fn parse_subject(&self, subject: &str) -> Option<(TenantId, EventType)> {
        let (tenant, event_type) = self.split(subject)?;
        Some((TenantId::from_token(tenant)?, EventType::from_tokens(event_type)?))
    }

    /// The tenant of a subject of this bus, whatever follows it.
    pub fn tenant_of(&self, subject: &str) -> Option<TenantId> {
        let rest = subject.strip_prefix(&*self.head)?;
        TenantId::from_token(rest.split('.').next()?)
    }

    /// The tokens of tenant and event type.
    fn split<'a>(&self, subject: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = subject.strip_prefix(&*self.head)?;
        let (tenant, _) = rest.split_once('.')?;
        let event_type = rest.get(tenant.len()..)?.strip_prefix(&*self.middle)?;
        Some((tenant, event_type))
    }

    fn render(&self, tenant: &str, event_type: &str) -> String {
        let mut s = String::with_capacity(self.head.len() + tenant.len() + self.middle.len() + event_type.len());
        s.push_str(&self.head);
        s.push_str(tenant);
        s.push_str(&self.middle);
        s.push_str(event_type);
        s
    }
}

impl FromStr for SubjectTemplate {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        let refuse = |why: &str| {
            Err(Problem::new(
                Code::InvalidSetting,
                format!(
                    "subject {} {why}: write it like `payments.{{tenant}}.webhook.{{event-type}}`",
                    shown(s)
                ),
            ))
        };
        let Some(body) = s.strip_suffix(".{event-type}") else {
            return refuse("does not end with `.{event-type}`");
        };
        let mut tenant_at = None;
        for (i, token) in body.split('.').enumerate() {
            if token == "{tenant}" {
                if tenant_at.replace(i).is_some() {
                    return refuse("names `{tenant}` twice");
                }
            } else if !is_token(token, 64) {
                return refuse("has a token that is neither a name nor `{tenant}`");
            }
        }
        let Some(at) = tenant_at else {
            return refuse("does not name `{tenant}`");
        };
        if at == 0 {
            // Without a literal first token the bus would claim every subject of the account.
            return refuse("begins with `{tenant}`");
        }
        let (head, middle) = body.split_once("{tenant}").unwrap_or_default();
        Ok(Self {
            text: s.into(),
            head: head.into(),
            middle: format!("{middle}.").into(),
        })
    }
}

impl fmt::Display for SubjectTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether some subject is matched by both filters.
pub(crate) fn meet(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (None, _) | (_, None) => return false,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_round_trips() {
        let template: SubjectTemplate = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let (tenant, event_type) = ("acme".parse().unwrap(), "invoice.paid".parse().unwrap());
        let subject = template.subject(&tenant, &event_type);
        assert_eq!(subject, "payments.acme.webhook.invoice.paid");
        assert_eq!(template.parse_subject(&subject), Some((tenant, event_type)));
        assert_eq!(template.all(), "payments.*.webhook.>");
        assert_eq!(SubjectTemplate::from_all(&template.all()), Some(template.clone()));
        assert_eq!(SubjectTemplate::from_all("payments.>"), None);
        for foreign in [
            "payments.acme.other.x",
            "payments.acme.webhook.",
            "payments..webhook.x",
            "x",
            "",
        ] {
            assert_eq!(template.parse_subject(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn filters_meet_where_one_subject_is_matched_by_both() {
        for (a, b, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "*.b", true),
            ("a.>", "a.b.c", true),
            (">", "a", true),
            ("a.>", "a", false),
            ("a.*", "a.b.c", false),
            ("a.b", "a.c", false),
            ("*.b", "a.c", false),
        ] {
            assert_eq!((meet(a, b), meet(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn a_template_that_would_claim_too_much_is_refused() {
        for bad in [
            "{tenant}.{event-type}",
            "payments.{event-type}",
            "payments.{tenant}",
            "payments.{tenant}.{tenant}.{event-type}",
            "payments.*.{tenant}.{event-type}",
            "pay ments.{tenant}.{event-type}",
            "payments.{tenant}.{event-type}.x",
        ] {
            assert_eq!(
                bad.parse::<SubjectTemplate>().unwrap_err().code,
                Code::InvalidSetting,
                "{bad}"
            );
        }
    }
}
