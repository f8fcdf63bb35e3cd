use super::*;
use crate::{mac::MAX_TAGS, testing::Case};

const WRONG: &str = "deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

/// A scheme's webhook as it was signed, and how its header is written.
struct Vector {
    case: Case,
    form: Form,
    header: &'static str,
    /// The value of the header.
    good: &'static str,
    time: i64,
    tolerance_s: u64,
}

/// The vector of Stripe's own library for .NET (stripe-dotnet, EventUtilityTest and event_test_signature.json).
fn stripe() -> Vector {
    let good = "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,\
                v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef";
    vector::<Stripe>(
        "Stripe-Signature",
        good,
        "webhook_secret",
        include_str!("../../tests/vectors/stripe.json"),
    )
}

/// The vector of Paddle's own library for Go (paddle-go-sdk, webhook_verifier_test.go).
fn paddle() -> Vector {
    let good = "ts=1710929255;h1=6c05ef8fa83c44d751be6d259ec955ce5638e2c54095bf128e408e2fce1589c8";
    let secret = "pdl_ntfset_01hsdn8d43dt7mezr1ef2jtbaw_hKkRiCGyyRhbFwIUuqiTBgI7gnWoV0Gr";
    vector::<Paddle>(
        "Paddle-Signature",
        good,
        secret,
        include_str!("../../tests/vectors/paddle.json"),
    )
}

fn vector<S: Timed>(header: &'static str, good: &'static str, secret: &str, body: &str) -> Vector {
    let form = S::FORM;
    let (_, time, _) = form.parse(good).unwrap();
    Vector {
        case: Case::new(form.scheme, secret, &[(header, good)], body).at(time),
        form,
        header,
        good,
        time,
        tolerance_s: form.scheme.default_tolerance().unwrap().as_secs(),
    }
}

impl Vector {
    fn with(&self, value: &str) -> Case {
        self.case.with_header(self.header, value)
    }

    /// An element of a signature of the version that counts, over something else.
    fn wrong(&self) -> String {
        format!("{}={WRONG}", self.form.version)
    }

    /// The good value with another signature before and behind the right one.
    fn of_a_rotation(&self) -> [String; 2] {
        let Form { separator, version, .. } = self.form;
        let (wrong, start) = (self.wrong(), format!("{separator}{version}="));
        [
            format!("{}{separator}{wrong}", self.good),
            self.good.replace(&start, &format!("{separator}{wrong}{start}")),
        ]
    }
}

#[test]
fn the_vendors_vectors_are_verified_and_made() {
    for vector in [stripe(), paddle()] {
        vector.case.has_what_all_have("other");
        assert_eq!(vector.case.check().unwrap().timestamp, Some(vector.time));
        let made = vector.case.sign(&vector.case.secrets[0], "", vector.time);
        let good = vector.good.split(",v0").next().unwrap().to_owned();
        assert_eq!(made.headers, [(vector.form.header, good)]);
        assert_eq!(*made.body, *vector.case.body);
    }
}

#[test]
fn a_rotation_is_verified_from_both_sides() {
    for vector in [stripe(), paddle()] {
        for value in vector.of_a_rotation() {
            let case = vector.with(&value);
            assert_eq!(case.check().unwrap().key, 0, "{value}");
            let both = case.with_secrets(&["other", &vector.case.secrets[0]]);
            assert_eq!(both.check().unwrap().key, 1, "{value}");
        }
    }
}

#[test]
fn the_time_is_signed_as_it_is_written() {
    for vector in [stripe(), paddle()] {
        let Vector { form, good, time, .. } = &vector;
        let written = format!("{}={time}", form.time);
        for other in [format!("{}={}", form.time, time + 1), format!("{}=0{time}", form.time)] {
            let refusal = vector.with(&good.replace(&written, &other)).check();
            assert_eq!(refusal, Err(Refusal::SignatureMismatch), "{other}");
        }
    }
}

#[test]
fn the_time_is_checked_in_both_directions_and_after_the_signature() {
    for Vector {
        case,
        time,
        tolerance_s,
        ..
    } in [stripe(), paddle()]
    {
        let tolerance = tolerance_s.cast_signed();
        assert!(case.at(time + tolerance).check().is_ok() && case.at(time - tolerance).check().is_ok());
        let (age_s, ahead_s) = (tolerance_s + 1, tolerance_s + 1);
        let late = case.at(time + tolerance + 1);
        assert_eq!(late.check(), Err(Refusal::Stale { age_s, tolerance_s }));
        let early = case.at(time - tolerance - 1).check();
        assert_eq!(early, Err(Refusal::Future { ahead_s, tolerance_s }));
        // The signature comes first: only who holds a key learns that a webhook is stale.
        assert_eq!(late.with_secrets(&["other"]).check(), Err(Refusal::SignatureMismatch));
    }
}

#[test]
fn only_one_version_counts() {
    for vector in [stripe(), paddle()] {
        let Form { header, version, .. } = vector.form;
        let named = format!("{version}=");
        // What is right under another version's name is no signature.
        for other in ["v0=", "h2=", "v2="] {
            let refusal = vector.with(&vector.good.replace(&named, other)).check();
            assert_eq!(
                refusal,
                Err(Refusal::NoSupportedSignature { header, version }),
                "{other}"
            );
        }
        let with_other = format!("{}{}h2=new", vector.good, vector.form.separator);
        assert!(vector.with(&with_other).check().is_ok());
    }
}

#[test]
fn what_is_not_in_form_is_refused() {
    for vector in [stripe(), paddle()] {
        let Form {
            separator,
            time,
            version,
            ..
        } = vector.form;
        let one = vector.wrong();
        let with_time = |written: &str| format!("{time}={written}{separator}{one}");
        let upper = one.to_uppercase().replace(&version.to_uppercase(), version);
        let other_separator = if separator == ',' { ";" } else { "," };
        let values = [
            String::new(),
            format!("{separator}{separator}"),
            time.to_owned(),
            format!("{time}{separator}{version}={separator}v0="),
            one.clone(),
            with_time(""),
            with_time("-1"),
            with_time("x"),
            format!("{time}=x"),
            format!("{}{separator}", with_time("1")),
            format!("{time}=1{separator}{}", with_time("1")),
            format!("{time}=1{separator} {one}{separator}{version}"),
            format!("{time}=1{separator}{version}="),
            format!("{time}=1{separator}{version}=invalid"),
            format!("{time}=1{separator}{upper}"),
            with_time("1").replace(separator, other_separator),
            format!("{time}=1{}", format!("{separator}{one}").repeat(MAX_TAGS + 1)),
        ];
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        vector.case.refuses_as_malformed(vector.header, &values);
    }
}
