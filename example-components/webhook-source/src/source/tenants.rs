//! The tenants that a source may speak for.

use std::collections::BTreeMap;

use super::places::{is_constant, is_of_the_request};
use crate::{
    event::Joint,
    place::{Place, Places},
    rule,
    setting::SourceSettings,
};

/// The tenants that a source may speak for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// By what the webhook calls them.
    listed: BTreeMap<String, String>,
    /// The tenant of everything that is not listed.
    others: Option<String>,
}

impl Tenants {
    /// The tenant that a webhook means by `found`.
    pub fn get(&self, found: &str) -> Option<&str> {
        self.listed.get(found).or(self.others.as_ref()).map(String::as_str)
    }

    /// What a webhook may have called a tenant.
    pub(crate) fn called<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a str> {
        let listed = self.listed.iter().filter(move |(_, known)| *known == tenant);
        let other = self.others.as_deref().filter(|known| *known == tenant);
        listed.map(|(found, _)| found.as_str()).chain(other)
    }
}

/// Who posts a webhook chooses its path and its headers: they may only choose among tenants that are listed.
pub(super) fn check_tenant(
    settings: &mut SourceSettings<'_>,
    tenant: &Places,
    tenants: &Option<Option<Tenants>>,
    has_key_names: bool,
) {
    let listed = tenants.as_ref().and_then(Option::as_ref);
    if tenant.iter().any(is_of_the_request) && matches!(tenants, None | Some(None)) {
        let place = if tenant.has_path() { "the path" } else { "a header" };
        let what = format!("must list the tenants, as the tenant is in {place}, which no signature covers");
        settings.problem("tenants", what);
    }
    if tenant.iter().any(|place| *place == Place::Key) && !has_key_names {
        let what = "must name the keys, as the name of the key is the tenant";
        settings.problem("key-names", what.to_owned());
    }
    let all_constant = |joined: &&[Place]| joined.iter().all(is_constant);
    for joined in tenant.alternatives().filter(all_constant) {
        let values = joined.iter().filter_map(|place| match place {
            Place::Constant(value) => Some(value.clone()),
            _ => None,
        });
        let constant = Joint::Tenant.join(&values.collect::<Vec<_>>(), tenant.may_join());
        if listed.is_some_and(|tenants| tenants.get(&constant).is_none()) {
            let what = "does not list the tenant that is a constant in `tenant`";
            settings.problem("tenants", what.to_owned());
        }
    }
}

/// `acme`, or `acct_1=acme` where the webhook says `acct_1`, or `*=other` for whatever else it says.
pub(super) fn read_tenants(text: &str) -> Result<Option<Tenants>, String> {
    if text == "*" {
        return Ok(None);
    }
    let mut tenants = Tenants::default();
    for entry in text.split(',').map(str::trim) {
        let (found, tenant) = entry.split_once('=').unwrap_or((entry, entry));
        let (found, tenant) = (found.trim(), tenant.trim());
        if found.is_empty() || tenant == "*" || !rule::is_text(tenant) {
            let what = "is neither `*` nor tenants separated by commas, each written TENANT or FOUND=TENANT, or *=TENANT \
                        for all others";
            return Err(what.to_owned());
        }
        let before = if found == "*" {
            tenants.others.replace(tenant.to_owned())
        } else {
            tenants.listed.insert(found.to_owned(), tenant.to_owned())
        };
        if before.is_some() {
            return Err("names one tenant twice".to_owned());
        }
    }
    Ok(Some(tenants))
}
