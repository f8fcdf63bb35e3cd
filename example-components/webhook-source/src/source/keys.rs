//! The keys of a source: from the secrets that its settings name, and the parameters of its scheme.

use std::error::Error as _;

use webhook_signature::{InvalidKey, InvalidKeys, Keys, MAX_KEYS, Scheme};

use super::{Secrets, is_name};
use crate::setting::SourceSettings;

/// The parameter of the schemes that sign the URL.
const URL: &str = "notification-url";

/// Secrets and where they came from.
pub(super) struct FoundSecrets {
    /// Each may hold several keys, a line each.
    texts: Vec<String>,
    pub(super) in_config: bool,
    key: &'static str,
}

/// `secret-name` names one that the host keeps, or several, separated by commas; `secret` holds it, for one machine.
pub(super) fn find_secret(settings: &mut SourceSettings<'_>, secrets: &impl Secrets) -> Option<FoundSecrets> {
    // As it stands: a blank at its end is a part of it.
    let text = settings.take_as_it_stands("secret");
    let names = settings.optional("secret-name", |names| Ok(names.to_owned()));
    match (text, names) {
        (Some(text), None) => Some(FoundSecrets {
            texts: vec![text],
            in_config: true,
            key: "secret",
        }),
        (None, Some(names)) => {
            let mut texts = Vec::new();
            for (index, name) in names.split(',').enumerate() {
                if index >= MAX_KEYS {
                    settings.problem("secret-name", format!("names more than {MAX_KEYS} secrets"));
                    return None;
                }
                match secrets.secret(name.trim()) {
                    Ok(Some(text)) => texts.push(text),
                    Ok(None) => {
                        let what =
                            "names a secret that the component was not given: name it in the manifest's `secrets`";
                        settings.problem("secret-name", what.to_owned());
                        return None;
                    }
                    Err(error) => {
                        settings.problem("secret-name", format!("names a secret that can't be read: {error}"));
                        return None;
                    }
                }
            }
            Some(FoundSecrets {
                texts,
                in_config: false,
                key: "secret-name",
            })
        }
        (Some(_), Some(_)) => {
            settings.problem("secret", "can't be set together with secret-name".to_owned());
            None
        }
        (None, None) => {
            let what = "is missing: set secret-name to the name of a secret in the manifest";
            settings.problem("secret", what.to_owned());
            None
        }
    }
}

/// Takes the settings that are named for the scheme's parameters; nothing if a required one is missing.
///
/// Without a scheme, those of every scheme are passed over: what is wrong is the scheme.
pub(super) fn read_parameters(
    settings: &mut SourceSettings<'_>,
    scheme: Option<Scheme>,
) -> Option<Vec<(&'static str, String)>> {
    let Some(scheme) = scheme else {
        for parameter in Scheme::ALL.iter().flat_map(|scheme| scheme.parameters()) {
            settings.pass_over(parameter.name);
        }
        return None;
    };
    let mut given = Vec::new();
    let mut complete = true;
    for parameter in scheme.parameters() {
        let value = if parameter.required {
            settings.required(parameter.name, |text| Ok(text.to_owned()))
        } else {
            settings.optional(parameter.name, |text| Ok(text.to_owned()))
        };
        complete &= value.is_some() || !parameter.required;
        given.extend(value.map(|value| (parameter.name, value)));
    }
    complete.then_some(given)
}

pub(super) fn read_keys(
    settings: &mut SourceSettings<'_>,
    scheme: Scheme,
    secret: &FoundSecrets,
    parameters: &[(&'static str, String)],
    allow_short: bool,
) -> Option<Keys> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let texts: Vec<_> = secret.texts.iter().map(String::as_str).collect();
    let read = if allow_short { Keys::allowing_short } else { Keys::of };
    match read(scheme, &texts, &parameters) {
        // Behind a proxy the component can't know under which URL its sender reaches it.
        Ok(keys) if scheme.covers_url() && keys.parameter(URL).is_none() => {
            settings.problem(
                URL,
                "is missing: the scheme signs the URL that the sender was given".to_owned(),
            );
            None
        }
        Ok(keys) => Some(keys),
        Err(InvalidKeys::InvalidParameter { name, problem }) => {
            settings.problem(name, problem.to_owned());
            None
        }
        Err(error) => {
            let mut what = match error.source() {
                Some(source) => format!("{error}: it {source}"),
                None => error.to_string(),
            };
            if matches!(
                error,
                InvalidKeys::Key {
                    source: InvalidKey::Short,
                    ..
                }
            ) {
                what.push_str("; set allow-short-secret to true to take that risk");
            }
            settings.problem(secret.key, what);
            None
        }
    }
}

pub(super) fn read_key_names(keys: Option<&Keys>, text: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if !names.iter().all(|name| is_name(name)) {
        return Err("is no list of names out of a-z 0-9 - _, separated by commas".to_owned());
    }
    match keys {
        Some(keys) if keys.len() != names.len() => {
            let (names, keys) = (names.len(), keys.len());
            Err(format!("has {names} names for {keys} keys"))
        }
        _ => Ok(names),
    }
}
