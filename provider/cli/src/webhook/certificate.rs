//! `webhook certificate`: PayPal's signing certificate, from PayPal's own hosts alone, checked as the verifier checks it, and
//! written as the secret of a source.
//!
//! A person does this when PayPal changes its certificate, and not the ingress: what the ingress fetches, whoever posts to
//! it decides when it fetches.

use anyhow::{Context as _, Result, bail};
use reqwest::header::USER_AGENT;
use reqwest::{Client, StatusCode, Url};
use webhook_signature::{Keys, Scheme, paypal};

use super::args::Certificate;
use super::client::{client, exchange};
use super::{now, read};
use crate::terminal::say;

/// The most that PayPal may answer: a chain of certificates has a few KiB.
const MAX_ANSWER: usize = 64 << 10;

pub(crate) async fn run(args: &Certificate) -> Result<()> {
    if !paypal::is_trusted_cert_url(&args.url) {
        bail!(
            "{} is not a certificate on one of PayPal's hosts: give what the header PAYPAL-CERT-URL of a webhook says",
            args.url
        );
    }
    let root = read(&args.root)?;
    let root = String::from_utf8(root).with_context(|| format!("{} is not text", args.root.display()))?;
    let url: Url = args.url.parse().with_context(|| format!("{} is no URL", args.url))?;
    let came = fetch(&client("--tls-ca", args.tls_ca.as_deref())?, url).await?;
    let pem = checked(&came, &root, args.certificate_name.as_deref(), now())?;
    match &args.out {
        None => say!("{}", pem.trim_end())?,
        Some(file) => std::fs::write(file, pem).with_context(|| format!("can't write {}", file.display()))?,
    }
    Ok(())
}

async fn fetch(client: &Client, url: Url) -> Result<Vec<u8>> {
    let request = client.get(url.clone()).header(USER_AGENT, "fanout");
    match exchange(request, MAX_ANSWER).await? {
        (StatusCode::OK, pem) => Ok(pem),
        (status, _) => bail!("{url} answers {status}, and redirects are not followed"),
    }
}

/// The certificates as text, if the one that bears PayPal's name leads to the root, and is valid now.
fn checked(pem: &[u8], root: &str, name: Option<&str>, now: i64) -> Result<String> {
    // It is shown on a terminal.
    let plain = |text: &&str| text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n'));
    let pem = std::str::from_utf8(pem).ok().filter(plain);
    let pem = pem.context("what came is not plain text")?;
    let name = name.map(|name| ("certificate-name", name));
    // Of the parameters, the webhook's id has no part in this.
    let parameters: Vec<_> = [("webhook-id", "any"), ("root", root)]
        .into_iter()
        .chain(name)
        .collect();
    let keys = Keys::with_parameters(Scheme::Paypal, pem, &parameters).context("what came can't be used")?;
    paypal::check_certificates(&keys, now).context("what came must not be used")?;
    Ok(pem.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    macro_rules! vector {
        ($file:literal) => {
            include_str!(concat!(
                "../../../../example-components/webhook-signature/tests/vectors/paypal/",
                $file
            ))
        };
    }

    const NOW: i64 = 1_767_225_600;

    fn chain() -> String {
        [vector!("certificate.pem"), vector!("intermediate.pem")].concat()
    }

    #[test]
    fn what_leads_to_the_root_and_bears_the_name_is_taken() {
        let pem = checked(chain().as_bytes(), vector!("root.pem"), None, NOW).unwrap();
        assert_eq!(pem, chain());
    }

    #[test]
    fn what_does_not_is_refused() {
        let chain = chain();
        let other_name = [vector!("other-name.pem"), vector!("intermediate.pem")].concat();
        let root = vector!("root.pem");
        for (pem, root, name, at) in [
            (chain.as_str(), vector!("other-root.pem"), None, NOW),
            (vector!("certificate.pem"), root, None, NOW),
            (&other_name, root, None, NOW),
            (&chain, root, Some("messageverificationcerts.sandbox.paypal.com"), NOW),
            (&chain, root, None, 32_503_680_000),
            ("<html>", root, None, NOW),
            (&format!("{chain}\x1b[2J"), root, None, NOW),
        ] {
            assert!(checked(pem.as_bytes(), root, name, at).is_err(), "{name:?} {at}");
        }
    }

    async fn answered(answer: String) -> Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!(
            "http://{}/v1/notifications/certs/CERT-1",
            listener.local_addr().unwrap()
        );
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /v1/notifications/certs/CERT-1 "));
            // The client may hang up on what is too long.
            stream.write_all(answer.as_bytes()).unwrap_or_default();
        });
        let came = fetch(&client("--tls-ca", None).unwrap(), uri.parse().unwrap()).await;
        served.join().unwrap();
        came
    }

    #[tokio::test]
    async fn only_a_whole_and_short_answer_counts() {
        let whole = chain();
        let ok = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        assert_eq!(answered(ok(&whole)).await.unwrap(), whole.as_bytes());
        let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/x\r\ncontent-length: 0\r\n\r\n";
        let refused = answered(elsewhere.to_owned()).await.unwrap_err();
        assert!(refused.to_string().contains("302"), "{refused}");
        let refused = answered(ok(&"x".repeat(MAX_ANSWER + 1))).await.unwrap_err();
        assert!(refused.to_string().contains("more than 65536 bytes"), "{refused}");
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort";
        assert!(answered(cut.to_owned()).await.is_err());
    }
}
