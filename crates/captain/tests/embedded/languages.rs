//! Apps in Python and Node on this machine's own interpreters, packed by the command line and run by the real server.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::server::{Server, order, stop_all};
use crate::world::{CAPTAIN, get};

const PYTHON: &str = r#"
import http.server, json, os, sqlite3, ssl, sys

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # An extension module, the resolver's and the certificates' files, the limits, and a file of its own.
        open("written", "w").write("yes")
        told = {"language": "python", "version": sys.version_info[0], "cwd": os.getcwd(), "uid": os.getuid(),
                "certificates": len(ssl.create_default_context().get_ca_certs()) > 0 or os.path.exists("/etc/ssl"),
                "sum": sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()[0], "written": open("written").read()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Page).serve_forever()
"#;

const NODE: &str = r#"
const fs = require("fs"), os = require("os"), http = require("http"), zlib = require("zlib");
const { Worker } = require("worker_threads");
http.createServer((request, response) => {
  fs.writeFileSync("written", "yes");
  // A thread of its own, and memory that is compiled to and executed.
  new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true }).once("message", sum => {
    const packed = zlib.gunzipSync(zlib.gzipSync("yes")).toString();
    response.end(JSON.stringify({ language: "node", cwd: process.cwd(), uid: process.getuid(), user: os.userInfo().username,
      sum, packed, written: fs.readFileSync("written", "utf8") }));
  });
}).listen(process.env.PORT);
"#;

#[tokio::test]
async fn python_runs_on_the_hosts_interpreter() {
    let told = run("python", &[("Procfile", "web: python3 server.py\n"), ("server.py", PYTHON)]).await;
    for part in
        [r#""language": "python""#, r#""version": 3"#, r#""cwd": "/app""#, r#""sum": 42"#, r#""written": "yes""#]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains(r#""uid": 0"#), "{told}");
}

#[tokio::test]
async fn node_runs_on_the_hosts_interpreter() {
    let told = run("node", &[("Procfile", "web: node server.js\n"), ("server.js", NODE)]).await;
    let parts = [
        r#""language":"node""#,
        r#""cwd":"/app""#,
        r#""user":"app""#,
        r#""sum":42"#,
        r#""packed":"yes""#,
        r#""written":"yes""#,
    ];
    for part in parts {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// What an app of these files answers on its port.
async fn run(name: &str, files: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join(name);
    fs::create_dir(&app).unwrap();
    for (path, content) in files {
        fs::write(app.join(path), content).unwrap();
    }
    let slug = pack(&app);
    let data = dir.path().join("data");
    let server = Server::start(&data, 10);
    let (status, kept) = server.ask("PUT", "/slugs/", &slug);
    assert_eq!(status, 201, "{kept}");
    let uri = format!("sha256:{}", kept["sha256"].as_str().unwrap());
    let (status, started) = server.ask("POST", "/instances/", &order(&uri));
    assert_eq!(status, 201, "{started}");
    let answer = get(started["port"].as_u64().unwrap().try_into().unwrap()).await;
    stop_all(&server, &data);
    answer
}

fn pack(app: &Path) -> Vec<u8> {
    let slug = app.with_extension("tgz");
    let packed = Command::new(CAPTAIN).args(["slug", "pack"]).arg(app).arg("-o").arg(&slug).output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    fs::read(slug).unwrap()
}
