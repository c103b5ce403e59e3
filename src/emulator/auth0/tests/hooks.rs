//! Tests of hooks and their secrets.

use super::*;

#[tokio::test]
async fn supports_hook_lifecycle() {
    let auth0 = start_without_backoff().await;
    let (status, made) = auth0.call("POST", HOOKS, hook_body("my-hook", true)).await;
    let expected = json!({"id": made["id"], "name": "my-hook", "script": "module.exports = 1",
        "dependencies": {}, "triggerId": "credentials-exchange", "enabled": true});
    assert_eq!((status, &made), (201, &expected));
    let path = format!("{HOOKS}/{}", made["id"].as_str().unwrap());
    assert_eq!(auth0.get(&path).await, (200, expected));
    assert_eq!(
        auth0.get(&format!("{path}?fields=id,name")).await.1,
        json!({"id": made["id"], "name": "my-hook"})
    );
    assert_eq!(auth0.call("POST", HOOKS, hook_body("my-hook", false)).await.0, 409);
    let (status, changed) =
        auth0.call("PATCH", &path, json!({"script": "x", "dependencies": {"a": "1"}})).await;
    assert_eq!(
        (status, &changed["script"], &changed["dependencies"]),
        (200, &json!("x"), &json!({"a": "1"}))
    );
    for bad in [json!({}), json!({"triggerId": "credentials-exchange"}), json!({"name": "a_b"})] {
        let (status, error) = auth0.call("PATCH", &path, bad).await;
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_body")));
    }
    assert_eq!(auth0.call("DELETE", &path, Value::Null).await.0, 204);
    let missing = json!({"statusCode": 404, "error": "Not Found", "message": "Error: Hook does not exist",
        "errorCode": "HookDoesNotExist"});
    for method in ["DELETE", "GET"] {
        assert_eq!(auth0.call(method, &path, Value::Null).await, (404, missing.clone()));
    }
    assert_eq!(auth0.call("PATCH", &path, json!({"name": "a"})).await, (404, missing));
}

#[tokio::test]
async fn allows_one_enabled_hook_per_trigger() {
    let auth0 = start_without_backoff().await;
    let (_, first) = auth0.call("POST", HOOKS, hook_body("one", true)).await;
    let (status, second) = auth0.call("POST", HOOKS, hook_body("two", true)).await;
    assert_eq!((status, &second["enabled"]), (201, &json!(false)));
    let path = |hook: &Value| format!("{HOOKS}/{}", hook["id"].as_str().unwrap());
    let enable = json!({"enabled": true});
    assert_eq!(auth0.call("PATCH", &path(&second), enable.clone()).await.0, 409);
    assert_eq!(auth0.call("PATCH", &path(&first), enable.clone()).await.0, 200);
    auth0.call("PATCH", &path(&first), json!({"enabled": false})).await;
    assert_eq!(auth0.call("PATCH", &path(&second), enable).await.1["enabled"], true);
}

#[tokio::test]
async fn lists_hooks_by_page_and_filter() {
    let auth0 = start_without_backoff().await;
    for name in ["a", "b", "c"] {
        auth0.call("POST", HOOKS, hook_body(name, name == "b")).await;
    }
    let (_, all) = auth0.get(HOOKS).await;
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert!(all[0].get("script").is_none() && all[0]["name"] == "a", "{all}");
    let (_, page) = auth0.get(&format!("{HOOKS}?page=1&per_page=2&include_totals=true&fields=name")).await;
    assert_eq!(page, json!({"total": 3, "start": 2, "limit": 2, "hooks": [{"name": "c"}]}));
    let (_, enabled) =
        auth0.get(&format!("{HOOKS}?enabled=true&fields=name&triggerId=credentials-exchange")).await;
    assert_eq!(enabled, json!([{"name": "b"}]));
    let (_, none) = auth0.get(&format!("{HOOKS}?triggerId=send-phone-message")).await;
    assert_eq!(none, json!([]));
    for bad in ["per_page=101", "page=-1", "enabled=x", "triggerId=x"] {
        let (status, error) = auth0.get(&format!("{HOOKS}?{bad}")).await;
        assert_eq!((status, &error["errorCode"]), (400, &json!("invalid_query_string")), "{bad}");
    }
}

#[tokio::test]
async fn never_returns_secret_values() {
    let auth0 = start_without_backoff().await;
    let (_, made) = auth0.call("POST", HOOKS, hook_body("one", false)).await;
    let path = format!("{HOOKS}/{}/secrets", made["id"].as_str().unwrap());
    assert_eq!(auth0.get(&path).await, (200, json!({})));
    let add = json!({"ONE": "hush-1", "TWO": "hush-2"});
    assert_eq!(auth0.call("POST", &path, add.clone()).await, (201, json!({})));
    assert_eq!(auth0.call("POST", &path, add).await.0, 409);
    let shown = json!({"ONE": "_VALUE_NOT_SHOWN_", "TWO": "_VALUE_NOT_SHOWN_"});
    assert_eq!(auth0.get(&path).await, (200, shown));
    assert_eq!(auth0.call("PATCH", &path, json!({"ONE": "new", "THREE": "x"})).await.0, 404);
    assert_eq!(auth0.call("PATCH", &path, json!({"ONE": "new"})).await, (201, json!({})));
    assert_eq!(auth0.call("DELETE", &path, json!(["TWO", "THREE"])).await.0, 204);
    assert_eq!(auth0.get("/__emulator/state").await.1["hooks"][0]["secrets"], json!({"ONE": "new"}));
    let many =
        |n: usize| (0..n).map(|n| (format!("S{n}"), "x".into())).collect::<serde_json::Map<_, Value>>();
    assert_eq!(auth0.call("POST", &path, many(21).into()).await.0, 400);
    assert_eq!(auth0.call("POST", &path, many(20).into()).await.0, 400, "one secret exists");
    assert_eq!(auth0.call("POST", &path, many(19).into()).await.0, 201);
    for (method, bad) in
        [("POST", json!({})), ("POST", json!({"A": 1})), ("DELETE", json!({})), ("DELETE", json!([]))]
    {
        assert_eq!(auth0.call(method, &path, bad).await.0, 400);
    }
    let missing = format!("{HOOKS}/01GQN0P01XY4VE0PCK7H20QZ4M/secrets");
    assert_eq!(auth0.get(&missing).await.1["errorCode"], "HookDoesNotExist");
}

#[tokio::test]
async fn answers_as_after_end_of_life() {
    for (status, message) in
        [(403, "This endpoint is disabled for your tenant."), (404, "Not Found"), (410, "Gone")]
    {
        let gone = StatusCode::from_u16(status).unwrap();
        let auth0 = start(Auth0Options { hooks_gone: Some(gone), ..Auth0Options::default() }).await;
        let (got, error) = auth0.get(HOOKS).await;
        assert_eq!((got, &error["message"]), (status, &json!(message)));
        assert_eq!(auth0.get(STREAMS).await.0, 200);
    }
}
