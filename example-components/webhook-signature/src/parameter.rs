//! What a scheme has to be told besides its secret.

use crate::{InvalidKeys, Scheme};

/// What a scheme has to be told besides its secret, such as the URL that Square signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name in configuration.
    pub name: &'static str,
    /// Whether nothing can be verified without it.
    pub required: bool,
    /// What it is, in half a sentence.
    pub about: &'static str,
}

impl Parameter {
    pub(crate) const fn required(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            required: true,
            about,
        }
    }

    pub(crate) const fn optional(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            required: false,
            about,
        }
    }
}

/// The values of a scheme's parameters: each known, none given twice, none empty, none missing that is required.
#[derive(Clone, Debug)]
pub(crate) struct Parameters(Vec<(&'static str, Box<str>)>);

impl Parameters {
    pub(crate) fn read(scheme: Scheme, given: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        let known = scheme.parameters();
        let mut values: Vec<(&'static str, Box<str>)> = Vec::new();
        for (name, value) in given {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == *name) else {
                return Err(InvalidKeys::UnknownParameter {
                    scheme,
                    name: (*name).to_owned(),
                });
            };
            let problem = if value.trim().is_empty() {
                "is empty"
            } else if values.iter().any(|(name, _)| *name == parameter.name) {
                "is given twice"
            } else {
                values.push((parameter.name, value.trim().into()));
                continue;
            };
            return Err(InvalidKeys::InvalidParameter {
                name: parameter.name,
                problem,
            });
        }
        let values = Self(values);
        match known
            .iter()
            .find(|known| known.required && values.get(known.name).is_none())
        {
            Some(missing) => Err(InvalidKeys::MissingParameter {
                scheme,
                name: missing.name,
            }),
            None => Ok(values),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| *known == name)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scheme: Scheme, given: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, String> {
        let read = Parameters::read(scheme, given).map_err(|error| error.to_string())?;
        Ok(read.0.into_iter().map(|(name, value)| (name, value.into())).collect())
    }

    #[test]
    fn a_parameter_is_known_and_given_once() {
        let url = ("notification-url", " https://example.com/hook ");
        assert_eq!(read(Scheme::Square, &[]), Ok(vec![]));
        assert_eq!(
            read(Scheme::Square, &[url]),
            Ok(vec![("notification-url", "https://example.com/hook".to_owned())])
        );
        for (scheme, given, problem) in [
            (
                Scheme::Square,
                &[url, url][..],
                "the parameter `notification-url` is given twice",
            ),
            (
                Scheme::Square,
                &[("notification-url", " ")],
                "the parameter `notification-url` is empty",
            ),
            (
                Scheme::Square,
                &[("url", "x")],
                "square has no parameter `url`; it knows `notification-url`",
            ),
            (
                Scheme::Stripe,
                &[url],
                "stripe has no parameter `notification-url`; it knows none",
            ),
            (Scheme::Paypal, &[], "paypal needs the parameter `webhook-id`"),
        ] {
            assert_eq!(read(scheme, given), Err(problem.to_owned()));
        }
    }
}
