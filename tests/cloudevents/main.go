// Sends and reads CloudEvents with the Go SDK, for tests/it/worker/cloudevents_sdks.rs.
//
// send URL: posts each sample in structured, binary and batch mode.
// read: reads requests from standard input, a JSON object {"headers", "body" (base64)} a line, and prints the event of
// each: {"id", "contentType", "data" (base64)}.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

type sample struct {
	name, contentType string
	data              any
}

func samples() []sample {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return []sample{
		{"json", "application/json", map[string]any{"text": "grün \"x\"", "n": []any{1, 2.5, nil}}},
		{"text", "text/plain; charset=utf-8", "grün \"x\"\n% \t"},
		{"xml", "application/xml", "<?xml version=\"1.0\"?>\n<a b=\"c\">grün</a>"},
		{"bytes", "application/octet-stream", all},
		{"none", "", nil},
	}
}

func (s sample) event(mode string) event.Event {
	e := event.New()
	e.SetID("go-" + mode + "-" + s.name)
	e.SetSource("/sdk/go")
	e.SetType("sample")
	e.SetSubject("orders/1") // The SDK does not percent-encode headers, so only plain ones can be compared.
	if text, ok := s.data.(string); ok {
		e.SetDataContentType(s.contentType)
		e.DataEncoded = []byte(text)
	} else if s.data != nil {
		check(e.SetData(s.contentType, s.data))
	}
	return e
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func post(request *http.Request, err error) {
	check(err)
	response, err := (&http.Client{Transport: &http.Transport{}}).Do(request)
	check(err)
	body, err := io.ReadAll(response.Body)
	check(err)
	if response.StatusCode != http.StatusAccepted {
		log.Fatalf("%s: %s", response.Status, body)
	}
}

func send(url string) {
	var batch []event.Event
	for _, s := range samples() {
		structured := binding.WithForceStructured(context.Background())
		post(cehttp.NewHTTPRequestFromEvent(structured, url, s.event("structured")))
		post(cehttp.NewHTTPRequestFromEvent(context.Background(), url, s.event("binary")))
		batch = append(batch, s.event("batch"))
	}
	post(cehttp.NewHTTPRequestFromEvents(context.Background(), url, batch))
}

func read() {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		check(err)
		var recorded struct {
			Headers map[string]string
			Body    []byte
		}
		check(json.Unmarshal(line, &recorded))
		header := http.Header{}
		for name, value := range recorded.Headers {
			header.Set(name, value)
		}
		message := cehttp.NewMessage(header, io.NopCloser(bytes.NewReader(recorded.Body)))
		received, err := binding.ToEvent(context.Background(), message)
		check(err)
		check(received.Validate())
		if received.Subject() != "orders/1" {
			log.Fatalf("subject %q", received.Subject())
		}
		out, err := json.Marshal(map[string]any{
			"id": received.ID(), "contentType": received.DataContentType(), "data": received.Data(),
		})
		check(err)
		fmt.Println(string(out))
	}
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "send" {
		send(os.Args[2])
	} else {
		read()
	}
}
