//! Where the server is, and how its answers are to be shown: what all commands that talk to it have in common.

use captain_api::client::{Client, Error, Get};
use serde_json::value::RawValue;

use crate::exit::Failure;
use crate::printer::Printer;

/// Arguments of every command that talks to a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The captain to talk to
    ///
    /// An http or https URL; it may hold a user and password. For https with certificates of your own, SSL_CERT_FILE names a file of
    /// the authorities to trust.
    #[arg(
        long,
        env = "CAPTAIN_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// Print the server's JSON instead of text for people
    #[arg(long)]
    pub(crate) json: bool,
}

impl Connection {
    pub(crate) fn client(&self) -> Result<Client, Error> {
        Client::new(&self.url)
    }

    /// Prints the answer to a query as the server wrote it.
    pub(crate) async fn pass_on<T>(&self, query: &Get<T>, printer: &mut Printer) -> Result<(), Failure> {
        let answer: Box<RawValue> = self.client()?.get_as(query).await?;
        Ok(document(&answer, printer)?)
    }
}

/// Prints one JSON document.
pub(crate) fn document(json: &RawValue, printer: &mut Printer) -> std::io::Result<()> {
    printer.data(json.get())?;
    printer.data("\n")
}
