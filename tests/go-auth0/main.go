// Runs the examples of the vendor's API pages with its public SDK, and then the rest of the API that the SDK supports.
// Usage against the emulator: go-auth0 DOMAIN CA-FILE CLIENT-ID CLIENT-SECRET
//
// Prints a line for each step. Exits with code 1 at the first failure. The SDK cannot parse deliveries and the response
// of a test event, neither from the emulator nor from Auth0: it expects a list and a string where the service sends
// objects.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	management "github.com/auth0/go-auth0/v3/management"
	"github.com/auth0/go-auth0/v3/management/client"
	"github.com/auth0/go-auth0/v3/management/core"
	"github.com/auth0/go-auth0/v3/management/option"
	"golang.org/x/oauth2"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: go-auth0 DOMAIN CA-FILE CLIENT-ID CLIENT-SECRET")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

func run(domain, caFile, clientID, clientSecret string) error {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s: no certificate", caFile)
	}
	trusting := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	// The SDK requests its tokens with the HTTP client of this context.
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, trusting)
	auth0, err := client.New(
		domain,
		option.WithHTTPClient(trusting),
		option.WithClientCredentials(ctx, clientID, clientSecret),
	)
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context, *client.Management) error
	}{
		{"the example of event streams", exampleStream},
		{"the lifecycle of event streams", streams},
		{"the example of hooks", exampleHook},
		{"the lifecycle of a hook", hooks},
		{"an invalid token", func(ctx context.Context, _ *client.Management) error {
			return wrongToken(ctx, domain, trusting)
		}},
	}
	for _, step := range steps {
		if err := step.do(ctx, auth0); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Println("ok:", step.name)
	}
	return nil
}

// The unchanged example of the API page: without a name, a type and a method. Only the URL is replaced by a valid one.
func exampleStream(ctx context.Context, auth0 *client.Management) error {
	created, err := auth0.EventStreams.Create(ctx, &management.EventStreamsCreateRequest{
		CreateEventStreamWebHookRequestContent: &management.CreateEventStreamWebHookRequestContent{
			Destination: &management.EventStreamWebhookDestination{
				Configuration: &management.EventStreamWebhookConfiguration{
					WebhookEndpoint: "https://receiver.example.com/auth0",
					WebhookAuthorization: &management.EventStreamWebhookAuthorizationResponse{
						EventStreamWebhookBasicAuth: &management.EventStreamWebhookBasicAuth{
							Username: "username",
						},
					},
				},
			},
		},
	})
	if err != nil {
		return err
	}
	stream := created.GetEventStreamWebhookResponseContent()
	destination := stream.GetDestination()
	basic := destination.GetConfiguration().GetWebhookAuthorization().GetEventStreamWebhookBasicAuth()
	if err := expectEqual("username", basic.GetUsername(), "username"); err != nil {
		return err
	}
	if err := expectEqual("status", string(stream.GetStatus()), "enabled"); err != nil {
		return err
	}
	return auth0.EventStreams.Delete(ctx, stream.GetID())
}

func streams(ctx context.Context, auth0 *client.Management) error {
	var ids []string
	for n := range 3 {
		created, err := auth0.EventStreams.Create(ctx, webhook(fmt.Sprintf("stream %d", n)))
		if err != nil {
			return fmt.Errorf("create: %w", err)
		}
		ids = append(ids, created.GetEventStreamWebhookResponseContent().GetID())
	}
	_, err := auth0.EventStreams.Create(ctx, webhook("stream 1"))
	if err := expectStatus("a name that is taken", err, http.StatusConflict); err != nil {
		return err
	}

	page, err := auth0.EventStreams.List(ctx, &management.ListEventStreamsRequestParameters{Take: management.Int(2)})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	listed, pages := len(page.Results), 1
	for {
		page, err = page.GetNextPage(ctx)
		if errors.Is(err, core.ErrNoPages) {
			break
		}
		if err != nil {
			return fmt.Errorf("next page: %w", err)
		}
		listed += len(page.Results)
		pages++
	}
	if listed != 3 || pages != 2 {
		return fmt.Errorf("listed %d streams on %d pages, expected 3 on 2", listed, pages)
	}

	disabled := management.EventStreamStatusEnumDisabled
	updated, err := auth0.EventStreams.Update(ctx, ids[0], &management.UpdateEventStreamRequestContent{
		Name:   management.String("renamed"),
		Status: &disabled,
	})
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := expectEqual("name", updated.GetEventStreamWebhookResponseContent().GetName(), "renamed"); err != nil {
		return err
	}
	got, err := auth0.EventStreams.Get(ctx, ids[0])
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if err := expectEqual("status", string(got.GetEventStreamWebhookResponseContent().GetStatus()), "disabled"); err != nil {
		return err
	}
	if _, err := auth0.EventStreams.Redeliveries.Create(ctx, ids[0], &management.CreateEventStreamRedeliveryRequestContent{}); err != nil {
		return fmt.Errorf("redeliver: %w", err)
	}
	for _, id := range ids {
		if err := auth0.EventStreams.Delete(ctx, id); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	_, err = auth0.EventStreams.Get(ctx, ids[0])
	return expectStatus("a deleted stream", err, http.StatusNotFound)
}

func webhook(name string) *management.EventStreamsCreateRequest {
	return &management.EventStreamsCreateRequest{
		CreateEventStreamWebHookRequestContent: &management.CreateEventStreamWebHookRequestContent{
			Name:          management.String(name),
			Subscriptions: []*management.EventStreamSubscription{{EventType: management.String("user.created")}},
			Destination: &management.EventStreamWebhookDestination{
				Type: management.EventStreamWebhookDestinationTypeEnumWebhook,
				Configuration: &management.EventStreamWebhookConfiguration{
					WebhookEndpoint: "https://receiver.example.com/auth0",
					WebhookAuthorization: &management.EventStreamWebhookAuthorizationResponse{
						EventStreamWebhookBearerAuth: &management.EventStreamWebhookBearerAuth{
							Method: management.EventStreamWebhookBearerAuthMethodEnumBearer,
						},
					},
				},
			},
		},
	}
}

// The example of the API page, with the enum and field names of this version of the SDK.
func exampleHook(ctx context.Context, auth0 *client.Management) error {
	created, err := auth0.Hooks.Create(ctx, &management.CreateHookRequestContent{
		Name:      "name",
		Script:    "script",
		TriggerID: management.HookTriggerIDEnumCredentialsExchange,
	})
	if err != nil {
		return err
	}
	if err := expectEqual("script", created.GetScript(), "script"); err != nil {
		return err
	}
	return auth0.Hooks.Delete(ctx, created.GetID())
}

func hooks(ctx context.Context, auth0 *client.Management) error {
	created, err := auth0.Hooks.Create(ctx, &management.CreateHookRequestContent{
		Name:      "my-hook",
		Script:    "module.exports = function (user, context, cb) { cb(null, { user }); };",
		TriggerID: management.HookTriggerIDEnumPreUserRegistration,
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	id := created.GetID()
	page, err := auth0.Hooks.List(ctx, &management.ListHooksRequestParameters{})
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if len(page.Results) != 1 || page.Results[0].GetName() != "my-hook" {
		return fmt.Errorf("listed %v", page.Results)
	}
	updated, err := auth0.Hooks.Update(ctx, id, &management.UpdateHookRequestContent{Enabled: management.Bool(true)})
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if !updated.GetEnabled() {
		return errors.New("the updated hook is not enabled")
	}
	secrets := auth0.Hooks.Secrets
	if err := secrets.Create(ctx, id, management.CreateHookSecretRequestContent{"ONE": "1", "TWO": "2"}); err != nil {
		return fmt.Errorf("add secrets: %w", err)
	}
	if err := secrets.Update(ctx, id, management.UpdateHookSecretRequestContent{"ONE": "one"}); err != nil {
		return fmt.Errorf("change a secret: %w", err)
	}
	if err := secrets.Delete(ctx, id, management.DeleteHookSecretRequestContent{"TWO"}); err != nil {
		return fmt.Errorf("remove a secret: %w", err)
	}
	shown, err := secrets.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("read secrets: %w", err)
	}
	if len(shown) != 1 || shown["ONE"] != "_VALUE_NOT_SHOWN_" {
		return fmt.Errorf("secrets are shown as %v", shown)
	}
	if err := auth0.Hooks.Delete(ctx, id); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	_, err = auth0.Hooks.Get(ctx, id, &management.GetHookRequestParameters{})
	return expectStatus("a deleted hook", err, http.StatusNotFound)
}

func wrongToken(ctx context.Context, domain string, trusting *http.Client) error {
	stranger, err := client.New(domain, option.WithHTTPClient(trusting), option.WithToken("wrong"))
	if err != nil {
		return err
	}
	_, err = stranger.EventStreams.List(ctx, &management.ListEventStreamsRequestParameters{})
	return expectStatus("list", err, http.StatusUnauthorized)
}

func expectEqual(what, got, expected string) error {
	if got != expected {
		return fmt.Errorf("%s is %q, expected %q", what, got, expected)
	}
	return nil
}

func expectStatus(what string, err error, status int) error {
	var refused *core.APIError
	if !errors.As(err, &refused) || refused.StatusCode != status {
		return fmt.Errorf("%s: %v, expected status %d", what, err, status)
	}
	return nil
}
