//! What EC2 answers: read whole, refused, or given up.

use std::net::IpAddr;

use axum::body::Bytes;
use axum::response::IntoResponse;
use http::StatusCode;
use tokio::net::TcpListener;

use super::mock::*;
use crate::discovery::ec2::{Ec2, Ec2Error, ExchangeError, Wanted};

// === Reading the answer ===

#[tokio::test]
async fn all_instances_of_all_reservations_are_found_sorted_and_once() {
    let xml = page(&[&["10.0.0.12", "10.0.0.3"], &["10.0.0.100"], &[], &["10.0.0.3", "9.0.0.1"]], None);
    let mock = Mock::answering([xml.into_response()]).await;
    let found =
        crate::discovery::ec2::Finder::new(configured(&mock)).expect("finder").addresses().await.expect("addresses");
    assert_eq!(found, addresses(&["9.0.0.1", "10.0.0.3", "10.0.0.12", "10.0.0.100"]));
}

#[tokio::test]
async fn all_pages_are_read() {
    let mock = Mock::answering([
        page(&[&["10.0.0.2"]], Some("second/+=&amp;")).into_response(),
        // A page may be empty and not be the last.
        page(&[], Some("third")).into_response(),
        page(&[&["10.0.0.1"]], None).into_response(),
    ])
    .await;
    assert_eq!(ask(configured(&mock)).await.expect("addresses"), addresses(&["10.0.0.1", "10.0.0.2"]));
    let tokens: Vec<_> = mock.asked().iter().map(|asked| asked.field("NextToken")).collect();
    assert_eq!(tokens, [None, Some("second/+=&".into()), Some("third".into())]);
}

#[tokio::test]
async fn nothing_found_is_an_answer() {
    for xml in [
        page(&[], None),
        page(&[], Some("")),
        page(&[], None).replace("<reservationSet></reservationSet>", "<reservationSet/>"),
    ] {
        let mock = Mock::answering([xml.clone().into_response()]).await;
        assert_eq!(ask(configured(&mock)).await.expect("no addresses"), [] as [IpAddr; 0], "{xml}");
    }
}

#[tokio::test]
async fn an_instance_without_a_private_address_is_no_node() {
    for none in ["", "<privateIpAddress/>", "<privateIpAddress></privateIpAddress>"] {
        let own = "<privateIpAddress>10.0.0.9</privateIpAddress>";
        let xml = page(&[&["10.0.0.9", "10.0.0.1"]], None).replacen(own, none, 1);
        let mock = Mock::answering([xml.into_response()]).await;
        assert_eq!(ask(configured(&mock)).await.expect("addresses"), addresses(&["10.0.0.1"]), "{none:?}");
    }
}

#[tokio::test]
async fn what_is_no_list_of_instances_is_never_an_empty_one() {
    let whole = page(&[&["10.0.0.1"]], None);
    let answers = [
        String::new(),
        "not XML".into(),
        "<html><body>Please log in</body></html>".into(),
        "<DescribeInstancesResponse/>".into(),
        "<DescribeRegionsResponse><reservationSet/></DescribeRegionsResponse>".into(),
        whole[..whole.len() / 2].into(),
        whole.replace("</DescribeInstancesResponse>", ""),
        whole.replace("</reservationSet>", "</reservations>"),
        whole.replace("10.0.0.1<", "10.0.0.256<"),
    ];
    for answer in answers {
        let (error, told) = refused_because_of(answer.clone()).await;
        assert!(matches!(error, Ec2Error::Answer { .. }), "{answer:?} is taken for {told}");
        assert!(told.starts_with("what http://127.0.0.1:"), "{told}");
    }
}

#[tokio::test]
async fn an_error_on_a_later_page_leaves_no_partial_list() {
    let first = page(&[&["10.0.0.1"]], Some("more")).into_response();
    let mock = Mock::answering([first, refusal(StatusCode::BAD_REQUEST, "InvalidNextToken", "expired")]).await;
    let error = ask(configured(&mock)).await.expect_err("an error");
    assert!(matches!(error, Ec2Error::Refused { .. }), "{}", told(&error));
}

#[tokio::test]
async fn a_list_without_an_end_is_left() {
    let mock = Mock::new(|_| page(&[&["10.0.0.1"]], Some("again")).into_response()).await;
    let error = ask(configured(&mock)).await.expect_err("an error");
    assert!(matches!(error, Ec2Error::Endless { pages: 3, .. }), "{}", told(&error));
    assert_eq!(mock.asked().len(), 3);
}

// === What EC2 refuses ===

#[tokio::test]
async fn a_refusal_tells_the_code_and_the_message_of_aws() {
    let answer = refusal(StatusCode::FORBIDDEN, "UnauthorizedOperation", "You are not &quot;authorized&quot;.");
    let (_, told) = refused_because_of(answer).await;
    assert!(told.contains("HTTP 403 Forbidden): UnauthorizedOperation: You are not \"authorized\"."), "{told}");
    // A gateway may put the refusal into a success.
    let (error, told) = refused_because_of(refusal(StatusCode::OK, "InternalError", "Oh.")).await;
    assert!(matches!(error, Ec2Error::Refused { .. }), "{told}");
}

#[tokio::test]
async fn a_refusal_does_not_repeat_secrets() {
    let message = format!("Not {TOKEN} nor {SECRET}.\n\nThe canonical string was\nPOST");
    let (_, told) = refused_because_of(refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &message)).await;
    assert!(told.ends_with("SignatureDoesNotMatch: Not <secret> nor <secret>."), "{told}");
}

#[tokio::test]
async fn a_status_without_a_reason_is_told_as_one() {
    let elsewhere = [("location", "http://127.0.0.1:9/")];
    for answer in [
        (StatusCode::BAD_GATEWAY, "<html>nginx</html>").into_response(),
        (StatusCode::SERVICE_UNAVAILABLE, page(&[&["10.0.0.1"]], None)).into_response(),
        (StatusCode::TEMPORARY_REDIRECT, elsewhere, "").into_response(),
        (StatusCode::BAD_REQUEST, "<Response><Errors/></Response>").into_response(),
    ] {
        let expected = answer.status();
        let (error, told) = refused_because_of(answer).await;
        assert!(matches!(error, Ec2Error::Status { status, .. } if status == expected), "{told}");
    }
}

// === Bounds ===

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_and_without_a_length() {
    let large = Bytes::from(vec![b' '; SMALL.page_bytes + 1]);
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(large.clone())]);
    let unsized_body = axum::body::Body::from_stream(chunks);
    for answer in [large.into_response(), unsized_body.into_response()] {
        let (error, told) = refused_because_of(answer).await;
        let too_long = matches!(&error, Ec2Error::Ask { source: ExchangeError::TooLong { limit: 65536 }, .. });
        assert!(too_long, "{told}");
    }
}

#[tokio::test]
async fn a_body_at_the_limit_is_read() {
    let mut xml = page(&[&["10.0.0.1"]], None);
    xml.push_str(&" ".repeat(SMALL.page_bytes - xml.len()));
    let mock = Mock::answering([xml.into_response()]).await;
    assert_eq!(ask(configured(&mock)).await.expect("addresses"), addresses(&["10.0.0.1"]));
}

fn timed_out(error: &Ec2Error) -> bool {
    match error {
        Ec2Error::Ask { source: ExchangeError::Transport(cause), .. }
        | Ec2Error::Metadata { source: ExchangeError::Transport(cause), .. } => cause.is_timeout(),
        _ => false,
    }
}

#[tokio::test]
async fn silence_is_waited_for_only_so_long() {
    // The kernel takes connections for it; nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let mock = Mock::answering([]).await;

    let error =
        ask_within(Ec2 { endpoint: Some(url.clone()), ..configured(&mock) }, HASTY).await.expect_err("an error");
    assert!(matches!(error, Ec2Error::Ask { .. }) && timed_out(&error), "{}", told(&error));
    let error =
        ask_within(Ec2 { metadata: Some(url), region: None, ..configured(&mock) }, HASTY).await.expect_err("an error");
    assert!(matches!(error, Ec2Error::Metadata { wanted: Wanted::Token, .. }) && timed_out(&error), "{}", told(&error));
}

#[tokio::test]
async fn a_body_that_never_ends_is_waited_for_only_so_long() {
    let body = axum::body::Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let mock = Mock::answering([body.into_response()]).await;
    let error = ask_within(configured(&mock), HASTY).await.expect_err("an error");
    assert!(timed_out(&error), "{}", told(&error));
}
