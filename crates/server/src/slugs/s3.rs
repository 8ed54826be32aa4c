//! What is asked of S3 and of what speaks its API: objects by path-style URLs, signed with Signature Version 4.
//!
//! `object_store` was measured and not taken: it adds 108 s to a release build, for four requests.

use std::borrow::Cow;
use std::time::SystemTime;

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use captain_slug::Digest;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};

use crate::discovery::ec2::Credentials;

/// What S3 leaves as it is in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Where buckets are, and who asks.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Where the API is; by default AWS, in the region.
    pub endpoint: Option<Url>,
    /// The region; `us-east-1` by default, which services other than AWS do not look at.
    pub region: Option<String>,
    /// Who asks. Without, requests are not signed: enough for what everybody may read.
    pub credentials: Option<Credentials>,
}

/// What goes along with a request.
pub(super) enum Payload {
    Nothing,
    /// Bytes of this digest.
    Of(Digest),
}

impl Access {
    fn region(&self) -> &str {
        self.region.as_deref().unwrap_or("us-east-1")
    }

    fn url(&self, bucket: &str, key: &str, query: &[(&str, &str)]) -> Result<Url, String> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.as_str().trim_end_matches('/').to_owned(),
            None => {
                let domain = if self.region().starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
                format!("https://s3.{}.{domain}", self.region())
            }
        };
        let text = format!("{endpoint}/{bucket}/{}", utf8_percent_encode(key, PATH));
        let mut url = Url::parse(&text).map_err(|_| "AWS_REGION or AWS_ENDPOINT_URL_S3 makes no URL".to_owned())?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// A request for an object, or for a bucket where the key is empty.
    pub(super) fn request(
        &self,
        method: Method,
        bucket: &str,
        key: &str,
        query: &[(&str, &str)],
        payload: Payload,
    ) -> Result<Request, String> {
        let url = self.url(bucket, key, query)?;
        let mut request = Request::new(method, url);
        if let Some(credentials) = &self.credentials {
            self.sign(&mut request, credentials.clone(), payload, SystemTime::now())
                .map_err(|_| "the request cannot be signed with the given AWS credentials".to_owned())?;
        }
        Ok(request)
    }

    fn sign(
        &self,
        request: &mut Request,
        Credentials { id, secret, token }: Credentials,
        payload: Payload,
        now: SystemTime,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let identity = aws_credential_types::Credentials::new(id, secret, token, None, "captain").into();
        // S3 takes paths as they are, where other services have them encoded twice and cleaned.
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region())
            .name("s3")
            .time(now)
            .settings(settings)
            .build()?
            .into();
        let body = match payload {
            Payload::Nothing => SignableBody::Bytes(b""),
            Payload::Of(digest) => SignableBody::Precomputed(digest.to_string()),
        };
        let url = Cow::from(request.url().as_str());
        let signable = SignableRequest::new(request.method().as_str(), url, std::iter::empty(), body)?;
        let (instructions, _) = sign(signable, &params)?.into_parts();
        for (name, value) in instructions.headers() {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(true);
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The examples of AWS's own documentation of Signature Version 4 for S3 ("GET Bucket Lifecycle", "Get Bucket (List Objects)").
    #[test]
    fn signatures_are_those_that_aws_documents() {
        let access =
            Access { endpoint: Url::parse("https://examplebucket.s3.amazonaws.com").ok(), ..Access::default() };
        let credentials = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
        let cases = [
            ("lifecycle=", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ];
        for (query, signature) in cases {
            let url = format!("https://examplebucket.s3.amazonaws.com/?{query}");
            let mut request = Request::new(Method::GET, Url::parse(&url).unwrap());
            access.sign(&mut request, credentials.clone(), Payload::Nothing, at).unwrap();
            let authorization = request.headers()["authorization"].to_str().unwrap();
            assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
        }
    }

    #[test]
    fn keys_are_encoded_once_and_buckets_are_in_the_path() {
        let access = Access { endpoint: Url::parse("http://minio:9000/").ok(), ..Access::default() };
        let url = access.url("slugs", "a b/ü+?#%20.tgz", &[]).unwrap();
        assert_eq!(url.as_str(), "http://minio:9000/slugs/a%20b/%C3%BC%2B%3F%23%2520.tgz");
        let aws = Access { region: Some("eu-west-2".to_owned()), ..Access::default() };
        let url = aws.url("slugs", "", &[("list-type", "2")]).unwrap();
        assert_eq!(url.as_str(), "https://s3.eu-west-2.amazonaws.com/slugs/?list-type=2");
        let request = aws.request(Method::GET, "slugs", "a", &[], Payload::Nothing).unwrap();
        assert!(request.headers().is_empty(), "not signed without credentials");
    }
}
