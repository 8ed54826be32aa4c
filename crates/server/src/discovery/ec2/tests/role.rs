//! Region and credentials from the metadata service.

use std::time::Duration;

use axum::response::IntoResponse;
use http::StatusCode;
use reqwest::Url;

use super::mock::*;
use crate::discovery::ec2::{Ec2, Ec2Error, Finder, metadata::Metadata};

fn signer(asked: &Asked) -> String {
    let credential = asked.header("authorization").split("Credential=").nth(1).unwrap_or_default();
    let mut parts = credential.split('/');
    format!("{} in {}", parts.next().unwrap_or_default(), parts.nth(1).unwrap_or_default())
}

#[tokio::test]
async fn region_and_credentials_come_from_the_metadata_service_once() {
    let ec2 = Mock::new(|_| page(&[&["10.0.0.1"]], None).into_response()).await;
    let metadata = metadata(Duration::from_secs(6 * 3600)).await;
    let mut finder = Finder::within(by_role(&ec2, &metadata), SMALL).expect("a finder");
    for _ in 0..3 {
        assert_eq!(finder.addresses().await.expect("addresses"), addresses(&["10.0.0.1"]));
    }
    assert_eq!(
        metadata.lines(),
        [
            "PUT /latest/api/token",
            "GET /latest/meta-data/placement/region",
            "PUT /latest/api/token",
            "GET /latest/meta-data/iam/security-credentials/",
            "GET /latest/meta-data/iam/security-credentials/node-finder",
        ]
    );
    let asked = ec2.asked();
    assert_eq!(asked.iter().map(signer).collect::<Vec<_>>(), ["ID-1 in eu-north-1"; 3]);
    assert!(asked.iter().all(|asked| asked.header("x-amz-security-token") == TOKEN));
}

#[tokio::test]
async fn credentials_are_renewed_shortly_before_they_expire() {
    let ec2 = Mock::new(|_| page(&[], None).into_response()).await;
    let metadata = metadata(Duration::from_secs(200)).await;
    let mut finder = Finder::within(by_role(&ec2, &metadata), SMALL).expect("a finder");
    finder.addresses().await.expect("the first answer");
    finder.addresses().await.expect("the second answer");
    assert_eq!(ec2.asked().iter().map(signer).collect::<Vec<_>>(), ["ID-1 in eu-north-1", "ID-2 in eu-north-1"]);
}

#[tokio::test]
async fn credentials_that_cannot_be_renewed_serve_until_they_expire() {
    for (expires_in, still_serve) in [(200, true), (0, false)] {
        let ec2 = Mock::new(|_| page(&[], None).into_response()).await;
        let metadata = metadata(Duration::from_secs(expires_in)).await;
        let mut finder = Finder::within(by_role(&ec2, &metadata), SMALL).expect("a finder");
        finder.addresses().await.expect("the first answer");
        let gone = Metadata::new(Url::parse("http://127.0.0.1:9").expect("a URL"), SMALL.metadata_time);
        finder.metadata = gone.expect("a client");
        let second = finder.addresses().await;
        assert_eq!(second.is_ok(), still_serve, "{expires_in} s: {second:?}");
    }
}

#[tokio::test]
async fn after_a_refusal_the_credentials_are_asked_for_again() {
    let ec2 = Mock::answering([
        refusal(
            StatusCode::UNAUTHORIZED,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        ),
        page(&[], None).into_response(),
    ])
    .await;
    let metadata = metadata(Duration::from_secs(6 * 3600)).await;
    let mut finder = Finder::within(by_role(&ec2, &metadata), SMALL).expect("a finder");
    finder.addresses().await.expect_err("a refusal");
    finder.addresses().await.expect("an answer");
    assert_eq!(ec2.asked().iter().map(signer).collect::<Vec<_>>(), ["ID-1 in eu-north-1", "ID-2 in eu-north-1"]);
}

#[tokio::test]
async fn a_machine_without_a_role_says_so() {
    for roles in [StatusCode::NOT_FOUND.into_response(), "\n".into_response()] {
        let metadata = Mock::answering(["token".into_response(), roles]).await;
        let ec2 = Mock::answering([]).await;
        let configured = Ec2 { region: Some("eu-west-1".into()), ..by_role(&ec2, &metadata) };
        let error = ask(configured).await.expect_err("an error");
        assert!(matches!(error, Ec2Error::NoRole), "{}", told(&error));
        assert!(ec2.asked().is_empty());
    }
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_told_of_without_their_content() {
    let whole = role_credentials(1, Duration::from_secs(3600));
    for (broken, reason) in [
        (whole.replace("SecretAccessKey", "Secret"), "a field is missing"),
        (whole.replace(&format!("\"{SECRET}\""), "4711"), "a field is missing, or not a string"),
        (whole[..whole.len() - 1].to_owned(), "it is not JSON"),
        (r#"{"Code": "AssumeRoleUnauthorizedAccess"}"#.to_owned(), "its Code is \"AssumeRoleUnauthorizedAccess\""),
        (whole.replace("\"Expiration\":\"2", "\"Expiration\":\"x"), "its Expiration is not a time"),
    ] {
        let metadata = Mock::answering(["token".into_response(), "role".into_response(), broken.into_response()]).await;
        let ec2 = Mock::answering([]).await;
        let configured = Ec2 { region: Some("eu-west-1".into()), ..by_role(&ec2, &metadata) };
        let told = told(&ask(configured).await.expect_err("an error"));
        assert!(told.contains(reason), "{told}");
        assert!(!told.contains(SECRET) && !told.contains(TOKEN) && !told.contains("4711"), "{told}");
    }
}

#[tokio::test]
async fn a_metadata_service_that_is_switched_off_is_told_with_its_status() {
    let metadata = Mock::answering([StatusCode::FORBIDDEN.into_response()]).await;
    let ec2 = Mock::answering([]).await;
    let told = told(&ask(by_role(&ec2, &metadata)).await.expect_err("an error"));
    assert!(told.contains("refuses a metadata token") && told.ends_with("HTTP 403 Forbidden"), "{told}");
}
