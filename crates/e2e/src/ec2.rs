//! As much of the EC2 API as says which instances run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::wire::{Reply, Server, serve};

#[derive(Debug, Default)]
struct State {
    addresses: Vec<IpAddr>,
    fails: bool,
    asked: usize,
}

/// The API. It listens on loopback and ends when dropped.
#[derive(Debug)]
pub struct Ec2 {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Ec2 {
    /// Starts it. No instance runs yet.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), move |_| {
            let mut state = shared.lock().unwrap();
            state.asked += 1;
            let headers = vec![("content-type".to_owned(), "text/xml;charset=UTF-8".to_owned())];
            match state.fails {
                true => Reply::Whole { status: 500, headers, body: refusal().into_bytes() },
                false => Reply::Whole { status: 200, headers, body: page(&state.addresses).into_bytes() },
            }
        })
        .await;
        Self { server, state }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// From now on, instances with these private addresses run.
    pub fn run(&self, addresses: &[IpAddr]) {
        let mut state = self.state.lock().unwrap();
        state.addresses = addresses.to_vec();
        state.fails = false;
    }

    /// From now on, it fails.
    pub fn fail(&self) {
        self.state.lock().unwrap().fails = true;
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }
}

/// Each instance in a reservation of its own: the original saw the first only.
fn page(addresses: &[IpAddr]) -> String {
    let reservation = |address: &IpAddr| {
        format!(
            "<item><reservationId>r-1</reservationId><instancesSet><item><instanceId>i-1</instanceId><instanceState><code>16</code>\
             <name>running</name></instanceState><privateIpAddress>{address}</privateIpAddress></item></instancesSet></item>"
        )
    };
    let reservations: String = addresses.iter().map(reservation).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>1</requestId><reservationSet>{reservations}</reservationSet></DescribeInstancesResponse>"
    )
}

fn refusal() -> String {
    "<Response><Errors><Error><Code>InternalError</Code><Message>try later</Message></Error></Errors><RequestID>1</RequestID></Response>"
        .to_owned()
}
