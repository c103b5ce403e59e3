"""Sends and reads CloudEvents with the Python SDK, for tests/it/worker/cloudevents_sdks.rs.

send URL: posts each sample in structured, binary and batch mode.
read: reads requests from standard input, a JSON object {"headers", "body" (base64)} a line, and prints the event of each:
{"id", "contentType", "data" (base64)}.
"""

import base64
import http.client
import json
import sys
from urllib.parse import urlsplit

from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

SAMPLES = {
    "json": ("application/json", {"text": "gr\u00fcn \"x\"", "n": [1, 2.5, None]}),
    "text": ("text/plain; charset=utf-8", "gr\u00fcn \"x\"\n% \t"),
    "xml": ("application/xml", "<?xml version=\"1.0\"?>\n<a b=\"c\">gr\u00fcn</a>"),
    "bytes": ("application/octet-stream", bytes(range(256))),
    "none": (None, None),
}


def event(mode, name):
    content_type, data = SAMPLES[name]
    attributes = {"id": f"python-{mode}-{name}", "source": "/sdk/python", "type": "sample", "subject": "orders/1"}
    if content_type:
        attributes["datacontenttype"] = content_type
    return CloudEvent(attributes, data)


def post(url, headers, body):
    # Not urllib.request, which declares a body without a content type as a form.
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    connection.request("POST", address.path, body=body, headers=headers)
    response = connection.getresponse()
    assert response.status == 202, (response.status, response.read())
    connection.close()


def send(url):
    for name in SAMPLES:
        for mode, encode in [("structured", to_structured_event), ("binary", to_binary_event)]:
            message = encode(event(mode, name))
            post(url, message.headers, message.body)
    batch = [to_structured_event(event("batch", name)).body for name in SAMPLES]
    post(url, {"content-type": "application/cloudevents-batch+json"}, b"[" + b",".join(batch) + b"]")


def data_bytes(received):
    data, content_type = received.get_data(), received.get_datacontenttype() or "application/json"
    if data is None:
        return b""
    if isinstance(data, bytes):
        return data
    if "json" in content_type:
        return json.dumps(data).encode()
    return data.encode()


def read():
    for line in sys.stdin:
        request = json.loads(line)
        message = HTTPMessage(headers=request["headers"], body=base64.b64decode(request["body"]))
        received = from_http_event(message)
        assert received.get_subject() == "orders/1", received.get_subject()
        print(json.dumps({
            "id": received.get_id(),
            "contentType": received.get_datacontenttype(),
            "data": base64.b64encode(data_bytes(received)).decode(),
        }))


if sys.argv[1] == "send":
    send(sys.argv[2])
else:
    read()
