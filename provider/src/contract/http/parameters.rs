//! The query of a request: each parameter known by its name, and of the number that is expected.

use std::str::FromStr;

use fanout_plan::Problem;
use percent_encoding::percent_decode_str;

use super::problem::Refused;

/// The most parameters that are read: more than any operation takes.
const MAX_PARAMETERS: usize = 1_000;

/// The parameters of a query.
#[derive(Clone, Debug, Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query, of which `known` are the parameters that the operation takes.
    ///
    /// # Errors
    /// Names the first parameter that the operation does not take.
    pub(super) fn read(query: &str, known: &[&str]) -> Result<Self, Refused> {
        // What is no text would be read as another.
        if percent_decode_str(query).decode_utf8().is_err() {
            return Err(Refused::invalid_request(
                "the query is no UTF-8: percent-encode the bytes of UTF-8",
            ));
        }
        let mut parameters = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let shown: String = name.chars().take(64).collect();
                return Err(Refused::invalid_request(match known {
                    [] => format!("query parameter {shown:?} is unknown: this operation takes none"),
                    _ => format!(
                        "query parameter {shown:?} is unknown: this operation takes `{}`",
                        known.join("`, `")
                    ),
                }));
            }
            if parameters.len() == MAX_PARAMETERS {
                return Err(Refused::invalid_request(format!(
                    "the query has more than {MAX_PARAMETERS} parameters"
                )));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(parameters))
    }

    /// All values of a parameter that may come more than once.
    ///
    /// # Errors
    /// When one of them is none: by the code that it has in a body, too.
    pub(super) fn all<T: FromStr<Err = Problem>>(&self, name: &str) -> Result<Vec<T>, Refused> {
        let values = self.0.iter().filter(|(n, _)| n == name);
        values
            .map(|(_, value)| value.parse().map_err(|p| of_parameter(name, p).into()))
            .collect()
    }

    /// A parameter that comes at most once.
    ///
    /// # Errors
    /// When it comes more than once.
    pub(super) fn optional(&self, name: &str) -> Result<Option<&str>, Refused> {
        let mut values = self.0.iter().filter(|(n, _)| n == name);
        let value = values.next().map(|(_, value)| value.as_str());
        match values.next() {
            None => Ok(value),
            Some(_) => Err(Refused::invalid_request(format!(
                "query parameter `{name}` comes twice, so that it is not known which is meant"
            ))),
        }
    }

    /// A parameter that comes once.
    ///
    /// # Errors
    /// When it is missing, or comes more than once.
    pub(super) fn required(&self, name: &str) -> Result<&str, Refused> {
        self.optional(name)?
            .ok_or_else(|| Refused::invalid_request(format!("query parameter `{name}` is missing")))
    }
}

/// A problem of the contract with the parameter that has it.
pub(super) fn of_parameter(name: &str, problem: Problem) -> Problem {
    let message = format!("query parameter `{name}`: {}", problem.message);
    Problem { message, ..problem }
}

/// A parameter whose value is none.
pub(super) fn unreadable(name: &str, problem: &Problem) -> Refused {
    Refused::invalid_request(format!("query parameter `{name}`: {}", problem.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_known_and_comes_as_often_as_it_may() {
        let read = |query| Parameters::read(query, &["tenant", "at"]);
        let parameters = read("tenant=a%20b&tenant=c+d&at=").unwrap();
        let tenants: Vec<fanout_plan::TenantId> = parameters.all("tenant").unwrap();
        assert_eq!(tenants.iter().map(|t| t.as_str()).collect::<Vec<_>>(), ["a b", "c d"]);
        assert_eq!(parameters.required("at").unwrap(), "");
        assert!(parameters.required("tenant").is_err(), "it comes twice");
        assert!(read("").unwrap().required("at").is_err());
        for (bad, named) in [
            ("tenants=a", "tenants"),
            ("tenant=%ff", "UTF-8"),
            ("%00=1", "\\\\0"),
            ("x", "\"x\""),
        ] {
            let problem = read(bad).unwrap_err();
            assert!(
                problem.document.detail.contains(named.trim_start_matches('\\')),
                "{}",
                problem.document.detail
            );
        }
        assert!(
            read("tenant=%00")
                .unwrap()
                .all::<fanout_plan::TenantId>("tenant")
                .is_err()
        );
        assert!(read(&"at=1&".repeat(1_001)).is_err());
    }
}
