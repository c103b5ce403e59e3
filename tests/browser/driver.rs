//! Chromium under chromedriver: one process and one session for each test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use fantoccini::elements::Element;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::harness::http::client;
use crate::harness::{DEADLINE, Process, eventually, free_port, watchdog};

/// Browsers at a time: each needs a core and some hundred megabytes.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// A browser of one test, with a profile of its own.
pub struct Browser {
    driver: Client,
    /// Ended after the session, which it serves.
    _chromedriver: Process,
    _slot: SemaphorePermit<'static>,
}

/// Keys of WebDriver.
pub const ENTER: &str = "\u{E007}";
pub const TAB: &str = "\u{E004}";

/// `prefers-color-scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    pub const ALL: [Scheme; 2] = [Scheme::Light, Scheme::Dark];

    pub fn name(self) -> &'static str {
        match self {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        }
    }
}

/// The paths of Chromium and chromedriver.
fn programs() -> &'static (PathBuf, PathBuf) {
    static PROGRAMS: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
        let output = run_script("find.sh");
        let mut lines = output.lines().map(PathBuf::from);
        lines.next().zip(lines.next()).expect("two paths")
    });
    &PROGRAMS
}

/// Returns the script of axe-core.
pub fn axe() -> &'static str {
    static AXE: LazyLock<String> =
        LazyLock::new(|| std::fs::read_to_string(run_script("axe.sh").trim()).expect("axe-core"));
    &AXE
}

fn run_script(name: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser").join(name);
    let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("a script");
    assert!(output.status.success(), "{} failed; its output is above", script.display());
    String::from_utf8(output.stdout).expect("paths in UTF-8")
}

impl Browser {
    pub async fn start() -> Browser {
        Browser::start_with(json!({})).await
    }

    /// Starts a browser that runs no scripts.
    pub async fn without_scripts() -> Browser {
        Browser::start_with(json!({"profile.managed_default_content_settings.javascript": 2})).await
    }

    /// Starts a browser with these preferences of its profile.
    async fn start_with(preferences: Value) -> Browser {
        let slot = SLOTS.acquire().await.expect("a semaphore that is never closed");
        let (chromium, chromedriver) = programs();
        let port = free_port();
        let mut command = Command::new(chromedriver);
        command.arg(format!("--port={port}"));
        let process = Process::start(command);
        let url = format!("http://127.0.0.1:{port}");
        eventually(DEADLINE, "chromedriver to listen", async || {
            client().get(format!("{url}/status")).send().await.map_err(|error| error.to_string())
        })
        .await;
        let profile = format!("--user-data-dir={}", watchdog::unique_path("profile").display());
        let arguments = [
            "--headless=new",
            // Chromium's sandbox refuses to run as root, and in containers.
            "--no-sandbox",
            // The shared memory of a container is small.
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--lang=en-US",
            "--window-size=1280,900",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            &profile,
        ];
        let options = json!({"binary": chromium, "args": arguments, "prefs": preferences});
        let Value::Object(wanted) =
            json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}})
        else {
            unreachable!("an object")
        };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let driver = builder.capabilities(wanted).connect(&url).await.expect("a session of Chromium");
        Browser { driver, _chromedriver: process, _slot: slot }
    }

    /// Ends the session. A test that fails ends it by the end of chromedriver.
    pub async fn quit(self) {
        self.driver.close().await.ok();
    }

    /// Opens an address and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.driver.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    pub async fn url(&self) -> String {
        self.driver.current_url().await.unwrap().to_string()
    }

    pub async fn source(&self) -> String {
        self.driver.source().await.unwrap()
    }

    /// Waits for an element.
    pub async fn find(&self, css: &str) -> Element {
        match self.driver.wait().at_most(DEADLINE).for_element(Locator::Css(css)).await {
            Ok(element) => element,
            Err(error) => panic!("{css} at {}: {error}\n{}", self.url().await, self.text("body").await),
        }
    }

    /// Returns the elements that are there now.
    pub async fn find_all(&self, css: &str) -> Vec<Element> {
        self.driver.find_all(Locator::Css(css)).await.unwrap()
    }

    /// Returns the text of the first element, as a person sees it.
    pub async fn text(&self, css: &str) -> String {
        match self.driver.find(Locator::Css(css)).await {
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits until an element's text contains this one.
    pub async fn wait_for_text(&self, css: &str, expected: &str) {
        eventually(DEADLINE, &format!("{css} to contain {expected:?}"), async || {
            let text = self.text(css).await;
            if text.contains(expected) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// Clicks an element. Finds it again if a live update has replaced it meanwhile.
    pub async fn click(&self, css: &str) {
        eventually(DEADLINE, &format!("a click on {css}"), async || {
            self.find(css).await.click().await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// Fills a field.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses keys at the element that has the focus.
    pub async fn press(&self, keys: &str) {
        self.driver.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    /// Runs a script in the page and returns its value.
    pub async fn run(&self, script: &str) -> Value {
        let result = self.driver.execute(script, Vec::new()).await;
        result.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script in the page that ends by calling its last argument, and returns that value.
    pub async fn run_async(&self, script: &str) -> Value {
        let result = self.driver.execute_async(script, Vec::new()).await;
        result.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a command of the browser's debugging protocol.
    async fn debug(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.extension("goog/cdp/execute", body).await
    }

    /// Runs a command that only chromedriver has.
    async fn extension(&self, path: &'static str, body: Value) -> Value {
        let result = self.driver.issue_cmd(Extension { path, body }).await;
        result.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sets `prefers-color-scheme`.
    pub async fn set_scheme(&self, scheme: Scheme) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme.name()});
        self.debug("Emulation.setEmulatedMedia", json!({"features": [feature]})).await;
    }

    /// Sets the size of the page in CSS pixels.
    pub async fn set_size(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.debug("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Sets the time zone of the browser.
    pub async fn set_time_zone(&self, zone: &str) {
        self.debug("Emulation.setTimezoneOverride", json!({"timezoneId": zone})).await;
    }

    /// Writes a picture of the whole page.
    pub async fn capture(&self, path: &Path) {
        use base64::Engine as _;
        let picture = json!({"captureBeyondViewport": true, "format": "png"});
        let picture = self.debug("Page.captureScreenshot", picture).await;
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Returns what axe-core finds that is serious or critical: one line each.
    pub async fn accessibility_problems(&self) -> Vec<String> {
        // Evaluated by the debugger, because the page's policy allows no script of others.
        self.debug("Runtime.evaluate", json!({"expression": axe()})).await;
        let script = "axe.run(document, {resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
            .then(result => JSON.stringify(result.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v =>
                `${v.id}: ${v.help}: ` + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | '))))";
        let result = json!({"expression": script, "awaitPromise": true, "returnByValue": true});
        let result = self.debug("Runtime.evaluate", result).await;
        let text = result["result"]["value"].as_str().unwrap_or_else(|| panic!("axe: {result}"));
        serde_json::from_str(text).unwrap()
    }

    /// Returns the errors that the browser has logged since the last call: violations of the policy, failed requests, errors of
    /// scripts.
    pub async fn console_errors(&self) -> Vec<String> {
        let entries = self.extension("se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a list").iter();
        entries.filter(|entry| entry["level"] == "SEVERE").map(ToString::to_string).collect()
    }
}

/// A command of chromedriver that the WebDriver standard does not have.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.expect("a session"), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
