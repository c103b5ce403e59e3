//! The console's actions over HTTP, as forms without scripts, and the updates of open pages.

use serde_json::json;

use super::http::{browser, csrf, form, page, url};
use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

const NAMESPACE: &str = "/console/namespaces/default";

/// Starts a worker with this number of dead deliveries. Its receiver accepts every later request.
async fn start(dead: usize) -> (Receiver, Standalone) {
    let receiver = Receiver::start(move |_, n| Reply::status(if n <= dead { 400 } else { 200 }));
    let spec = json!({"delivery": {"retry": {"maxAttempts": 1}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for n in 0..dead {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    wait_for_state(&standalone, "dead", dead).await;
    (receiver, standalone)
}

async fn wait_for_state(standalone: &Standalone, state: &str, n: usize) {
    eventually(DEADLINE, &format!("{n} deliveries to be {state}"), async || {
        let found = list_deliveries(standalone, &format!("state={state}")).await.len();
        if found == n { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

/// Sends a form. Returns the status, the location and the page.
async fn post(standalone: &Standalone, path: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let response = form(browser().post(url(standalone, path)), fields).send().await.unwrap();
    let location = response.headers().get("location").map_or("", |value| value.to_str().unwrap()).to_owned();
    (response.status().as_u16(), location, response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn change_needs_the_csrf_token_and_the_own_origin() {
    let (_receiver, standalone) = start(1).await;
    let id = list_deliveries(&standalone, "").await[0]["id"].as_str().unwrap().to_owned();
    let own = format!("{NAMESPACE}/deliveries/{id}");
    let token = csrf(&page(&standalone, &own).await);
    let replay = format!("{own}/replay");
    for fields in [&[][..], &[("csrf", "")], &[("csrf", "1.AAAA")], &[("csrf", &token[1..])]] {
        let (status, _, text) = post(&standalone, &replay, fields).await;
        assert_eq!(status, 403, "{fields:?}: {text}");
        assert!(text.contains("FormExpired"), "{text}");
    }
    for (name, value) in
        [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "same-site")]
    {
        let request =
            form(browser().post(url(&standalone, &replay)), &[("csrf", &token)]).header(name, value);
        assert_eq!(request.send().await.unwrap().status(), 403, "{name}: {value}");
    }
    let json = browser().post(url(&standalone, &replay)).json(&json!({"csrf": token})).send().await.unwrap();
    assert_eq!(json.status(), 415);
    assert_eq!(list_deliveries(&standalone, "state=dead").await.len(), 1, "nothing was replayed");

    let (status, location, _) = post(&standalone, &replay, &[("csrf", &token)]).await;
    assert_eq!((status, location.as_str()), (303, &*format!("{own}?done=replayed")));
    wait_for_state(&standalone, "delivered", 1).await;
    assert!(page(&standalone, &location).await.contains("The delivery is replayed now."));
    let foreign = [("csrf", token.as_str()), ("return", "https://evil.example/")];
    let (_, location, _) = post(&standalone, &replay, &foreign).await;
    assert!(location.starts_with("/console/"), "{location}");
    standalone
        .process()
        .wait_for_line(
            |line| line.contains("console action") && line.contains("replay") && line.contains(&id),
            DEADLINE,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selected_and_matching_deliveries_are_counted_first() {
    let (receiver, standalone) = start(3).await;
    let list = page(&standalone, &format!("{NAMESPACE}/deliveries?state=dead")).await;
    let token = csrf(&list);
    let ids: Vec<String> = list_deliveries(&standalone, "state=dead")
        .await
        .iter()
        .map(|delivery| format!("default/{}", delivery["id"].as_str().unwrap()))
        .collect();
    let selected = [("csrf", token.as_str()), ("action", "replay"), ("id", &ids[0]), ("id", &ids[1])];
    let (status, _, text) = post(&standalone, &format!("{NAMESPACE}/deliveries/selected"), &selected).await;
    assert_eq!(status, 200);
    assert!(text.contains("Replay 2 deliveries?"), "{text}");
    assert_eq!(receiver.requests().len(), 3, "nothing was sent yet");
    let (status, _, text) =
        post(&standalone, &format!("{NAMESPACE}/deliveries/selected/confirm"), &selected).await;
    assert_eq!(status, 200);
    assert!(text.contains("2 deliveries replayed"), "{text}");
    wait_for_state(&standalone, "delivered", 2).await;

    let dry = page(&standalone, &format!("{NAMESPACE}/deliveries/matching?action=replay&hook=h")).await;
    assert!(dry.contains("Replay 1 delivery?"), "{dry}");
    let fields = [("csrf", token.as_str()), ("hook", "h"), ("rate", "100")];
    let (status, location, _) =
        post(&standalone, &format!("{NAMESPACE}/deliveries/matching/replay"), &fields).await;
    assert_eq!((status, location.as_str()), (303, "/console/namespaces/default/replays?done=replay-started"));
    wait_for_state(&standalone, "delivered", 3).await;
    let replays = page(&standalone, &location).await;
    assert!(replays.contains("state dead, hook h"), "{replays}");
    let repeated =
        page(&standalone, &format!("{NAMESPACE}/deliveries/matching?action=replay&state=delivered")).await;
    assert!(repeated.contains("Already arrived: 3 deliveries."), "{repeated}");
    let none = page(&standalone, &format!("{NAMESPACE}/deliveries/matching?action=cancel&hook=h")).await;
    assert!(none.contains("Nothing matches."), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_delivery_is_replayed_only_after_a_question() {
    let (receiver, standalone) = start(0).await;
    standalone.publish_accepted(&event("order-4711")).await;
    wait_for_state(&standalone, "delivered", 1).await;
    let id = list_deliveries(&standalone, "").await[0]["id"].as_str().unwrap().to_owned();
    let own = format!("{NAMESPACE}/deliveries/{id}");
    let shown = page(&standalone, &own).await;
    assert!(shown.contains("Replay…") && !shown.contains(&format!("{own}/replay")), "{shown}");
    let (token, id) = (csrf(&shown), format!("default/{id}"));
    let fields = [("csrf", token.as_str()), ("action", "replay"), ("id", &id), ("return", &own)];
    let (status, _, question) = post(&standalone, &format!("{NAMESPACE}/deliveries/selected"), &fields).await;
    assert_eq!(status, 200, "{question}");
    assert!(question.contains("gets it twice, with the same webhook-id"), "{question}");
    assert!(question.contains("Already arrived: 1 delivery."), "{question}");
    assert!(
        question.contains(">order-4711</a>") && question.contains("/hooks/h\""),
        "what is sent: {question}"
    );
    assert!(question.contains(&format!("href=\"{own}\">Back")), "{question}");
    assert_eq!(receiver.requests().len(), 1, "nothing was sent yet");
    let confirm = format!("{NAMESPACE}/deliveries/selected/confirm");
    let (status, location, _) = post(&standalone, &confirm, &fields).await;
    assert_eq!((status, location), (303, format!("{own}?done=replayed")));
    receiver.wait_for(2, DEADLINE).await;

    // The search finds the number in a sentence.
    for text in ["%234711", "order+4711", "why+did+order+4711+not+arrive%3F"] {
        let search = url(&standalone, &format!("{NAMESPACE}/search?q={text}"));
        let response = browser().get(search).send().await.unwrap();
        assert_eq!(response.status(), 303, "{text}");
        let location = &response.headers()["location"];
        assert_eq!(location, "/console/namespaces/default/event?id=order-4711", "{text}");
    }
    let nothing = page(&standalone, &format!("{NAMESPACE}/search?q=lost")).await;
    assert!(
        nothing.contains("in its id or its data") && nothing.contains("text=lost&amp;data=1"),
        "{nothing}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_many_changes_what_was_counted() {
    let receiver = Receiver::start(|_, _| Reply::status(400));
    let spec = json!({"delivery": {"retry": {"maxAttempts": 1}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    standalone.publish_accepted(&event("counted")).await;
    wait_for_state(&standalone, "dead", 1).await;
    let path = format!("{NAMESPACE}/deliveries/matching?action=replay&state=dead&state=dropped&since=1h");
    let counted = page(&standalone, &path).await;
    assert!(counted.contains("Replay 1 delivery?") && counted.contains("dead, dropped"), "{counted}");
    standalone.publish_accepted(&event("later")).await;
    wait_for_state(&standalone, "dead", 2).await;
    receiver.script(|_, _| Reply::status(200));

    let (_, form) = counted.split_once("<form class=\"stack\"").expect("the form");
    let fields: Vec<(String, String)> = form
        .split("<input type=\"hidden\" name=\"")
        .skip(1)
        .map(|input| {
            let mut parts = input.split('"');
            (parts.next().unwrap().to_owned(), parts.nth(1).unwrap().to_owned())
        })
        .collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
    let (status, location, text) =
        post(&standalone, &format!("{NAMESPACE}/deliveries/matching/replay"), &fields).await;
    assert_eq!((status, location.ends_with("done=replay-started")), (303, true), "{text}");
    wait_for_state(&standalone, "delivered", 1).await;
    let replays = eventually(DEADLINE, "both replays to end", async || {
        let text = page(&standalone, &format!("{NAMESPACE}/replays")).await;
        if text.matches("</svg>done</span>").count() == 2 { Ok(text) } else { Err(text) }
    })
    .await;
    assert!(
        replays.contains("state dead, since 20") && replays.contains("state dropped, since 20"),
        "{replays}"
    );
    let dead = list_deliveries(&standalone, "state=dead").await;
    assert!(dead.len() == 1 && dead[0]["event"] == "later", "{dead:?}");
    let is_end = |line: &str| line.contains("console action") && line.contains("deliveries of default");
    let log = standalone.process().log();
    assert_eq!(log.lines().filter(|line| is_end(line)).count(), 2, "the beginning and the end: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn search_finds_hooks_without_events() {
    let manifests = [
        hook("orders-to-erp", "http://127.0.0.1:9/", json!({})),
        hook("orders", "http://127.0.0.1:9/", json!({})),
    ];
    let standalone = Standalone::start(&manifests.concat(), &[]).await;
    for (path, hook) in [
        (format!("{NAMESPACE}/search?q=orders"), "orders"),
        ("/console/search?q=orders".to_owned(), "orders"),
        ("/console/search?q=to-erp".to_owned(), "orders-to-erp"),
    ] {
        let response = browser().get(url(&standalone, &path)).send().await.unwrap();
        assert_eq!(response.status(), 303, "{path}");
        assert_eq!(response.headers()["location"], format!("{NAMESPACE}/hooks/{hook}"), "{path}");
    }
    let several = page(&standalone, "/console/search?q=order").await;
    assert!(several.contains("/hooks/orders\"") && several.contains("/hooks/orders-to-erp\""), "{several}");
}

#[tokio::test(flavor = "multi_thread")]
async fn test_event_and_test_run_show_their_result() {
    let (receiver, standalone) = start(0).await;
    let token = csrf(&page(&standalone, &format!("{NAMESPACE}/send")).await);
    let fields = [
        ("csrf", token.as_str()),
        ("source", "s"),
        ("event", "e"),
        ("id", "typed/1"),
        ("data", r#"{"n": 1}"#),
    ];
    let (status, location, text) = post(&standalone, &format!("{NAMESPACE}/send"), &fields).await;
    assert_eq!(
        (status, location.as_str()),
        (303, "/console/namespaces/default/event?id=typed%2F1&done=sent"),
        "{text}"
    );
    receiver.wait_for(1, DEADLINE).await;
    wait_for_state(&standalone, "delivered", 1).await;
    let shown = page(&standalone, &location).await;
    assert!(shown.contains("Delivered to the one hook that matched."), "{shown}");

    let test = format!("{NAMESPACE}/hooks/h/test");
    let fields = [("csrf", token.as_str()), ("with", "event"), ("event", "typed/1")];
    let (status, _, text) = post(&standalone, &test, &fields).await;
    assert_eq!(status, 200, "{text}");
    assert!(
        text.contains("The receiver accepted it: status 200") && text.contains("Request and response"),
        "{text}"
    );
    let fields = [("csrf", token.as_str()), ("with", "data"), ("data", "{")];
    let (_, _, text) = post(&standalone, &test, &fields).await;
    assert!(text.contains("the data is not JSON"), "{text}");
    let (status, _, text) =
        post(&standalone, &format!("{NAMESPACE}/hooks/h/ping"), &[("csrf", &token)]).await;
    assert!(status == 200 && text.contains("id=\"verdict\""), "{text}");
    let tried = page(
        &standalone,
        &format!("{NAMESPACE}/catalogue?event=typed%2F1&filter=data.n+%3D%3D+1+%26%26+event+%3D%3D+%27x%27"),
    )
    .await;
    assert!(tried.contains("The filter rejects the event."), "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_page_is_updated_when_it_changes() {
    let (_receiver, standalone) = start(0).await;
    let list = page(&standalone, &format!("{NAMESPACE}/deliveries")).await;
    let (_, live) = list.split_once("data-live=\"").expect("a live page");
    let live = live.split('"').next().unwrap().replace("&amp;", "&");
    let mut response = browser().get(url(&standalone, &live)).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    standalone.publish_accepted(&event("fresh")).await;
    let mut received = String::new();
    while !received.contains("event: content") || !received.contains(">fresh</a>") {
        let chunk = tokio::time::timeout(DEADLINE, response.chunk()).await.expect("an update");
        let chunk = chunk.unwrap().expect("an open stream");
        received.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(!received.contains("<html"), "only the content is sent");
    // A page that is not there has no stream.
    let lost = browser().get(url(&standalone, "/console/live?path=/console/nothing")).send().await.unwrap();
    assert_eq!(lost.status(), 404);
}
