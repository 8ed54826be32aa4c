//! (being written)
#[derive(Debug, Clone)]
pub struct Ec2 {
    pub tag_name: String,
    pub tag_value: String,
    pub every: std::time::Duration,
    pub region: Option<String>,
    pub endpoint: Option<String>,
    pub metadata: Option<String>,
    pub credentials: Option<Credentials>,
}
#[derive(Debug, Clone)]
pub struct Credentials {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Ec2Error;
impl Ec2 {
    pub async fn addresses(&self) -> Result<Vec<std::net::IpAddr>, Ec2Error> {
        Err(Ec2Error)
    }
}
