//! The engines' own word: what really is on a node, asked over the raw Docker API.

use serde_json::{Value, json};

use crate::http::{Endpoint, Response};

/// The raw API of one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    endpoint: Endpoint,
}

impl Engine {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// Whether it answers at all.
    pub async fn answers(&self) -> bool {
        matches!(self.endpoint.try_get("/_ping").await, Ok(status) if status.is_success())
    }

    /// A plain call; a body of null is none.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.endpoint.send(method, path, &[("content-type", "application/json")], body).await
    }

    /// All containers, running or not.
    pub async fn containers(&self) -> Vec<Value> {
        let list = self.call("GET", "/containers/json?all=1", Value::Null).await.expect(200).json();
        list.as_array().unwrap().clone()
    }

    /// The ids of the containers that run.
    pub async fn running(&self) -> Vec<String> {
        let containers = self.containers().await;
        containers.iter().filter(|c| c["State"] == "running").map(|c| c["Id"].as_str().unwrap().to_owned()).collect()
    }

    /// One container in full.
    pub async fn inspect(&self, id: &str) -> Value {
        self.call("GET", &format!("/containers/{id}/json"), Value::Null).await.expect(200).json()
    }

    /// Whether there is such a container.
    pub async fn has(&self, id: &str) -> bool {
        self.call("GET", &format!("/containers/{id}/json"), Value::Null).await.status == 200
    }

    /// Creates a container as somebody else would, and returns its id.
    pub async fn create(&self, name: &str, configuration: Value) -> String {
        let created =
            self.call("POST", &format!("/containers/create?name={name}"), configuration).await.expect(201).json();
        created["Id"].as_str().unwrap().to_owned()
    }

    /// Creates and starts a container as somebody else would, and returns its id.
    pub async fn run(&self, name: &str, configuration: Value) -> String {
        let id = self.create(name, configuration).await;
        self.start(&id).await;
        id
    }

    /// Starts a container.
    pub async fn start(&self, id: &str) {
        let _ = self.call("POST", &format!("/containers/{id}/start"), Value::Null).await.expect(204);
    }

    /// Sends a signal to a container.
    pub async fn signal(&self, id: &str, signal: &str) {
        let _ = self.call("POST", &format!("/containers/{id}/kill?signal={signal}"), Value::Null).await.expect(204);
    }

    /// Removes a container whatever its state.
    pub async fn remove(&self, id: &str) {
        let answer = self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), Value::Null).await;
        assert!([204, 404, 409].contains(&answer.status.as_u16()), "removing {id}: {}", answer.text());
    }

    /// Removes all containers.
    pub async fn clear(&self) {
        for container in self.containers().await {
            self.remove(container["Id"].as_str().unwrap()).await;
        }
    }

    /// Removes an image, if it is there.
    pub async fn remove_image(&self, image: &str) {
        let answer = self.call("DELETE", &format!("/images/{image}?force=1"), Value::Null).await;
        assert!([200, 404].contains(&answer.status.as_u16()), "removing {image}: {}", answer.text());
    }

    /// Makes an image of a root file system. `change` is a line of a Dockerfile, such as an entry point.
    pub async fn import(&self, image: &str, tar: Vec<u8>, change: &str) {
        let (repository, tag) = image.rsplit_once(':').unwrap();
        let change: String = change.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}&changes={change}");
        let answer = self.endpoint.send("POST", &path, &[("content-type", "application/x-tar")], tar).await.expect(200);
        assert!(self.has_image(image).await, "importing {image}: {}", answer.text());
    }

    /// Unpacks a tar into a container.
    pub async fn unpack(&self, id: &str, tar: Vec<u8>) {
        let path = format!("/containers/{id}/archive?path=/");
        let _ = self.endpoint.send("PUT", &path, &[("content-type", "application/x-tar")], tar).await.expect(200);
    }

    /// Makes an image of a container.
    pub async fn commit(&self, id: &str, repository: &str, tag: &str) {
        let path = format!("/commit?container={id}&repo={repository}&tag={tag}");
        let _ = self.call("POST", &path, json!({})).await.expect(201);
    }

    /// Pushes an image to its registry.
    pub async fn push(&self, repository: &str, tag: &str) {
        let nobody = ("x-registry-auth", "e30="); // `{}`: the registry asks for no password, and the API for the header
        let path = format!("/images/{repository}/push?tag={tag}");
        let answer = self.endpoint.send("POST", &path, &[nobody], "").await.expect(200);
        assert!(!answer.text().contains("\"error\""), "pushing {repository}:{tag}: {}", answer.text());
    }

    /// Whether it has an image.
    pub async fn has_image(&self, image: &str) -> bool {
        self.call("GET", &format!("/images/{image}/json"), Value::Null).await.status == 200
    }

    /// Pulls an image, as somebody with a shell on the node would.
    pub async fn pull(&self, image: &str, tag: &str) {
        let answer =
            self.call("POST", &format!("/images/create?fromImage={image}&tag={tag}"), Value::Null).await.expect(200);
        assert!(self.has_image(&format!("{image}:{tag}")).await, "pulling {image}:{tag}: {}", answer.text());
    }
}

/// A container as the original Captain makes it (CONTRACT.md), of an image that the node has.
#[must_use]
pub fn original_container(image: &str, slug: &str, slots: u64, environment: &[&str]) -> Value {
    let mut env: Vec<String> = environment.iter().map(|&entry| entry.to_owned()).collect();
    env.extend(["PORT=8080".to_owned(), format!("SLUG_URL={slug}")]);
    json!({
        "Image": image, "Cmd": ["start", "web"], "Env": env, "ExposedPorts": {"8080/tcp": {}},
        "HostConfig": {
            "CpuShares": slots, "Memory": slots * 128 * 1024 * 1024,
            "PortBindings": {"8080/tcp": [{"HostPort": ""}]},
        },
    })
}
